"""Loads RAM sections, with QEMU's checks and in its words, before and after postcopy begins.

Source: QEMU `migration/ram.c`, `ram_load`, `ram_load_postcopy`, `ram_block_from_stream`,
`load_xbzrle`, `ram_discard_range`; `softmmu/physmem.c`, `qemu_ram_resize`,
`ram_block_discard_range`; 2.9 and 7.2.
"""

from __future__ import annotations

import errno
import zlib
from dataclasses import dataclass

from testbed.model.profile import Profile
from testbed.vmstate import Source, Story, VmStateFailed
from testbed.wire import xbzrle
from testbed.wire.element import RamFlag
from testbed.wire.structs import XBZRLE_ENCODING

from .incoming import get, number
from .memory import HOST_AT, Block, Memory
from .page_runs import place

VERSION = 4
"""`version_id` of the section, since 2009."""
EINVAL, EEXIST = -errno.EINVAL, -errno.EEXIST
FAILED = -1
# Plain numbers: operators of flags are slow, and each record has several.
EOS, CONTINUE, HOOK = int(RamFlag.EOS), int(RamFlag.CONTINUE), int(RamFlag.HOOK)
COMPRESS_PAGE = int(RamFlag.COMPRESS_PAGE)
POSTCOPY_PAGES = int(RamFlag.ZERO | RamFlag.PAGE)
PAGES = POSTCOPY_PAGES | int(RamFlag.XBZRLE) | COMPRESS_PAGE
COPY_AT = HOST_AT - (1 << 32)
"""Where a page is before it is placed, in the texts that tell addresses of the host's."""


@dataclass(slots=True)
class Host:
    """A host page of which not all target pages came yet: it is placed as a whole."""

    block: Block
    offset_bytes: int
    data: bytearray
    pages: int = 0
    only_zeros: bool = True
    next_bytes: int = 0  # offset in the block that follows the last target page


class RamLoad:
    """The destination's side of RAM.

    Args:
        memory: to load into.
        profile: whose checks and texts.
    """

    def __init__(self, memory: Memory, profile: Profile) -> None:
        self.memory, self._profile = memory, profile
        self.accepts_compressed = False
        """The capability compress."""
        self._low = memory.target_page_bytes - 1  # the bits of a record that are flags
        self._block: Block | None = None  # of the last record, whichever section it was in
        self._advised = False

    def advise(self) -> None:
        """Postcopy may come: all memory is dropped, so that what never comes is missing then."""
        self._advised = True
        for block in self.memory.migratable:
            block.drop(0, block.max_bytes)

    def end(self) -> None:
        """The migration is over."""
        self._advised = False
        self._block = None

    def load(self, source: Source, version_id: int) -> Story[None]:
        """The payload of a section, up to its EOS record.

        Raises:
            VmStateFailed: it may not be loaded.
        """
        if version_id != VERSION:
            raise VmStateFailed(EINVAL)
        flags = 0
        host: Host | None = None
        while not flags & EOS:
            self._in_hand(source)
            word = yield from number(source, 8)
            flags, at = word & self._low, word & ~self._low
            if self.memory.waits:
                host = yield from self._postcopy_record(source, flags, at, host)
            else:
                yield from self._record(source, flags, at)
            if source.error:
                raise VmStateFailed(source.error)

    def discard(self, idstr: str, start: int, length: int) -> None:
        """Drop a range of pages.

        Raises:
            VmStateFailed: there is no such block or range.
        """
        block = self.memory.find(idstr)
        if block is None:
            line = f"ram_discard_range: Failed to find block '{idstr}'"
            raise VmStateFailed(FAILED, line)
        name, first = "ram_block_discard_range", block.host_at + start
        if first % block.page_bytes:
            raise VmStateFailed(FAILED, f"{name}: Unaligned start address: {first:#x}")
        if start + length > block.max_bytes:  # where 7.2 does not crash before it says so
            said = f"Overrun block '{idstr}' ({start}/{length:x}/{block.max_bytes:x})"
            raise VmStateFailed(FAILED, f"{name}: {said}")
        if length % block.page_bytes:
            said = self._profile.unaligned_length.format(end=first + length, length=length)
            raise VmStateFailed(FAILED, f"{name}: {said}")
        block.drop(start, length)

    # What is in hand

    def _in_hand(self, source: Source) -> None:
        """Take the plain and zero pages of the last block that are there as a whole.

        They are nearly all of a stream; whatever else comes is read with all checks.
        """
        block, once = self._block, self.memory.waits
        if block is None or (once and block.page_bytes != self.memory.target_page_bytes):
            return
        with source.in_hand() as view:
            taken = place(view, block, once=once)
        source.skip(taken)

    # Records before postcopy

    def _record(self, source: Source, flags: int, at: int) -> Story[None]:
        if flags & COMPRESS_PAGE and not self.accepts_compressed:
            raise VmStateFailed(EINVAL, "Received an unexpected compressed page")
        block = None
        if flags & PAGES:
            block = yield from self._block_of(source, flags, at)
        kind = flags & ~CONTINUE
        if kind == RamFlag.MEM_SIZE:
            yield from self._block_list(source, at)
        elif kind == RamFlag.EOS:
            return
        elif block is not None and kind in (
            RamFlag.ZERO,
            RamFlag.PAGE,
            RamFlag.XBZRLE,
            RamFlag.COMPRESS_PAGE,
        ):
            yield from self._page(source, kind, block, at)
        elif flags & HOOK:
            raise VmStateFailed(EINVAL)  # RDMA's, and this is none
        else:
            raise VmStateFailed(EINVAL, self._unknown(flags))

    def _page(self, source: Source, kind: int, block: Block, at: int) -> Story[None]:
        size = self.memory.target_page_bytes
        if kind == RamFlag.ZERO:
            block.place(at, (yield from get(source, 1)) * size)
        elif kind == RamFlag.PAGE:
            block.place(at, (yield from source.read(size)))
        elif kind == RamFlag.XBZRLE:
            yield from self._difference(source, block, at)
        else:
            yield from self._compressed_page(source, block, at)
        block.received[at // size] = 1

    def _block_of(self, source: Source, flags: int, at: int) -> Story[Block]:
        """Which block a record is of: the last one, or one by its name."""
        strict = self.memory.waits and self._profile.checks_postcopy_pages
        offset = f"Illegal RAM offset {at:x}"
        block, line = self._block, "Ack, bad migration stream!"
        if not flags & CONTINUE:
            idstr = (yield from self._name(source)).decode("latin-1")
            block, line = self.memory.find(idstr), f"Can't find block {idstr}"
            if block is not None and not block.is_migratable:
                block, line = None, f"block {idstr} should not be migrated !"
        if block is None:
            raise VmStateFailed(EINVAL, line, *(() if strict else (offset,)))
        self._block = block
        if at >= block.used_bytes:
            raise VmStateFailed(EINVAL, offset)
        return block

    def _name(self, source: Source, before: bytes = b"") -> Story[bytes]:
        """An idstr as bytes: in C, it ends at its first NUL.

        Where it was cut, what lay there `before` is seen.
        """
        length = yield from number(source, 1)
        data = yield from source.read(length)
        return (data + before[len(data) : length]).split(b"\0")[0]

    def _difference(self, source: Source, block: Block, at: int) -> Story[None]:
        encoding = yield from number(source, 1)
        length = yield from number(source, 2)
        size, wrong = self.memory.target_page_bytes, None
        if encoding != XBZRLE_ENCODING:
            wrong = "wrong compression"
        elif length > size:
            wrong = "len overflow"
        else:
            data = yield from get(source, length)
            try:
                block.place(at, xbzrle.decode(block.data[at : at + size], data))
            except xbzrle.XbzrleError:
                wrong = "decode error"
        if wrong is not None:
            line = f"Failed to load XBZRLE page - {wrong}!"
            raise VmStateFailed(EINVAL, line, f"Failed to decompress XBZRLE page at {at:x}")

    def _compressed_page(self, source: Source, block: Block, at: int) -> Story[None]:
        length = yield from number(source, 4)
        size = self.memory.target_page_bytes
        if length > compressed_bytes_max(size):
            shown = length - (1 << 32) if length >> 31 else length
            raise VmStateFailed(EINVAL, f"Invalid compressed data length: {shown}")
        data = yield from get(source, length)
        inflater = zlib.decompressobj()
        try:
            page, whole = inflater.decompress(data, size), inflater.eof
        except zlib.error:
            page, whole = b"", False
        block.data[at : at + len(page)] = page
        if not whole and self._profile.notices_short_reads:
            raise VmStateFailed(FAILED, "decompress data failed")

    def _unknown(self, flags: int) -> str:
        shown = f"{flags:#x}" if flags else self._profile.no_flags
        return f"Unknown combination of migration flags: {shown}"

    # The block list

    def _block_list(self, source: Source, total: int) -> Story[None]:
        """Blocks until their sizes sum up to what was said; in C, where a sum goes round."""
        name = b""
        while total:
            name = yield from self._name(source, name)
            idstr = name.decode("latin-1")
            used = yield from number(source, 8)
            block = self.memory.find(idstr)
            if block is None:
                line = f'Unknown ramblock "{idstr}", cannot accept migration'
                raise VmStateFailed(EINVAL, line)
            if not block.is_migratable:
                raise VmStateFailed(EINVAL, f"block {idstr} should not be migrated !")
            self._resize(block, used)
            yield from self._page_size(source, block)
            total = (total - used) % (1 << 64)

    def _resize(self, block: Block, used: int) -> None:
        unit = self.memory.host_page_bytes
        aligned = -(-used // unit) * unit % (1 << 64)
        if aligned == block.used_bytes:
            return
        if not block.is_resizable:
            text, ours = self._profile.size_mismatch, block.used_bytes
        elif aligned > block.max_bytes:
            text, ours = self._profile.too_large, block.max_bytes
        else:
            block.used_bytes = aligned
            return
        said = text.format(block=block.idstr, theirs=aligned, ours=ours)
        raise VmStateFailed(EINVAL, f"{said}: Invalid argument")

    def _page_size(self, source: Source, block: Block) -> Story[None]:
        """What is sent of huge pages alone, and with postcopy."""
        listed = self._advised and self._profile.lists_page_sizes
        if not listed or block.page_bytes == self.memory.host_page_bytes:
            return
        theirs = yield from number(source, 8)
        if theirs != block.page_bytes:
            said = f"{block.idstr} (local) {block.page_bytes} != {_signed64(theirs)}"
            raise VmStateFailed(EINVAL, f"Mismatched RAM page size {said}")

    # Records in postcopy

    def _postcopy_record(
        self, source: Source, flags: int, at: int, host: Host | None
    ) -> Story[Host | None]:
        """Returns the host page that is not complete yet."""
        if self._profile.checks_postcopy_pages and source.error:
            raise VmStateFailed(source.error)
        block = None
        if flags & POSTCOPY_PAGES:
            block = yield from self._block_of(source, flags, at)
            host = self._part_of(block, at, host)
        match flags & ~CONTINUE:
            case RamFlag.EOS:
                return host
            case (RamFlag.ZERO | RamFlag.PAGE) as kind:
                assert host is not None, "a page is a part of one"
                yield from self._target_page(source, kind, host, at)
                return self._placed(host)
        raise VmStateFailed(EINVAL, f"{self._unknown(flags)} (postcopy mode)")

    def _part_of(self, block: Block, at: int, host: Host | None) -> Host:
        """The host page that a target page belongs to, which must be the one that was begun."""
        begin = at // block.page_bytes * block.page_bytes
        if self._profile.checks_postcopy_pages:
            if host is None:
                return Host(block, begin, bytearray(block.page_bytes))
            if (host.block, host.offset_bytes) != (block, begin):
                theirs, ours = block.host_at + begin, host.block.host_at + host.offset_bytes
                said = f"Target host page {ours:#x}, received host page {theirs:#x}"
                where = f"rb {block.idstr} offset 0x{at:x} target_pages {host.pages + 1}"
                line = f"Non-same host page detected on channel 0: {said} ({where})"
                raise VmStateFailed(EINVAL, line)
            return host
        if at == begin:
            return Host(block, begin, bytearray(block.page_bytes))
        if host is None or (host.block, host.next_bytes) != (block, at):
            size = self.memory.target_page_bytes
            last = "(nil)" if host is None else f"{host.block.host_at + host.next_bytes - size:#x}"
            line = f"Non-sequential target page {block.host_at + at:#x}/{last}"
            raise VmStateFailed(EINVAL, line)
        return host

    def _target_page(self, source: Source, kind: int, host: Host, at: int) -> Story[None]:
        size = self.memory.target_page_bytes
        if kind == RamFlag.ZERO:
            data = (yield from get(source, 1)) * size
            host.only_zeros &= not data[0]
        else:
            data = yield from get(source, size)
            host.only_zeros = False
        begin = at - host.offset_bytes
        host.data[begin : begin + size] = data
        host.pages += 1
        host.next_bytes = at + size
        if source.error:
            raise VmStateFailed(source.error)

    def _placed(self, host: Host) -> Host | None:
        """Place a host page once all of it is there: the guest finds all of it, or none."""
        block, begin, size = host.block, host.offset_bytes, host.block.page_bytes
        if host.pages < size // self.memory.target_page_bytes:
            return host
        if block.received[begin // self.memory.target_page_bytes]:
            # The kernel would have nothing to wake: userfaultfd(2).
            to = f"host: {block.host_at + begin:#x}"
            line = f"postcopy_place_page_zero: File exists zero {to}"
            if not host.only_zeros:
                line = (
                    f"postcopy_place_page: File exists copy {to} from: {COPY_AT:#x} (size: {size})"
                )
            raise VmStateFailed(EEXIST, line)
        block.place(begin, host.data)
        return None


def compressed_bytes_max(size: int) -> int:
    """zlib's `compressBound`."""
    return size + (size >> 12) + (size >> 14) + (size >> 25) + 13


def _signed64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
