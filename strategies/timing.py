"""Timing: how long must a condition last before it counts as a failure, and whose level of automation applies to it?

Stalled or full storage and a main process that lets nobody in are timed as a service that does not answer: clients cannot tell
them apart. Overload is not death, and a server set read-only was set so by somebody: both are shown, and move no role.
"""

from orchestrator.domain.policy import Automation, Policy, TimingRule
from orchestrator.domain.verdicts import CANNOT_WORK, Diagnosis


def rule_for(diagnosis: Diagnosis, policy: Policy) -> TimingRule | None:
    """The operator's rule for a diagnosis; None where it is no failure, however long it lasts.

    A release needs no further waiting: the holder itself has let go.
    """
    timing = policy.timing
    match diagnosis:
        case Diagnosis.PROCESS_DOWN:
            return timing.process_down
        case _ if diagnosis in CANNOT_WORK:
            return timing.unresponsive
        case Diagnosis.OVERLOADED | Diagnosis.READ_ONLY:
            return None
        case Diagnosis.HOST_DOWN:
            return timing.host_down
        case _:
            return TimingRule(after=0.0)


def automation_for(diagnosis: Diagnosis, policy: Policy) -> Automation:
    """The level for this diagnosis: its own rule's, else the group's."""
    rule = rule_for(diagnosis, policy)
    return (rule.automation if rule is not None else None) or policy.automation
