"""A scenario file as a tree of nodes: YAML without its traps, bounded, with places.

Only `true` and `false` are booleans, numbers are decimal or `0x`, everything else that is plain is
text: no dates, no `1:30` that is 90, no `no` that is false. Tags and keys that are there twice are
refused. Nothing here knows what a key means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

FILE_BYTES_MAX = 1 << 20
NODES_MAX = 20_000
"""With anchors expanded; a real scenario has some hundred."""
DEPTH_MAX = 40
INTEGER = r"[-+]?(?:0x[0-9a-fA-F]{1,32}|[0-9]{1,32})"
PREFIX = "tag:yaml.org,2002:"
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong: where in the file, at which key, and what."""

    line: int
    column: int
    key: str
    message: str


class ScenarioError(Exception):
    """A scenario that cannot be used: all its problems, a line each, in the file's order."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(set(problems)))
        super().__init__(
            "\n".join(
                f"{path}{f':{each.line}:{each.column}' if each.line else ''}: "
                + _one_line(f"{each.key}{': ' if each.key else ''}{each.message}")
                for each in self.problems
            )
        )


def whole_file(path: Path, message: str) -> ScenarioError:
    """The error for a file that is no scenario at all."""
    return ScenarioError(path, [Problem(1, 1, "", message)])


def not_there(path: Path, names: Iterable[str] = ()) -> ScenarioError:
    """The error for a path that is not there, with the one that may have been meant.

    Args:
        path: as it was given.
        names: of scenarios that could have been meant, too.
    """
    near = sorted(each.name for each in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    close = get_close_matches(path.name, near, n=1) or get_close_matches(f"{path.name}.yaml", near)
    if close:
        return _absent(path, f"no such file; did you mean {path.parent / close[0]}?")
    known = list(names)
    if not known:
        return _absent(path, "no such file")
    close = get_close_matches(path.name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; `testbed list` names those there are"
    return _absent(path, f"no such file, and no scenario of the library has that name{hint}")


def _absent(path: Path, message: str) -> ScenarioError:
    """No line of it can be named."""
    return ScenarioError(path, [Problem(0, 0, "", message)])


class _Loader(yaml.SafeLoader):
    """Composes nodes, and counts them and their depth on the way."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._count = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._count += 1
        self._depth += 1
        if self._count > NODES_MAX or self._depth > DEPTH_MAX:
            raise yaml.composer.ComposerError(None, None, TOO_LARGE, event.start_mark)
        if getattr(event, "tag", None) is not None:
            message = f"a scenario has no tags such as {event.tag}"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


TOO_LARGE = f"more than {NODES_MAX} values or {DEPTH_MAX} levels, anchors expanded: not a scenario"
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"(?:true|false)$", list("tf")),
    ("int", INTEGER + "$", list("-+0123456789")),
    ("float", r"[-+]?[0-9]{1,32}\.[0-9]{1,32}$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(PREFIX + _kind, re.compile(_pattern), _first)


class Document:
    """The tree of one file: its plain values, and the place of each."""

    def __init__(self, path: Path, expected: str = "`description`, `mode` and `expect`") -> None:
        """Read a file.

        Args:
            path: of the file.
            expected: the keys that it must have, for who wrote something else.

        Raises:
            ScenarioError: it is not there, or no YAML mapping of a scenario's size.
        """
        self.path = path
        self._root = _compose(path, _read(path), expected)
        self._count = 0

    def value(self) -> Any:
        """The plain values of the tree.

        Raises:
            ScenarioError: keys twice, or a tree that explodes.
        """
        self._count = 0
        return self._plain(self._root, 0)

    def problem(self, at: KeyPath, message: str, *, key: bool = False) -> Problem:
        """A problem at a path, pointing at the last key itself or at its value."""
        node, name = self._find(at, key=key)
        return _at(node, name, message)

    def where(self, at: KeyPath) -> str:
        """`file:line:column` of what is at a path, or of what encloses it."""
        node, _ = self._find(at)
        return f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _plain(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > NODES_MAX or depth > DEPTH_MAX:
            raise self._error(node, "", TOO_LARGE)
        match node:
            case yaml.MappingNode():
                return self._mapping(node, depth)
            case yaml.SequenceNode():
                return [self._plain(each, depth + 1) for each in node.value]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        plain: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "", "expected a plain word as a key")
            key = _scalar(key_node)
            if key in plain:
                raise self._error(key_node, str(key), "this key is there twice")
            plain[key] = self._plain(value_node, depth + 1)
        return plain

    def _error(self, node: yaml.Node, key: str, message: str) -> ScenarioError:
        return ScenarioError(self.path, [_at(node, key, message)])

    def _find(self, at: KeyPath, *, key: bool = False) -> tuple[yaml.Node, str]:
        """The node at a path, as deep as it is in the file; what is left out has its parent's."""
        node: yaml.Node = self._root
        name = ""
        for number, part in enumerate(at):
            last = key and number == len(at) - 1
            found = _child(node, part, key=last)
            if found is None:
                break
            node = found
            name += f"[{part}]" if isinstance(node, _Item) else f"{'.' if name else ''}{part}"
            node = node.node if isinstance(node, _Item) else node
        return node, name


@dataclass(frozen=True, slots=True)
class _Item:
    """A node of a list."""

    node: yaml.Node


def _child(node: yaml.Node, part: str | int, *, key: bool) -> Any:
    match node:
        case yaml.MappingNode():
            for key_node, value_node in node.value:
                if isinstance(key_node, yaml.ScalarNode) and _scalar(key_node) == part:
                    return key_node if key else value_node
        case yaml.SequenceNode() if isinstance(part, int) and part < len(node.value):
            return _Item(node.value[part])
    return None


def _at(node: yaml.Node, key: str, message: str) -> Problem:
    return Problem(node.start_mark.line + 1, node.start_mark.column + 1, key, message)


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    match node.tag.removeprefix(PREFIX):
        case "null":
            return None
        case "bool":
            return text == "true"
        case "int":
            return int(text, 16 if "x" in text else 10)
        case "float":
            return float(text)
    return text


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise whole_file(path, "a folder, where a scenario file was expected")
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise not_there(path) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise whole_file(path, f"cannot be read: {reason}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise whole_file(path, f"larger than {FILE_BYTES_MAX} bytes: not a scenario")
    if b"\0" in raw:
        raise whole_file(path, "a binary file, where YAML in UTF-8 was expected")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        message = f"not text in UTF-8 (byte {raw[error.start]:#04x})"
        raise ScenarioError(path, [Problem(line, column, "", message)]) from error


def _compose(path: Path, text: str, expected: str) -> yaml.MappingNode:
    try:
        documents = list(yaml.compose_all(text, _Loader))
    except yaml.MarkedYAMLError as error:
        raise ScenarioError(path, [_not_yaml(error)]) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        message = f"not YAML: the character {error.character:#04x} is not allowed in it"
        raise ScenarioError(path, [Problem(line, column, "", message)]) from error
    filled = [node for node in documents if node.tag != f"{PREFIX}null"]
    if not filled:
        raise whole_file(path, "an empty file")
    if len(documents) != 1:
        raise whole_file(path, f"{len(documents)} YAML documents, where one was expected")
    if not isinstance(documents[0], yaml.MappingNode):
        raise whole_file(path, f"expected a mapping with {expected}")
    return documents[0]


def _not_yaml(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    message = ": ".join(filter(None, (error.context, error.problem)))
    if "'\\t'" in message:
        message = "a tab; YAML is indented by blanks"
    if isinstance(error, yaml.composer.ComposerError) and error.context is None:
        return Problem(line, column, "", message)
    return Problem(line, column, "", f"not YAML: {message}")


def _one_line(text: str) -> str:
    """Keys are shown as they are written, and may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
