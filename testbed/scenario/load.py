"""From a file to a scenario: YAML with places, one clear sentence for each thing that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from . import schema
from .faults import plan_fault
from .scenario import Scenario
from .sense import problems

FILE_BYTES_MAX = 1 << 20
NODES_MAX = 20_000
"""After anchors are expanded; a real scenario has some hundred."""
DEPTH_MAX = 40
Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where in the file, at which key, and what."""

    line: int
    column: int
    key: str
    message: str


class ScenarioError(Exception):
    """A scenario that cannot be used: all its problems, a line each."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(
                f"{path}:{each.line}:{each.column}: {each.key}{': ' if each.key else ''}"
                f"{each.message}"
                for each in self.problems
            )
        )


class _Loader(yaml.SafeLoader):
    """YAML without its traps: only `true` and `false` are booleans, `1:30` is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0x[0-9a-fA-F]+|[0-9]+)$"), list("-+0123456789")
)


def find(paths: Iterable[Path]) -> list[Path]:
    """The scenario files that paths name: themselves, and those in folders, sorted.

    Raises:
        ScenarioError: a path is not there, or a folder has no scenario.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = sorted(path.rglob("*.yaml"))
            if not files:
                raise _whole_file(path, "a folder without a scenario (*.yaml) in it")
            found += files
        elif path.exists():
            found.append(path)
        else:
            raise _whole_file(path, _not_there(path))
    return found


def _not_there(path: Path) -> str:
    near = sorted(each.name for each in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    close = get_close_matches(path.name, near, n=1) or get_close_matches(f"{path.name}.yaml", near)
    return "no such file" + (f"; did you mean {path.parent / close[0]}?" if close else "")


def load(path: Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ScenarioError: with everything that is wrong with it.
    """
    root = _compose(path, _read(path))
    nodes = _Nodes(path, root)
    try:
        model = schema.ScenarioModel.model_validate(nodes.value())
    except ValidationError as error:
        raise ScenarioError(path, _translated(error, nodes)) from error
    scenario = Scenario(
        path,
        model,
        tuple(
            plan_fault(fault, number, nodes.where(("faults", number - 1)))
            for number, fault in enumerate(model.faults, 1)
        ),
        nodes.where,
    )
    found = [nodes.problem(at, message) for at, message in problems(scenario)]
    if found:
        raise ScenarioError(path, found)
    return scenario


def _whole_file(path: Path, message: str) -> ScenarioError:
    return ScenarioError(path, [Problem(1, 1, "", message)])


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise _whole_file(path, "a folder, where a scenario file was expected")
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise _whole_file(path, _not_there(path)) from error
    except OSError as error:
        raise _whole_file(path, f"cannot be read: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise _whole_file(path, f"larger than {FILE_BYTES_MAX} bytes: not a scenario")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"not a text file in UTF-8 (byte {error.start} is {raw[error.start]:#04x})"
        raise _whole_file(path, message) from error
    if not text.strip():
        raise _whole_file(path, "an empty file")
    if "\0" in text:
        raise _whole_file(path, "a binary file, where YAML was expected")
    return text


def _compose(path: Path, text: str) -> yaml.MappingNode:
    try:
        documents = list(yaml.compose_all(text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(filter(None, (error.context, error.problem)))
        raise ScenarioError(path, [Problem(line, column, "", f"not YAML: {message}")]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _whole_file(path, f"not YAML: {str(error).splitlines()[0]}") from error
    if len(documents) != 1:
        raise _whole_file(path, f"{len(documents)} YAML documents, where one was expected")
    if not isinstance(documents[0], yaml.MappingNode):
        raise _whole_file(path, "expected a mapping with `description`, `mode` and `expect`")
    return documents[0]


class _Nodes:
    """The tree of a file: its values, and the line and column of each."""

    def __init__(self, path: Path, root: yaml.MappingNode) -> None:
        self._path = path
        self._root = root
        self._loader = _Loader("")
        self._count = 0

    def value(self) -> Any:
        """The plain values of the tree.

        Raises:
            ScenarioError: keys twice, or a tree that explodes.
        """
        return self._plain(self._root, 0)

    def _plain(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > NODES_MAX or depth > DEPTH_MAX:
            message = f"more than {NODES_MAX} values or {DEPTH_MAX} levels, anchors expanded"
            raise ScenarioError(self._path, [self._at(node, "", message)])
        match node:
            case yaml.MappingNode():
                plain: dict[Any, Any] = {}
                for key_node, value_node in node.value:
                    key = self._plain(key_node, depth + 1)
                    if isinstance(key, dict | list):
                        message = "expected a plain word as a key"
                        raise ScenarioError(self._path, [self._at(key_node, "", message)])
                    if key in plain:
                        message = "this key is there twice"
                        raise ScenarioError(self._path, [self._at(key_node, str(key), message)])
                    plain[key] = self._plain(value_node, depth + 1)
                return plain
            case yaml.SequenceNode():
                return [self._plain(each, depth + 1) for each in node.value]
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            message = f"cannot be read: {str(error).splitlines()[0]}"
            raise ScenarioError(self._path, [self._at(node, "", message)]) from error

    def problem(self, at: Path_, message: str, *, key: bool = False) -> Problem:
        """A problem at a path, pointing at the key itself or at its value."""
        node, shown = self._find(at, key=key)
        return self._at(node, shown, message)

    def where(self, at: Path_) -> str:
        """`file:line:column` of what is at a path, or of what encloses it."""
        node, _ = self._find(at)
        return f"{self._path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _at(self, node: yaml.Node, key: str, message: str) -> Problem:
        return Problem(node.start_mark.line + 1, node.start_mark.column + 1, key, message)

    def _find(self, at: Path_, *, key: bool = False) -> tuple[yaml.Node, str]:
        """The node at a path; parts that are not in the file (pydantic's own) are passed over."""
        node: yaml.Node = self._root
        shown = ""
        for number, part in enumerate(at):
            match node:
                case yaml.MappingNode():
                    for key_node, value_node in node.value:
                        if key_node.value == str(part):
                            last = key and number == len(at) - 1
                            node = key_node if last else value_node
                            shown += f"{'.' if shown else ''}{part}"
                            break
                case yaml.SequenceNode() if isinstance(part, int) and part < len(node.value):
                    node = node.value[part]
                    shown += f"[{part}]"
        return node, shown


def _translated(error: ValidationError, nodes: _Nodes) -> Iterator[Problem]:
    """pydantic's findings in people's words."""
    said = set()
    for finding in error.errors(include_url=False):
        kind, at = finding["type"], finding["loc"]
        if kind == "extra_forbidden":
            close = get_close_matches(str(at[-1]), _known_keys(), n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            problem = nodes.problem(at, f"unknown key `{at[-1]}`{hint}", key=True)
        elif kind == "missing":
            problem = nodes.problem(at[:-1], f"`{at[-1]}` is missing")
        else:
            problem = nodes.problem(at, _sentence(finding))
        if problem not in said:
            said.add(problem)
            yield problem


def _sentence(finding: Any) -> str:
    message = str(finding["msg"]).removeprefix("Value error, ")
    message = message.replace("Input should be ", "expected ")
    words = {
        "a valid integer": "a whole number",
        "a valid string": "a text",
        "a valid boolean": "true or false",
        "a valid list": "a list",
        "a valid dictionary or instance of ": "a mapping: ",
        "a valid dictionary": "a mapping",
        "a valid number": "a number",
    }
    for jargon, plain in words.items():
        message = message.replace(jargon, plain)
    if message.startswith("String should match pattern"):
        message = f"expected a text that matches {finding['ctx']['pattern']}"
    got = finding["input"]
    if ", got " in message or (isinstance(got, dict | list) and finding["type"] == "value_error"):
        return message
    shown = "a mapping" if isinstance(got, dict) else "a list" if isinstance(got, list) else got
    return f"{message}, got {shown if isinstance(got, dict | list) else repr(got)}"


def _known_keys() -> list[str]:
    models = (
        each
        for each in vars(schema).values()
        if isinstance(each, type) and issubclass(each, BaseModel)
    )
    return sorted(
        {field.alias or name for each in models for name, field in each.model_fields.items()}
    )
