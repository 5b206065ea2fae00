"""May these bytes follow the footer of a section whose payload nobody can read?

A device section carries no length. Its end is where `7e` and its own section_id stand and what
follows is something that may follow in that phase: both, because small integers in device state
imitate the five bytes alone. The phase table and the bounds are measured on real streams; a guest
can still forge both in state that it controls, so this serves measurement and fault injection,
never security.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from mmap import mmap

from .element import CommandType, SectionHeader, SectionType
from .reader import Reader
from .structs import COMMAND, IDS, U32

VMDESC_BYTES_MAX = 64 << 20
"""Of a vmdesc. QEMU has no bound: the length is a be32. `q35` with 255 CPUs has 2 MB (7.2), so one
with 4096, the most of any machine of 10.0, some 32 MB."""
SECTION_IDS_END = 1 << 31
"""A section_id is an `int` that counts what was registered, hotplugged or not, up from 0
(`global_section_id` in QEMU `migration/savevm.c`). A pseries registers each 256 MiB of its `maxmem`
as a connector, so real ones pass 65536."""
VERSION_IDS_END = 1 << 31
"""`int version_id` in QEMU `include/migration/vmstate.h`; `eeprom` has 20061113. An instance_id has
no such bound, it is any be32: `spapr_iommu` has its bus number, 0x80000000 and up."""
PACKAGE_PINGS = (3, 0x42)
"""PING 3 since 2.5, PING 0x42 since 10.2: what precedes RUN in a package."""

COMMAND_LENGTHS: Mapping[int, range] = {
    CommandType.OPEN_RETURN_PATH: range(1),
    CommandType.PING: range(4, 5),
    CommandType.POSTCOPY_ADVISE: range(0, 17, 16),
    CommandType.POSTCOPY_LISTEN: range(1),
    CommandType.POSTCOPY_RUN: range(1),
    CommandType.POSTCOPY_RAM_DISCARD: range(20, 1 << 16),
    CommandType.PACKAGED: range(4, 5),
    CommandType.ENABLE_COLO: range(1),
    CommandType.POSTCOPY_RESUME: range(1),
    CommandType.RECV_BITMAP: range(2, 257),
    CommandType.SWITCHOVER_START: range(1),
}
"""Legal payload lengths, in bytes. Source: `mig_cmd_args` in QEMU `migration/savevm.c`."""


class Phase(StrEnum):
    """Where a main channel is."""

    HEADER = "header"
    """File header and configuration."""
    SETUP = "setup"
    """START sections, early FULL sections, the first commands."""
    ITERATE = "iterate"
    """PART sections, from the first one on."""
    DEVICE = "device"
    """The guest is stopped: from the first END, SWITCHOVER_START, or FULL after a PART."""
    PACKAGE = "package"
    """Inside the bytes that a PACKAGED command announced."""
    POSTCOPY = "postcopy"
    """After the package, or on a recovery connection."""
    ENDED = "ended"
    """After the EOF byte: vmdesc, or whatever trails."""
    OPAQUE = "opaque"
    """The bytes are not the stream we know; nothing of it is parsed any more."""


LIVE = frozenset(
    {
        SectionType.START,
        SectionType.PART,
        SectionType.END,
        SectionType.FULL,
        SectionType.COMMAND,
        SectionType.EOF,
    }
)
AFTER_FULL: Mapping[Phase, frozenset[SectionType]] = {
    Phase.SETUP: LIVE,
    Phase.DEVICE: frozenset({SectionType.FULL, SectionType.EOF}),
    Phase.PACKAGE: frozenset({SectionType.FULL, SectionType.COMMAND}),
    Phase.POSTCOPY: LIVE,
}


@dataclass(frozen=True, slots=True)
class Successors:
    """What may follow here. `sections`: those seen, by section_id."""

    legal: frozenset[SectionType]
    phase: Phase
    sections: Mapping[int, SectionHeader]

    def judge(self, reader: Reader, skip: int) -> bool | None:
        """Whether an element may begin `skip` bytes ahead; None if bytes to come decide it."""
        at, stop = reader.pos + skip, reader.stop
        verdict = self._judge(reader.data, at, stop, reader.limit_at)
        if verdict is None and stop == reader.limit_at:
            return False  # it would cross the end of the package
        return verdict

    def _judge(self, data: bytes | mmap, at: int, stop: int, limit_at: int | None) -> bool | None:
        if at >= stop:
            return None
        if data[at] not in self.legal:
            return False
        match data[at]:
            case SectionType.START | SectionType.FULL:
                return self._header(data, at, stop)
            case SectionType.PART | SectionType.END:
                if stop - at < 5:
                    return None
                known = self.sections.get(U32.unpack_from(data, at + 1)[0])
                return known is not None and known.type is SectionType.START
            case SectionType.COMMAND:
                return self._command(data, at, stop, limit_at)
            case _:
                return self._end_of_stream(data, at, stop)

    def _header(self, data: bytes | mmap, at: int, stop: int) -> bool | None:
        if stop - at < 6:
            return None
        section_id, idstr_length = U32.unpack_from(data, at + 1)[0], data[at + 5]
        if section_id in self.sections or section_id >= SECTION_IDS_END or not idstr_length:
            return False
        ids_at = at + 6 + idstr_length
        idstr = data[at + 6 : min(ids_at, stop)]
        # Names in QEMU's source, and paths of devices and objects, whose ids QEMU checks
        # (`id_wellformed`): they are printable ASCII.
        if not all(0x20 <= byte < 0x7F for byte in idstr):
            return False
        if stop - ids_at < IDS.size:
            return None
        _, version_id = IDS.unpack_from(data, ids_at)
        return bool(version_id < VERSION_IDS_END)

    def _command(self, data: bytes | mmap, at: int, stop: int, limit_at: int | None) -> bool | None:
        if stop - at < COMMAND.size:
            return None
        _, command, length = COMMAND.unpack_from(data, at)
        if length not in COMMAND_LENGTHS.get(command, ()):
            return False
        if self.phase is not Phase.PACKAGE:
            return True
        if command == CommandType.POSTCOPY_RUN:
            return at + COMMAND.size == limit_at
        if command != CommandType.PING:
            return False
        if stop - at < COMMAND.size + U32.size:
            return None
        value = int.from_bytes(data[at + COMMAND.size : at + COMMAND.size + U32.size], "big")
        return value in PACKAGE_PINGS

    def _end_of_stream(self, data: bytes | mmap, at: int, stop: int) -> bool | None:
        tail = data[at + 1 : min(at + 9, stop)]
        if not tail:
            return None
        if tail[0] != SectionType.VMDESCRIPTION:
            return False
        if len(tail) >= 5 and U32.unpack_from(tail, 1)[0] > VMDESC_BYTES_MAX:
            return False
        text = tail[5:]
        if text[:2] == b'{"' or text == b'{ "':
            return True
        return None if b'{"'.startswith(text) or b'{ "'.startswith(text) else False


def after(header: SectionHeader, phase: Phase, sections: Mapping[int, SectionHeader]) -> Successors:
    """What may follow the footer of that section in that phase."""
    legal = LIVE if header.type is not SectionType.FULL else AFTER_FULL[phase]
    return Successors(legal, phase, sections)
