"""YAML with the line of every value, so that an error can point at it. A key that stands twice is an error, not a surprise."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Place: TypeAlias = tuple[str | int, ...]


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


def read(path: Path) -> Document:
    return parse(path.read_text())


def parse(text: str) -> Document:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        document = Document(None)
        document.data = _build(loader, root, (), document) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise BadYaml(1, f"not YAML: {error}") from None
    finally:
        loader.dispose()
    return document


def _build(loader: yaml.SafeLoader, node: yaml.Node, place: Place, document: Document) -> Any:
    document.lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        built: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int):
                raise BadYaml(line, f"a key must be a word, read {key!r}")
            if key in built:
                raise BadYaml(line, f"{key!r} stands twice; it was given first in line {document.lines[*place, key]}")
            document.lines[*place, key] = line
            built[key] = _build(loader, value_node, (*place, key), document)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*place, number), document) for number, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)
