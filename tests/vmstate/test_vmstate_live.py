"""Damaged device sections, loaded by a real QEMU and by ours: the same words, the same errno."""

import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from vmstate_helpers import (
    DMA,
    FW_CFG,
    I8254,
    MC146818RTC,
    PS2KBD,
    TIMER,
    VMMOUSE,
    blank,
    loaded,
)

from testbed.vmstate import VmState, VmStateFailed
from testbed.wire import MainChannel
from testbed.wire.element import Payload, SectionHeader, SectionType

pytestmark = pytest.mark.live

QEMU = "qemu-system-x86_64"
MACHINE = ("-M", "pc", "-m", "16", "-nodefaults", "-display", "none", "-accel", "tcg", "-S")
WITHIN_S = 60.0
CASES = 40
SEED = 1
DEVICES = {
    "timer": TIMER,
    "i8254": I8254,
    "mc146818rtc": MC146818RTC,
    "vmmouse": VMMOUSE,
    "fw_cfg": FW_CFG,
    "dma": DMA,
    "ps2kbd": PS2KBD,
}
Place = tuple[SectionHeader, int, int]
"""Of a section: its header, and where in the stream its payload begins and ends."""


def record(path: Path) -> bytes:
    """What a machine that never ran saves."""
    subprocess.run(
        [QEMU, *MACHINE, "-monitor", "stdio"],
        input=f'migrate "exec:cat > {path}"\nquit\n',
        text=True,
        check=True,
        capture_output=True,
        timeout=WITHIN_S,
    )
    return path.read_bytes()


def places(stream: bytes) -> list[Place]:
    channel = MainChannel()
    return [
        (element.section, element.offset, element.end)
        for element in (*channel.feed(stream), *channel.end())
        if isinstance(element.value, Payload)
        and element.section is not None
        and element.section.type is SectionType.FULL
        and element.section.idstr in DEVICES
    ]


def damaged(stream: bytes, place: Place, rng: random.Random) -> tuple[bytes, int]:
    """The stream with one fault in that section, and the section's version_id in it."""
    header, start, end = place
    vmstate = DEVICES[header.idstr]
    name = f"{vmstate.name}/odd".encode()
    kinds = ["cut", "cut", "subsection", "subsection cut"]
    if vmstate.minimum_version_id:
        kinds.append("version")
    match rng.choice(kinds):
        case "cut":
            return stream[: rng.randrange(start, end)], header.version_id
        case "subsection":
            odd = bytes([5, len(name)]) + name + bytes(4)
            return stream[:end] + odd + stream[end:], header.version_id
        case "subsection cut":
            cut = rng.randrange(2 + len(name))
            return stream[:end] + (bytes([5, len(name)]) + name)[:cut], header.version_id
        case _:
            version_id = vmstate.minimum_version_id - 1
            changed = version_id.to_bytes(4, "big")
            return stream[: start - 4] + changed + stream[start:], version_id


def ours(place: Place, stream: bytes, version_id: int) -> list[str]:
    """What we say, and what the section loader around a VMSD adds; nothing if we take it."""
    header, start, _ = place
    vmstate: VmState = DEVICES[header.idstr]
    state: Any = blank(vmstate, queue_size=1024)
    try:
        loaded(vmstate, state, version_id, stream[start:])
    except VmStateFailed as failed:
        return [
            *failed.lines,
            f"error while loading state for instance {header.instance_id:#x} "
            f"of device '{header.idstr}'",
            f"load of migration failed: {os.strerror(-failed.ret)}",
        ]
    return []


def theirs(path: Path, stream: bytes) -> list[str]:
    """What QEMU says before it ends."""
    path.write_bytes(stream)
    ended = subprocess.run(
        [QEMU, *MACHINE, "-incoming", f"exec:cat {path}"],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode == 1
    return [line.removeprefix(f"{QEMU}: ") for line in ended.stderr.splitlines()]


def test_a_damaged_section_is_refused_as_by_the_qemu_that_is_installed(tmp_path: Path) -> None:
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)\.(\d+)", said)
    assert version, said
    if (int(version[1]), int(version[2])) > (10, 0):
        pytest.skip("QEMU after 10.0 says the same in one line")
    stream = record(tmp_path / "saved")
    found = places(stream)
    assert {header.idstr for header, _, _ in found} == set(DEVICES)
    rng = random.Random(SEED)
    refused = 0
    for number in range(CASES):
        place = rng.choice(found)
        changed, version_id = damaged(stream, place, rng)
        expected = ours(place, changed, version_id)
        if expected:
            refused += 1
            assert theirs(tmp_path / "damaged", changed) == expected, (number, place[0])
        else:  # cut behind the payload: whoever reads the footer finds that there is none
            assert len(changed) < len(stream)
            assert not any("Failed to load" in line for line in theirs(tmp_path / "d", changed))
    assert refused > CASES // 2
