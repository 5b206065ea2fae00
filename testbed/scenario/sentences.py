"""pydantic's findings in people's words: what was expected, what came, what may have been meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from .document import KeyPath, Problem
from .model import did_you_mean, got


class Placing(Protocol):
    """Gives the problem at a path of keys; with `key` it is the last key itself that is wrong."""

    def __call__(self, at: KeyPath, message: str, *, key: bool = False) -> Problem:
        """See `Document.problem`."""
        ...


THE_KEY = "[key]"
"""What pydantic ends a path with whose last key is wrong, and not what stands there."""


def translated(error: ValidationError, problem: Placing) -> Iterator[Problem]:
    """The problems that a validation found, in people's words."""
    for finding in error.errors(include_url=False):
        kind, at = finding["type"], finding["loc"]
        if kind == "unknown_key":
            yield problem(at, finding["msg"], key=True)
        elif kind == "missing":
            yield problem(at[:-1], f"`{at[-1]}` is missing")
        elif at[-1:] == (THE_KEY,):
            yield problem(at[:-1], _sentence(kind, finding), key=True)
        else:
            yield problem(at, _sentence(kind, finding))


EXPECTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "string_type": lambda _: "a text",
    "bool_type": lambda _: "true or false",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: "a mapping",
    "model_type": lambda _: "a mapping",
    "literal_error": lambda context: str(context["expected"]).replace("True", "true"),
    "greater_than_equal": lambda context: f"{context['ge']} or more",
    "greater_than": lambda context: f"more than {context['gt']}",
    "less_than_equal": lambda context: f"{context['le']} or less",
    "less_than": lambda context: f"less than {context['lt']}",
    "too_short": lambda context: f"a list of {context['min_length']} or more",
    "string_too_short": lambda _: "some text",
    "string_too_long": lambda context: f"a text of at most {context['max_length']} characters",
}
"""By pydantic's types of errors: what was expected."""


def _sentence(kind: str, finding: Mapping[str, Any]) -> str:
    value, context = finding["input"], finding.get("ctx", {})
    expected = EXPECTED.get(kind)
    if expected is None:
        return str(finding["msg"]).removeprefix("Value error, ")
    hint = ""
    if kind == "literal_error" and isinstance(value, str):
        words = str(context["expected"]).replace(" or ", ", ").split(", ")
        hint = did_you_mean(value, [word.strip("'") for word in words]).partition("; there")[0]
    elif kind == "string_type" and isinstance(value, bool | int | float):
        hint = "; write it in quotes"
    return f"expected {expected(context)}{got(value)}{hint}"
