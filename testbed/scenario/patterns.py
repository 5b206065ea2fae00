"""The patterns by which a scenario names texts: RE2's regular expressions.

RE2 takes time in proportion to the text, whatever the pattern: one that backtracks, as Python's
`re` does, may take longer than any deadline for a line of QEMU's. Every pattern that a user writes
goes through here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from .model import got

GLOB_CHARACTERS_MAX = 1000
"""Of a name in which `*`, `?` and `[...]` match: one on the wire has 255 at most. `fnmatch` takes
time in proportion to the square of this to compile one, 70 ms at worst."""
Glob = Annotated[str, Field(max_length=GLOB_CHARACTERS_MAX)]
MEMORY_BYTES_MAX = 64 << 10
"""For each pattern: some 2,800 of RE2's instructions, of which the library's largest has 109. The
slowest that fit took 60 ms for a line of 4096 bytes."""
KEPT_MAX = 256
"""Compiled patterns that are kept; a scenario has a dozen."""
SAMPLES = ("", "a", "0", " ", ":")
"""A pattern that finds no character in one of these finds its place anywhere in a text."""
INSTEAD = (
    (
        r"\(\?<?[=!]",
        "look-around",
        "match the text itself, or have `no_stderr` name what must not come",
    ),
    (r"\\[1-9]|\(\?P=|\(\?P>", "a reference back to a group", "write the text once more"),
    (r"\(\?>|[*+?}]\+", "a group or repetition that gives nothing back", "write it without"),
    (r"\(\?\(", "a condition", "write both cases with `|`"),
    (r"\(\?#", "a comment", "leave it out"),
    (r"\(\?-?[a-zA-Z]*[aLux]", "such a flag", "there are `i`, `m`, `s` and `U`"),
    (r"\\Z", "Python's end of the text", "write `$`"),
    (r"\\[NuU]", r"such an escape", "write the character itself"),
    (r"\{,\d+\}", "a repetition without its least", "write `{0,3}`"),
    (r"\{\d{4,}|\{\d*,\d{4,}", "more than 1000 repetitions", "write `*` or `+`"),
)
"""What Python's patterns have and RE2's have not: how it looks, what it is, what to do instead."""


def checked(pattern: str) -> str:
    """Return a pattern that a user wrote, if it can be used.

    Raises:
        ValueError: it is no regular expression, has what RE2 does not support, or matches every
            text, in which case it says nothing of any.
    """
    import re2

    try:
        compiled = _compiled(pattern)
    except (re2.error, UnicodeEncodeError) as error:
        raise ValueError(f"{_why_not(pattern, error)}{got(pattern)}") from error
    if (missing := next(_unsupported(pattern, only=r"\{,\d+\}"), None)) is not None:
        raise ValueError(f"{missing}{got(pattern)}")
    for sample in SAMPLES:
        match = compiled.search(sample)
        if match is not None and match.start() == match.end():
            why = "it matches the empty text, and so is found in any line; `.` is any character"
            raise ValueError(f"{why}{got(pattern)}")
    return pattern


def found(pattern: str, text: str) -> bool:
    """True if the pattern is found anywhere in the text.

    `.` does not match a newline, `$` only the text's end; `\\d`, `\\s` and `\\w` are ASCII.
    """
    # What a peer says may have halves of surrogate pairs, which UTF-8 has not.
    return _compiled(pattern).search(text.encode(errors="replace")) is not None


def begins_in(pattern: str, text: str, rest: str) -> bool:
    """True if the pattern is found in `text + rest`, first at a character of `text`."""
    whole = (text + rest).encode(errors="replace")
    match = _compiled(pattern).search(whole)
    return match is not None and match.start() < len(text.encode(errors="replace"))


@lru_cache(maxsize=KEPT_MAX)
def _compiled(pattern: str) -> Any:
    import re2  # here, as what needs no pattern need not wait for it

    options = re2.Options()
    options.max_mem = MEMORY_BYTES_MAX
    options.log_errors = False  # it would write to our stderr
    return re2.compile(pattern, options)


def _why_not(pattern: str, error: Exception) -> str:
    """Say what is wrong: in Python's words, which have a position, if it is wrong there, too."""
    if isinstance(error, UnicodeEncodeError):
        return f"not a text: {error.reason} at position {error.start}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that later versions may read otherwise
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as wrong:
        return f"not a regular expression: {wrong}"
    said = error.args[0]
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return next(_unsupported(pattern), f"not a regular expression of RE2's: {text}")


def _unsupported(pattern: str, only: str | None = None) -> Iterator[str]:
    """What the pattern has that RE2 does not support, and what to do instead."""
    # An escaped character and a set are not what they look like.
    bare = re.sub(r"\\[^1-9ZNuU]|\[\^?\]?(?:\\.|[^\\\]])*\]", "", pattern, flags=re.DOTALL)
    for looks, what, instead in INSTEAD:
        if only in (None, looks) and (there := re.search(looks, bare)) is not None:
            yield f"{what}, `{there[0]}`, is not supported by RE2's patterns: {instead}"
