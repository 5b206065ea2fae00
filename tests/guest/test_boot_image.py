"""The boot image: made from its source, and what its parameters may be."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.guest import GuestSpec, boot_image, stamps_said

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def test_the_image_is_what_its_source_assembles_to(tmp_path):
    made = tmp_path / "boot.bin"
    subprocess.run([ROOT / "scripts/build-guest", made], check=True)
    assert made.read_bytes() == (ROOT / "testbed/guest/boot.bin").read_bytes()


def test_the_image_is_a_disk_that_a_bios_boots():
    image = boot_image(GuestSpec(16 * MIB))
    assert image[510:512] == b"\x55\xaa"
    assert len(image) == MIB


def test_the_parameters_are_the_only_difference_between_two_images():
    small = boot_image(GuestSpec(16 * MIB, 8 * MIB, 50, 7))
    assert struct.unpack_from("<8s4I", small, 8) == (b"TBGUEST1", 7, 256, 2048, 50)
    large = boot_image(GuestSpec(64 * MIB, None, 0, (1 << 32) + 8))
    assert struct.unpack_from("<8s4I", large, 8) == (b"TBGUEST1", 8, 256, 15872, 0)
    assert small[:16] == large[:16]
    assert small[32:] == large[32:]


@pytest.mark.parametrize(
    ("memory_bytes", "working_set_bytes", "pages"),
    [
        pytest.param(16 * MIB, None, 3584, id="all but 1 MiB at each end"),
        pytest.param(16 * MIB, 4 * MIB, 1024, id="a part"),
        pytest.param(16 * MIB, 64 * MIB, 3584, id="more than there is"),
        pytest.param(16 * MIB, 4097, 1, id="whole pages only"),
        pytest.param(2 * MIB + 4096, None, 1, id="the smallest machine"),
        pytest.param(4096 * MIB, None, 523776, id="low memory only"),
    ],
)
def test_the_working_set_fits_the_machine(memory_bytes, working_set_bytes, pages):
    assert GuestSpec(memory_bytes, working_set_bytes).page_count == pages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((2 * MIB,), "no room for a working set", id="no room"),
        pytest.param((16 * MIB, 4095), "working set of 4095 bytes: at least 4096", id="no page"),
        pytest.param((16 * MIB, None, -1), "-1 pages a second: 0 to 10000000", id="no rate"),
        pytest.param((16 * MIB, None, 10_000_001), "0 to 10000000", id="too fast"),
    ],
)
def test_a_guest_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GuestSpec(*arguments)


@pytest.mark.parametrize(
    ("line", "stamps"),
    [
        ("guest stamps 0000000000000000", 0),
        ("guest stamps 00000001000000ff", 0x1000000FF),
        ("iPXE: guest stamps 0000000000000010", 16),
        ("guest stamps 000000000000001", None),
        ("guest stamps 0000000guest stamps 0000000000000020", 32),
        ("guest filled 0000000000000e00", None),
        ("", None),
    ],
)
def test_a_line_says_how_many_stamps_or_something_else(line, stamps):
    assert stamps_said(line) == stamps


def test_who_needs_only_the_rule_does_not_wait_for_numpy():
    code = (
        "import sys, testbed.guest, testbed.guest.rule\n"
        "assert 'numpy' not in sys.modules\n"
        "testbed.guest.check_memory\n"
        "assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
