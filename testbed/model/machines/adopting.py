"""Takes in a machine that nobody described: it becomes what its stream says that it is.

A relay, from a QEMU of whatever devices to another. Blocks are made of the list that begins RAM,
and their pages are loaded while they come. What devices there are is known once the vmdesc came:
until then the device phase is held back, while the guest stands still there. Then each device is
declared by its own description, and loaded as any other; one that does not come back to the very
bytes by its declaration is kept as bytes.

There is no vmdesc in postcopy, and none with `suppress-vmdesc=on`: such a machine is not adopted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from testbed.model.migration.destination import Destination
from testbed.model.migration.effects import Effect
from testbed.model.migration.memory import Memory
from testbed.wire import MainChannel
from testbed.wire.element import (
    CommandType,
    Configuration,
    ConfigurationSubsection,
    Element,
    Opaque,
    Payload,
    RamBlock,
    SectionHeader,
    SectionType,
)

from .hardware import Hardware, at_rest
from .learning import Came, Learning

HEAD_BYTES_MAX = 1 << 20
"""Of what precedes the first page, early device sections included; some hundred bytes seen."""
BLOCKS_MAX = 1000
MEMORY_BYTES_MAX = 64 << 30
"""Of all blocks; what is never written takes no room, but each page has a byte or two."""
UUID_NAME = "configuration/uuid"


class Adopting(Destination):
    """A `Destination` into a machine that is empty: see `machine.empty`.

    Once it is `completed`, the machine has the source's name, blocks and devices, in their order
    and with their ids; it is written as any other.
    """

    def __init__(self, hardware: Hardware, *, can_answer: bool = True) -> None:
        assert isinstance(hardware.registry, Learning), "it is none that can learn"
        # What newer ones have beside is not looked at by who takes all as it comes.
        profile = replace(hardware.profile, commands_end=CommandType.SWITCHOVER_START + 1)
        super().__init__(hardware.incoming, profile, can_answer=can_answer)
        self._hardware, self._learning = hardware, hardware.registry
        self._learning.section_id_of = self._mis.section_id
        self._parser = MainChannel()
        self._held: bytearray | None = bytearray()  # until the head is whole
        self._elements: list[Element] = []
        self._is_done = False

    def feed(self, data: bytes) -> list[Effect]:
        """Bytes came."""
        if self._held is None:
            return self._loaded(data)
        self._held += data
        self._elements += self._parser.feed(data)
        if not self._is_whole(len(self._held)):
            return []
        return self._loaded(self._adopted())

    def end(self) -> list[Effect]:
        """The connection ended."""
        effects = [] if self._held is None else self._loaded(self._adopted())
        return effects + super().end()

    def _loaded(self, data: bytes) -> list[Effect]:
        """Load bytes; once it is known what they are, be that."""
        effects = super().feed(data)
        if self._learning.learned and not self._is_done:
            self._is_done = True
            self._hardware.outgoing.manner = self._learning.manner
            self._hardware.payloads = at_rest(self._learning, self._learning.learned)
        return effects

    # The head

    def _is_whole(self, size_bytes: int) -> bool:
        """It is, or nothing that can be adopted came."""
        return size_bytes > HEAD_BYTES_MAX or any(
            _ends_head(element) or isinstance(element.value, Opaque) for element in self._elements
        )

    def _adopted(self) -> bytes:
        """Become what the head says; returns what is to be loaded, which judges it."""
        assert self._held is not None
        held, self._held = self._held, None
        state, blocks = self._hardware.incoming.configuration_state, list[RamBlock]()
        rest, taken = bytearray(), 0
        for element in self._elements:
            if _ends_head(element):
                break
            raw, section = element.raw, element.section
            taken += len(raw)
            match element.value:
                case Configuration(machine):
                    state.machine = machine
                    self._hardware.name = self._hardware.incoming.name = machine
                case ConfigurationSubsection(name=name, payload=payload) if name == UUID_NAME:
                    state.guest_uuid, state.sends_uuid = UUID(bytes=payload), True
                case RamBlock() as block:
                    blocks.append(block)
                case SectionHeader(type=SectionType.START, idstr="ram") as header:
                    self._begin_ram(header)
                case SectionHeader(type=SectionType.FULL) as header:
                    self._learning.early.append(Came(header, b""))
                case Payload(data) if section is not None and section.type is SectionType.FULL:
                    self._learning.early[-1] = Came(section, data)
            if section is None or section.type is not SectionType.FULL:
                rest += raw
        self._elements.clear()
        _add(self._hardware.memory, blocks)
        return bytes(rest + held[taken:])

    def _begin_ram(self, header: SectionHeader) -> None:
        for entry in self._learning:
            if entry.is_ram:
                entry.section_id = header.section_id


def _ends_head(element: Element) -> bool:
    """Pages follow: the list of blocks came, and what there is of early device sections."""
    match element.value:
        case SectionHeader(type=SectionType.PART | SectionType.END):
            return True
        case _:
            return False


def _add(memory: Memory, blocks: Sequence[RamBlock]) -> None:
    """Add the blocks of a list; those that cannot be are refused once it is loaded.

    They come by what they can be resized to, the largest first. How much that is they do not say:
    it is taken for as little as can be, so that they are sent on in that order.
    """
    most_bytes, added = 0, dict[str, tuple[int, int]]()
    for block in reversed(blocks[:BLOCKS_MAX]):
        used_bytes = block.used_bytes
        if 0 < used_bytes <= MEMORY_BYTES_MAX and not used_bytes % memory.host_page_bytes:
            most_bytes = max(most_bytes, used_bytes)
            added[block.idstr] = used_bytes, most_bytes
    if sum(most for _, most in added.values()) > MEMORY_BYTES_MAX:
        return
    with suppress(OSError):  # the host may have less
        for idstr, (used_bytes, max_bytes) in reversed(added.items()):
            memory.add(idstr, used_bytes, max_bytes=max_bytes)
