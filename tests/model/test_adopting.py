"""Machines adopted from recorded streams of real ones, whole, in pieces, and damaged."""

import json

import pytest
from model_helpers import EOS, OPEN, head, ping, ram
from ram_helpers import named, word
from wire_helpers import recorded

from testbed.model.machines import adopting, learning
from testbed.model.machines.adopting import Adopting
from testbed.model.machines.described import Sized
from testbed.model.machines.machine import empty
from testbed.model.migration import memory
from testbed.model.migration.effects import Became, Exit, Say, Send
from testbed.model.profile import PROFILES
from testbed.wire import MainChannel, ReturnPath, build_section, encode
from testbed.wire.element import (
    Configuration,
    ConfigurationSubsection,
    EndOfStream,
    FileHeader,
    RamBlock,
    SectionType,
    VmDescription,
)

STREAMS = [
    "qemu7.2-precopy.c0.fwd",
    "qemu7.2-devices-net.fwd",
    "qemu7.2-xbzrle.c0.fwd",
    "qemu10.0-precopy.c0.fwd",
    "qemu10.0-devices-storage.fwd",
    "qemu10.0-devices-memory.fwd",
]
PAGE = 4096


def adopted(*pieces, end=True):
    """The machine, the core that took it in, and all that came of it."""
    hardware = empty(PROFILES["7.2"])
    core = Adopting(hardware)
    effects = core.begin()
    for piece in pieces:
        effects += core.feed(piece)
    if end:
        effects += core.end()
    return hardware, core, effects


def said(effects):
    return [effect.line for effect in effects if isinstance(effect, Say)]


def without_pages(stream):
    """Everything of a stream but pages and commands, byte by byte."""
    return b"".join(
        element.raw
        for element in MainChannel().feed(stream)
        if isinstance(
            element.value,
            FileHeader | Configuration | ConfigurationSubsection | RamBlock | VmDescription,
        )
        or (element.section is not None and element.section.type is SectionType.FULL)
    )


def sent(hardware):
    return b"".join(hardware.outgoing.whole(1 << 20))


@pytest.mark.parametrize("name", STREAMS)
def test_what_was_adopted_is_sent_on_byte_for_byte(name):
    stream = recorded(name)
    hardware, core, effects = adopted(stream)
    assert said(effects) == []
    assert core.status == "completed"
    assert hardware.run_state == "running"
    assert without_pages(sent(hardware)) == without_pages(stream)
    # Every device is declared; nothing had to be kept as bytes.
    assert not [each.idstr for each in hardware.registry if isinstance(each.old_style, Sized)]
    again, core, _ = adopted(sent(hardware))
    assert core.status == "completed"
    for block in hardware.memory:
        assert again.memory.find(block.idstr).data[:] == block.data[:], block.idstr


@pytest.mark.parametrize("step", [1000, 4097])
def test_pieces_of_any_size_are_the_same_machine(step):
    stream = recorded("qemu10.0-devices-memory.fwd")
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    hardware, core, effects = adopted(*pieces)
    assert said(effects) == []
    assert core.status == "completed"
    assert sent(hardware) == sent(adopted(stream)[0])


def test_sections_that_come_early_are_sent_early():
    hardware, _, _ = adopted(recorded("qemu10.0-devices-memory.fwd"))
    (early,) = [entry for entry in hardware.registry if entry.early]
    assert early.idstr == "0000:00:02.0/virtio-mem-device-early"
    elements = MainChannel().feed(sent(hardware))
    kinds = [
        (str(element.section.type.name), element.section.idstr)
        for element in elements
        if element.value == element.section
    ]
    assert kinds[:3] == [("START", "ram"), ("FULL", early.idstr), ("PART", "ram")]


# By hand


def start(*blocks):
    total = sum(used for _, used in blocks)
    listed = b"".join(named(idstr) + used.to_bytes(8, "big") for idstr, used in blocks)
    return ram(SectionType.START, payload=word(total, 4) + listed + EOS)


def described(*devices):
    return encode(EndOfStream()) + encode(
        VmDescription(json.dumps({"page_size": PAGE, "devices": list(devices)}).encode())
    )


def plain(idstr, *fields, instance_id=0):
    """The description of a device of unsigned numbers of so many bytes."""
    return {
        "name": idstr,
        "instance_id": instance_id,
        "vmsd_name": idstr,
        "version": 1,
        "fields": [
            {"name": f"f{number}", "type": f"uint{size * 8}", "size": size}
            for number, size in enumerate(fields)
        ],
    }


def full(section_id, idstr, payload, *, instance_id=0, version_id=1):
    return build_section(SectionType.FULL, section_id, idstr, instance_id, version_id, payload)


BLOCKS = start(("pc.ram", 16 * PAGE), ("pc.bios", PAGE))
LIVE = ram() + ram(SectionType.END)
DEVICES = full(0, "timer", b"\1" * 8) + full(7, "serial", b"\2" * 3)
VMDESC = described(plain("timer", 8), plain("serial", 2, 1))
SMALL = head("any-1") + BLOCKS + LIVE + DEVICES + VMDESC


def test_a_machine_of_another_kind_is_adopted():
    hardware, core, effects = adopted(SMALL)
    assert said(effects) == []
    assert core.status == "completed"
    assert hardware.name == "any-1"
    assert [block.idstr for block in hardware.memory] == ["pc.ram", "pc.bios"]
    assert [entry.section_id for entry in hardware.registry] == [2, 0, 7]
    assert hardware.run_state is None
    hardware.run_state = "running"  # it has no place for it
    hardware.put_registers(index=0, pass_number=1, ticks=0, owed=0)  # nor a CPU that we know
    assert without_pages(sent(hardware)) == without_pages(SMALL)


def test_commands_are_answered_as_they_come():
    stream = head("any-1") + OPEN + ping(7) + BLOCKS + ram()
    _, _, effects = adopted(stream, end=False)
    answers = ReturnPath().feed(b"".join(e.data for e in effects if isinstance(e, Send)))
    assert [(each.value.name, each.value.payload[-1]) for each in answers] == [("PONG", 7)]


def test_devices_are_held_back_until_they_are_described():
    hardware, core, effects = adopted(SMALL[:-1], end=False)
    assert core.status == "active"
    assert len(list(hardware.registry)) == 1
    effects = core.feed(SMALL[-1:])
    assert [effect.status for effect in effects if isinstance(effect, Became)] == ["completed"]


@pytest.mark.parametrize(
    "node",
    [
        {"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": "1", "fields": []},
        {**plain("timer", 8), "version": 0},
        {**plain("timer", 8), "fields": [{"name": "x", "size": 8}]},
        {**plain("timer", 4, 4), "subsections": [{**plain("timer", 1), "vmsd_name": "other"}]},
        {
            **plain("timer", 8),
            "fields": [{"name": "q", "type": "qtailq", "size": 8, "vmsd_name": "q", "fields": []}],
        },
        {
            **plain("timer"),
            "fields": [
                {
                    "name": "a",
                    "type": "struct",
                    "array_len": 1 << 30,
                    "size": 0,
                    "struct": {"vmsd_name": "a", "version": 1, "fields": []},
                },
                *plain("timer", 8)["fields"],
            ],
        },
    ],
)
def test_what_no_declaration_brings_back_is_kept_as_bytes(node):
    total = 8
    if not node["fields"]:
        total = 0
    if "subsections" in node:
        total += 6 + len("other") + 1
    stream = head() + BLOCKS + LIVE + full(0, "timer", b"\1" * total) + described(node)
    hardware, core, effects = adopted(stream)
    assert said(effects) == []
    assert core.status == "completed"
    (entry,) = [each for each in hardware.registry if each.idstr == "timer"]
    assert isinstance(entry.old_style, Sized)
    assert without_pages(sent(hardware)) == without_pages(stream)


FAILED = "load of migration failed: Invalid argument"


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ["Not a migration stream", FAILED]),
        (head() + b"\x55", ["Unknown savevm section type 85", FAILED]),
        (
            head() + start(("pc.ram", 100), ("x", PAGE - 100)) + ram(),
            [
                'Unknown ramblock "pc.ram", cannot accept migration',
                "error while loading state for instance 0x0 of device 'ram'",
                FAILED,
            ],
        ),
        (
            head() + start(("pc.ram", 1 << 62)) + ram(),
            [
                'Unknown ramblock "pc.ram", cannot accept migration',
                "error while loading state for instance 0x0 of device 'ram'",
                FAILED,
            ],
        ),
        (
            head() + BLOCKS + LIVE + DEVICES + described(plain("timer", 8), plain("other", 3)),
            [
                "no vmdesc says what 'timer' is",
                "error while loading state for instance 0x0 of device 'timer'",
                "load of migration failed: Input/output error",
            ],
        ),
        (
            head() + BLOCKS + ram() + full(5, "dirty-bitmap", b""),
            [
                "Unknown savevm section or instance 'dirty-bitmap' 0. Make sure that your current "
                "VM setup matches your saved VM setup, including any hotplugged devices",
                FAILED,
            ],
        ),
    ],
)
def test_what_cannot_be_adopted_is_refused(stream, lines):
    _, core, effects = adopted(stream)
    assert said(effects) == lines
    assert core.exited
    assert isinstance(effects[-1], Exit)


@pytest.mark.parametrize("cut", range(0, len(SMALL), 7))
def test_a_stream_that_is_cut_is_refused_at_its_end(cut):
    _, core, effects = adopted(SMALL[:cut])
    assert core.status == "failed"
    assert effects[-1] == Exit(1)


def test_memory_that_the_host_does_not_have_is_refused(monkeypatch):
    def mmap(*_arguments, **_keywords):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(memory, "mmap", mmap)
    _, core, effects = adopted(SMALL)
    assert core.exited
    assert said(effects)[0] == 'Unknown ramblock "pc.ram", cannot accept migration'


def test_a_phase_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(learning, "PHASE_BYTES_MAX", 10_000)
    stream = head() + BLOCKS + LIVE + full(0, "timer", bytes(20_000))
    _, core, effects = adopted(stream, end=False)
    assert core.exited
    assert said(effects)[0] == "no vmdesc says what 'timer' is"


def test_a_head_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(adopting, "HEAD_BYTES_MAX", 1000)
    pings = b"".join(ping(number) for number in range(200))
    _, _, effects = adopted(head() + OPEN + pings, end=False)
    answers = ReturnPath().feed(b"".join(e.data for e in effects if isinstance(e, Send)))
    assert len(answers) == 200


def test_a_payload_that_imitates_an_end_deceives_nobody():
    """What is in hand goes on behind the vmdesc that it has."""
    imitation = full(0, "x", b"")[-5:] + described(plain("timer", 1))
    payload = b"\1" + imitation
    vmdesc = described(plain("timer", *[1] * len(payload)))
    stream = head() + BLOCKS + LIVE + full(0, "timer", payload) + vmdesc
    hardware, core, effects = adopted(stream)
    assert said(effects) == []
    assert core.status == "completed"
    whole = sent(hardware)
    assert whole[whole.index(payload) :] == stream[stream.index(payload) :]
