"""What the words of a fault mean: each place, condition and action as the plan that comes of it."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from testbed.fault import plan
from testbed.fault.plan import Channel, Side
from testbed.fault.sentence import action_name
from testbed.scenario.actions import ACTION_EXAMPLES, ACTION_WORDS, ACTIONS, Action
from testbed.scenario.faults import plan_fault
from testbed.scenario.faults_file import parse_fault
from testbed.scenario.places import PLACES
from testbed.scenario.strikes import FaultModel
from testbed.wire import build_command, build_message, build_section

PLACES_SAID: list[tuple[str, plan.Place]] = [
    ("section: '*/virtio-net'", plan.SectionPlace("*/virtio-net")),
    (
        "section: cpu, kind: full, instance: 1, occurrence: 2, part: footer, field: mark",
        plan.SectionPlace("cpu", "full", 1, 2, "footer", "mark"),
    ),
    ("section: ram, part: payload, byte: 7", plan.SectionPlace("ram", part="payload", byte=7)),
    ("page: 100", plan.PagePlace("pc.ram", 100)),
    (
        "block: vga.vram, page_record: 5, phase: postcopy, field: data",
        plan.PagePlace("vga.vram", nth=5, phase="postcopy", field="data"),
    ),
    ("page: 0, channel: preempt", plan.PagePlace("pc.ram", 0, channel=Channel.PREEMPT)),
    ("block: pc.ram, passed: 10M", plan.BlockPlace("pc.ram", 10 << 20)),
    ("block: pc.ram, share: 50%", plan.BlockPlace("pc.ram", share=0.5)),
    ("command: PING, occurrence: 2, field: payload", plan.CommandPlace("PING", 2, "payload")),
    ("command: '0x7f'", plan.CommandPlace("0x7f")),
    ("message: REQ_PAGES_ID, byte: -1", plan.MessagePlace("REQ_PAGES_ID", byte=-1)),
    ("element: eof", plan.ElementPlace("eof")),
    (
        "element: vmdesc, name: x, occurrence: 3, field: text",
        plan.ElementPlace("vmdesc", "text", name="x", occurrence=3),
    ),
    ("offset: 1000", plan.OffsetPlace(1000)),
    ("offset: 0, channel: return-path", plan.OffsetPlace(0, Channel.RETURN_PATH)),
    ("offset: 9, channel: multifd", plan.OffsetPlace(9, Channel.MULTIFD)),
    ("offset: 9, channel: multifd-12", plan.OffsetPlace(9, Channel.MULTIFD, 12)),
    ("offset: 9, channel: tls", plan.OffsetPlace(9, Channel.TLS)),
    ("offset: 9, channel: tls-2", plan.OffsetPlace(9, Channel.TLS, 2)),
    ("offset: 9, channel: return-path-2", plan.OffsetPlace(9, Channel.RETURN_PATH, 2)),
    ("offset: 9, channel: unknown", plan.OffsetPlace(9, Channel.UNKNOWN)),
    ("element: message", plan.ElementPlace("message", channel=Channel.RETURN_PATH)),
    (
        "element: multifd-packet, channel: multifd-2, name: pc.ram",
        plan.ElementPlace("multifd-packet", name="pc.ram", channel=Channel.MULTIFD, number=2),
    ),
    ("element: multifd-init", plan.ElementPlace("multifd-init", channel=Channel.MULTIFD)),
    ("element: tls-record", plan.ElementPlace("tls-record", channel=Channel.TLS)),
    ("element: ram-page, channel: preempt", plan.ElementPlace("ram-page", channel=Channel.PREEMPT)),
    ("connection: 2", plan.ConnectionPlace(2)),
    ("state: active, side: source", plan.StatePlace(Side.SOURCE, "active")),
    (
        "event: STOP, side: destination, occurrence: 2, channel: multifd-1",
        plan.StatePlace(Side.DESTINATION, None, "STOP", 2, Channel.MULTIFD, 1),
    ),
]
PAGE = (7 * 4096 | 0x08).to_bytes(8, "big") + b"\x06pc.ram" + b"\xff" + bytes(4095)
ACTIONS_SAID: list[tuple[str, plan.Action]] = [
    ("close", plan.Close()),
    ("close: {side: source}", plan.Close(Side.SOURCE)),
    ("reset", plan.Reset()),
    ("reset: {side: destination}", plan.Reset(Side.DESTINATION)),
    ("half_close: {toward: destination}", plan.HalfClose(Side.DESTINATION)),
    ("blackhole", plan.Blackhole()),
    ("blackhole: {toward: source, swallow: true}", plan.Blackhole(Side.SOURCE, swallow=True)),
    ("truncate", plan.Truncate()),
    ("refuse", plan.Refuse()),
    ("refuse: {for: 2s}", plan.Refuse(2.0)),
    ("delay_accept: 500ms", plan.DelayAccept(0.5)),
    ("tarpit", plan.Tarpit()),
    ("stall: {for: 500ms, toward: source}", plan.Stall(0.5, Side.SOURCE)),
    ("latency: {delay: 50ms}", plan.Latency(0.05)),
    (
        "latency: {delay: 50ms, jitter: 10ms, toward: destination}",
        plan.Latency(0.05, 0.01, Side.DESTINATION),
    ),
    ("bandwidth: {rate: 10M, toward: source}", plan.Bandwidth(10 << 20, Side.SOURCE)),
    ("slice: {size: 100, variation: 10, delay: 1ms}", plan.Slice(100, 10, 0.001)),
    ("restore", plan.Restore()),
    ("restore: {toward: source}", plan.Restore(Side.SOURCE)),
    ("signal: {side: destination, signal: KILL}", plan.Signal(Side.DESTINATION, "KILL")),
    ("set: 0x7d", plan.SetField(0x7D)),
    ("set: text", plan.SetField(b"text")),
    ("set: {hex: '00ff'}", plan.SetField(b"\0\xff")),
    ("flip: '80'", plan.FlipBits(b"\x80")),
    ("insert: {hex: '00'}", plan.Insert(b"\0")),
    (
        "insert: {command: PING, payload: {hex: '01'}, length: 4}",
        plan.Insert(build_command(2, b"\1", length=4)),
    ),
    ("insert: {command: 0x7f}", plan.Insert(build_command(0x7F, b""))),
    (
        "insert: {message: PONG, payload: {hex: '00000001'}}",
        plan.Insert(build_message(2, b"\0\0\0\1")),
    ),
    ("insert: {message: 99, length: 8}", plan.Insert(build_message(99, length=8))),
    ("insert: {message: '0x63'}", plan.Insert(build_message(99))),
    ("insert: {page: {page: 7, data: {hex: ff}}}", plan.Insert(PAGE)),
    (
        "insert: {section: {id: 999, idstr: x, version: 3, payload: {hex: aa}, footer: false}}",
        plan.Insert(build_section(4, 999, "x", 0, 3, b"\xaa", footer=False)),
    ),
    ("delete", plan.Delete()),
    ("duplicate", plan.Duplicate()),
    ("swap", plan.Swap()),
    ("replay: {section: timer}", plan.Replay(plan.SectionPlace("timer"))),
    ("stale_page", plan.StalePage()),
]
CONDITIONS_SAID: list[tuple[str, tuple[plan.Condition, ...]]] = [
    ("after: cut", (plan.AfterFault("cut"),)),
    ("after: [cut, hit]", (plan.AfterFault("cut"), plan.AfterFault("hit"))),
    ("reached: {element: eof}", (plan.Reached((plan.ElementPlace("eof"),)),)),
    (
        "reached: [{page: 1}, {state: active, side: destination}]",
        (plan.Reached((plan.PagePlace(page=1), plan.StatePlace(Side.DESTINATION, "active"))),),
    ),
    ("until: {command: PING}", (plan.Before(plan.CommandPlace("PING")),)),
    ("vcpus: running", (plan.Vcpus(running=True),)),
    ("vcpus: stopped", (plan.Vcpus(running=False),)),
    ("chance: 30%", (plan.Chance(0.3),)),
    (
        "chance: 5%, after: cut, vcpus: stopped",
        (plan.AfterFault("cut"), plan.Vcpus(running=False), plan.Chance(0.05)),
    ),
]
REST_SAID: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("point: after", {"point": plan.Point.AFTER}),
    ("times: 3", {"times": 3}),
    ("times: every", {"times": None}),
    ("attempt: 2", {"attempt": 2}),
    ("attempt: every", {"attempt": None}),
    ("connection: 2", {"connection": 2}),
    ("connections: all", {"everywhere": True}),
]


def said(text: str) -> Any:
    """A place or an action as a file writes it: a word, or the inside of a mapping."""
    return yaml.safe_load(text if text.isidentifier() else f"{{{text}}}")


def planned(**written: Any) -> plan.Fault:
    model = FaultModel.model_validate({"at": {"section": "cpu"}, "do": "reset", **written})
    again = FaultModel.model_validate(model.model_dump(mode="json", by_alias=True))
    assert plan_fault(again, 1, "") == plan_fault(model, 1, "")  # what was played can be read
    return plan_fault(model, 1, "")


@pytest.mark.parametrize(("text", "place"), PLACES_SAID, ids=[text for text, _ in PLACES_SAID])
def test_a_place(text: str, place: plan.Place) -> None:
    assert planned(at=said(text)).place == place


@pytest.mark.parametrize(("text", "action"), ACTIONS_SAID, ids=[text for text, _ in ACTIONS_SAID])
def test_an_action(text: str, action: plan.Action) -> None:
    assert planned(do=said(text)).action == action


@pytest.mark.parametrize(
    ("text", "conditions"), CONDITIONS_SAID, ids=[text for text, _ in CONDITIONS_SAID]
)
def test_conditions(text: str, conditions: tuple[plan.Condition, ...]) -> None:
    assert planned(when=said(text)).conditions == conditions


@pytest.mark.parametrize(("text", "fields"), REST_SAID, ids=[text for text, _ in REST_SAID])
def test_how_often_and_on_what(text: str, fields: dict[str, Any]) -> None:
    usual = plan.Fault(plan.SectionPlace("cpu"), plan.Reset(), "fault_1")
    expected = {name: getattr(usual, name) for name in usual.__dataclass_fields__} | fields
    fault = planned(**said(text))
    assert {name: getattr(fault, name) for name in usual.__dataclass_fields__} == expected


def test_the_language_has_words_for_all_that_a_plan_can_hold() -> None:
    assert {type(place) for _, place in PLACES_SAID} == set(get_args(plan.Place))
    assert {type(action) for _, action in ACTIONS_SAID} == set(get_args(plan.Action))
    held = {type(each) for _, conditions in CONDITIONS_SAID for each in conditions}
    assert held == set(get_args(plan.Condition))


@pytest.mark.parametrize(("text", "action"), ACTIONS_SAID, ids=[text for text, _ in ACTIONS_SAID])
def test_an_action_has_the_same_name_in_the_log(text: str, action: plan.Action) -> None:
    assert action_name(action) == text.partition(":")[0]


def test_every_word_is_said_above() -> None:
    places = {key for text, _ in PLACES_SAID for key in said(text)}
    assert set(PLACES) <= places
    actions = [said(text) for text, _ in ACTIONS_SAID]
    assert set(ACTIONS) == {it if isinstance(it, str) else next(iter(it)) for it in actions}


REFUSED = [
    (
        "at",
        "offset: 1, channel: multfd",
        "expected main, return-path, multifd, preempt",
    ),
    ("at", "offset: 1, channel: multifd-0", "unknown or one such as multifd-2, got 'multifd-0'"),
    ("at", "block: pc.ram, passed: 0", "expected 1 byte or more"),
    ("at", "block: pc.ram, share: 0%", "expected a share such as 50%"),
    ("at", "element: vmdes", "is no kind of element; did you mean `vmdesc`?"),
    ("at", "connection: 0", "expected 1 or more, got 0"),
    ("at", "passed: 1M, page: 7", "say which: `page` or `passed`"),
    ("at", "offset: 1, direction: return-path", "unknown key `direction`"),
    ("do", "half_close", "half_close needs values, such as {half_close: {toward: destination}}"),
    ("do", "half_close: {toward: both}", "'source' or 'destination'"),
    ("do", "delay_accept: 0s", "expected more than no time"),
    ("do", "bandwidth: {rate: 0}", "expected 1 byte or more"),
    ("do", "signal: {side: source, signal: HUP}", "'KILL', 'STOP' or 'CONT'"),
    ("do", "insert: {message: PANG}", "is no message of the return path of QEMU's"),
    ("do", "insert: {command: 70000}", "less than 65536"),
    ("do", "replay: {connection: 1}", "expected a place in the stream: a connection"),
    ("do", "stalepage", "no action 'stalepage'; did you mean `stale_page`?"),
    ("when", "chance: 0%", "expected a share such as 50%"),
    ("when", "chance: 0.3", "expected a share such as 50%"),
    ("when", "vcpus: paused", "'running' or 'stopped'"),
    ("when", "aftr: cut", "unknown key `aftr`; did you mean `after`?"),
    ("when", "reached: []", "expected a list of 1 or more"),
    ("times", "never", "expected 'every', got 'never'"),
    ("times", "0", "expected 1 or more, got 0"),
    ("attempt", "true", "expected a number from 1 on, or every, got true"),
]


@pytest.mark.parametrize(("key", "text", "why"), REFUSED, ids=[text for _, text, _ in REFUSED])
def test_what_cannot_be_meant_is_refused(key: str, text: str, why: str) -> None:
    written = yaml.safe_load(text) if key in ("times", "attempt") else said(text)
    with pytest.raises(ValueError, match=re.escape(why)) as refused:
        parse_fault({"at": {"section": "cpu"}, "do": "reset", key: written}, "it")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{key}")


def test_a_page_that_is_put_in_has_no_more_than_a_page() -> None:
    planned(do={"insert": {"page": {"page": 0, "data": {"hex": "ff" * 4096}}}})
    with pytest.raises(ValidationError, match="expected 4096 bytes or less, a page, got 4097"):
        planned(do={"insert": {"page": {"page": 0, "data": {"hex": "ff" * 4097}}}})


def test_every_action_can_be_written_as_a_word_or_has_an_example() -> None:
    assert ACTION_WORDS.keys() | ACTION_EXAMPLES.keys() == ACTIONS.keys()
    for example in ACTION_EXAMPLES.values():
        TypeAdapter(Action).validate_python(yaml.safe_load(example))
