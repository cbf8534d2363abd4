"""A process that took the place of the service's process: it may have come back without its data (attack on P3)."""

from dataclasses import replace

import pytest

from orchestrator.domain import commands
from orchestrator.domain.effects import EnsureService, History, Run, WriteRecord
from orchestrator.domain.observations import Answered, Health, Hold, Role
from orchestrator.domain.record import RequestKind
from orchestrator.domain.verdicts import Permission
from orchestrator.engine import gates
from orchestrator.engine.state import Local, Phase, State
from orchestrator.keeper.core import Declined
from tests.unit.scenarios import (
    NOW,
    Engine,
    bereaved,
    control,
    keeper,
    peer,
    peers_of,
    primary_says,
    record,
    request,
    service,
    serving,
    state,
    told,
)
from tests.unit.test_keeper_core import Keeper

OLD, NEW, BEGAN = 4711, 4712, 99


def writable(pid: int) -> commands.Found:
    return commands.Found(pid, BEGAN, 3, readable=False)


@pytest.fixture
def watched() -> Keeper:
    """A keeper that has watched the writable process OLD."""
    made = Keeper(now=10.0)
    assert made.obey(writable(OLD)) is None
    assert made.memory.hold is Hold.SERVING
    return made


def test_the_first_process_of_a_life_may_be_found_serving(watched: Keeper):
    assert not watched.memory.stranger


def test_a_writable_process_in_the_place_of_another_is_declined_again_and_again(watched: Keeper):
    watched.core.main_exited(10.1)
    watched.core.gone(10.1)
    for _ in range(3):
        assert isinstance(watched.obey(writable(NEW)), Declined)
        assert watched.memory.hold is Hold.NONE
    assert watched.core.view().stranger


def test_a_writable_process_is_declined_while_another_holds_the_right(watched: Keeper):
    assert isinstance(watched.obey(writable(NEW)), Declined)
    assert watched.memory.pid == OLD


def test_a_stranger_that_was_seen_as_a_standby_is_none_any_more(watched: Keeper):
    watched.core.main_exited(10.1)
    watched.core.gone(10.1)
    watched.obey(commands.Found(NEW, BEGAN, 0, readable=True))
    assert not watched.core.view().stranger


def test_a_keeper_that_begins_again_knows_the_stranger_from_its_page(watched: Keeper):
    watched.core.main_exited(10.1)
    watched.core.gone(10.1)
    watched.obey(writable(NEW))
    heir = Keeper(watched.memory, now=10.2)
    assert isinstance(heir.obey(writable(NEW)), Declined)


def test_a_primary_that_was_replaced_while_its_keeper_lost_its_memory_is_compared_before_it_serves():
    """Neither the new life, which has watched nothing yet, nor a look while nothing is held takes it for the one before."""
    engine = Engine(serving(history=History(record=record(), served_epoch=3, whole=Run(11, OLD, BEGAN, ""))))
    another_life = replace(engine.state.keeper, life=12, hold=Hold.NONE, right_until=NOW - 1.0, pid=0, process_started=0)
    engine.keeper_seen(another_life, after=0.01)
    found = engine.looked(Answered(service(Role.PRIMARY, 0, pid=NEW, empty=True), 0.001), after=0.01)
    found += engine.keeper_seen(replace(another_life, pid=NEW, process_started=BEGAN), after=0.01)
    found += engine.looked(Answered(service(Role.PRIMARY, 0, pid=NEW, empty=True), 0.001), after=0.06)
    assert engine.state.phase is Phase.STARTING
    assert not [each for each in told(found, commands.Found) if each.writable_epoch]


def test_a_primary_that_was_replaced_unseen_is_compared_before_it_serves():
    """Its keeper stood still meanwhile, and knows the new process only as a stranger."""
    engine = Engine(serving())
    seen = replace(engine.state.keeper, hold=Hold.NONE, pid=NEW, process_started=BEGAN, stranger=True)
    engine.looked(Answered(service(Role.PRIMARY, pid=NEW), 0.001), after=0.01)
    found = engine.keeper_seen(seen, after=0.01)
    assert engine.state.phase is Phase.STARTING
    assert told(found, commands.KillService)


# --- a standby that was restarted ------------------------------------------------------------------------------------

WHOLE = Run(22, 4711, 99)


def restarted(whole: Run | None = None, **seen: object) -> State:
    """The standby db2 of a primary that is gone; its service runs as process 4711."""
    known = bereaved()
    local = Local(view=service(**{"link_up": False, **seen}), viewed_at=NOW - 0.1)
    return replace(known, local=local, history=History(record=record(), served_epoch=0, whole=whole))


def judged(known: State) -> State:
    """After a step: the engine has its verdict."""
    engine = Engine(known)
    engine.tick()
    return engine.state


def test_a_standby_that_followed_in_this_run_may_take_over():
    assert gates.may_act(judged(restarted(WHOLE))) is Permission.GO


@pytest.mark.parametrize(
    "other", [None, Run(22, 4710, 99), Run(22, 4711, 98), Run(21, 4711, 99)], ids=["none", "pid", "start", "another boot"]
)
def test_a_standby_that_was_restarted_since_needs_a_persons_word(other: Run | None):
    state = judged(restarted(other, offset=400))
    assert gates.may_act(state) is Permission.ASK
    red = gates.permitted(state, record())
    assert red is not None and "older copy" in red.reason


@pytest.mark.parametrize(("kind", "answer"), [(RequestKind.SWITCHOVER, Permission.ASK), (RequestKind.FAILOVER, Permission.GO)])
def test_only_the_word_for_a_failover_accepts_an_older_copy(kind: RequestKind, answer: Permission):
    """Whoever asks for a switchover expects that nothing is lost."""
    doubtful = judged(restarted(None, offset=400))
    said = control(request=request(kind, target="db2"))
    asked = replace(doubtful, mediated=replace(doubtful.mediated, control=said))
    assert gates.approved(asked) is not None
    assert gates.may_act(asked) is answer


def test_a_restarted_standby_with_all_that_the_primary_was_known_to_have_may_take_over():
    assert gates.may_act(judged(restarted(None, offset=500))) is Permission.GO


def test_a_service_that_keeps_what_it_received_needs_no_such_word():
    assert gates.may_act(judged(restarted(None, offset=400, durable=True))) is Permission.GO


def test_when_the_primary_itself_yields_its_standbys_data_is_the_best_there_is():
    yielding = peer("db1", statement=primary_says(health=Health.YIELDING))
    engine = Engine(replace(restarted(None, offset=400), keeper=keeper(peers=peers_of("db2", db1=yielding))))
    engine.keeper_seen(engine.state.keeper)
    assert gates.doubtful_data(engine.state) == ""


def test_an_empty_service_does_not_take_over_while_the_primary_was_known_to_hold_data():
    state = restarted(None, offset=0, empty=True)
    red = gates.service_ready(state, record())
    assert red is not None and "empty" in red.reason and "tanist adopt" in red.reason
    engine = Engine(state)
    for _ in range(5):
        assert not [each for each in engine.tick(1.0) if isinstance(each, WriteRecord | EnsureService)]


def test_an_empty_service_that_followed_an_empty_primary_may_take_over():
    assert gates.service_ready(restarted(WHOLE, offset=0, empty=True), record()) is None


def test_a_run_counts_as_whole_once_the_primarys_data_arrives():
    engine = Engine(replace(restarted(None), keeper=keeper()))
    engine.looked(Answered(service(link_up=True), 0.001), after=0.01)
    assert engine.state.history.whole == WHOLE


# --- a primary that an earlier run's guard froze ---------------------------------------------------------------------


def frozen_and_unknown(boot: str = "a", **changes: object) -> Engine:
    """db1 serves by the record; its keeper has lost its memory, and nobody who froze the service lives on."""
    run = Run(11, 4711, BEGAN, "a")
    known = record()
    usual = {
        "phase": Phase.STARTING,
        "record": known,
        "boot": boot,
        "keeper": keeper("db1", life=77, pid=0, process_started=0, hold=Hold.NONE, right_until=0.0),
        "local": Local(view=None, silent_since=NOW - 1),
        "history": History(record=known, served_epoch=known.epoch, whole=run),
    }
    return Engine(state("db1", **{**usual, **changes}))


def test_the_keeper_is_told_of_the_process_that_served_this_epoch_before():
    assert told(frozen_and_unknown().tick(), commands.Found) == [commands.Found(4711, BEGAN, 3)]


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "b"},
        {"boot": ""},
        {"local": Local(view=None)},
        {"history": History(record=record(), served_epoch=2, whole=Run(11, 4711, BEGAN, "a"))},
        {"history": History(record=record(), served_epoch=3, whole=None)},
    ],
    ids=["another boot", "no boot", "not silent", "another epoch", "never seen whole"],
)
def test_no_other_process_is_taken_for_it(changes: dict[str, object]):
    assert not told(frozen_and_unknown(**changes).tick(), commands.Found)


def test_the_right_is_asked_for_again_so_that_the_keeper_may_let_it_go_on():
    frozen = keeper("db1", life=77, pid=4711, process_started=BEGAN, hold=Hold.SERVING, frozen_since=NOW - 1, right_until=0.0)
    found = frozen_and_unknown(keeper=frozen).tick()
    (write,) = [each for each in found if isinstance(each, WriteRecord)]
    assert write.record.primary.life == 77
    assert not [each for each in found if isinstance(each, EnsureService)], "it is not to become a standby meanwhile"


@pytest.mark.parametrize(
    ("process", "boot", "epoch"),
    [((4711, BEGAN), "a", 3), ((4712, BEGAN), "a", 0), ((4711, BEGAN + 1), "a", 0), ((4711, BEGAN), "b", 0)],
    ids=["the same", "another process", "started later", "another boot"],
)
def test_a_keeper_without_memory_guards_a_primary_only_if_it_is_the_run_that_was_whole(
    process: tuple[int, int], boot: str, epoch: int
):
    """Somebody restarted it empty, and then the keeper's page was lost: a stranger, although no keeper has seen another one."""
    pid, began = process
    view = service(Role.PRIMARY, pid=pid, process_started=began)
    engine = frozen_and_unknown(boot=boot, local=Local(view=view, viewed_at=NOW - 0.1))
    assert told(engine.tick(), commands.Found) == [commands.Found(pid, began, epoch)]
    watched = replace(engine.state.keeper, pid=pid, process_started=began, hold=Hold.SERVING if epoch else Hold.NONE)
    assert bool(told(engine.keeper_seen(watched, after=0.01), commands.KillService)) is (epoch == 0)
