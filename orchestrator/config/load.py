"""Read the file, or say of every mistake in it: where, what was read, what would be right."""

import difflib
from pathlib import Path
from typing import Any

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
    except UnicodeDecodeError as error:
        raise BadConfig(path, [f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    try:
        return ClusterConfig.model_validate(document.data)
    except ValidationError as error:
        mistakes = [line for details in error.errors() for line in _in_words(path, document, details)]
        raise BadConfig(path, sorted(set(mistakes), key=_line_number)) from None


def _line_number(mistake: str) -> tuple[int, str]:
    number = mistake.split(":", 2)[1]
    return (int(number) if number.isdigit() else 0, mistake)


def _in_words(path: Path, document: Document, details: ErrorDetails) -> list[str]:
    place = tuple(step for step in details["loc"] if not _is_internal(step))
    kind = details["type"]
    if (kind == "value_error" and "\n" in details["msg"]) or (kind == "value_error" and not place):
        message = details["msg"].removeprefix("Value error, ")
        return [_pointed(path, document, (), line) for line in message.split("\n")]
    if kind == "extra_forbidden":
        return [_at(path, document, place, f"unknown key{_suggestion(place)}")]
    if kind == "missing":
        return [_at(path, document, place, f"{place[-1]!s} is missing")]
    expected = _expected(details)
    if kind == "value_error" and ": " in expected and isinstance(details["input"], BaseModel | dict):
        return [_pointed(path, document, place, expected)]
    return [_at(path, document, place, f"read {_shown(document, place, details)}, {expected}")]


def _is_internal(step: str | int) -> bool:
    """Steps that pydantic adds for alternatives of a type, which the operator never wrote."""
    return isinstance(step, str) and (
        step in ("[key]", "none") or "[" in step or step in ("path", "str") or step.startswith("function-")
    )


def _pointed(path: Path, document: Document, around: Place, message: str) -> str:
    """A message that itself begins with the place that it is about."""
    stated = message.split(": ", 1)[0]
    place: Place = around
    for step in stated.split("."):
        if (*place, step) not in document.lines:
            break
        place = (*place, step)
    prefix = ".".join(str(step) for step in around)
    return f"{path}:{document.line_of(place)}: {prefix + '.' if prefix else ''}{message}"


def _at(path: Path, document: Document, place: Place, message: str) -> str:
    return f"{path}:{document.line_of(place)}: {'.'.join(str(step) for step in place)}: {message}"


def _shown(document: Document, place: Place, details: ErrorDetails) -> str:
    try:
        value: Any = document.value_at(place)
    except KeyError:
        value = details["input"]
    return repr(value) if not isinstance(value, dict) else "a section"


def _expected(details: ErrorDetails) -> str:
    message = details["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    return message if message.startswith(("expected", "read")) or ": " in message else f"expected {message}"


def _suggestion(place: Place) -> str:
    """The known key that was probably meant."""
    known = sorted({name for model in _all_models(ClusterConfig) for name in model.model_fields})
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _all_models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    waiting = [model]
    while waiting:
        for each in waiting.pop().model_fields.values():
            for part in _parts(each.annotation):
                if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                    found.add(part)
                    waiting.append(part)
    return found


def _parts(annotation: Any) -> list[Any]:
    from typing import get_args

    return [annotation, *(part for inner in get_args(annotation) for part in _parts(inner))]
