"""Domain values as plain JSON data and back: what is written is read again, unknown fields are ignored, wrong ones told."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios import control, keeper, position, proposal, record, request, service, statement

from orchestrator.domain import commands, effects, events
from orchestrator.domain.observations import Answered, Health, Outcome, Refused, Silent
from orchestrator.domain.plain import Unreadable, from_plain, to_plain
from orchestrator.domain.policy import Policy, Timing, TimingRule
from orchestrator.domain.record import Snapshot
from orchestrator.domain.spans import FOREVER, NEVER


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Wheel:
    spokes: int


@dataclass(frozen=True)
class Cart:
    colour: Colour
    speed: float
    wheels: tuple[Wheel, ...] = ()
    pair: tuple[str, int] | None = None
    name: str | None = None
    loaded: bool = False
    notes: list[str] = field(default_factory=list)
    weights: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Boat:
    length: int


Vehicle: TypeAlias = Cart | Boat

carts = st.builds(
    Cart,
    st.sampled_from(Colour),
    st.floats(allow_nan=False, allow_infinity=True),
    wheels=st.lists(st.builds(Wheel, st.integers())).map(tuple),
    pair=st.none() | st.tuples(st.text(), st.integers()),
    name=st.none() | st.text(),
    loaded=st.booleans(),
    notes=st.lists(st.text()),
)


def through_json(value: Any, hint: Any) -> Any:
    return from_plain(hint, json.loads(json.dumps(to_plain(value, hint))))


@given(carts)
def test_what_was_written_is_read_again(cart: Cart):
    assert through_json(cart, Cart) == cart


@given(st.one_of(carts, st.builds(Boat, st.integers())))
def test_an_alternative_is_read_as_what_it_was(vehicle: Vehicle):
    assert to_plain(vehicle, Vehicle)["kind"] == type(vehicle).__name__
    assert through_json(vehicle, Vehicle) == vehicle


def test_a_mapping_of_pairs_is_read_as_it_was_written():
    cart = Cart(Colour.RED, 1.0, weights={"front": (1, 2)})
    assert through_json(cart, Cart) == cart


@pytest.mark.parametrize("moment", [NEVER, FOREVER, 0.0, 1e-9, 1234567.123456])
def test_instants_without_end_survive(moment: float):
    assert through_json(Cart(Colour.RED, moment), Cart).speed == moment


def test_fields_that_a_newer_version_added_are_ignored():
    assert from_plain(Boat, {"length": 3, "sails": 2}) == Boat(3)


def test_fields_that_an_older_version_did_not_write_take_their_default():
    assert from_plain(Cart, {"colour": "red", "speed": 1}) == Cart(Colour.RED, 1.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"speed": 1.0}, "'colour'"),
        ({"colour": "green", "speed": 1.0}, "red, blue"),
        ({"colour": "red", "speed": "fast"}, "Cart.speed: read 'fast'"),
        ({"colour": "red", "speed": True}, "Cart.speed: read True"),
        ({"colour": "red", "speed": None}, "Cart.speed"),
        ({"colour": "red", "speed": 1, "wheels": 4}, "Cart.wheels: read 4 where a list"),
        ({"colour": "red", "speed": 1, "wheels": [{"spokes": "many"}]}, "Cart.wheels: Wheel.spokes: read 'many'"),
        ({"colour": "red", "speed": 1, "wheels": [{"spokes": 1.5}]}, "Wheel.spokes: read 1.5"),
        ({"colour": "red", "speed": 1, "wheels": [{"spokes": True}]}, "Wheel.spokes: read True"),
        ({"colour": "red", "speed": 1, "pair": ["a"]}, "Cart.pair"),
        ({"colour": "red", "speed": 1, "pair": ["a", "b"]}, "Cart.pair: read 'b'"),
        ({"colour": "red", "speed": 1, "loaded": 1}, "Cart.loaded: read 1"),
        ({"colour": "red", "speed": 1, "name": 5}, "Cart.name: read 5"),
        ({"colour": "red", "speed": 1, "notes": "text"}, "Cart.notes"),
        ({"colour": "red", "speed": 1, "weights": {"front": "heavy"}}, "Cart.weights"),
        ({"colour": "red", "speed": 1, "weights": 5}, "Cart.weights"),
        ([], "Cart"),
        (None, "Cart"),
        ("cart", "Cart"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_place_and_reading(data: object, words: str):
    with pytest.raises(Unreadable) as caught:
        from_plain(Cart, data)
    assert words in str(caught.value)


@pytest.mark.parametrize("data", [{}, {"kind": "Plane"}, {"kind": None}, None, [], "Boat", {"length": 3}], ids=repr)
def test_an_alternative_that_nobody_knows_is_refused_with_those_that_there_are(data: object):
    with pytest.raises(Unreadable, match="Cart, Boat"):
        from_plain(Vehicle, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "colour", "speed", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_whatever_is_read_is_a_value_or_unreadable(data: object):
    for hint in (Cart, Vehicle, Boat):
        try:
            from_plain(hint, data)
        except Unreadable:
            pass


# --- the values that really travel -----------------------------------------------------------------------------------

WRITE = effects.WriteRecord(record=record(), expected=4, control_expected=2, control=control(), within=0.5)
EFFECTS = (
    effects.EnsureService(role=effects.WantedRole.HELD, epoch=3, upstream="db2"),
    effects.EnsureReplicas(at_least=1, epoch=3),
    effects.EnsureClients(primary="db1", epoch=3),
    WRITE,
    effects.WriteControl(control=control(request=request(), proposal=proposal()), expected=4),
    effects.ReadMediator(),
    effects.LookNow(),
    effects.TellKeeper(commands.Say(statement(held_position=position(), handover="db2"), urgent=True)),
    effects.TellKeeper(commands.Prepare(record().succession, 1.0)),
    effects.TellKeeper(commands.GiveUp(position(), "db2")),
    effects.Remember(effects.History(record=record(), served_epoch=3)),
    effects.Notice(kind=effects.NoticeKind.ALARM, code="x", text="y", epoch=1, evidence=("z",)),
)
WHEN = {"at": 12.5, "wall": 1.7e9}
EVENTS = (
    events.Ticked(**WHEN),
    events.Looked(**WHEN, began_at=12.4, outcome=Answered(service(), 0.01)),
    events.Looked(**WHEN, began_at=12.4, outcome=Refused("connection refused", gone=True)),
    events.KeeperSeen(**WHEN, view=keeper()),
    events.KeeperSeen(**WHEN, view=None),
    events.MediatorRead(**WHEN, snapshot=Snapshot(group="orders", record=None, control=control())),
    events.MediatorLost(**WHEN, reason="no answer"),
    events.RecordWritten(**WHEN, began_at=12.0, write=WRITE, outcome=events.WriteOutcome.UNKNOWN),
    events.EffectFailed(**WHEN, effect=WRITE, reason="no"),
    events.PolicyChanged(**WHEN, policy=Policy(lease=1.0, timing=Timing(host_down=TimingRule(after=1.0)))),
)


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: type(effect).__name__)
def test_every_effect_can_be_read_back_from_the_journal(effect: effects.Effect):
    assert through_json(effect, effects.Effect) == effect


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_can_be_read_back_from_the_journal(event: events.Event):
    assert through_json(event, events.Event) == event


def test_a_look_that_was_silent_and_one_that_was_refused_are_told_apart():
    assert through_json(Silent(0.5), Outcome) == Silent(0.5)
    assert through_json(Refused("loading"), Outcome) == Refused("loading")


def test_a_word_is_written_as_operators_and_other_programs_read_it():
    assert to_plain(statement(health=Health.DEAD))["health"] == "dead"
