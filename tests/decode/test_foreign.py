"""What is no migration stream as it lies there is named, and what is printed as a command works."""

import bz2
import gzip
import io
import lzma
import os
import re
import shlex
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wire_helpers import precopy

from testbed.decode import foreign
from testbed.decode.channels import SourceError
from testbed.decode.sources import Ahead, open_source

STREAM = precopy()
PATH = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
WITHIN_S = 60


def by(*command: str) -> Callable[[bytes], bytes]:
    """Packs by a program, which `scripts/setup` installs."""

    def pack(data: bytes) -> bytes:
        packed = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
        return packed.stdout

    return pack


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vm.stream", data)
    return file.getvalue()


def saved(
    data: bytes, number: int, *, order: str = "<", magic: bytes = b"LibvirtQemudSave"
) -> bytes:
    """What `virsh save` writes: header, XML and cookie, then the stream."""
    xml = b"<domstatus>QEVM, LibvirtQemudSave</domstatus>".ljust(1603, b"\0")
    return (
        struct.pack(f"{order}16s5I", magic, 2, len(xml), 1, number, 0).ljust(92, b"\0") + xml + data
    )


ZSTD, LZOP = by("zstd", "-qc"), by("lzop", "-c")
WHAT: dict[str, tuple[bytes, str]] = {
    "zstd": (ZSTD(STREAM), "zstd data"),
    "pzstd": (b"\x50\x2a\x4d\x18\4\0\0\0size" + ZSTD(STREAM), "zstd data"),
    "lz4": (by("lz4", "-qc")(STREAM), "lz4 data"),
    "lz4-legacy": (by("lz4", "-qlc")(STREAM), "lz4 data"),
    "lzop": (LZOP(STREAM), "lzop data"),
    "lzma": (lzma.compress(STREAM, lzma.FORMAT_ALONE), "lzma data"),
    "zip": (zipped(STREAM), "a zip archive"),
    "zstd-in-xz": (lzma.compress(ZSTD(STREAM)), "zstd data"),
    "libvirt-raw": (saved(STREAM, 0), "a save image of libvirt; its stream is behind a header"),
    "libvirt-gzip": (saved(gzip.compress(STREAM), 1), "packed by gzip, behind a header"),
    "libvirt-bzip2": (saved(bz2.compress(STREAM), 2), "packed by bzip2, behind a header"),
    "libvirt-xz": (saved(lzma.compress(STREAM), 3), "packed by xz, behind a header"),
    "libvirt-lzop": (saved(LZOP(STREAM), 4), "packed by lzop, behind a header"),
    "libvirt-zstd": (saved(ZSTD(STREAM), 5), "packed by zstd, behind a header"),
    "libvirt-sparse": (saved(STREAM, 6), "a save image of libvirt; its stream is behind a header"),
    "libvirt-of-s390x": (saved(STREAM, 0, order=">"), "a save image of libvirt; its stream"),
    "libvirt-unfinished": (
        saved(STREAM, 0, magic=b"LibvirtQemudPart"),
        "a save image of libvirt that was not finished; its stream",
    ),
    "libvirt-in-gzip": (gzip.compress(saved(LZOP(STREAM), 4)), "packed by lzop, behind a header"),
    "offset": (bytes(1 << 20) + STREAM, "begins at offset 0x100000"),
    "small-offset": (bytes(92) + STREAM, "begins at offset 0x5c"),
    "offset-in-bzip2": (bz2.compress(bytes(3 << 20) + STREAM), "begins at offset 0x300000"),
}


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as raised, open_source(str(path)):
        pass
    return raised.value.what


def run(command: str, stdin: Path | None = None) -> str:
    """What a shell makes of a command: standard output."""
    with (stdin or Path(os.devnull)).open("rb") as file:
        done = subprocess.run(
            ["sh", "-euc", command],
            stdin=file,
            stdout=subprocess.PIPE,
            env=PATH,
            check=True,
            timeout=WITHIN_S,
        )
    return done.stdout.decode()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stream") / "vm.stream"
    path.write_bytes(STREAM)
    return run("testbed decode -", path)


@pytest.mark.parametrize("name", WHAT)
def test_the_command_that_is_printed_decodes_the_stream(
    name: str, expected: str, tmp_path: Path
) -> None:
    data, what = WHAT[name]
    path = tmp_path / 'it\'s "a" $file; -x'
    path.write_bytes(data)
    said = refused(path)
    assert what in said
    command = said.partition("; read it with: ")[2]
    assert command.endswith(" | testbed decode -")
    assert f" < {shlex.quote(str(path))} | " in command
    assert run(command) == expected


@pytest.mark.parametrize("name", ["libvirt-lzop", "offset", "zstd-in-xz"])
def test_of_standard_input_the_command_reads_standard_input(
    name: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(WHAT[name][0])
    done = subprocess.run(
        ["testbed", "decode", "-"],
        input=WHAT[name][0],
        capture_output=True,
        env=PATH,
        check=False,
        timeout=WITHIN_S,
    )
    assert done.returncode == 2
    said = done.stderr.decode().strip()
    assert said.startswith("-: ")
    command = said.partition("; read it with: ")[2]
    assert "<" not in command
    assert run(command, path) == expected


def test_a_name_that_cannot_be_shown_is_left_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a\nb"
    path.write_bytes(WHAT["zstd"][0])
    assert refused(path).endswith("zstd data; read it with: zstd -dc < FILE | testbed decode -")


NAMED = [
    (b"\x7fELF\2\1\1".ljust(99, b"\1"), "an ELF file, as dump-guest-memory"),
    (b"KDUMP   \6\0\0\0", "a memory dump in kdump's format"),
    (saved(STREAM, 0)[:91], "a save image of libvirt that was cut short after 91 bytes"),
    (saved(STREAM, 7), "packed in format 7 from offset 0x69f, which is not known here"),
    (b"LibvirtQemudSave".ljust(99, b"\x55"), "version 1431655765 is not known here"),
    (bytes(8), "nothing but zeros"),
    (bytes(2 << 20), "nothing but zeros"),
    (bytes(20) + b"QEVM\0\0\0\2", "20 zeros, and behind them no stream: 51 45 56 4d 00 00 00 02"),
    (b"QFI\xfb".ljust(71, b"\0"), "a qcow2 image without snapshots"),
]


@pytest.mark.parametrize(("data", "what"), NAMED)
@pytest.mark.parametrize("pack", [bytes, lzma.compress])
def test_what_no_command_can_read_is_named(
    data: bytes, what: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(pack(data))
    assert what in refused(path)


def test_a_record_of_a_preempt_channel_is_not_taken_for_zeros(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(7) + b"\2\6pc.ram\0")
    with open_source(str(path)) as source:
        assert source.channels[0].total_bytes == 16


def test_zeros_are_looked_through_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "ZERO_BYTES_MAX", 2 << 20)
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(3 << 20)
    assert "its first 2097152 bytes are zeros" in refused(path)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_what_comes_in_pieces_is_looked_at_from_ascending_offsets_on(size: int) -> None:
    data = bytes(range(60))
    ahead = Ahead(data[at : at + size] for at in range(0, 60, size))
    for start, count in ((0, 4), (2, 4), (20, 9), (20, 0), (21, 30), (50, 99), (60, 1)):
        assert ahead.peek(start, count) == data[start : start + count]
    assert ahead.peek(99, 1) == b""


# A disk image with a machine's state in it


def qcow2(snapshots: bytes = b"", count: int = 0) -> bytes:
    """An empty disk of 16 MiB, with a table of snapshots behind it. QEMU docs/interop/qcow2.rst."""
    cluster = 1 << 16
    numbers = (0xFB, 2, 0, 0, 16, 16 << 20, 0, 1, 3 * cluster, cluster, 1, count, 4 * cluster)
    header = b"QFI" + struct.pack(">BIQIIQIIQQIIQ", *numbers)
    table = (2 * cluster).to_bytes(8, "big")
    counts = b"\0\1" * 4
    return b"".join(part.ljust(cluster, b"\0") for part in (header, table, counts, b"")) + snapshots


def snapshot(number: bytes, name: bytes, small: int, large: int | None) -> bytes:
    extra = b"" if large is None else struct.pack(">QQ", large, 16 << 20)
    sizes = len(number), len(name), 0, 0, 0, small, len(extra)
    entry = struct.pack(">QIHHIIQII", 0, 0, *sizes) + extra + number + name
    return entry.ljust(-(-len(entry) // 8) * 8, b"\0")


SNAPSHOTS = [
    ([snapshot(b"1", b"disk", 0, 0)], "whose snapshots have no machine's state"),
    ([snapshot(b"1", b"disk", 0, 0), snapshot(b"2", b"old", 9, None)], "(savevm): old. Start"),
    ([snapshot(b"1", b"big", 0, 1 << 40), snapshot(b"22", b"two words", 0, 9)], "big, two words."),
    ([snapshot(b"3", b"two words", 0, 9)], "-S -loadvm 'two words'; then"),
    ([snapshot(b"4", b"", 0, 9), snapshot(b"5", b"a\x1b[2J", 0, 9)], "(savevm): 4, 5. Start"),
    ([snapshot(b"%d" % at, b"s%d" % at, 0, 9) for at in range(9)], "s7, .... Start"),
]


@pytest.mark.parametrize(("snapshots", "what"), SNAPSHOTS)
@pytest.mark.parametrize("pack", [bytes, lzma.compress])
def test_the_states_in_a_disk_image_are_named(
    snapshots: list[bytes], what: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(pack(qcow2(b"".join(snapshots), len(snapshots))))
    assert what in refused(path)


@pytest.mark.live
def test_what_is_told_of_a_disk_image_gets_its_stream(tmp_path: Path) -> None:
    image, stream = tmp_path / "disk.qcow2", tmp_path / "vm.stream"
    image.write_bytes(qcow2())
    assert "without snapshots" in refused(image)
    machine = ("-M", "pc", "-m", "16M", "-net", "none", "-drive", f"file={image},format=qcow2")

    def qemu(*arguments: str, monitor: str) -> None:
        subprocess.run(
            ["qemu-system-x86_64", *machine, *arguments, "-display", "none", "-monitor", "stdio"],
            input=f"{monitor}\nquit\n".encode(),
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            check=True,
            timeout=WITHIN_S,
        )

    qemu("-S", monitor='savevm "before the update"')
    told = re.search(r"and (-S -loadvm .*); then say in its monitor: (.*)$", refused(image))
    assert told is not None
    qemu(*shlex.split(told[1]), monitor=told[2])
    assert "whole: " in run("testbed decode -", stream)
