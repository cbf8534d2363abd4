"""YAML with the line of every value, so that an error can point at it. A key that stands twice is an error, not a surprise.

Words are kept as they are written: only `true` and `false` are truth values (as in YAML 1.2), so `off`, `no` and `on` are words.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from yaml.reader import ReaderError

Place: TypeAlias = tuple[str | int, ...]

_BOOL: Final = "tag:yaml.org,2002:bool"


class BadYaml(ValueError):
    """The text is not YAML, or not unambiguous; says the line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(slots=True)
class Document:
    data: Any
    lines: dict[Place, int] = field(default_factory=dict)
    """Line (from 1) of every key and item."""

    def line_of(self, place: Place) -> int:
        """The line of the value, or of the nearest thing around it that was written."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def value_at(self, place: Place) -> Any:
        """What was read there; raises KeyError when nothing was written."""
        value = self.data
        for step in place:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                raise KeyError(place) from None
        return value


class _Loader(yaml.SafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {
    letter: [each for each in resolvers if each[0] != _BOOL]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def read(path: Path) -> Document:
    data = path.read_bytes()
    try:
        return parse(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadYaml(line, f"read {data[error.start : error.end]!r}, expected UTF-8 text ({error.reason})") from None


def parse(text: str) -> Document:
    try:
        loader = _Loader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadYaml(line, f"not YAML: the character {chr(error.character)!r} is not allowed") from None
    try:
        root = loader.get_single_node()
        document = Document({})
        if root is not None and root.tag != "tag:yaml.org,2002:null":
            document.data = _build(loader, root, (), document, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise BadYaml(1, f"not YAML: {error}") from None
    finally:
        loader.dispose()
    return document


def _build(loader: _Loader, node: yaml.Node, place: Place, document: Document, around: tuple[yaml.Node, ...]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(place, line)
    if node in around:
        raise BadYaml(line, f"{_dotted(place)}: an alias stands inside of what it repeats, so it would have no end")
    around = (*around, node)
    if isinstance(node, yaml.MappingNode):
        built: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(loader, key_node, place)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int):
                raise BadYaml(line, f"a key must be a word, read {key!r}")
            if key in built:
                raise BadYaml(line, f"{key!r} stands twice; it was given first in line {document.lines[*place, key]}")
            document.lines[*place, key] = line
            built[key] = _build(loader, value_node, (*place, key), document, around)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*place, number), document, around) for number, item in enumerate(node.value)]
    return _scalar(loader, node, place)


def _dotted(place: Place) -> str:
    return ".".join(str(step) for step in place)


def _scalar(loader: _Loader, node: yaml.Node, place: Place) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError:  # it looks like a date or a number, or is said to be one
        kind = node.tag.rpartition(":")[2]
        raise BadYaml(node.start_mark.line + 1, f"{_dotted(place)}: read {node.value!r}, which is no {kind}") from None
