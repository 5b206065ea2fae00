"""What of a recorded connection is sent next. Does no I/O.

Recorded order, byte for byte, until a postcopy's destination asks for a page that lies further on:
that one is sent at once, as a source would, and is left out where it lay. A page that arrives twice
is refused (`File exists`; QEMU `migration/postcopy-ram.c`), so a recovery leaves out what the
destination says it has. Records that follow a change are written anew, for CONTINUE means the block
of the record before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from testbed.wire.element import (
    Command,
    CommandType,
    Element,
    Message,
    MessageType,
    RamFlag,
    RamMark,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
)
from testbed.wire.encode import encode
from testbed.wire.structs import U64

from .survey import PageIndex, Run, Survey

BULK_BYTES = 1 << 18
"""Sent at once at most, while nobody can ask for anything. Smaller and larger ones are slower."""
PIECE_BYTES = 1 << 16
"""Likewise in a postcopy: so soon a page that is asked for goes out."""
URGENT_MAX = 64
"""Pages that are sent ahead at once."""
WAITING_MAX = 1 << 12
"""Pages that wait to be sent ahead; what is asked for beyond them comes in its order."""
REQUESTS_MAX = 1 << 18
"""Different pages that are remembered to have been asked for."""


class Order:
    """The bytes of one connection in the order in which they are sent.

    Args:
        size_bytes: of the connection.
        survey: of its stream.
        read: gives its bytes from an offset on, up to another.
    """

    def __init__(self, size_bytes: int, survey: Survey, read: Callable[[int, int], bytes]) -> None:
        self.position = 0
        self.sent_ahead = 0
        self.left_out = 0
        self.requested: set[tuple[str, int]] = set()
        self.lacking: set[tuple[str, int]] = set()  # asked for, and not in this connection
        self._size = size_bytes
        self._survey = survey
        self._read = read
        self._index: PageIndex | None = None
        self._urgent: deque[tuple[Run, int]] = deque()
        self._until = 0  # of this step
        self._item = 0
        self._record = 0  # of the run at hand
        self._last: str | None = None  # block of the last record; None: as in the recording
        self._section: SectionHeader | None = None
        self._is_open = survey.postcopy_at is not None  # sections may follow, or records in one
        self._asked_block = ""
        self._bitmaps_due = 0
        self._ack_due = False

    # What the destination says

    def message(self, message: Message) -> None:
        """A message of the return path came."""
        payload = message.payload
        match message.type:
            case MessageType.REQ_PAGES_ID if len(payload) > 13:
                self._asked_block = payload[13:].decode("latin-1")
                self._asked(payload)
            case MessageType.REQ_PAGES if len(payload) == 12:
                self._asked(payload)
            case MessageType.RECV_BITMAP:
                self._bitmaps_due -= 1
                self._received(payload[1:].decode("latin-1"), message.bitmap)
            case MessageType.RESUME_ACK:
                self._ack_due = False

    def _asked(self, payload: bytes) -> None:
        """It asks for one host page at a time: QEMU `migration/ram.c`, `postcopy_request_page`."""
        page = self._asked_block, U64.unpack_from(payload)[0]
        if page in self.requested:
            return
        found = self._pages.find(*page)
        if len(self.requested) < REQUESTS_MAX:
            self.requested.add(page)
            if found is None:
                self.lacking.add(page)
        if found is None or self._survey.large_pages or self._is_sent(*found):
            return
        if len(self._urgent) < WAITING_MAX:
            self._urgent.append(found)

    def _received(self, block: str, bitmap: bytes) -> None:
        bits = np.frombuffer(bitmap[U64.size : -U64.size], np.uint8)
        received = np.unpackbits(bits, bitorder="little").astype(np.bool_)
        self.left_out += self._pages.drop(block, received)

    def has(self, page: tuple[str, int]) -> bool:
        """The recording has that page of a block, in the postcopy of this connection."""
        return self._pages.find(*page) is not None

    @property
    def _pages(self) -> PageIndex:
        if self._index is None:
            self._index = PageIndex(self._survey.items)
        return self._index

    def _is_sent(self, run: Run, record: int) -> bool:
        return bool(run.gone[record]) or int(run.ends[record]) <= self.position

    # What is sent

    @property
    def is_over(self) -> bool:
        """All of it was sent."""
        return self.position >= self._size

    @property
    def awaits(self) -> str | None:
        """What the destination has to say before anything more is sent."""
        if self._ack_due:
            return "RESUME_ACK"
        if self._bitmaps_due > 0 and self._is_next(CommandType.POSTCOPY_RESUME):
            return "RECV_BITMAP"
        return None

    @property
    def is_urgent(self) -> bool:
        """The next step sends pages ahead."""
        return bool(self._urgent) and self._is_open and self._begun

    @property
    def is_at_guest(self) -> bool:
        """The package was sent, that starts the guest, and nothing behind it."""
        return self._survey.package_at is not None and self.position == self._survey.postcopy_at

    @property
    def _begun(self) -> bool:
        at = self._survey.postcopy_at
        return at is not None and self.position >= at

    def step(self, until: int | None = None) -> bytes:
        """What is sent next; not to be called if it `is_over` or `awaits` something.

        Args:
            until: offset in the recording up to which bytes may be sent, but for those that are
                asked for, and a page that reaches beyond it; None: any.
        """
        self._until = self.position + (PIECE_BYTES if self._begun else BULK_BYTES)
        if until is not None:
            self._until = min(self._until, until)
        if self.is_urgent and (data := self._ahead()):
            return data
        postcopy_at = self._survey.postcopy_at
        if not self._begun or self._item >= len(self._survey.items):
            end = self._size if self._begun or postcopy_at is None else postcopy_at
            return self._copied(end)
        item = self._survey.items[self._item]
        return self._of_run(item) if isinstance(item, Run) else self._of_element(item)

    def _copied(self, end: int) -> bytes:
        """Bytes as they were recorded, up to `end` or as far as they may be sent now."""
        end = min(end, self._until)
        data = self._read(self.position, end)
        self.position = end
        return data

    def _of_element(self, element: Element) -> bytes:
        data = self._copied(element.end)
        if self.position >= element.end:
            self._item += 1
            self._passed(element)
        return data

    def _passed(self, element: Element) -> None:
        """Take note of where in the stream that leaves us."""
        match element.value:
            case SectionHeader() as header:
                self._section = header
                self._is_open = header.idstr == "ram"
            case RamMark(flags=RamFlag.EOS) if self._survey.footers:
                self._is_open = False
            case RamMark(flags=RamFlag.EOS) | SectionFooter():
                self._is_open = True
                self._section = None
            case Command(command=CommandType.RECV_BITMAP):
                self._bitmaps_due += 1
            case Command(command=CommandType.POSTCOPY_RESUME):
                self._ack_due = True

    def _of_run(self, run: Run) -> bytes:
        first = self._record
        end = int(np.searchsorted(run.ends, self._until, "right"))
        end = min(max(end, first + 1), len(run))
        self._until = int(run.ends[end - 1])
        continues = self._last in (None, run.block) or (not first and run.has_idstr)
        if continues and not run.gone[first:end].any():
            self._last = run.block
            data = self._copied(self._until)
        else:
            left = [record for record in range(first, end) if not run.gone[record]]
            data = b"".join(self._written(run, record) for record in left)
            self.position = self._until
        self._record = end
        if end == len(run):
            self._item, self._record = self._item + 1, 0
        return data

    def _written(self, run: Run, record: int) -> bytes:
        """A page record, with the name of its block where it is another one than the last."""
        flags = RamFlag.ZERO if run.is_zero[record] else RamFlag.PAGE
        if self._last == run.block:
            flags |= RamFlag.CONTINUE
        self._last = run.block
        data = self._read(int(run.data_at[record]), int(run.ends[record]))
        return encode(RamPage(run.block, int(run.addresses[record]), flags, data))

    def _ahead(self) -> bytes:
        """Pages that were asked for; in a section of their own unless one of RAM is open."""
        number = self._survey.ram_section
        assert number is not None, "pages lie in its sections"
        records = b"".join(self._urgent_records())
        if not records or self._section is not None:
            return records
        header = encode(SectionHeader(SectionType.PART, number, "ram", 0, 4))
        footer = encode(SectionFooter(number)) if self._survey.footers else b""
        return header + records + encode(RamMark(RamFlag.EOS)) + footer

    def _urgent_records(self) -> Iterator[bytes]:
        for _ in range(min(len(self._urgent), URGENT_MAX)):
            run, record = self._urgent.popleft()
            if not self._is_sent(run, record):
                run.gone[record] = True
                self.sent_ahead += 1
                yield self._written(run, record)

    def _is_next(self, command: CommandType) -> bool:
        if not self._begun or self._item >= len(self._survey.items):
            return False
        item = self._survey.items[self._item]
        value = item.value if isinstance(item, Element) else None
        return isinstance(value, Command) and value.command == command
