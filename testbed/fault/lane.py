"""One direction of a main connection: bytes in, elements changed and bytes on.

While no fault waits for this direction, bytes pass at once and the parser only labels them. While
one does, bytes go on element by element, so that it strikes exactly where it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from testbed.wire import MainChannel, ReturnPath
from testbed.wire.element import (
    Command as StreamCommand,
)
from testbed.wire.element import (
    CommandType,
    Element,
    PageRun,
    RamPage,
    RunElement,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.piece import Piece

from .command import Command, End, GoDark, HalfClose, Observed, Send
from .describe import describe
from .edit import BETWEEN_BYTES, Edit, connection_commands, edit_of
from .hold import Hold, begins_device_phase, package_bytes
from .ledger import DEVICE_BYTES_MAX, Ledger
from .place import Known, Matcher, Miss, is_in_pages
from .plan import CommandPlace, Fault, OffsetPlace, SectionPlace, Side, Truncate
from .watch import FORWARD, RETURN_PATH, Watch

HEX_BYTES_MAX = 32
"""Of what a fault changed, in the log."""


Parser = TypeVar("Parser", bound=MainChannel | ReturnPath)


class Lane(Generic[Parser]):
    """What came in of one direction, and what may go on.

    Args:
        toward: the side that it leads to.
        parser: of this direction; a recovery's goes on where the lost connection's was.
        matchers: of the faults that may strike here.
        ledger: what the run's connections share.
        postcopy: it begins in postcopy.
    """

    def __init__(
        self,
        toward: Side,
        parser: Parser,
        matchers: Iterable[Matcher],
        ledger: Ledger,
        *,
        postcopy: bool,
    ) -> None:
        self.toward = toward
        self.parser: Parser = parser
        self._matchers = list(matchers)
        self._ledger = ledger
        self._known = Known(postcopy=postcopy)
        self._direction = FORWARD if toward is Side.DESTINATION else RETURN_PATH
        self.watch = Watch(self._direction)
        self._live_ended = False  # an END section has passed: FULL ones are the device phase
        self._tail = bytearray()  # came in, in no element yet; kept while armed
        self._ahead = 0  # bytes of it that have gone on already
        self._hold: Hold | None = None
        self._deleting: SectionHeader | None = None
        self._shut = False  # nothing more goes this way
        self._ended = False

    # What happens to the direction

    def received(self, data: bytes) -> list[Command]:
        """Bytes came."""
        self._choose_runs()
        if not self._armed:
            return [*self._send(data), *self._elements(self.parser.feed(data))]
        self._tail += data
        commands = self._elements(self.parser.feed(data))
        if not self._armed:
            commands += self._flush()
        return _joined(commands)

    def silence(self) -> list[Command]:
        """The sender has been silent for a while: what waits for more is decided now.

        Only what nobody can read may keep the two sides waiting for each other. A package is read
        whole by the destination anyway.
        """
        commands = self._elements(self.parser.silence())
        if self._hold is None or not self._hold.is_package:
            commands += [*self._release(), *self._flush()]
        return _joined(commands)

    def ended(self) -> list[Command]:
        """The sender will send no more."""
        commands = self._finish()
        return commands if self._shut else [*commands, HalfClose(self.toward)]

    def was_reset(self) -> list[Command]:
        """The sender has reset the connection."""
        commands = self._finish()
        return commands if self._shut else [*commands, End(self.toward, reset=True)]

    def truncate(self) -> list[Command]:
        """The stream ends here for the receiver; the rest is swallowed."""
        if self._shut:
            return []
        self._shut = True
        return [HalfClose(self.toward)]

    def obey(self, command: Command) -> None:
        """Send nothing more, and not the end either, once a command has ended the way."""
        match command:
            case End():
                self._shut = True
            case GoDark(toward=toward):
                self._shut |= toward is self.toward

    @property
    def is_over(self) -> bool:
        """The sender has ended."""
        return self._ended

    @property
    def undecided(self) -> bool:
        """True while there are bytes whose meaning, or whose way, more bytes will decide."""
        return self.parser.pending > 0 or self._hold is not None

    @property
    def _armed(self) -> bool:
        return bool(self._matchers or self._hold or self._deleting)

    def _choose_runs(self) -> None:
        """Have pages in runs, which costs next to nothing, unless a fault may strike in one."""
        if isinstance(self.parser, MainChannel):
            self.parser.in_runs = not any(is_in_pages(fault.place) for fault in self._faults())

    def _finish(self) -> list[Command]:
        if self._ended:
            return []
        self._ended = True
        commands = self._elements(self.parser.end())
        commands += [*self._release(), *self._flush()]
        commands.append(Observed(*self.watch.totals(self.parser.seen())))
        return _joined(commands)

    # Elements on their way

    def _elements(self, elements: list[Element]) -> list[Command]:
        commands: list[Command] = []
        for element in elements:
            if type(element.value) is RamPage:  # nearly all of them
                self.watch.page(element.value)
            elif type(element.value) is PageRun:
                self.watch.run(element.value)
            else:
                commands += [Observed(*fact) for fact in self.watch.element(element)]
                self._note(element)
            if self._tail:
                commands += self._pass_or_hold(element)
        phase = str(self.parser.phase) if isinstance(self.parser, MainChannel) else None
        progress = self.watch.progress(self.parser.fed, phase)
        return commands + [Observed(*fact) for fact in progress]

    def _note(self, element: Element) -> None:
        """Remember where the stream is, and what the source sent."""
        self._ledger.learn(element)
        value = element.value
        if isinstance(value, SectionHeader):
            self._live_ended |= value.type is SectionType.END
        elif isinstance(value, StreamCommand):
            self._known.postcopy |= value.command == CommandType.POSTCOPY_RUN
        elif isinstance(value, VmDescription) and isinstance(self.parser, MainChannel):
            self._ledger.layout = self.parser.layout or self._ledger.layout

    def _pass_or_hold(self, element: Element) -> list[Command]:
        """Send the element on, or hold it while what it belongs to is not understood."""
        if isinstance(element, RunElement):  # what it is copied from is the tail
            raw = bytes(self._tail[: element.size_bytes])
            element = Element(element.offset, raw, element.value, (), element.section)
        del self._tail[: len(element.raw)]
        if isinstance(self.parser, MainChannel):
            self._known.page_bytes = self.parser.page_bytes
        if self._hold is not None:
            return self._release() if self._hold.add(element) else []
        if self._must_hold(element):
            self._hold = Hold(element)
            return []
        return list(self._process(element))

    def _must_hold(self, element: Element) -> bool:
        if begins_device_phase(element):
            faults = self._live_ended and filter(_is_in_device_state, self._faults())
        elif 0 < package_bytes(element) <= DEVICE_BYTES_MAX:
            faults = filter(_is_in_package, self._faults())
        else:
            return False
        return any(faults or ())

    def _faults(self) -> Iterator[Fault]:
        return (found.fault for found in self._matchers)

    def _release(self) -> list[Command]:
        """Send on what was held, with its faults."""
        hold, self._hold = self._hold, None
        if hold is None:
            return []
        if not hold.settle(self._ledger.layout):
            why = "it could not be placed: vmdesc and stream disagree on the section's size"
            for found in [each for each in self._matchers if _is_in_device_state(each.fault)]:
                self._miss(found, why)
        if hold.is_package:
            return self._release_package(hold)
        return [command for element in hold.elements for command in self._process(element)]

    def _release_package(self, hold: Hold) -> list[Command]:
        """Send on a package; what announces it says the size that it has now.

        Not where the fault is in that very command, nor where the package is cut.
        """
        packaged, *inner = hold.elements
        first = list(self._process(packaged))
        rest = [command for element in inner for command in self._process(element)]
        sent = sum(len(command.data) for command in rest if isinstance(command, Send))
        delta = sent - sum(len(element.raw) for element in inner)
        if delta and not self._shut and first == self._send(packaged.raw):
            first = self._send(Piece.of(packaged).add("payload", delta).raw)
        return first + rest

    def _flush(self) -> list[Command]:
        """Send what is in no element yet; as part of its element it must not be sent again."""
        waiting = bytes(self._tail[self._ahead :])
        if not self._armed:
            self._tail.clear()
        self._ahead = len(self._tail)
        return self._send(waiting)

    def _send(self, data: bytes) -> list[Command]:
        return [Send(self.toward, data)] if data and not self._shut else []

    # Striking

    def _process(self, element: Element) -> Iterator[Command]:
        """The commands that send the element on, changed by the faults that strike in it."""
        raw, at = element.raw, min(self._ahead, len(element.raw))
        self._ahead -= at
        if self._is_deleted(element):
            return
        for edit in self._edits(element):
            if self._shut:
                self._ledger.miss(
                    edit.fault, f"the stream was cut before the {self._describe(element)}"
                )
            elif edit.start < at:
                why = "those bytes had been changed, or gone on while the source was silent"
                self._ledger.miss(edit.fault, f"at the {self._describe(element)}: {why}")
            else:
                yield from self._send(raw[at : edit.start])
                yield from self._strike(edit, element)
                at = edit.end
        yield from self._send(raw[at:])

    def _is_deleted(self, element: Element) -> bool:
        """True if the element is inside a section that is being taken out."""
        deleting = self._deleting
        if deleting is None or isinstance(element.value, SectionHeader):
            inside = False
        else:
            inside = element.section is not None
        if not inside or isinstance(element.value, SectionFooter):
            self._deleting = None
        return inside

    def _edits(self, element: Element) -> list[Edit]:
        """What the faults that strike in the element do to it, in the order of their places."""
        edits: list[Edit] = []
        self._known.layout = self._ledger.layout
        for found in tuple(self._matchers):
            try:
                place = found.find(element, self._known)
                if place is not None:
                    edits.append(edit_of(found.fault, place, element))
                    self._matchers.remove(found)
            except Miss as miss:
                self._miss(found, f"at the {self._describe(element)}: {miss}")
        return sorted(edits, key=lambda edit: edit.start)

    def _describe(self, element: Element) -> str:
        return describe(element, page_bytes=self._known.page_bytes)

    def _miss(self, found: Matcher, why: str) -> None:
        self._matchers.remove(found)
        self._ledger.miss(found.fault, why)

    def _strike(self, edit: Edit, element: Element) -> Iterator[Command]:
        fault = edit.fault
        self._ledger.strike(fault)
        self._deleting = edit.deletes or self._deleting
        yield Observed(
            "fault-struck",
            {
                "fault": fault.name,
                "action": type(fault.action).__name__.lower(),
                "direction": self._direction,
                "offset": element.offset + edit.start,
                "element": self._describe(element),
                "certainty": element.certainty.value,
                "before": element.raw[edit.start : edit.end][:HEX_BYTES_MAX].hex(),
                "after": edit.new[:HEX_BYTES_MAX].hex(),
            },
        )
        yield from self._send(edit.new)
        if isinstance(fault.action, Truncate):
            yield from self.truncate()
        for command in connection_commands(fault):
            self.obey(command)
            yield command


def _is_in_device_state(fault: Fault) -> bool:
    """True if the fault may strike in device state."""
    place = fault.place
    return isinstance(place, SectionPlace) and place.kind in (None, "full") and place.idstr != "ram"


def _is_in_package(fault: Fault) -> bool:
    """True if the fault may strike in a package where its boundaries or its size matter."""
    changes = not isinstance(fault.action, BETWEEN_BYTES)
    return _is_in_device_state(fault) or (
        changes and isinstance(fault.place, CommandPlace | OffsetPlace)
    )


def _joined(commands: list[Command]) -> list[Command]:
    """The same commands, with what is sent in a row sent at once: a page record is small."""
    joined: list[Command] = []
    run: list[bytes | memoryview] = []
    for command in [*commands, None]:
        if isinstance(command, Send):
            run.append(command.data)
            toward = command.toward
            continue
        if run:
            joined.append(Send(toward, b"".join(run)))
            run = []
        if command is not None:
            joined.append(command)
    return joined
