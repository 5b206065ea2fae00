"""Where a destination stands, and the numbers that it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Protocol

from testbed.model.profile import Profile
from testbed.vmstate import Incoming, Source, Story, VmState
from testbed.wire.element import Message
from testbed.wire.encode import encode

from .configuration import Configuration
from .effects import Became, Effect, Say, Send, Status, Trace
from .memory import Missing
from .registry import Entry, Registry


class PostcopyState(IntEnum):
    """`PostcopyState` of QEMU's `migration/postcopy-ram.h`, with its numbers."""

    NONE = 0
    ADVISE = 1
    DISCARD = 2
    LISTENING = 3
    RUNNING = 4
    END = 5


class PostcopyRam(Protocol):
    """What the RAM handler does for postcopy, beside loading its sections."""

    target_page_bytes: int
    host_page_bytes: int

    @property
    def page_sizes(self) -> int:
        """Of all blocks, or-ed."""

    def advise(self) -> None:
        """Postcopy may come: drop all memory, so that what never comes is missing then."""

    def prepare_discard(self) -> None:
        """The first DISCARD came, or LISTEN without any."""

    def discard(self, block: str, start: int, length: int) -> None:
        """Drop a range of pages.

        Raises:
            VmStateFailed: there is no such block or range.
        """

    def listen(self) -> None:
        """Pages that are missing are asked for from now on."""

    def want(self, missing: Missing) -> Message | None:
        """The request for a page that an access waits for; None if it is under way already."""

    def end(self) -> None:
        """The migration is over: what did not come is zero, and nobody waits for it."""

    def requested_again(self) -> list[Message]:
        """The requests for pages that are still missing, for a new connection."""

    def received_bitmap(self, block: str) -> Message | None:
        """Which pages of a block were received; None if there is no such block."""


@dataclass(slots=True)
class Machine:
    """What a destination loads into."""

    name: str
    registry: Registry
    ram: PostcopyRam
    configuration: VmState
    """The VMSD of the configuration section; its hooks compare it with the machine's own."""
    configuration_state: Configuration
    has_configuration: bool = True
    has_footers: bool = True
    sends_vmdesc: bool = True  # and expects it
    is_xen: bool = False
    postcopy_enabled: bool = False  # the capability postcopy-ram
    traced: frozenset[str] = frozenset()  # events of which each is told


@dataclass(slots=True)
class MigrationIncoming:
    """Where a migration stands: QEMU's MigrationIncomingState, and what it has to tell."""

    machine: Machine
    profile: Profile
    file: Incoming
    can_answer: bool = True  # the transport has a way back
    answers: bool = False  # OPEN_RETURN_PATH came
    status: Status = Status.ACTIVE
    postcopy: PostcopyState = PostcopyState.NONE
    listening: bool = False  # the listen thread reads the main channel
    effects: list[Effect] = field(default_factory=list)
    _by_id: dict[int, tuple[Entry, int]] = field(default_factory=dict)
    _by_entry: dict[Entry, tuple[int, int]] = field(default_factory=dict)

    def begun(self, entry: Entry, section_id: int, version_id: int) -> None:
        """A START or FULL section of that entry came."""
        self._by_id[section_id] = entry, version_id
        self._by_entry[entry] = section_id, version_id

    def section_id(self, entry: Entry) -> int:
        """Of the START or FULL section of that entry that came last."""
        return self._by_entry[entry][0]

    def begun_as(self, section_id: int) -> tuple[Entry, int] | None:
        """Whose PART or END section that is, and of which version; None: nobody's.

        In 7.2 every entry of which no section came has the id 0, and version 0.
        """
        if not self.profile.ids_are_of_entries:
            return self._by_id.get(section_id)
        for entry in self.machine.registry:
            known_id, version_id = self._by_entry.get(entry, (0, 0))
            if known_id == section_id:
                return entry, version_id
        return None

    def say(self, line: str) -> None:
        """Have a line on stderr."""
        self.effects.append(Say(line))

    def trace(self, event: str, arguments: str) -> None:
        """Tell an event, if that is traced."""
        if event in self.machine.traced:
            self.effects.append(Trace(event, arguments))

    def become(self, status: Status) -> None:
        """Change the status, and say so."""
        if status is not self.status:
            self.status = status
            self.effects.append(Became(status))

    def answer(self, message: Message) -> None:
        """Send a message on the return path, if there is one."""
        if self.answers:
            self.effects.append(Send(encode(message)))


def get(file: Source, count: int) -> Story[bytes]:
    """The next `count` bytes; those beyond the end read as zeros, and set the file's error."""
    return (yield from file.read(count)).ljust(count, b"\0")


def number(file: Source, size: int) -> Story[int]:
    """A big-endian number of `size` bytes; see `get`."""
    data = yield from file.read(size)
    return int.from_bytes(data, "big") << 8 * (size - len(data))


def numbers(file: Source, layout: Struct) -> Story[tuple[int, ...]]:
    """Several of them, between which nothing is checked; see `get`."""
    return layout.unpack((yield from get(file, layout.size)))


def counted_string(file: Source) -> Story[str | None]:
    """A name with its length before it; None if it is empty or was cut.

    As in C it ends at its first NUL. Source: QEMU `migration/qemu-file.c`,
    `qemu_get_counted_string`.
    """
    length = yield from number(file, 1)
    data = yield from file.read(length)
    if not length or len(data) < length:
        return None
    return data.split(b"\0")[0].decode("latin-1")
