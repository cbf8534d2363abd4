"""Timing: how long must a condition last before it counts as a failure, and whose level of automation applies to it?"""

from orchestrator.domain.policy import Automation, Policy, TimingRule
from orchestrator.domain.verdicts import Diagnosis


def rule_for(diagnosis: Diagnosis, policy: Policy) -> TimingRule:
    """The operator's rule for a diagnosis. A release needs no further waiting: the holder itself has let go."""
    timing = policy.timing
    match diagnosis:
        case Diagnosis.PROCESS_DOWN:
            return timing.process_down
        case Diagnosis.UNRESPONSIVE:
            return timing.unresponsive
        case Diagnosis.HOST_DOWN:
            return timing.host_down
        case _:
            return TimingRule(after=0.0)


def automation_for(diagnosis: Diagnosis, policy: Policy) -> Automation:
    """The level for this diagnosis: its own rule's, else the group's."""
    return rule_for(diagnosis, policy).automation or policy.automation
