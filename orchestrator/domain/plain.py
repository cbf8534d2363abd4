"""Domain values as plain JSON data and back, driven by their type hints: one codec for page, journal, mediator and channel.

Unknown fields are ignored when reading (a newer version may have written them); missing ones take their default.
A union of dataclasses carries the class name under `kind`; a class with a field of that name stands below `value`.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Codec: TypeAlias = Callable[[Any], Any]


class Unreadable(ValueError):
    """Plain data that does not fit the type; says where and what was read."""


def to_plain(value: Any, hint: Any = None) -> Any:
    """`value` as JSON data. `hint` is its declared type where that is wider than its class (a union)."""
    declared: Any = type(value) if hint is None else hint
    return _encoder(declared)(value)


def from_plain(hint: type[T], data: Any) -> T:
    """The value of type `hint` that `data` describes. Raises Unreadable."""
    known_type: Any = hint
    return cast(T, _decoder(known_type)(data))


def _same(value: Any) -> Any:
    return value


def _union_of(hint: Any) -> tuple[tuple[Any, ...], bool] | None:
    """The alternatives of a union without None, and whether None was among them."""
    if get_origin(hint) not in (Union, types.UnionType):
        return None
    arms = get_args(hint)
    return tuple(arm for arm in arms if arm is not type(None)), type(None) in arms


@cache
def _encoder(hint: Any) -> Codec:
    if union := _union_of(hint):
        return _union_encoder(*union)
    if get_origin(hint) is tuple:
        item = _encoder(get_args(hint)[0]) if get_args(hint)[-1] is Ellipsis else _same
        return lambda value: [item(each) for each in value]
    if get_origin(hint) is list:
        item = _encoder(get_args(hint)[0])
        return lambda value: [item(each) for each in value]
    if get_origin(hint) is dict:
        item = _encoder(get_args(hint)[1])
        return lambda value: {name: item(each) for name, each in value.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass_encoder(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value: value.value
    return _same


def _union_encoder(arms: tuple[Any, ...], _optional: bool) -> Codec:
    if len(arms) == 1:
        encode = _encoder(arms[0])
        return lambda value: None if value is None else encode(value)

    def encode_tagged(value: Any) -> Any:
        if value is None:
            return None
        arm: Any = type(value)
        plain = _encoder(arm)(value)
        return {"kind": arm.__name__, **({"value": plain} if _has_own_kind(arm) else plain)}

    return encode_tagged


@cache
def _has_own_kind(cls: type) -> bool:
    return any(field.name == "kind" for field in fields(cls))


def _dataclass_encoder(cls: type) -> Codec:
    hints = get_type_hints(cls)
    parts: list[tuple[str, Codec]] | None = None

    def encode(value: Any) -> dict[str, Any]:
        nonlocal parts
        if parts is None:  # built at first use: a type may contain itself
            parts = [(field.name, _encoder(hints[field.name])) for field in fields(cls)]
        return {name: part(getattr(value, name)) for name, part in parts}

    return encode


@cache
def _decoder(hint: Any) -> Codec:
    if union := _union_of(hint):
        return _union_decoder(*union)
    if get_origin(hint) in (tuple, list):
        return _sequence_decoder(hint)
    if get_origin(hint) is dict:
        return _mapping_decoder(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return _dataclass_decoder(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_decoder(hint)
    if hint is float:
        return _number
    if hint in (int, str, bool):
        return _exactly(hint)
    return _same


def _number(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise Unreadable(f"read {data!r} where a number belongs")
    return float(data)


def _exactly(wanted: type) -> Codec:
    def decode(data: Any) -> Any:
        if type(data) is not wanted:
            raise Unreadable(f"read {data!r} where {wanted.__name__} belongs")
        return data

    return decode


def _enum_decoder(hint: type[Enum]) -> Codec:
    def decode(data: Any) -> Any:
        try:
            return hint(data)
        except ValueError:
            known = ", ".join(str(each.value) for each in hint)
            raise Unreadable(f"read {data!r} where one of {known} belongs") from None

    return decode


def _sequence_decoder(hint: Any) -> Codec:
    arms = get_args(hint)
    make = get_origin(hint)
    fixed = make is tuple and arms[-1] is not Ellipsis
    items = [_decoder(arm) for arm in arms] if fixed else [_decoder(arms[0])]

    def decode(data: Any) -> Any:
        if not isinstance(data, list | tuple) or (fixed and len(data) != len(items)):
            raise Unreadable(f"read {data!r} where a list belongs")
        if fixed:
            return tuple(item(each) for item, each in zip(items, data, strict=True))
        return make(items[0](each) for each in data)

    return decode


def _mapping_decoder(hint: Any) -> Codec:
    """Of names to values: JSON knows no other keys."""
    item = _decoder(get_args(hint)[1])

    def decode(data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise Unreadable(f"read {data!r} where a mapping belongs")
        return {name: item(each) for name, each in data.items()}

    return decode


def _union_decoder(arms: tuple[Any, ...], optional: bool) -> Codec:
    tagged: Mapping[str, Any] = {arm.__name__: arm for arm in arms if isinstance(arm, type)}

    def decode(data: Any) -> Any:
        if data is None and optional:
            return None
        if len(arms) == 1:
            return _decoder(arms[0])(data)
        arm = tagged.get(str(data.get("kind"))) if isinstance(data, Mapping) else None
        if arm is None:
            raise Unreadable(f"read {data!r} where one of {', '.join(tagged)} belongs")
        return _decoder(arm)(data.get("value") if _has_own_kind(arm) else data)

    return decode


def _dataclass_decoder(cls: type) -> Codec:
    hints = get_type_hints(cls)
    parts: list[tuple[str, Codec, bool]] | None = None

    def decode(data: Any) -> Any:
        nonlocal parts
        if parts is None:
            parts = [
                (each.name, _decoder(hints[each.name]), each.default is MISSING and each.default_factory is MISSING)
                for each in fields(cls)
            ]
        if not isinstance(data, Mapping):
            raise Unreadable(f"read {data!r} where {cls.__name__} belongs")
        values = {}
        for name, part, required in parts:
            if name in data:
                try:
                    values[name] = part(data[name])
                except Unreadable as error:
                    raise Unreadable(f"{cls.__name__}.{name}: {error}") from None
            elif required:
                raise Unreadable(f"{cls.__name__} lacks {name!r}: read {dict(data)!r}")
        return cls(**values)

    return decode
