"""Faults in plain words, whole sentences."""

from __future__ import annotations

from typing import get_args

import pytest

from testbed.fault import plan
from testbed.fault.plan import Channel, Fault, Point, Side
from testbed.fault.sentence import fault_sentence, place_words

RAM = plan.SectionPlace("ram", "part", occurrence=2)
CPU = plan.SectionPlace("cpu", "full", part="footer", field="mark")
RESET = plan.Reset()

SENTENCES: list[tuple[Fault, str]] = [
    (
        Fault(
            RAM,
            RESET,
            "it",
            attempt=2,
            conditions=(
                plan.AfterFault("fault_1"),
                plan.Reached((plan.BlockPlace("pc.ram", 10 << 20),)),
            ),
        ),
        "As the 2nd PART section of ram begins, on the second attempt, once fault_1 has struck and "
        "10 MiB of pc.ram have passed: reset both sides (RST).",
    ),
    (
        Fault(CPU, plan.SetField(0x7D), "it"),
        "At the field mark of the footer of the first FULL section of cpu: write 0x7d over it.",
    ),
    (
        Fault(plan.SectionPlace("*/virtio-net", "full", 1), plan.Delete(), "it", attempt=None),
        "At the first FULL section like */virtio-net, instance 1, on every attempt: take it out.",
    ),
    (
        Fault(
            plan.PagePlace(nth=1500, phase="postcopy", field="data", byte=1000),
            plan.Close(Side.SOURCE),
            "it",
            connection=2,
        ),
        "Just before byte 1000 of the field data of the 1500th page record of pc.ram in postcopy, "
        "on connection 2 of the attempt: close the source's side (FIN).",
    ),
    (
        Fault(plan.PagePlace(page=7, occurrence=3), plan.StalePage(), "it", times=None),
        "At each record of page 7 of pc.ram, from the 3rd on: "
        "send the data that the page had the time before.",
    ),
    (
        Fault(RAM, plan.Stall(0.5), "it", times=3, conditions=(plan.Chance(0.3),)),
        "As each PART section of ram begins, from the 2nd on, 3 times at most, with a chance of "
        "30%: pass nothing in both directions for 500 ms, then go on.",
    ),
    (
        Fault(
            plan.ElementPlace("eof"),
            plan.Blackhole(Side.DESTINATION, swallow=True),
            "it",
            point=Point.AFTER,
            everywhere=True,
        ),
        "After the EOF byte: keep the connection and pass nothing more toward the destination; "
        "what comes is read and dropped, on every connection that the migration has.",
    ),
    (
        Fault(plan.ConnectionPlace(1), plan.Refuse(2.0), "it"),
        "As connection 1 of the migration comes: refuse it, nobody listens for 2 s.",
    ),
    (
        Fault(
            plan.StatePlace(Side.DESTINATION, "postcopy-active", occurrence=2),
            plan.Signal(Side.DESTINATION, "KILL"),
            "it",
            conditions=(
                plan.Before(plan.MessagePlace("SHUT")),
                plan.Vcpus(running=False),
            ),
        ),
        "As the destination reports postcopy-active for the 2nd time, as long as the first message "
        "SHUT of the return path has not come, while the guest stands still at the source: "
        "send SIGKILL to the destination's process.",
    ),
    (
        Fault(
            plan.OffsetPlace(9, Channel.MULTIFD, 2),
            plan.Insert(bytes(20)),
            "it",
            conditions=(
                plan.Reached(
                    (
                        plan.StatePlace(Side.SOURCE, event="STOP"),
                        plan.ConnectionPlace(3),
                        plan.ElementPlace("vmdesc"),
                    )
                ),
            ),
        ),
        "Just before byte 9 of multifd channel 2, once the source has reported STOP, connection 3 "
        "has come and the vmdesc has come: "
        "put in 20 bytes, 00 00 00 00 00 00 00 00 00 00 00 00 and so on.",
    ),
    (
        Fault(
            CPU,
            plan.Delete(),
            "it",
            conditions=tuple(map(plan.AfterFault, ("this", "that", "another"))),
        ),
        "At the field mark of the footer of the first FULL section of cpu, once this, that and "
        "another have struck: take it out.",
    ),
]


@pytest.mark.parametrize(("fault", "sentence"), SENTENCES, ids=[said[:60] for _, said in SENTENCES])
def test_a_fault_in_words(fault: Fault, sentence: str) -> None:
    assert fault_sentence(fault) == sentence


PLACES: list[tuple[plan.StreamPlace, str]] = [
    (plan.SectionPlace("timer"), "the first section of timer"),
    (
        plan.SectionPlace("cpu", part="payload", byte=-1),
        "the last byte of the payload of the first ",
    ),
    (
        plan.CommandPlace("PING", 11, "payload", -2),
        "the 2nd last byte of the field payload of the 1",
    ),
    (
        plan.PagePlace(page=3, channel=Channel.PREEMPT),
        "the first record of page 3 of pc.ram on the p",
    ),
    (
        plan.BlockPlace("pc.ram", share=0.5),
        "the page record with which 50% of the pages of pc.ram ",
    ),
    (
        plan.BlockPlace("pc.ram", 1500),
        "the page record with which 1500 bytes of pc.ram have passed",
    ),
    (
        plan.ElementPlace("ram-block", name="vga.vram", occurrence=2),
        "the 2nd ram-block named vga.vram",
    ),
    (
        plan.ElementPlace("multifd-packet", channel=Channel.MULTIFD),
        "the first multifd-packet of a multifd channel",
    ),
    (plan.OffsetPlace(0, Channel.RETURN_PATH), "byte 0 of the return path"),
    (plan.MessagePlace("PONG", 2), "the 2nd message PONG of the return path"),
    (plan.OffsetPlace(0, Channel.TLS), "byte 0 of a TLS channel"),
    (plan.OffsetPlace(0, Channel.TLS, 3), "byte 0 of TLS channel 3"),
    (plan.OffsetPlace(0, Channel.UNKNOWN), "byte 0 of an unknown channel"),
]


@pytest.mark.parametrize(("place", "words"), PLACES, ids=[words for _, words in PLACES])
def test_a_place_in_words(place: plan.StreamPlace, words: str) -> None:
    assert place_words(place).startswith(words)


ACTIONS: list[tuple[plan.Action, str]] = [
    (plan.HalfClose(Side.DESTINATION), "end what goes toward the destination (FIN); the other "),
    (
        plan.Blackhole(),
        "keep the connection and pass nothing more in both directions; nothing is r",
    ),
    (plan.Truncate(), "end the stream here (FIN) and drop the rest"),
    (plan.Refuse(), "refuse it, nobody listens any more."),
    (plan.DelayAccept(1.5), "let it wait for 1.5 s before anything of it is read."),
    (plan.Tarpit(), "take it, and never read from it."),
    (
        plan.Latency(0.05, 0.01),
        "have everything in both directions come 50 ms later, up to 10 ms mor",
    ),
    (plan.Latency(2.0, toward=Side.SOURCE), "have everything toward the source come 2 s later."),
    (plan.Bandwidth(10 << 20), "pass no more than 10 MiB a second in both directions."),
    (plan.Slice(100), "send everything in both directions in segments of 100 bytes."),
    (
        plan.Slice(1, 3, 0.001, Side.SOURCE),
        "send everything toward the source in segments of 1 byte, up to 3 more or less, 1 ms a",
    ),
    (plan.Restore(Side.SOURCE), "have rate and time toward the source as if no fault had touched "),
    (plan.SetField(b"\0\xff"), "put 2 bytes, 00 ff, in its place."),
    (plan.FlipBits(b"\x80"), "flip the bits 80 of it."),
    (plan.Insert(b"\0"), "put in 1 byte, 00."),
    (plan.Duplicate(), "send it twice."),
    (plan.Swap(), "exchange it with the next of its kind."),
    (plan.Replay(RAM), "put in again what passed last as the 2nd PART section of ram."),
    *(
        (plan.Signal(Side.SOURCE, name), f"send SIG{name} to the source's")
        for name in ("STOP", "CONT")
    ),
]


@pytest.mark.parametrize(("action", "words"), ACTIONS, ids=[words for _, words in ACTIONS])
def test_an_action_in_words(action: plan.Action, words: str) -> None:
    sentence = fault_sentence(Fault(plan.OffsetPlace(1), action, "it"))
    assert sentence.partition(": ")[2].startswith(words)


def test_there_are_words_for_all_that_a_plan_can_hold() -> None:
    faults = [fault for fault, _ in SENTENCES]
    places = {type(fault.place) for fault in faults} | {type(place) for place, _ in PLACES}
    actions = {type(fault.action) for fault in faults} | {type(action) for action, _ in ACTIONS}
    conditions = {type(each) for fault in faults for each in fault.conditions}
    assert places == set(get_args(plan.Place))
    assert actions == set(get_args(plan.Action))
    assert conditions == set(get_args(plan.Condition))
