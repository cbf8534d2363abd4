"""The phases of a member, and the only edges between them. The simulator checks that no other edge is ever taken."""

from typing import Final

from orchestrator.engine.state import Phase

P = Phase

EDGES: Final[dict[tuple[Phase, Phase], str]] = {
    (P.STARTING, P.WITNESS): "this node has no data of the group",
    (P.STARTING, P.JOINING): "another member is primary",
    (P.STARTING, P.PROMOTING): "the record gives this member the right, and a write of this life confirmed it",
    (P.STARTING, P.SERVING): "the daemon is back; the keeper held the right all the while",
    (P.JOINING, P.STANDBY): "the service follows the primary",
    (P.JOINING, P.STARTING): "the record names this member",
    (P.JOINING, P.CLAIMING): "every gate of a takeover is green, although the service never followed in this run",
    (P.STANDBY, P.STARTING): "the record names this member although it did not claim",
    (P.STANDBY, P.CLAIMING): "every gate of a takeover is green and nothing is promised to anybody",
    (P.CLAIMING, P.PROMOTING): "the claim was applied",
    (P.CLAIMING, P.JOINING): "somebody else wrote the record first",
    (P.PROMOTING, P.SERVING): "the service is confirmed primary",
    (P.PROMOTING, P.STARTING): "the service was replaced before it was promoted: its data is compared first",
    (P.PROMOTING, P.JOINING): "a newer epoch is served",
    (P.PROMOTING, P.LETTING_GO): "the service could not be promoted",
    (P.SERVING, P.HANDING_OVER): "a switchover was asked for",
    (P.SERVING, P.LETTING_GO): "the service here has failed",
    (P.SERVING, P.STARTING): "the service ended or was replaced: its data is compared before it serves again",
    (P.SERVING, P.JOINING): "a newer epoch is served",
    (P.HANDING_OVER, P.JOINING): "the target has taken over",
    (P.HANDING_OVER, P.STARTING): "the switchover failed after the service had become a standby, or had been stopped, for it",
    (P.HANDING_OVER, P.SERVING): "the switchover was given up before anything was given away",
    (P.HANDING_OVER, P.LETTING_GO): "the service failed during the switchover",
    (P.LETTING_GO, P.JOINING): "another member has taken over",
    (P.LETTING_GO, P.STARTING): "nobody has taken over: serve again from here",
}
