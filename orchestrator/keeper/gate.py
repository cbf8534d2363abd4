"""The gate: a kernel rule that lets clients through only while a timed element stands (design, rule 15).

The rules are laid once, in words that an administrator can read (`nft list ruleset`); from then on only the element is
refreshed, by netlink, without starting a process. When keeper and daemon are both gone the kernel takes it away in time.
"""

import ipaddress
import math
import os
import shutil
import struct
import subprocess
from typing import Final

from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span
from orchestrator.keeper.netlink import TimedElement, count_rules, end_connections

SET: Final = "open"
MEMBERS_SET: Final = "open_to_members"
LAY_WITHIN: Span = 5.0

ADMIN_SOURCE: Final = "127.84.73.1"
"""Source address by which the daemon on this host reaches a service that has no unix socket, past its closed gate."""


class NoGate(RuntimeError):
    """There can be no gate here; says why."""


def why_impossible() -> str:
    """Why this process cannot lay a gate; empty when nothing is known to stand against it."""
    if os.geteuid() != 0 and not _has_net_admin():
        return "no permission (CAP_NET_ADMIN)"
    if shutil.which("nft") is None:
        return "the program nft is not installed (Debian: apt-get install nftables)"
    return ""


def _has_net_admin() -> bool:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 12 & 1)
    return False


def ruleset(table: str, port: int, addresses: tuple[str, ...], members: tuple[str, ...] = ()) -> str:
    """The rules in nft's own language. Laying them again keeps the elements that stand.

    While it is closed, who wants to connect is refused at once and can look elsewhere; connections that stand already are
    left without an answer, so that they go on when the right is renewed in a moment. Resets may always leave: they carry
    no data, and they end connections whose server is gone.

    Where standbys serve nothing, other members come in by an element of their own: one may have to copy from here.
    """
    guarded = []
    for version, family in ((4, "ip"), (6, "ip6")):
        if theirs := ", ".join(each for each in members if ipaddress.ip_address(each).version == version):
            coming, going = f"tcp dport {port} tcp dport @{MEMBERS_SET}", f"tcp sport {port} tcp sport @{MEMBERS_SET}"
            guarded.append(f"add rule inet {table} arriving {family} saddr {{ {theirs} }} {coming} accept")
            guarded.append(f"add rule inet {table} leaving {family} daddr {{ {theirs} }} {going} accept")
    for address in addresses or ("",):
        family = "" if not address else ("ip6 " if ipaddress.ip_address(address).version == 6 else "ip ")
        to, of = (f"{family}daddr {address} ", f"{family}saddr {address} ") if address else ("", "")
        shut = f"tcp dport {port} tcp dport != @{SET}"
        guarded.append(f"add rule inet {table} arriving {to}{shut} tcp flags & (syn | ack) == syn reject with tcp reset")
        guarded.append(f"add rule inet {table} arriving {to}{shut} drop")
        silent = f"tcp sport {port} tcp sport != @{SET}"
        guarded.append(f"add rule inet {table} leaving {of}{silent} tcp flags & rst != rst drop")
    return "\n".join(
        [
            f"add table inet {table}",
            f"add set inet {table} {SET} {{ type inet_service; flags timeout; }}",
            f"add set inet {table} {MEMBERS_SET} {{ type inet_service; flags timeout; }}",
            f"add chain inet {table} arriving {{ type filter hook input priority -5; policy accept; }}",
            f"add chain inet {table} leaving {{ type filter hook output priority -5; policy accept; }}",
            f"flush chain inet {table} arriving",
            f"flush chain inet {table} leaving",
            f"add rule inet {table} arriving ip saddr {ADMIN_SOURCE} iif lo accept",
            f"add rule inet {table} leaving ip daddr {ADMIN_SOURCE} oif lo accept",
            *guarded,
            "",
        ]
    )


def table_name(cluster: str, node: str, group: str) -> str:
    """One table per node and group: several nodes, of several clusters, may share a host in a laboratory."""
    safe = "".join(letter if letter.isalnum() else "_" for letter in f"{cluster}_{node}_{group}")
    return f"tanist_{safe}"


class Gate:
    """One group's gate: `lay` it, then keep it open with `open_until`. Both wait for the kernel."""

    def __init__(self, table: str, port: int, addresses: tuple[str, ...], members: tuple[str, ...] = ()) -> None:
        """`members`: addresses of the other members' hosts."""
        self.table = table
        self._port = port
        self._addresses = addresses
        self._spared = {ADMIN_SOURCE, *members}
        self._rules = ruleset(table, port, addresses, members)
        self._element = TimedElement(table, SET, struct.pack("!H", port))
        self._members_element = TimedElement(table, MEMBERS_SET, struct.pack("!H", port))
        self._members_may_stand = True
        """Their element: a predecessor may have left it."""

    def lay(self) -> None:
        """Raises NoGate with the reason. What stands already goes on as it is until the new rules replace it at once."""
        if reason := why_impossible():
            raise NoGate(reason)
        _nft(self._rules)

    def rules_stand(self) -> bool:
        """As many rules as were laid: `nft flush` takes rules, and leaves table and element."""
        try:
            return count_rules(self.table) == self._rules.count("add rule ")
        except OSError:
            return False

    def open_until(self, until: Instant, now: Instant, members_until: Instant = NEVER) -> None:
        """Let clients through until then, by this host's CLOCK_BOOTTIME; not at all when that is past. Members may be let
        through for longer; the element that lets them is there only while it is needed.

        Raises OSError when the rules do not stand.
        """
        needed = members_until > until
        if self._members_may_stand and not needed:
            self._members_element.fall()
            self._members_may_stand = False
        _stand_until(self._element, until, now)
        if needed:
            self._members_may_stand = True
            _stand_until(self._members_element, members_until, now)

    def end_connections(self) -> int:
        """Reset what clients have open here, and tell how many; members and the daemon on this host keep theirs.

        Raises OSError where the kernel cannot.
        """
        return end_connections(self._port, self._addresses, self._spared)

    def close(self) -> None:
        self._element.close()
        self._members_element.close()


def _stand_until(element: TimedElement, until: Instant, now: Instant) -> None:
    if until == FOREVER:
        element.stand(None)
    elif until - now < 0.001:
        element.fall()
    else:
        element.stand(math.floor((until - now) * 1000))


def remove_table(table: str) -> None:
    """Whether it is there or not. Raises NoGate when that is refused."""
    _nft(f"add table inet {table}\ndelete table inet {table}\n")


def _nft(rules: str) -> None:
    try:
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, timeout=LAY_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGate(f"nft could not be run: {error}") from error
    if done.returncode != 0:
        raise NoGate(f"nft refused the rules: {done.stderr.strip() or done.returncode}")
