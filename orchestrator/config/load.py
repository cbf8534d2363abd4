"""Read the file, or say of every mistake in it: where, what was read, what would be right."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.models import ClusterConfig
from orchestrator.config.yaml_lines import BadYaml, Document, Place, read


class BadConfig(ValueError):
    """The configuration is refused. One line per mistake."""

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.path = path
        self.mistakes = mistakes


def load(path: Path) -> ClusterConfig:
    try:
        document = read(path)
    except BadYaml as error:
        raise BadConfig(path, [f"{path}:{error.line}: {error}"]) from None
    except OSError as error:
        raise BadConfig(path, [f"{path}: {error.strerror}"]) from None
    try:
        return ClusterConfig.model_validate(document.data)
    except ValidationError as error:
        mistakes = [each for details in error.errors() for each in _in_words(document, details)]
        raise BadConfig(path, [f"{path}:{line}: {told}" for line, told in sorted(set(mistakes))]) from None


Mistake: TypeAlias = tuple[int, str]
"""Its line, and what it is."""

KEY: Final = "[key]"
"""The step that pydantic adds when a key itself is wrong, and not what stands behind it."""


def _in_words(document: Document, details: ErrorDetails) -> list[Mistake]:
    place = tuple(step for step in details["loc"] if step != KEY)
    kind = details["type"]
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error" and not place:
        return [_pointed(document, (), line) for line in message.split("\n")]
    if kind == "value_error" and ": " in message and isinstance(details["input"], dict):
        return [_pointed(document, place, message)]
    if kind == "extra_forbidden":
        return [_at(document, place, f"unknown key; {_cure(place)}")]
    if kind == "missing":
        return [_at(document, place, f"{place[-1]!s} is missing")]
    return [_at(document, place, f"read {_shown(document, place, details)}, {_expected(place, details)}")]


def _pointed(document: Document, around: Place, message: str) -> Mistake:
    """A message that itself begins with the place that it is about."""
    stated, _, told = message.partition(": ")
    place: Place = around
    for word in stated.split("."):
        step = int(word) if word.isdigit() else word
        if (*place, step) not in document.lines:
            break
        place = (*place, step)
    if told.startswith("expected"):
        told = f"read {_in_short(document.value_at(place))}, {told}"
    where = ".".join((*(str(step) for step in around), stated))
    return document.line_of(place), f"{where}: {told}"


def _at(document: Document, place: Place, message: str) -> Mistake:
    where = ".".join(str(step) for step in place)
    return document.line_of(place), f"{where}: {message}" if where else message


def _shown(document: Document, place: Place, details: ErrorDetails) -> str:
    if details["loc"] and details["loc"][-1] == KEY:
        return repr(place[-1])
    try:
        return _in_short(document.value_at(place))
    except KeyError:
        return _in_short(details["input"])


def _in_short(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a section of {_listed(value)}" if value else "an empty section"
    return repr(value)


def _expected(place: Place, details: ErrorDetails) -> str:
    match details["type"]:
        case "model_type":
            return f"expected a section, in which these keys may stand: {_listed(_keys_at(place))}"
        case "dict_type":
            return "expected a section with a key for each name"
        case "tuple_type":
            return "expected a list"
        case "bool_type" | "bool_parsing":
            return "expected true or false"
        case "path_type":
            return "expected a path"
        case "too_short":
            return f"expected at least {details['ctx']['min_length']}"
        case _:
            message = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return message if message.startswith("expected") else f"expected {message}"


# --- what the sections know ------------------------------------------------------------------------------------------


def _cure(place: Place) -> str:
    """What was probably meant by an unknown key."""
    name, known = str(place[-1]), _keys_at(place[:-1])
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    homes = [home for home, model in _sections(ClusterConfig, "") if name in model.model_fields]
    if homes:
        return f"{name!r} belongs in {' or '.join(each or 'the top level' for each in homes)}"
    return f"known here: {_listed(known)}"


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(name) for name in names)


def _keys_at(place: Place) -> list[str]:
    """The keys of the section that stands at this place."""
    hint: Any = ClusterConfig
    for step in place:
        hint = _bare(hint.model_fields[step].annotation) if _is_section(hint) else _item(hint)
    return list(hint.model_fields)


def _sections(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section that may be written below this one, and where."""
    yield place, model
    for name, each in model.model_fields.items():
        hint, inner = _bare(each.annotation), f"{place}.{name}".lstrip(".")
        while not _is_section(hint) and get_origin(hint) in (dict, tuple):
            inner += ".<name>" if get_origin(hint) is dict else "[]"
            hint = _item(hint)
        if _is_section(hint):
            yield from _sections(hint, inner)


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _item(hint: Any) -> Any:
    """What stands behind each name of a mapping, or each dash of a list."""
    return _bare(get_args(hint)[-1 if get_origin(hint) is dict else 0])


def _bare(hint: Any) -> Any:
    """The type itself, without its checks and without None."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return _bare(next(arm for arm in get_args(hint) if arm is not NoneType))
    return hint
