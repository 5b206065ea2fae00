"""Two streams side by side: what differs, and what QEMU would say of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from wire_helpers import device, head, ram_start, recorded, vmdesc

from testbed.decode.differ import show_differences
from testbed.decode.show import Wanted
from testbed.wire import build_section, encode
from testbed.wire.element import RamBlock, RamTotal, SectionType


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Compare two streams: whether they are alike, and the lines of difference."""

    def run(a: bytes, b: bytes) -> tuple[bool, list[str]]:
        paths = []
        for name, data in (("a", a), ("b", b)):
            (tmp_path / name).write_bytes(data)
            paths.append(str(tmp_path / name))
        alike = show_differences(*paths, Wanted())
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [f"A {paths[0]}", f"B {paths[1]}"]
        return alike, lines[2:]

    return run


def stream(
    *devices: tuple[str, bytes],
    start: bytes | None = None,
) -> bytes:
    sections = b"".join(
        device(10 + number, name, payload) for number, (name, payload) in enumerate(devices)
    )
    described = vmdesc(*((name, 0, len(payload)) for name, payload in devices))
    return head() + (ram_start() if start is None else start) + sections + described


def test_a_stream_is_like_itself(compared) -> None:
    data = recorded("qemu7.2-precopy.c0.fwd")
    assert compared(data, data) == (True, ["no difference"])


def test_a_section_that_only_one_has_is_one_that_the_other_would_refuse(compared) -> None:
    alike, lines = compared(stream(("timer", b"now"), ("vga", b"x")), stream(("timer", b"now")))
    assert not alike
    says = "B's QEMU would say: Unknown savevm section or instance 'vga' 0"
    assert lines == [f"section vga: only in A; {says}"]


def test_a_higher_version_is_refused_by_who_has_the_lower_one(compared) -> None:
    sections = [
        build_section(SectionType.FULL, 9, "timer", 0, version, b"now") for version in (2, 3)
    ]
    a, b = (head() + ram_start() + section + vmdesc(("timer", 0, 3)) for section in sections)
    says = "would say: unsupported version 3 for 'timer' v2"
    assert compared(a, b)[1] == [f"section timer: version 2 | 3; A's QEMU {says}"]
    assert compared(b, a)[1] == [f"section timer: version 3 | 2; B's QEMU {says}"]


def test_fields_that_differ_are_named(compared) -> None:
    a, b = stream(("timer", b"\0\1")), stream(("timer", b"\0\2"))
    assert compared(a, b)[1] == ["section timer: 1 field differs", "  data: 0001 | 0002"]


def test_blocks_of_another_size_are_refused(compared) -> None:
    other = ram_start()
    for old, new in (
        (RamTotal(0x30000), RamTotal(0x20000)),
        (RamBlock("pc.ram", 0x20000), RamBlock("pc.ram", 0x10000)),
    ):
        other = other.replace(encode(old), encode(new))
    says = "B's QEMU would say: Size mismatch: pc.ram: 0x20000 != 0x10000"
    assert compared(stream(("timer", b"x")), stream(("timer", b"x"), start=other))[1] == [
        f"RAM block pc.ram: 128 KiB | 64 KiB; {says}"
    ]


def test_a_cut_stream_is_compared_as_far_as_it_goes(compared) -> None:
    data = stream(("timer", b"now"), ("vga", b"x"))
    _, lines = compared(data, data[: data.index(b"vga") - 10])
    assert lines[0].startswith("ends: none | cut short at offset")


def test_two_versions_of_qemu_differ_in_what_they_are_known_to(compared) -> None:
    _, lines = compared(recorded("qemu7.2-precopy.c0.fwd"), recorded("qemu10.0-precopy.c0.fwd"))
    assert "machine: pc-i440fx-7.2 | pc-i440fx-10.0" in lines
    assert "command SWITCHOVER_START: none | sent" in lines
    assert "  vm_was_suspended: none | 0" in lines
