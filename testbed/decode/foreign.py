"""What a file is that is no migration stream as it lies there, and a command that reads its stream.

libvirt's save images, other packers' data, zeros before a stream, disk images with a machine's
state. Whatever is printed as a command is complete, and reads what the user named.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from testbed.wire.structs import FILE_HEADER, MAGIC, VERSION

Peek = Callable[[int, int], bytes]
"""Bytes from an offset on, as many as asked for or as there are; offsets may only ascend."""

READ_AT_ONCE_BYTES = 1 << 20
ZERO_BYTES_MAX = 1 << 30
"""Before a stream: so many are looked through. QEMU's `file:` has any offset."""
STREAM = FILE_HEADER.pack(MAGIC, VERSION)
UNPACKED_WITH = {
    b"\x28\xb5\x2f\xfd": ("zstd data", "zstd -dc"),
    # A frame to skip, with which pzstd begins. RFC 8878, section 3.1.2.
    **{bytes([low]) + b"\x2a\x4d\x18": ("zstd data", "zstd -dc") for low in range(0x50, 0x60)},
    b"\x04\x22\x4d\x18": ("lz4 data", "lz4 -dc"),
    b"\x02\x21\x4c\x18": ("lz4 data", "lz4 -dc"),
    b"\x89LZO\0\r\n\x1a\n": ("lzop data", "lzop -dc"),
    b"\x5d\0\0": ("lzma data", "xz -dc"),
    b"PK\x03\x04": ("a zip archive", "funzip"),  # its first file
}
"""By magic: what is packed so, and what unpacks standard input."""
NO_STREAM = {
    b"\x7fELF": "an ELF file, as dump-guest-memory and `virsh dump` write: it has no device state",
    b"KDUMP   ": "a memory dump in kdump's format: it has no device state",
}

LIBVIRT = b"LibvirtQe"
LIBVIRT_HEADER = "16sIIII"
"""Magic, version, length of what is between header and stream, was_running, format; in the byte
order of the host. Source: libvirt `src/qemu/qemu_saveimage.h`, `virQEMUSaveHeader`, 0.7 to 11.2."""
LIBVIRT_BYTES = 92  # of the header, with what is unused
LIBVIRT_VERSIONS = range(1, 4)
LIBVIRT_UNFINISHED = b"LibvirtQemudPart"
LIBVIRT_FORMATS = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
"""By number; decode unpacks the first four by itself, and reads the last one as it is."""
LIBVIRT_UNPACKED_WITH = {"lzop": "lzop -dc", "zstd": "zstd -dc"}

QCOW2 = b"QFI\xfb"
QCOW2_SNAPSHOTS = struct.Struct(">IQ")  # how many, where; at byte 60 of the header
QCOW2_SNAPSHOTS_AT = 60
QCOW2_SNAPSHOTS_MAX = 65_536
"""`QCOW_MAX_SNAPSHOTS` in QEMU `block/qcow2.h`."""
QCOW2_SNAPSHOT = struct.Struct(">QIHHIIQII")
"""L1 table and its entries, sizes of id and name, date, clock, size of the machine's state, size of
what follows. Source: QEMU `docs/interop/qcow2.rst`."""
NAMES_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Named:
    """What the user named.

    Args:
        path: None: standard input.
        unpacked_with: what has to unpack it first.
    """

    path: str | None
    unpacked_with: str | None = None

    def command(self, *steps: str) -> str:
        """The command that decodes what the steps make of it, each a filter."""
        first, *rest = [*filter(None, [self.unpacked_with]), *steps, "testbed decode -"]
        if self.path is not None:
            first += f" < {shlex.quote(self.path) if self.path.isprintable() else 'FILE'}"
        return " | ".join([first, *rest])


def foreign(head: bytes, peek: Peek, named: Named) -> str | None:
    """What it is, and what works, in a sentence for people; None: nothing that is known here.

    Args:
        head: its first bytes, ten if there are so many.
        peek: asked only of what will be none that is read.
        named: by the user.
    """
    for magic, (what, tool) in UNPACKED_WITH.items():
        if head.startswith(magic):
            return f"{what}; read it with: {named.command(tool)}"
    for magic, what in NO_STREAM.items():
        if head.startswith(magic):
            return what
    if head.startswith(LIBVIRT):
        return _libvirt(peek, named)
    if head.startswith(QCOW2):
        return _qcow2(peek)
    # A record of a preempt channel has flags in these bytes.
    if len(head) >= 8 and not any(head[:8]):
        return _zeros(peek, named)
    return None


def _from(offset: int) -> str:
    return f"tail -c +{offset + 1}"


def _libvirt(peek: Peek, named: Named) -> str:
    header = peek(0, LIBVIRT_BYTES)
    if len(header) < LIBVIRT_BYTES:
        return f"a save image of libvirt that was cut short after {len(header)} bytes"
    order = "<" if int.from_bytes(header[16:20], "little") in LIBVIRT_VERSIONS else ">"
    magic, version, length, _, number = struct.unpack_from(order + LIBVIRT_HEADER, header)
    what = "a save image of libvirt"
    if magic == LIBVIRT_UNFINISHED:
        what += " that was not finished"
    if version not in LIBVIRT_VERSIONS:
        return f"{what}, whose version {version} is not known here"
    offset = LIBVIRT_BYTES + length
    if number >= len(LIBVIRT_FORMATS):
        return f"{what}, packed in format {number} from offset {offset:#x}, which is not known here"
    kind = LIBVIRT_FORMATS[number]
    packed = f"packed by {kind}, " if kind not in ("raw", "sparse") else ""
    tool = LIBVIRT_UNPACKED_WITH.get(kind)
    command = named.command(_from(offset), *filter(None, [tool]))
    return f"{what}; its stream is {packed}behind a header; read it with: {command}"


def _zeros(peek: Peek, named: Named) -> str:
    at = 0
    while at < ZERO_BYTES_MAX:
        data = peek(at, READ_AT_ONCE_BYTES)
        if not data:
            return "nothing but zeros"
        rest = data.lstrip(b"\0")
        at += len(data) - len(rest)
        if rest:
            break
    else:
        return f"no stream: its first {ZERO_BYTES_MAX} bytes are zeros"
    begins = peek(at, len(STREAM))
    if begins == STREAM:
        command = named.command(_from(at))
        return f"zeros before a stream, which begins at offset {at:#x}; read it with: {command}"
    return f"{at} zeros, and behind them no stream: {begins.hex(' ')}"


def _qcow2(peek: Peek) -> str:
    header = peek(QCOW2_SNAPSHOTS_AT, QCOW2_SNAPSHOTS.size)
    count, offset = QCOW2_SNAPSHOTS.unpack(header) if len(header) == 12 else (0, 0)
    if not count:
        return "a qcow2 image without snapshots: the state of no machine is in it"
    states = list(_states(peek, offset, min(count, QCOW2_SNAPSHOTS_MAX)))
    if not states:
        return "a qcow2 image whose snapshots have no machine's state"
    shown = ", ".join(states[:NAMES_SHOWN_MAX]) + (", ..." if states[NAMES_SHOWN_MAX:] else "")
    return (
        f"a qcow2 image with the state of a machine (savevm): {shown}. Start the QEMU that saved "
        f"it with the arguments that it had, and -S -loadvm {shlex.quote(states[0])}; then say in "
        'its monitor: migrate "exec:cat > vm.stream"'
    )


def _states(peek: Peek, offset: int, count: int) -> Iterator[str]:
    """The names of the snapshots that have a machine's state, or their ids."""
    for _ in range(count):
        entry = peek(offset, QCOW2_SNAPSHOT.size)
        if len(entry) < QCOW2_SNAPSHOT.size:
            return
        _, _, id_size, name_size, _, _, _, size, extra_size = QCOW2_SNAPSHOT.unpack(entry)
        at = offset + QCOW2_SNAPSHOT.size
        extra = peek(at, min(extra_size, 8))
        size = max(size, int.from_bytes(extra, "big") if len(extra) == 8 else 0)
        at += extra_size
        text = peek(at, id_size + name_size)
        if size and text:
            name = text[id_size:].decode(errors="replace")
            yield name if name and name.isprintable() else text[:id_size].decode(errors="replace")
        offset = (at + id_size + name_size + 7) & ~7
