"""QMP input as QEMU reads it and output as QEMU prints it; expected texts are those of 7.2.22."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.model.qmp.json import JsonError, MessageParser
from testbed.model.qmp.output import dumps, order

MEBI = 1 << 20
TOO_LONG = "JSON token size limit exceeded"


def answers(data, chunk_bytes=None, parser=None):
    """Each message that `data` holds: its value, or the text of the error."""
    parser = parser or MessageParser()
    found = []
    for start in range(0, len(data), chunk_bytes or max(len(data), 1)):
        parser.feed(data[start : start + (chunk_bytes or len(data))])
        while True:
            try:
                message = parser.next_message()
            except JsonError as error:
                found.append(str(error))
                continue
            if message is None:
                break
            found.append([message.value])
    return found


def parse_error(what):
    return f"JSON parse error, {what}"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"null ", None),
        (b"true\n", True),
        (b"'a'", "a"),
        (b'"it\'s"', "it's"),
        (b"{}", {}),
        (b"[]", []),
        (b" { 'a' : [ 1 , { 'b' : null } ] } ", {"a": [1, {"b": None}]}),
        (rb"'\"\'\\\/\b\f\n\r\t'", "\"'\\/\b\f\n\r\t"),
        (rb"'\u00e9\u20AC\ud83d\ude00'", "é€😀"),
        (rb"'\u0000x'", "\0x"),
        (b"'\xc0\x80x'", "\0x"),
        ("'é€😀'".encode(), "é€😀"),
        (b"'\x7f'", "\x7f"),
        (b"-0 ", 0),
        (b"1e5 ", 1e5),
        (b"0.5 ", 0.5),
        (b"9223372036854775808 ", 1 << 63),
        (b"18446744073709551615 ", (1 << 64) - 1),
        (b"18446744073709551616 ", 18446744073709551616.0),
        (b"-9223372036854775808 ", -(1 << 63)),
        (b"-9223372036854775809 ", -9223372036854775808.0),
        (b"1e400 ", float("inf")),
    ],
)
def test_what_qemu_takes_for_json(data, value):
    (found,) = answers(data)
    assert found == [value]
    assert type(found[0]) is type(value)


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        (b"nul ", ["invalid keyword 'nul'"]),
        (b"Abc def", ["stray 'A'"]),
        (b"aBc ", ["invalid keyword 'a'", "stray 'B'"]),
        (b"%p ", ["stray '%'"]),
        (b"/* */{", ["stray '/'"]),
        (b"01 ", ["stray '01'"]),
        (b"- ", ["stray '- '"]),
        (b"1.x ", ["stray '1.x'"]),
        (b"1e+ ", ["stray '1e+ '"]),
        (b"\x00", ["stray ''"]),
        (b"\x01\x02", ["stray '\x01'", "stray '\x02'"]),
        (b"\xff", ["stray '\N{REPLACEMENT CHARACTER}'"]),
        (b"'a\nb'", ["stray ''a\n'"]),
        (b"@\n@", ["stray '@'", "stray '@'"]),
        (b"@\t@'{", ["stray '@'"]),
        (b"}", ["expecting value"]),
        (b"[}", ["expecting value"]),
        (b"{]", ["expecting value"]),
        (b"[,]", ["expecting value"]),
        (b"[1,]", ["expecting value"]),
        (b"{'a':1,}", ["expecting value"]),
        (b"[[@]]", ["stray '@'", "expecting value", "expecting value"]),
        (b"{'a' 1}", ["missing : in object pair"]),
        (b"{1:2}", ["key is not a string in object"]),
        (b"{[1]:2}", ["key is not a string in object"]),
        (b"{'a':1 'b':2}", ["expected separator in dict"]),
        (b"[1 2]", ["expected separator in list"]),
        (b"{'a':1,'a':2}", ["duplicate key"]),
        (rb"'\q'", ["invalid escape sequence in string"]),
        (rb"'\u12xyz'", [r"\u12xy is not a valid Unicode character"]),
        (rb"'\u1'", [r"\u1' is not a valid Unicode character"]),
        (rb"'\ud800\n'", [r"\ud800 is not a valid Unicode character"]),
        (rb"'\udbff\udfff'", [r"\udbff\udfff is not a valid Unicode character"]),
        (rb"'\ufdd0'", [r"\ufdd0 is not a valid Unicode character"]),
        (b"'\xc3('", ["invalid UTF-8 sequence in string"]),
        (b"'\xef\xbf\xbf'", ["invalid UTF-8 sequence in string"]),
        (b"'\xed\xa0\x80'", ["invalid UTF-8 sequence in string"]),
    ],
)
def test_what_qemu_says_of_what_is_no_json(data, errors):
    assert answers(data) == [parse_error(error) for error in errors]


def test_messages_need_nothing_between_them():
    assert answers(b"{}{'a':1}[]1true{}") == [[{}], [{"a": 1}], [[]], [1], [True], [{}]]


@pytest.mark.parametrize("before", [b"{'a':", b"[[[", b"'abc", b"'abc\\", b"12", b"nul", b"@ x"])
def test_0xff_ends_whatever_was_begun(before):
    assert answers(before + b"\xff\n{}")[-1] == [{}]


PIECES = (
    *(b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"'", b'"', b"\\", b"\\u00e9", b"\\ud83d"),
    *(b"\\ude00", b"0", b"1", b"-", b".", b"e", b"+", b"true", b"nul", b"'a'", b"'a':1", b"\xc3"),
    *(b"\xa9", b"\xff", b"@", b"\0"),
)
INPUT = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=30).map(b"".join)


@given(INPUT, st.integers(1, 9))
def test_any_bytes_have_the_same_answers_at_any_chunk_size(data, chunk_bytes):
    assert answers(data, chunk_bytes) == answers(data)


VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=5), children),
    max_leaves=10,
)


@given(VALUE)
def test_what_is_printed_is_json(value):
    text = dumps([value])
    assert text.isascii()
    printable = json.loads(json.dumps([value]))
    if "\\uFFFD" not in text:  # QEMU has no noncharacters
        assert json.loads(text) == printable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.1, "0.10000000000000001"),
        (1e16, "10000000000000000"),
        (1e17, "1e+17"),
        (float("inf"), "inf"),
        ("a\x7f\x1fé😀/", r'"a\u007F\u001F\u00E9\uD83D\uDE00/"'),
        ("\ufffe", r'"\uFFFD"'),
        ({"running": True, "singlestep": False, "status": "x"},
         '{"status": "x", "singlestep": false, "running": true}'),
        ({"error": {"class": "c", "desc": "d"}, "id": []},
         '{"id": [], "error": {"class": "c", "desc": "d"}}'),
    ],
)  # fmt: skip
def test_output_is_printed_as_qemu_prints_it(value, text):
    assert dumps(value) == text


def test_of_two_keys_in_one_bucket_the_later_is_first():
    first, second = next(  # two keys of one bucket, whose order is then that of insertion
        (a, b)
        for b in map(str, range(1000))
        for a in map(str, range(int(b)))
        if order([a, b]) != order([b, a])
    )
    assert order([first, second]) == [second, first]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[" * 1024 + b"]" * 1024, list),
        (b"[" * 1025, "JSON nesting depth limit exceeded"),
        (b"['" + b"a" * 59 + b"']", list),
        (b"['" + b"a" * 60 + b"']", TOO_LONG),
        (b"'" + b"a" * 61 + b"'", str),
        (b"'" + b"a" * 62 + b"'", TOO_LONG),
    ],
)
def test_limits(data, found):
    parser = MessageParser(token_bytes_max=64 if b"a" in data else 64 * MEBI)
    (answer,) = answers(data, parser=parser)[:1]
    assert answer == found if isinstance(found, str) else isinstance(answer[0], found)


def test_a_message_has_so_many_tokens_and_no_more():
    assert answers(b"[1,2,3]", parser=MessageParser(token_count_max=7)) == [[[1, 2, 3]]]
    assert answers(b"[1,2,3]", parser=MessageParser(token_count_max=6)) == [
        "JSON token count limit exceeded"
    ]


def test_the_rest_of_a_token_too_long_is_read_anew():
    parser = MessageParser(token_bytes_max=64)
    assert answers(b"'" + b"a" * 70 + b"'x'", parser=parser) == [
        TOO_LONG,
        parse_error("invalid keyword 'aaaaaa'"),
        ["x"],
    ]


@pytest.mark.parametrize("begin", [b"'", b"", b"@ ", b"[", b" "])
def test_a_hundred_megabytes_take_bounded_memory(begin):
    parser = MessageParser(token_bytes_max=MEBI)
    block = b"a" * (2 * MEBI)
    tracemalloc.start()
    try:
        found = set(answers(begin, parser=parser))
        for _ in range(50):
            found.update(answers(block, parser=parser))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == ({parse_error("stray '@'")} if begin == b"@ " else {TOO_LONG})
    assert peak < 12 * MEBI
