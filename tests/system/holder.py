"""Run on a test's host: the actuator of one virtual address, told over standard input what to do, one line each.

Lines: `ensure PRIMARY EPOCH`, `right yes|no`, `preview PRIMARY`. Each is answered by one line, in JSON; what happens in between
is told as `alarm ...` and `event ...`.
"""

import asyncio
import json
import sys

from orchestrator.actuators.vip import VipActuator
from orchestrator.domain.effects import EnsureClients
from orchestrator.keeper.setup import AddressSetup
from orchestrator.ports import NotConfirmed, RefusedByPeer

ME = "me"


def say(what: str, *words: object) -> None:
    print(json.dumps([what, *words]), flush=True)


async def obey(actuator: VipActuator, right: list[bool], word: str, *rest: str) -> object:
    if word == "right":
        right[0] = rest[0] == "yes"
        return None
    if word == "preview":
        return await actuator.would_change(EnsureClients(primary=rest[0], epoch=1))
    return await actuator.ensure(EnsureClients(primary=rest[0], epoch=int(rest[1])))


async def main(address: str, prefix: str, interface: str, lease: str) -> None:
    right = [True]
    vip = AddressSetup(address=address, prefix=int(prefix), interface=interface)
    actuator = VipActuator(vip, ME, float(lease), lambda epoch: right[0])
    actuator.alarmed = lambda code, text: say("alarm", text)
    actuator.happened = lambda code, text: say("event", text)
    stream = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    say("answer", None)
    while line := await stream.readline():
        try:
            say("answer", await obey(actuator, right, *line.decode().split()))
        except (NotConfirmed, RefusedByPeer) as error:
            say("answer", str(error))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
