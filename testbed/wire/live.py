"""Live sections other than RAM whose payload says where it ends: disks, bitmaps, some devices.

Sources: QEMU `migration/block.c` (until 9.0), `migration/block-dirty-bitmap.c`,
`hw/vfio/migration.c`, `hw/s390x/s390-stattrib.c`, `hw/ppc/spapr.c`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from . import spans
from .element import LiveRecord, SectionHeader, SectionType
from .error import StreamError
from .reader import Emit, Reader, Story
from .structs import U64

DATA_BYTES_MAX = 64 << 20
"""Of one record. QEMU has no bound. VFIO sends 1 MiB at a time, as long as nobody sets it otherwise
(`VFIO_MIG_DEFAULT_DATA_BUFFER_SIZE`), dirty bitmaps and storage attributes a few KiB (`CHUNK_SIZE`,
`CMMA_BLOCK_SIZE`)."""
DISK_BLOCK_BYTES = 1 << 20
"""`BLK_MIG_BLOCK_SIZE`; the end of a disk is filled up to it."""
SECTOR_BYTES = 512
HASH_ENTRY_BYTES = 16
"""Of spapr's hashed page table."""
VFIO = {
    0xFFFFFFFFEF100001: "END_OF_STATE",
    0xFFFFFFFFEF100003: "DEV_SETUP_STATE",
    0xFFFFFFFFEF100004: "DEV_DATA_STATE",
    0xFFFFFFFFEF100005: "DEV_INIT_DATA_SENT",
}
"""`VFIO_MIG_FLAG_*`; DEV_CONFIG_STATE embeds a device and comes in FULL sections only."""
VFIO_LAST = frozenset({"END_OF_STATE", "DEV_INIT_DATA_SENT"})
STATTRIB = {0x01: "EOS", 0x02: "MORE", 0x04: "ERROR", 0x08: "DONE"}
"""`STATTR_FLAG_*`, in the bits below a page of 4 KiB."""

shape = lru_cache(spans.SHAPES_MAX)(spans.fields)


def live(header: SectionHeader, reader: Reader, emit: Emit) -> Story[None] | None:
    """What reads the payload of that section, record by record; None if nothing here does."""
    if header.type is SectionType.FULL:
        return None
    idstr = "vfio" if header.idstr.endswith("/vfio") else header.idstr
    read = READERS.get((idstr, header.version_id))
    return None if read is None else read(_Payload(reader, emit, header))


class _Payload:
    """What the payloads of all live sections are read with."""

    def __init__(self, reader: Reader, emit: Emit, header: SectionHeader) -> None:
        self._reader, self._emit = reader, emit
        self.inside = f"payload of {header.type.name} {header.idstr}"

    def number(self, size: int, skip: int = 0) -> Story[int]:
        """The big-endian number of `size` bytes that is `skip` bytes ahead."""
        raw = yield from self._reader.peek(size, self.inside, skip=skip)
        return int.from_bytes(raw, "big")

    def length(self, skip: int) -> Story[int]:
        """The be64 `skip` bytes ahead, which is the length of data."""
        length = yield from self.number(U64.size, skip)
        if length > DATA_BYTES_MAX:
            raise self.wrong(f"at most {DATA_BYTES_MAX} bytes", f"{length}", skip)
        return length

    def record(self, kind: str, *fields: tuple[str, int]) -> Story[None]:
        """Emit a record of those fields, each with its size in bytes."""
        size = sum(size for _, size in fields)
        raw = yield from self._reader.peek(size, self.inside)
        self._emit(LiveRecord(kind, raw), size, shape(*fields))

    def wrong(self, expected: str, got: str, skip: int = 0) -> StreamError:
        """The error to raise for what is `skip` bytes ahead."""
        return self._reader.wrong(self.inside, expected, got, skip=skip)


def _block(payload: _Payload) -> Story[None]:
    """Disks: be64 `sector << 9 | flags`, and what the flags ask for."""
    flags = 0
    while not flags & 0x02:
        word = yield from payload.number(8)
        flags = word & (SECTOR_BYTES - 1)
        if flags & 0x01:
            length = yield from payload.number(1, 8)
            fields = ("record", 8), ("device_length", 1), ("device", length)
            if flags & 0x08:
                yield from payload.record("ZERO_BLOCK", *fields)
            else:
                yield from payload.record("DEVICE_BLOCK", *fields, ("data", DISK_BLOCK_BYTES))
        elif flags & 0x04:
            yield from payload.record("PROGRESS", ("record", 8))
        elif flags & 0x02:
            yield from payload.record("EOS", ("record", 8))
        else:
            raise payload.wrong("flags of block migration", f"{flags:#x}")


def _dirty_bitmap(payload: _Payload) -> Story[None]:
    """Bitmaps: flags of 1, 2 or 4 bytes, names where they change, and what the flags ask for."""
    flags = 0
    while not flags & 0x01:
        size = 1
        if (yield from payload.number(1)) & 0x80:
            size = 4 if (yield from payload.number(1, 1)) & 0x80 else 2
        flags = yield from payload.number(size)
        fields, end = [("flags", size)], size
        for name, flag in (("node", 0x08), ("bitmap", 0x04)):
            if flags & flag:
                length = yield from payload.number(1, end)
                fields += [(f"{name}_length", 1), (name, length)]
                end += 1 + length
        if flags & 0x10:
            yield from payload.record("START", *fields, ("granularity", 4), ("bitmap_flags", 1))
        elif flags & 0x20:
            yield from payload.record("COMPLETE", *fields)
        elif flags & 0x40:
            fields += [("first_sector", 8), ("sectors", 4)]
            if not flags & 0x02:
                fields += [("size", 8), ("data", (yield from payload.length(end + 12)))]
            yield from payload.record("BITS", *fields)
        else:
            yield from payload.record("EOS" if flags & 0x01 else "NAMES", *fields)


def _vfio(payload: _Payload) -> Story[None]:
    """A device passed through: be64 tags, data after one of them."""
    kind = ""
    while kind not in VFIO_LAST:
        tag = yield from payload.number(8)
        kind = VFIO.get(tag, "")
        if not kind:
            raise payload.wrong("a tag of VFIO", f"{tag:#018x}")
        fields = [("tag", 8)]
        if kind == "DEV_DATA_STATE":
            fields += [("size", 8), ("data", (yield from payload.length(8)))]
        yield from payload.record(kind, *fields)


def _storage_attributes(payload: _Payload) -> Story[None]:
    """The storage keys' companions of s390: be64 `address | flags`, data after one of them."""
    kind = ""
    while kind != "EOS":
        word = yield from payload.number(8)
        kind = STATTRIB.get(word & 0xFFF, "")
        if not kind:
            raise payload.wrong("a flag of storage attributes", f"{word:#018x}")
        fields = [("record", 8)]
        if kind == "MORE":
            fields += [("count", 8), ("data", (yield from payload.length(8)))]
        yield from payload.record(kind, *fields)


def _htab(payload: _Payload) -> Story[None]:
    """spapr's hashed page table: its size, or that there is none, or chunks of it."""
    head = yield from payload.number(4)
    yield from payload.record("HEADER", ("header", 4))
    if head:  # its shift, or -1
        return
    while True:
        index = yield from payload.number(4)
        valid = yield from payload.number(2, 4)
        invalid = yield from payload.number(2, 6)
        fields = ("index", 4), ("n_valid", 2), ("n_invalid", 2)
        if not (index or valid or invalid):
            yield from payload.record("EOS", *fields)
            return
        data = (("data", HASH_ENTRY_BYTES * valid),) if valid else ()
        yield from payload.record("CHUNK", *fields, *data)


READERS: Mapping[tuple[str, int], Callable[[_Payload], Story[None]]] = {
    ("block", 1): _block,
    ("dirty-bitmap", 1): _dirty_bitmap,
    ("vfio", 1): _vfio,
    ("s390-storage_attributes", 0): _storage_attributes,
    ("spapr/htab", 1): _htab,
}
"""By idstr, of VFIO its last part, and version_id."""
