"""Patterns that scenarios may have: which are refused, in which words, and how long one takes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.scenario.load import ScenarioError, load
from testbed.scenario.patterns import GLOB_CHARACTERS_MAX, checked, found

LINE = "qemu-system-x86_64: " + "a" * 4000

GOOD = [
    "load of migration failed: (Invalid|Input/output)",
    r"error while loading state section id \d+\(ram\)",
    "(?i)error|fail",
    "(?P<side>source) and (?P<other>destination)",
    r"^a\z",
    r"[?+(]\(",  # nothing of it is what it looks like
    r"\\1",
    r"\(?=",
    r"[{,3}]",
    ".",
    "[[:alpha:]]",
    "K\u00f6nig",
]

REFUSED = [
    ("([", "not a regular expression: unterminated character set at position 1"),
    ("a(b", "not a regular expression: missing ), unterminated subpattern at position 1"),
    ("*a", "not a regular expression: nothing to repeat at position 0"),
    ("a{5,2}", "not a regular expression: min repeat greater than max repeat at position 2"),
    ("\ud800", "not a text: surrogates not allowed at position 0"),
    ("failed(?! later)", "look-around, `(?!`, is not supported by RE2's patterns: match the text"),
    ("(?=x)y", "look-around, `(?=`, is not supported"),
    ("(?<=id )9", "look-around, `(?<=`, is not supported"),
    ("(?<!id )9", "look-around, `(?<!`, is not supported"),
    (r"(\d+) and \1", r"a reference back to a group, `\1`, is not supported by RE2's patterns: "),
    ("(?P<id>9) and (?P=id)", "a reference back to a group, `(?P=`, is not supported"),
    ("(?>a)b", "a group or repetition that gives nothing back, `(?>`, is not supported"),
    ("a++b", "a group or repetition that gives nothing back, `++`, is not supported"),
    ("(a)?(?(1)b|c)", "a condition, `(?(`, is not supported"),
    ("a(?#why)b", "a comment, `(?#`, is not supported"),
    ("(?x) a b", "such a flag, `(?x`, is not supported by RE2's patterns: there are `i`, `m`"),
    (r"failed\Z", r"Python's end of the text, `\Z`, is not supported by RE2's patterns: write `$`"),
    (r"K\u00f6nig", r"such an escape, `\u`, is not supported"),
    ("a{,3}b", "a repetition without its least, `{,3}`, is not supported"),
    ("a{1001}", "more than 1000 repetitions, `{1001`, is not supported"),
    (r"(((\w{9}){9}){9}){9}", "not a regular expression of RE2's: "),
    ("x*", "it matches the empty text, and so is found in any line; `.` is any character"),
    ("", "it matches the empty text"),
    ("a|", "it matches the empty text"),
    ("^", "it matches the empty text"),
    (r"\b", "it matches the empty text"),
    ("(?:fail)?", "it matches the empty text"),
]


@pytest.mark.parametrize("pattern", GOOD)
def test_a_pattern_that_can_be_used(pattern: str) -> None:
    assert checked(pattern) == pattern


@pytest.mark.parametrize(("pattern", "why"), REFUSED, ids=[repr(each) for each, _ in REFUSED])
def test_a_pattern_that_cannot_be_used(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}.*, got "):
        checked(pattern)


@pytest.mark.parametrize("pattern", [r"^(\w+[ :/-]?)+!$", r"(([a-z ]+)+[:(]?)+$Q", "(x?a?)+b"])
def test_a_pattern_that_would_backtrack_for_ever_ends(pattern: str) -> None:
    """In a process of its own: with Python's `re` nothing else ends it."""
    ask = f"from testbed.scenario.patterns import found; print(found({pattern!r}, {LINE!r}))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_what_a_peer_says_may_be_no_text() -> None:
    assert found("id . of", "id \udcff of")


def test_lines_are_ends_only_where_one_says_so() -> None:
    assert not found("a$", "a\nb")
    assert not found("a.b", "a\nb")
    assert found("(?m)a$", "a\nb")


def test_wrong_patterns_are_told_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(
        "description: wrong patterns\n"
        "mode: precopy\n"
        "expect:\n"
        "  verdict: completed\n"
        "  source: {error: {'<10': 'x*'}, no_stderr: 'fail(?!ed)'}\n"
        "  destination:\n"
        "    stderr: [fine, '']\n"
    )
    with pytest.raises(ScenarioError) as error:
        load(path)
    lines = str(error.value).splitlines()
    assert [line.removeprefix(f"{path}:").partition(": expect.")[0] for line in lines] == [
        "5:19",
        "5:45",
        "7:20",
    ]
    assert "`(?!`, is not supported by RE2's patterns: match the text itself" in lines[1]


@pytest.mark.parametrize("place", ["section", "block", "element"])
def test_a_name_that_is_longer_than_any_is_refused(tmp_path: Path, place: str) -> None:
    """`fnmatch` looks for the end of each `[` by itself."""
    at = {
        "section": "section: '{}'",
        "block": "block: '{}', page: 1",
        "element": "element: payload, name: '{}'",
    }[place]
    path = tmp_path / "it.yaml"
    for length, refused in ((GLOB_CHARACTERS_MAX, False), (GLOB_CHARACTERS_MAX + 1, True)):
        faults = f"faults: [{{at: {{{at.format('[' * length)}}}, do: delete}}]\n"
        path.write_text("description: it\nmode: precopy\nexpect: {verdict: completed}\n" + faults)
        if not refused:
            load(path)
            continue
        with pytest.raises(ScenarioError, match="expected a text of at most 1000 characters"):
            load(path)


def test_what_needs_no_pattern_does_not_load_their_engine() -> None:
    ask = "import sys, testbed.cli, testbed.scenario.session; print('re2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
