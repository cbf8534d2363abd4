"""What one simulated schedule looks like: the group, its policy, and which parts of the hosts are there."""

from dataclasses import dataclass, field

from orchestrator.domain.policy import Automation, Policy, Replication, Timing, TimingRule
from orchestrator.domain.topology import Group, Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    members: int = 3
    witnesses: int = 1
    lease: float = 1.0
    host_down_after: float = 1.0
    """In leases: below one, the lease and not the timing rule is what a claim waits for."""
    automation: Automation = Automation.AUTOMATIC
    synchronous: bool = False
    """A write is acknowledged only when every standby that the primary is told to wait for has it."""
    quorum: int = 0
    """With `synchronous`: so many of those standbys are enough; 0: every one."""
    reserved: bool = False
    """The last member is never primary."""
    gate: bool = True
    """The kernel gate is there. Without it a host whose every process is paused is not covered (design, rule 15)."""
    drift: float = 0.005
    """Clocks run up to this share fast or slow, so two of them part by up to twice as much."""
    loss: float = 0.0
    duplication: float = 0.0
    latency: tuple[float, float] = (0.0002, 0.002)
    """One way, seconds: least and usual most; a tenth of the datagrams take up to ten times longer."""
    trace: bool = field(default=False, compare=False)

    @property
    def group(self) -> Group:
        names = [f"db{number + 1}" for number in range(self.members)]
        last = self.members - 1 if self.reserved else self.members
        members = tuple(
            Member(name=name, address=f"10.0.0.{number + 1}", port=6379, preferred=number == 0, never_primary=number == last)
            for number, name in enumerate(names)
        )
        return Group(
            name="orders",
            members=members,
            witnesses=tuple(f"app{number + 1}" for number in range(self.witnesses)),
        )

    @property
    def policy(self) -> Policy:
        timing = Timing(
            host_down=TimingRule(after=self.host_down_after * self.lease),
            process_down=TimingRule(after=0.0),
            unresponsive=TimingRule(after=max(0.5, self.lease)),
        )
        waiting = Replication.QUORUM if self.quorum else Replication.SYNCHRONOUS
        return Policy(
            lease=self.lease,
            timing=timing,
            automation=self.automation,
            proposal_expires=20.0,
            replication=waiting if self.synchronous else Replication.ASYNCHRONOUS,
            min_replicas=self.quorum,
        )
