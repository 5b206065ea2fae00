"""The main channel, source to destination: from the file header to what trails after the end.

The story is that of QEMU `migration/savevm.c`, `qemu_loadvm_state` and `qemu_loadvm_state_main`.
Commands whose number or length QEMU refuses are elements all the same: their frame says where
they end. Device sections are cut by footer and successor (`device.py`), later confirmed or
corrected by the vmdesc.
"""

from __future__ import annotations

from itertools import islice

from . import spans
from .channel import AFTER_THE_END, Channel
from .described import read_described
from .device import read_learned, read_unreadable
from .element import (
    Certainty,
    Command,
    CommandType,
    EndOfStream,
    Payload,
    RamFlag,
    SectionFooter,
    SectionHeader,
    SectionType,
    Span,
    VmDescription,
)
from .encode import encode
from .error import Cut, StreamError
from .head import read_head
from .layout import Layout, Section
from .learned import LearnedLayout
from .live import live
from .ram import Ram, RamSection
from .reader import Story
from .structs import COMMAND, IDS, SECTION, U32, U64
from .successor import LIVE, VMDESC_BYTES_MAX, Phase, after
from .tally import Tally
from .vmdesc import Device
from .witness import Witness

SECTIONS_MAX = 65_536
"""Of one stream, PART and END not counted. QEMU has no bound: a header of each is kept. Machines of
10.0 have at most 4096 CPUs, with five sections each (pseries), and some 60 beside them."""
CORRECTIONS_MAX = 100
"""Told of one stream: who reads more of them learns nothing new."""
RAM = "ram"
RAM_VERSION = 4
LATER = (SectionType.PART, SectionType.END)
PLAIN = int(RamFlag.PAGE | RamFlag.CONTINUE)
ADDRESSES_END = 1 << 48
"""Of a page within its block: no host that QEMU runs on has a larger address space for a process
(47 bits with four levels of page tables, and QEMU maps no block in the room of a fifth)."""


class MainChannel(Channel):
    """Parses the main channel incrementally; see `Channel` for feeding and ending it.

    `phase` is where the channel is after the elements returned last; `layout` is the vmdesc once
    it came; `corrections` says where it contradicts the boundaries of device sections that were
    inferred before, `doubts` which of these are not certain then, by section_id, and why;
    `confirmed` is that it came and agrees with all of them; `footers` is whether
    sections have footers, None until the first section that says where it ends tells.

    Where no vmdesc comes, `layout` is what a learned layout has of the sections that it was used
    for, which their elements' certainty tells; `refused` is why it was not used at all.
    `vmdesc_error` is why a vmdesc that came could not be read.

    Args:
        page_bytes: target page size where nothing in the stream tells; 4096 on most.
        witness: sees the data of pages.
        learned: a layout for device sections until the vmdesc comes, or if none does.
        in_runs: plain and zero pages come as `RunElement`s, many at once.
        recovery: it is the connection of a recovery, read without the one before: section and
            blocks of RAM go by what it uses. With that one at hand, use its `recovered`.
    """

    def __init__(
        self,
        *,
        page_bytes: int = 4096,
        in_runs: bool = False,
        recovery: bool = False,
        learned: LearnedLayout | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.phase = Phase.POSTCOPY if recovery else Phase.HEADER
        self.layout: Layout | None = None
        self.corrections: list[str] = []
        self.doubts: dict[int, str] = {}
        self.footers: bool | None = None
        self.refused: str | None = None
        self.vmdesc_error: str | None = None
        self._learned = learned
        self._used: list[Device] = []  # of the learned layout
        self._described = False  # the vmdesc came
        self._sizes: list[int] = []  # of the device sections to come, from a vmdesc ahead
        # A recovery that is read alone may be a page by itself: see `Ram.recovered`.
        self._ram = Ram(
            page_bytes, in_runs=in_runs, by_name=recovery, is_sure=recovery, witness=witness
        )
        self._sections: dict[int, SectionHeader] = {}
        self._announced = 0  # sections with a long header
        self._devices: list[Section] = []
        self._device_ids: list[int] = []  # the section_id of each
        self._tally = Tally()
        super().__init__()

    @property
    def page_bytes(self) -> int:
        """Target page size, as far as the stream told."""
        return self._ram.page_bytes

    @property
    def in_runs(self) -> bool:
        """Plain and zero pages come as `RunElement`s; may change between two feeds."""
        return self._ram.in_runs

    @in_runs.setter
    def in_runs(self, value: bool) -> None:
        self._ram.in_runs = value

    @property
    def confirmed(self) -> bool:
        """The vmdesc came and agrees with the boundaries of every device section."""
        return self._described and not self.corrections

    def is_page(self, data: bytes | memoryview) -> bool:
        """True if these bytes, coming next, are one plain page record with CONTINUE, and no more.

        Said only within a PART or END, where there is no block list; what follows EOS there cannot
        be taken for a record, whose address has less than 48 bits on any machine.
        """
        section, page_bytes = self._context.section, self._ram.page_bytes
        if section is None or len(data) != U64.size + page_bytes or self.pending:
            return False
        if section.idstr != RAM or section.type not in LATER or self._ram.last is None:
            return False
        if not self._ram.is_sure:
            return False
        (word,) = U64.unpack_from(data)
        return bool(word & (page_bytes - 1) == PLAIN and word < ADDRESSES_END)

    def recovered(self) -> MainChannel:
        """A parser for the connection that recovers this one's postcopy.

        It knows the sections and RAM blocks and goes on counting; its offsets begin at 0, and it
        expects no file header.
        """
        channel = MainChannel(page_bytes=self._ram.page_bytes)
        channel.phase, channel.footers = Phase.POSTCOPY, self.footers
        channel._ram, channel._tally = self._ram.recovered(), self._tally.copy()
        channel._sections = dict(self._sections)
        return channel

    def ram(self) -> Ram:
        """What it knows of RAM, for the parser of another connection of the same migration."""
        return self._ram.recovered()

    def seen(self) -> str:
        """What passed, for a message: `START ram, 12 PART ram, END ram, FULL timer, PING x2`."""
        return str(self._tally)

    def _gave_up(self) -> None:
        self.phase = Phase.OPAQUE

    def _story(self) -> Story[None]:
        yield from self._reader.more()  # before it, `recovered` changes the phase
        if self.phase is Phase.HEADER:
            self._accept((yield from read_head(self._reader, self._ram, self._emit)))
            self.phase = Phase.SETUP
        yield from self._elements()
        # In postcopy no vmdesc follows, and the destination reads nothing more.
        has_vmdesc = self.phase is not Phase.POSTCOPY
        self.phase = Phase.ENDED
        if has_vmdesc and (yield from self._reader.more()):
            yield from self._vmdesc()

    def _accept(self, machine: str | None) -> None:
        """Use the learned layout for that machine type, or say why not."""
        if self._learned is not None and not self._learned.fits(machine):
            self.refused = f"learned from {self._learned.machine!r}, not from {machine!r}"
            self._learned = None

    def _elements(self) -> Story[None]:
        """Read elements up to and including EOF, or the RUN that ends a package."""
        while True:
            kind = yield from self._reader.u8("section type")
            match kind:
                case SectionType.EOF:
                    self._emit(EndOfStream(), 1, spans.EOF)
                    self._use_learned()
                    return
                case SectionType.START | SectionType.FULL:
                    yield from self._long_header(SectionType(kind))
                case SectionType.PART | SectionType.END:
                    yield from self._short_header(SectionType(kind))
                case SectionType.COMMAND:
                    command = yield from self._command()
                    if self._context.in_package and command == CommandType.POSTCOPY_RUN:
                        return
                case _:
                    expected = "0x00 to 0x04 or 0x08"
                    raise self._reader.wrong("section type", expected, f"{kind:#04x}")

    # Sections

    def _long_header(self, kind: SectionType) -> Story[None]:
        inside = f"header of a {kind.name} section"
        length = yield from self._reader.u8(inside, skip=5)
        if not length:
            raise self._reader.wrong(inside, "an idstr", "one of length 0")
        self._announced += 1
        if self._announced > SECTIONS_MAX:
            raise self._reader.wrong(inside, f"at most {SECTIONS_MAX} sections", "one more")
        size = 6 + length + IDS.size
        raw = yield from self._reader.peek(size, inside)
        _, section_id = SECTION.unpack_from(raw)
        idstr = raw[6 : 6 + length].decode("latin-1")
        header = SectionHeader(kind, section_id, idstr, *IDS.unpack_from(raw, 6 + length))
        self._sections[section_id] = header
        yield from self._section(header, size, spans.section(length))

    def _short_header(self, kind: SectionType) -> Story[None]:
        inside = f"header of a {kind.name} section"
        section_id = yield from self._reader.u32(inside, skip=1)
        start = self._sections.get(section_id) or self._taken_for_ram(section_id)
        if start is None or start.type is not SectionType.START:
            expected = "the section_id of a START section"
            raise self._reader.wrong(inside, expected, f"{section_id}")
        header = SectionHeader(kind, section_id, start.idstr, start.instance_id, start.version_id)
        yield from self._section(header, SECTION.size, spans.SECTION_SHORT)

    def _taken_for_ram(self, section_id: int) -> SectionHeader | None:
        """Of a recovery that is read alone, the first section_id is that of RAM."""
        if not self._ram.by_name or self._sections:
            return None
        start = SectionHeader(SectionType.START, section_id, RAM, 0, RAM_VERSION)
        self._sections[section_id] = start
        return start

    def _section(self, header: SectionHeader, size: int, fields: tuple[Span, ...]) -> Story[None]:
        """Read a section from the header on, which is in hand."""
        self._enter(header.type)
        self._context.section = header
        self._context.occurrence = self._tally.section(header)
        self._emit(header, size, fields)
        if header.idstr == RAM and header.type is not SectionType.FULL:
            ram = RamSection(self._ram, self._reader, self._emit, self._out, self._context)
            yield from self._payload(header, ram.story())
        elif (records := live(header, self._reader, self._emit)) is not None:
            yield from self._payload(header, records)
        else:
            yield from self._unreadable_payload(header)
        self._context.section, self._context.occurrence = None, 1

    def _enter(self, kind: SectionType) -> None:
        """Go to the phase that a section of that type begins."""
        match kind, self.phase:
            case SectionType.PART, Phase.SETUP:
                self.phase = Phase.ITERATE
            case SectionType.END, Phase.SETUP | Phase.ITERATE:
                self.phase = Phase.DEVICE
            case SectionType.FULL, Phase.ITERATE:  # background-snapshot has no END
                self.phase = Phase.DEVICE

    def _payload(self, header: SectionHeader, records: Story[None]) -> Story[None]:
        """Read a payload that says where it ends, and its footer."""
        yield from records
        if self.footers is None:
            # Nothing announces footers; their mark begins no element.
            self.footers = (yield from self._reader.u8(_footer(header))) not in LIVE
        if self.footers:
            yield from self._read_footer(header, Certainty.EXACT)

    def _unreadable_payload(self, header: SectionHeader) -> Story[None]:
        certainty = yield from self._find_end(header)
        payload = bytes(self._reader.held)
        if payload:
            self._emit(Payload(payload), 0, (), certainty)
        if header.type is SectionType.FULL:
            self._devices.append((header.idstr, header.instance_id, len(payload)))
            self._device_ids.append(header.section_id)
        if self.footers is not False:
            yield from self._read_footer(header, certainty)

    def _find_end(self, header: SectionHeader) -> Story[Certainty]:
        """Read a payload up to its end into `held`; how sure that end is."""
        reader, inside = self._reader, f"payload of {_name(header)}"
        successors = after(header, self.phase, self._sections)
        if self._learned is not None and not self._sizes:
            footer = b"" if self.footers is False else _footer_bytes(header)
            sizes = self._learned.sizes(header)
            if (yield from read_learned(reader, sizes, footer, successors)):
                device = self._learned.device(header, len(reader.held))
                assert device is not None, "of a size that it knows"
                self._used.append(device)
                return Certainty.LEARNED
        if self.footers is not False:
            yield from read_unreadable(reader, header, successors, inside)
            return Certainty.INFERRED
        if header.type is not SectionType.FULL or self.phase is not Phase.DEVICE:
            got = "a stream without footers, where nothing shows its end"
            raise reader.wrong(inside, "a footer", got)
        if not self._sizes:
            self._sizes = yield from read_described(
                reader, encode(header), len(self._devices), inside
            )
        reader.hold(self._sizes.pop(0))
        return Certainty.EXACT

    def _read_footer(self, header: SectionHeader, certainty: Certainty) -> Story[None]:
        expected = _footer_bytes(header)
        is_footer = (yield from self._reader.u8(_footer(header))) == SectionType.FOOTER
        size = SECTION.size if is_footer else 1
        raw = yield from self._reader.peek(size, _footer(header))
        if raw != expected:
            raise self._reader.wrong(_footer(header), expected.hex(), raw.hex())
        self._emit(SectionFooter(header.section_id), size, spans.FOOTER, certainty)

    def _use_learned(self) -> None:
        """Have what the learned layout was used for as `layout`, until a vmdesc comes."""
        if self._used:
            self.layout = Layout(self._used)

    # Commands

    def _command(self) -> Story[int]:
        """Read a command, and the package where it announces one; return its number."""
        head = yield from self._reader.peek(COMMAND.size, "command")
        number, length = int.from_bytes(head[1:3], "big"), int.from_bytes(head[3:5], "big")
        inside = f"payload of command {Command(number, b'').name}"
        payload = yield from self._reader.peek(length, inside, skip=COMMAND.size)
        command = Command(number, payload)
        self._context.occurrence = self._tally.named(command)
        self._emit(command, COMMAND.size + length, spans.command(length))
        self._context.occurrence = 1
        match number, length:
            case CommandType.POSTCOPY_ADVISE, 16:
                self._ram.set_page_bytes(U64.unpack_from(payload, U64.size)[0])
            case CommandType.SWITCHOVER_START, _ if self.phase in (Phase.SETUP, Phase.ITERATE):
                self.phase = Phase.DEVICE
            case CommandType.PACKAGED, U32.size:
                yield from self._package(U32.unpack(payload)[0])
        return number

    def _package(self, size: int) -> Story[None]:
        """Read the elements of a package in place; whatever they are, it ends where it said."""
        reader, why = self._reader, AFTER_THE_END
        if reader.limit is not None:
            raise reader.wrong("package", "no package inside it", f"one of {size} bytes")
        reader.limit = reader.offset + size
        self._context.in_package, self.phase = True, Phase.PACKAGE
        try:
            yield from self._elements()
        except Cut:
            raise
        except StreamError as error:
            why = str(error)
            if not reader.held and reader.offset == reader.limit:
                self._opaque(why)  # empty: not a byte of the package is left to tell it of
        while reader.held or reader.offset < reader.limit:
            if not reader.held:
                yield from reader.need(1, "package")
            self._opaque(why)
        reader.limit = None
        self._context.in_package, self.phase = False, Phase.POSTCOPY
        self._use_learned()

    # After the end

    def _vmdesc(self) -> Story[None]:
        inside = "vmdesc"
        if (yield from self._reader.u8(inside)) != SectionType.VMDESCRIPTION:
            return
        length = yield from self._reader.u32(inside, skip=1)
        if length > VMDESC_BYTES_MAX:
            raise self._reader.wrong(inside, f"at most {VMDESC_BYTES_MAX} bytes", f"{length}")
        at = self._reader.offset
        text = yield from self._reader.peek(length, inside, skip=SECTION.size)
        self._emit(VmDescription(text), SECTION.size + length, spans.vmdesc(length))
        try:
            self.layout = Layout.parse(text)
            self._described = True
        except StreamError as error:
            self.vmdesc_error = f"offset {at:#x}: the vmdesc, said to be {length} bytes long, "
            self.vmdesc_error += f"cannot be read: {error}"
            self.corrections.append(self.vmdesc_error)
            return
        self.corrections += islice(self.layout.disagreements(self._devices), CORRECTIONS_MAX)
        if self.corrections:
            doubts = self.layout.doubts(self._devices)
            self.doubts = {self._device_ids[at]: why for at, why in doubts.items()}
        if (yield from self._reader.more()):
            at = self._reader.offset
            self.corrections.append(f"bytes from offset {at:#x} on follow what seemed the vmdesc")


def _name(header: SectionHeader) -> str:
    return f"{header.type.name} {header.idstr} (section {header.section_id})"


def _footer_bytes(header: SectionHeader) -> bytes:
    return SECTION.pack(SectionType.FOOTER, header.section_id)


def _footer(header: SectionHeader) -> str:
    return f"footer of {_name(header)}"
