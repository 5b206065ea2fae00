"""Writes a machine as a stream: header, sections, commands, the package, the vmdesc.

Source: QEMU `migration/savevm.c`, `qemu_savevm_state_header` to `qemu_save_device_state`, early
2017 and 7.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from testbed.model.profile import Profile
from testbed.vmstate import Manner, Node, VmState, device_node, old_style_node, save, vmdesc
from testbed.wire import build, build_section, encode
from testbed.wire.element import (
    Command,
    CommandType,
    EndOfStream,
    FileHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.structs import MAGIC, SECTION, VERSION

from .configuration import Configuration
from .registry import Entry, Live, Registry


class PostcopySource(Protocol):
    """What the RAM handler does for postcopy, beside saving its sections."""

    target_page_bytes: int
    host_page_bytes: int

    @property
    def page_sizes(self) -> int:
        """Of all blocks, or-ed."""

    def discards(self) -> Sequence[Command]:
        """POSTCOPY_RAM_DISCARD of all that was sent and has changed since."""


@dataclass(slots=True)
class Outgoing:
    """A machine, as it is written."""

    registry: Registry
    ram: PostcopySource
    configuration: VmState
    configuration_state: Configuration
    has_configuration: bool = True
    has_footers: bool = True
    sends_vmdesc: bool = True
    manner: Manner = Manner.QEMU_7_2
    page_bytes: int = 4096
    before_devices: Callable[[], None] = lambda: None
    """Called before they are written, to have their state be what the machine is."""
    iterated: Entry | None = None
    """Whose PART was the last one."""
    _configured: Node | None = None
    _early_nodes: list[Node] = field(default_factory=list)
    _nodes: list[Node] = field(default_factory=list)

    def header(self) -> bytes:
        """`qemu_savevm_state_header`."""
        head = encode(FileHeader(MAGIC, VERSION))
        if not self.has_configuration:
            return head
        saved = save(self.configuration, self.configuration_state, manner=self.manner)
        self._configured = saved.node
        return head + bytes([SectionType.CONFIGURATION]) + saved.data

    def advise(self, profile: Profile) -> bytes:
        """POSTCOPY_ADVISE."""
        theirs = self.ram.page_sizes if profile.advise_bytes is None else self.ram.host_page_bytes
        return encode(build.advise(theirs, self.ram.target_page_bytes))

    def setup(self) -> Iterator[bytes]:
        """START sections of the live entries, and FULL ones of what is saved early."""
        self._early_nodes = []
        for entry in self.registry:
            if entry.live is not None and entry.live.is_active():
                yield self._section(SectionType.START, entry, entry.live.setup())
            elif entry.early:
                yield from self._full(entry, self._early_nodes)

    def iterate(self, most_bytes: int, *, postcopy: bool) -> tuple[list[bytes], bool]:
        """PART sections, in pieces; true if every live entry has said that nothing is left for now.

        The last piece is the footer of the last one, if there are footers. An entry has its turn
        when those before it have nothing more to send.
        """
        pieces: list[bytes] = []
        for entry, live in self._live():
            if postcopy and not live.postcopiable:
                continue
            payload, done = live.iterate(most_bytes)
            self.iterated = entry
            section = list(self._framed(SectionType.PART, entry, [payload]))
            pieces += section
            most_bytes -= sum(map(len, section))
            if not done:
                return pieces, False
        return pieces, True

    def complete_live(self, *, postcopy: bool) -> Iterator[bytes]:
        """END sections; on the way to postcopy of those alone that cannot go on in it."""
        for entry, live in self._live():
            if not (postcopy and live.postcopiable):
                yield from self._framed(SectionType.END, entry, live.complete(postcopy=False))

    def complete_postcopy(self) -> Iterator[bytes]:
        """END sections of what went on in postcopy, and EOF."""
        for entry, live in self._live():
            if live.postcopiable:
                yield from self._framed(SectionType.END, entry, live.complete(postcopy=True))
        yield encode(EndOfStream())

    def devices(self) -> Iterator[bytes]:
        """FULL sections of everything else; what they are like is kept for the vmdesc."""
        self._nodes = [*self._early_nodes]
        self.before_devices()
        for entry in self.registry:
            if not entry.early:
                yield from self._full(entry, self._nodes)

    def _full(self, entry: Entry, nodes: list[Node]) -> Iterator[bytes]:
        """The FULL section of a device, if it has one now; `nodes` gets what it is like."""
        if entry.old_style is not None:
            payload = entry.old_style.save()
            node = entry.old_style.described or old_style_node(
                entry.idstr, entry.instance_id, len(payload)
            )
        elif entry.vmstate is not None and entry.vmstate.is_needed(entry.state):
            saved = save(entry.vmstate, entry.state, manner=self.manner)
            payload = saved.data
            node = device_node(entry.idstr, entry.instance_id, saved.node)
        else:
            return
        nodes.append(node)
        yield self._section(SectionType.FULL, entry, payload)

    def end(self) -> bytes:
        """EOF, and the vmdesc of the devices that were written last."""
        if not self.sends_vmdesc:
            return encode(EndOfStream())
        configured = self._configured if self.manner is Manner.QEMU_10_0 else None
        text = vmdesc(
            self._nodes,
            page_size=self.page_bytes,
            configuration=configured,
            manner=self.manner,
        )
        return encode(EndOfStream()) + encode(VmDescription(text.encode()))

    def package(self) -> bytes:
        """PACKAGED, with the devices between LISTEN and RUN."""
        inside = b"".join(
            (
                encode(Command(CommandType.POSTCOPY_LISTEN, b"")),
                *self.devices(),
                encode(build.ping(3)),
                encode(Command(CommandType.POSTCOPY_RUN, b"")),
            )
        )
        size = len(inside).to_bytes(4, "big")
        return encode(Command(CommandType.PACKAGED, size)) + inside

    def device_state(self) -> Iterator[bytes]:
        """`qemu_save_device_state`, for Xen: neither configuration nor RAM nor vmdesc."""
        yield encode(FileHeader(MAGIC, VERSION))
        yield from self.devices()
        yield encode(EndOfStream())

    def whole(self, most_bytes: int) -> Iterator[bytes]:
        """`qemu_savevm_state`: all of it, of a guest that stands still, as into a file."""
        yield self.header()
        yield from self.setup()
        done = False
        while not done:
            pieces, done = self.iterate(most_bytes, postcopy=False)
            yield from pieces
        yield from self.complete_live(postcopy=False)
        yield from self.devices()
        yield self.end()
        self.cleanup()

    def pending_bytes(self, enough_bytes: float = math.inf) -> int:
        """An estimate of what live entries have left; see `Live`."""
        return sum(live.pending_bytes(enough_bytes) for _, live in self._live())

    def cleanup(self) -> None:
        """The migration is over, however it ended."""
        for entry in self.registry:
            if entry.live is not None:
                entry.live.cleanup()

    def _live(self) -> list[tuple[Entry, Live]]:
        """What has something to send while the guest runs, in order."""
        return [
            (entry, entry.live)
            for entry in self.registry
            if entry.live is not None and entry.live.is_active()
        ]

    def _framed(self, kind: SectionType, entry: Entry, payload: Iterable[bytes]) -> Iterator[bytes]:
        """A PART or END section, as it is made: it may be a good part of the guest's memory."""
        yield SECTION.pack(kind, entry.section_id)
        yield from payload
        if self.has_footers:
            yield SECTION.pack(SectionType.FOOTER, entry.section_id)

    def _section(self, kind: SectionType, entry: Entry, payload: bytes) -> bytes:
        return build_section(
            kind,
            entry.section_id,
            entry.idstr,
            entry.instance_id,
            entry.version_id,
            payload,
            footer=self.has_footers,
        )
