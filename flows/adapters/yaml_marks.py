"""YAML 1.2 as plain values that remember their lines: no duplicate keys, no guessed booleans, times or dates.

Only the core schema is read: unquoted `NO` is the text NO, `22:00` is text, `2026-01-05` is text (models parse it), `true` is true.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from flows.core.errors import UserError

MAX_REPEATED = 200_000
"""More values than aliases ever need to repeat: stops those that multiply themselves."""

MAX_DIGITS = 100
"""More digits than any quantity has: Python refuses to read very long integers."""

NULL = re.compile(r"^(~|null|Null|NULL|)$")
BOOLEAN = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
INTEGER = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
NOT_FINITE = re.compile(r"^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")

CORE = "tag:yaml.org,2002:"

Path = tuple[str | int, ...]
"""Where a value lies inside a document: keys and indices from the root."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A file and a line, counted from 1."""

    file: str
    line: int


@dataclass(slots=True)
class Builder:
    """Turns the nodes of one document into values and notes the line of each path."""

    file: str
    marks: dict[Path, Mark] = field(default_factory=dict)
    repeated: int = 0
    built: set[int] = field(default_factory=set)
    open_nodes: set[int] = field(default_factory=set)

    def build(self, node: Node, path: Path = ()) -> Any:
        """The value of the node.

        Raises:
            UserError: a duplicate key, a key that is no text, a tag, a number that is not finite, an alias to itself.
        """
        if id(node) in self.open_nodes:
            raise self._error(node, path, "aliases that contain themselves", "write the values out")
        self.repeated += id(node) in self.built
        self.built.add(id(node))
        if self.repeated > MAX_REPEATED:
            raise self._error(node, path, f"aliases that repeat more than {MAX_REPEATED:,} values", "write the values out")
        self.marks.setdefault(path, Mark(self.file, node.start_mark.line + 1))
        if not str(node.tag or CORE).startswith(CORE) or str(node.tag).startswith(f"{CORE}python"):
            raise self._error(node, path, f"a tag `{node.tag}`", "write the plain value")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
            raise self._error(node, path, "neither a value, a list nor a mapping", "write plain YAML")
        finally:
            self.open_nodes.discard(id(node))

    def _sequence(self, node: SequenceNode, path: Path) -> list[Any]:
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.value == "<<":
                raise self._error(key_node, path, "a key that is not plain text", "write each key out as a word")
            key = key_node.value
            inner = (*path, key)
            if key in found:
                first = self.marks[inner].line
                raise self._error(key_node, inner, f"duplicate key `{key}`, first seen on line {first}", "keep the one that is meant")
            self.marks[inner] = Mark(self.file, key_node.start_mark.line + 1)
            found[key] = self.build(value_node, inner)
        return found

    def _scalar(self, node: ScalarNode, path: Path) -> str | int | float | bool | None:
        text: str = node.value
        if node.style is not None:
            return text
        if NULL.match(text):
            return None
        if BOOLEAN.match(text):
            return text.lower() == "true"
        if len(text) > MAX_DIGITS and (INTEGER.match(text) or FLOAT.match(text)):
            raise self._error(node, path, f"a number of {len(text)} characters", "write a shorter number, or quote the text")
        if INTEGER.match(text):
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        if FLOAT.match(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise self._error(node, path, f"`{text}` is too large", "write a smaller number")
            return number
        if NOT_FINITE.match(text):
            raise self._error(node, path, f"`{text}` is not a number that can be compared", "leave the key out, or write a finite number")
        return text

    def _error(self, node: Node, path: Path, what: str, fix: str) -> UserError:
        return UserError(what, file=self.file, line=node.start_mark.line + 1, field=dotted(path) or None, fix=fix)


def dotted(path: Path) -> str:
    """The path as people write it: `sites[2].country`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(text: str, file: str) -> list[tuple[Any, dict[Path, Mark]]]:
    """All documents of the text, each with the mark of every path in it.

    Raises:
        UserError: the text is no YAML, or one of the things that `Builder.build` refuses.
    """
    reader = YAML(typ="rt", pure=True)
    documents = []
    try:
        for node in reader.compose_all(text):
            if node is None:
                continue
            builder = Builder(file)
            documents.append((builder.build(node), builder.marks))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = (error.problem or error.context or "not YAML").strip().splitlines()[0].lower()
        raise UserError(
            f"not valid YAML: {what}", file=file, line=None if mark is None else mark.line + 1, fix="check indentation, brackets and quotes"
        ) from error
    except RecursionError as error:
        raise UserError("nested too deeply", file=file, fix="flatten the file") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"not valid YAML: the character {ord(text[error.position]):#06x}"
        raise UserError(what, file=file, line=line, expected="text that can be printed", fix="take it out") from error
    except YAMLError as error:
        raise UserError(f"not valid YAML: {str(error).splitlines()[0].lower()}", file=file, fix="save the file as UTF-8 text") from error
    return documents
