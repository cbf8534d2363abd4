"""Automation: who may start a change of role, the daemon or a person?"""

from typing import Final

from orchestrator.domain.policy import Automation
from orchestrator.domain.verdicts import Permission

GO, ASK, HOLD = Permission.GO, Permission.ASK, Permission.HOLD

PERMISSION: Final = {
    #                      by itself, approved by a person
    Automation.AUTOMATIC: (GO, GO),
    Automation.CONFIRM: (ASK, GO),
    Automation.MANUAL: (HOLD, GO),
    Automation.OBSERVE: (HOLD, HOLD),
}
"""`manual` only alarms: its person acts by command, which is a word as good as an approval. `observe` never acts."""


def permission(level: Automation, *, approved: bool) -> Permission:
    by_itself, by_word = PERMISSION[level]
    return by_word if approved else by_itself
