"""The fault engine: elements of a migration in, commands out. Does no I/O.

With nothing armed, bytes pass at once and the parser only watches: labels wait, bytes do not. With
a fault armed, bytes go on element by element, so that it strikes exactly where it says. What lies
in the device phase is held until the vmdesc (precopy) or the package's end (postcopy) tells its
boundaries for certain; RAM never is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from testbed.wire import Layout, MainChannel, ReturnPath
from testbed.wire.element import (
    Command as StreamCommand,
)
from testbed.wire.element import (
    CommandType,
    Element,
    Payload,
    SectionFooter,
    SectionHeader,
    SectionType,
    VmDescription,
)

from .command import Command, End, GoDark, HalfClose, Observed, Send, Wait
from .describe import describe, describe_place
from .place import Known, Matcher, Miss, Range, matcher, on_return_path
from .plan import (
    Blackhole,
    Close,
    CommandPlace,
    Delete,
    Fault,
    FlipBits,
    Insert,
    Point,
    Reset,
    SectionPlace,
    SetField,
    Side,
    Stall,
    StatePlace,
    Truncate,
)
from .watch import Watch

DEVICE_BYTES_MAX = 16 << 20
"""Device state kept for comparison, and held while its boundaries are unknown."""
HEX_BYTES_MAX = 32
"""Of what a fault changed, in the log."""
CONNECTION_ACTIONS = (Close, Reset, Blackhole, Stall)


@dataclass(slots=True)
class FaultEngine:
    """The faults of a run, and what is known of its migrations as a whole."""

    faults: tuple[Fault, ...] = ()
    attempt: int = 1
    layout: Layout | None = None
    device_sections: dict[tuple[str, int], tuple[SectionHeader, bytes]] = field(
        default_factory=dict
    )
    _struck: set[str] = field(default_factory=set)
    _misses: dict[str, str] = field(default_factory=dict)
    _seen: dict[tuple[int, bool], str] = field(default_factory=dict)
    _last: Relay | None = None

    def connection(self) -> Relay:
        """The relay of a new main connection of this attempt.

        The second one of an attempt recovers the first: its parsers go on where those were.
        """
        previous = self._last
        if previous is None or previous.attempt != self.attempt:
            self._last = Relay(self, self.attempt, 1, MainChannel(), ReturnPath())
        else:
            self._last = Relay(
                self,
                self.attempt,
                previous.number + 1,
                previous.forward.recovered(),
                previous.backward.recovered(),
            )
        return self._last

    def next_attempt(self) -> None:
        """What comes now belongs to another migration."""
        self.attempt += 1

    def armed(self, attempt: int, connection: int) -> list[Fault]:
        """Faults that may still strike that connection."""
        return [
            fault
            for fault in self.faults
            if fault.name not in self._struck
            and fault.attempt == attempt
            and fault.connection in (None, connection)
        ]

    def strike(self, fault: Fault) -> None:
        """Note that the fault has struck."""
        self._struck.add(fault.name)

    def miss(self, fault: Fault, why: str) -> None:
        """Note that the fault came to its place and could not be placed."""
        self._misses[fault.name] = why

    def saw(self, attempt: int, return_path: bool, seen: str) -> None:
        """Note what passed, for `unfired`."""
        self._seen[attempt, return_path] = seen

    def unfired(self) -> list[str]:
        """A sentence for each fault that never struck."""
        sentences = []
        for number, fault in enumerate(self.faults, 1):
            if fault.name in self._struck:
                continue
            seen = self._seen.get((fault.attempt, on_return_path(fault.place)), "")
            why = self._misses.get(fault.name) or (
                f"no {describe_place(fault.place)} passed; the stream had {seen or 'nothing'}"
            )
            sentences.append(f"fault {number} ({fault.name}) never fired: {why}")
        return sentences


class Relay:
    """One proxied main connection: both directions, their parsers, the faults between them."""

    def __init__(
        self,
        engine: FaultEngine,
        attempt: int,
        number: int,
        forward: MainChannel,
        backward: ReturnPath,
    ) -> None:
        self.attempt = attempt
        self.number = number
        self.forward = forward
        self.backward = backward
        faults = engine.armed(attempt, number)
        self._engine = engine
        self._states = [fault for fault in faults if isinstance(fault.place, StatePlace)]
        self._state_counts = dict.fromkeys((fault.name for fault in self._states), 0)
        self._lanes = {
            Side.DESTINATION: _Lane(engine, self, Side.DESTINATION, forward, faults),
            Side.SOURCE: _Lane(engine, self, Side.SOURCE, backward, faults),
        }

    def received(self, sender: Side, data: bytes) -> list[Command]:
        """Bytes came from that side: what to do."""
        return self._lanes[_other(sender)].received(data)

    def ended(self, sender: Side) -> list[Command]:
        """That side will send no more."""
        return self._lanes[_other(sender)].ended()

    def silence(self) -> list[Command]:
        """Neither side has sent anything for a while: what waits for more is decided now."""
        return [command for lane in self._lanes.values() for command in lane.silence()]

    def observed(self, side: Side, event: str, status: str | None) -> list[Command]:
        """QMP reported an event (`MIGRATION` with its status): strike what waits for it."""
        commands: list[Command] = []
        for fault in list(self._states):
            place = fault.place
            assert isinstance(place, StatePlace)
            wanted = status == place.status if place.status else event == place.event
            if place.side is side and wanted:
                self._state_counts[fault.name] += 1
                if self._state_counts[fault.name] == place.occurrence:
                    self._states.remove(fault)
                    self._engine.strike(fault)
                    commands += self._struck_at_state(fault, status or event)
        return commands

    def _struck_at_state(self, fault: Fault, what: str) -> list[Command]:
        place = fault.place
        assert isinstance(place, StatePlace)
        facts = {"fault": fault.name, "element": f"{place.side} reported {what}"}
        action = type(fault.action).__name__.lower()
        commands: list[Command] = [Observed("fault-struck", {**facts, "action": action})]
        for lane in self._lanes.values():
            if isinstance(fault.action, Truncate) and lane.toward is Side.DESTINATION:
                commands += lane.truncate()
        return commands + self.connection_action(fault)

    def connection_action(self, fault: Fault) -> list[Command]:
        """The commands of an action that is on the connection, not on content."""
        match fault.action:
            case Close(side=side) | Reset(side=side):
                reset = isinstance(fault.action, Reset)
                return [End(each, reset) for each in _each(side)]
            case Blackhole(toward=toward, swallow=swallow):
                return [GoDark(each, swallow) for each in _each(toward)]
            case Stall(for_s=for_s, toward=toward):
                return [Wait(each, for_s) for each in _each(toward)]
        return []


class _Lane:
    """One direction: what came in, what may go on."""

    def __init__(
        self,
        engine: FaultEngine,
        relay: Relay,
        toward: Side,
        parser: MainChannel | ReturnPath,
        faults: Iterable[Fault],
    ) -> None:
        self.toward = toward
        self._engine = engine
        self._relay = relay
        self._parser = parser
        self._known = Known(postcopy=relay.number > 1)
        self._live_ended = False  # an END section has passed: FULL ones are the device phase
        self._watch = Watch("forward" if toward is Side.DESTINATION else "return path")
        self._matchers: list[Matcher] = [
            found
            for fault in faults
            if on_return_path(fault.place) == (toward is Side.SOURCE)
            and (found := matcher(fault, self._known)) is not None
        ]
        self._tail = bytearray()  # came in, in no element yet; kept while armed
        self._ahead = 0  # bytes of the elements to come that have gone already
        self._held: list[Element] | None = None
        self._package_left = 0  # bytes of the package still to come, while it is held
        self._deleting: Fault | None = None  # a section that is being taken out
        self._cut = False  # nothing more goes this way

    @property
    def _armed(self) -> bool:
        return bool(self._matchers) or self._deleting is not None or self._held is not None

    def received(self, data: bytes) -> list[Command]:
        was_armed = self._armed
        if was_armed:
            self._tail += data
        elements = self._parser.feed(data)
        commands = self._elements(elements)
        if not was_armed:
            return [*self._send(data), *commands]
        if not self._armed:
            commands += self._flush()
        return commands

    def ended(self) -> list[Command]:
        elements = self._parser.end()
        commands = self._elements(elements)
        commands += self._release()
        commands += self._flush()
        commands += [Observed(*each) for each in self._watch.totals(self._parser.seen())]
        self._engine.saw(self._relay.attempt, self.toward is Side.SOURCE, self._parser.seen())
        if not self._cut:
            commands.append(HalfClose(self.toward))
        return commands

    def silence(self) -> list[Command]:
        commands = self._elements(self._parser.silence())
        commands += self._release()
        return commands + self._flush()

    def truncate(self) -> list[Command]:
        """The stream ends here for the receiver; the rest is swallowed."""
        if self._cut:
            return []
        self._cut = True
        return [HalfClose(self.toward)]

    # Elements on their way

    def _elements(self, elements: list[Element]) -> list[Command]:
        commands: list[Command] = []
        for element in elements:
            commands += [Observed(*each) for each in self._watch.element(element)]
            self._keep(element)
            if self._tail:
                commands += self._pass_or_hold(element)
        self._engine.saw(self._relay.attempt, self.toward is Side.SOURCE, self._parser.seen())
        progress = self._watch.progress(getattr(self._parser, "phase", None))
        return [*commands, *(Observed(*each) for each in progress)]

    def _keep(self, element: Element) -> None:
        """Remember the device state that the source sent, and its layout."""
        value, section = element.value, element.section
        if isinstance(value, Payload) and section is not None and section.type is SectionType.FULL:
            sections = self._engine.device_sections
            if sum(len(data) for _, data in sections.values()) < DEVICE_BYTES_MAX:
                sections[section.idstr, section.instance_id] = section, value.data
        elif isinstance(value, SectionHeader) and value.type is SectionType.END:
            self._live_ended = True
        elif isinstance(value, StreamCommand) and value.command == CommandType.POSTCOPY_RUN:
            self._known.postcopy = True
        elif isinstance(value, VmDescription) and isinstance(self._parser, MainChannel):
            self._engine.layout = self._parser.layout or self._engine.layout

    def _pass_or_hold(self, element: Element) -> list[Command]:
        """Send the element on, or hold it while what it belongs to is not understood."""
        del self._tail[: len(element.raw)]
        if self._held is not None:
            self._held.append(element)
            return self._release() if self._understood(element) else []
        if self._begins_device_phase(element) or self._begins_package(element):
            self._held = [element]
            return []
        return list(self._process(element))

    def _begins_device_phase(self, element: Element) -> bool:
        return (
            isinstance(element.value, SectionHeader)
            and element.value.type is SectionType.FULL
            and not element.in_package
            and self._live_ended
            and any(_in_device_state(found.fault) for found in self._matchers)
        )

    def _begins_package(self, element: Element) -> bool:
        value = element.value
        if not (isinstance(value, StreamCommand) and value.command == CommandType.PACKAGED):
            return False
        self._package_left = int.from_bytes(value.payload, "big")
        return any(_in_package(found.fault) for found in self._matchers)

    def _understood(self, element: Element) -> bool:
        """True once the held elements' boundaries are as sure as they will get."""
        assert self._held is not None
        if self._package_left:
            self._package_left -= len(element.raw)
            return self._package_left <= 0
        size = sum(len(held.raw) for held in self._held)
        return isinstance(element.value, VmDescription) or size > DEVICE_BYTES_MAX

    def _release(self) -> list[Command]:
        """Send on what was held, with its faults."""
        held, self._held, self._package_left = self._held, None, 0
        if not held:
            return []
        first = held[0].value
        commands = [command for element in held for command in self._process(element)]
        if isinstance(first, StreamCommand) and first.command == CommandType.PACKAGED:
            return _resized(commands, held)
        return commands

    def _flush(self) -> list[Command]:
        """Send what is in no element yet; its element must not be sent again."""
        pending = bytes(self._tail[self._ahead :])
        if self._armed:
            self._ahead = len(self._tail)
        else:
            self._tail.clear()
            self._ahead = 0
        return self._send(pending)

    def _send(self, data: bytes) -> list[Command]:
        return [Send(self.toward, data)] if data and not self._cut else []

    # Striking

    def _process(self, element: Element) -> Iterator[Command]:
        """The commands that send the element on, changed by the faults that strike in it."""
        if self._ahead:  # it has gone in part, while the sender was silent
            gone = min(self._ahead, len(element.raw))
            self._ahead -= gone
            yield from self._send(element.raw[gone:])
            return
        if self._deleting is not None:
            if isinstance(element.value, SectionFooter):
                self._deleting = None
            return
        at = 0
        for fault, found in self._hits(element):
            if found.start < at or self._cut:
                continue
            yield from self._strike(fault, found, element, at)
            at = self._after(fault, found, element)
        if at < len(element.raw):
            yield from self._send(element.raw[at:])

    def _hits(self, element: Element) -> list[tuple[Fault, Range]]:
        hits: list[tuple[Fault, Range]] = []
        self._known.layout = self._engine.layout
        for found in list(self._matchers):
            try:
                place = found.find(element)
            except Miss as miss:
                self._matchers.remove(found)
                self._engine.miss(found.fault, f"at the {describe(element)}: {miss}")
                continue
            if place is not None:
                self._matchers.remove(found)
                hits.append((found.fault, place))
        return sorted(hits, key=lambda hit: hit[1].start)

    def _strike(self, fault: Fault, found: Range, element: Element, at: int) -> Iterator[Command]:
        """Send the element from `at` up to the place, and act there."""
        raw = element.raw
        position = found.start if fault.point is Point.BEFORE else found.end
        before, after = b"", b""
        commands: list[Command] = []
        match fault.action:
            case Insert(data=data):
                after = data
            case SetField() | FlipBits():
                position = found.start
                end = self._after(fault, found, element)
                before = raw[position:end]
                after = _changed(fault, before)
            case Delete():
                position = found.start
                before = raw[found.start : found.end]
                if _whole_section(fault):
                    self._deleting = fault
            case Truncate():
                pass
            case _:
                commands = self._relay.connection_action(fault)
        self._engine.strike(fault)
        yield from self._send(raw[at:position])
        yield Observed(
            "fault-struck",
            {
                "fault": fault.name,
                "action": type(fault.action).__name__.lower(),
                "direction": "forward" if self.toward is Side.DESTINATION else "return path",
                "offset": element.offset + position,
                "element": describe(element),
                "certainty": element.certainty.value,
                "before": before[:HEX_BYTES_MAX].hex(),
                "after": after[:HEX_BYTES_MAX].hex(),
            },
        )
        yield from self._send(after)
        if isinstance(fault.action, Truncate):
            yield from self.truncate()
        yield from commands

    def _after(self, fault: Fault, found: Range, element: Element) -> int:
        """Where in the element sending goes on after the fault."""
        match fault.action:
            case SetField(value=bytes(value)) if found.one_byte:
                return min(found.start + len(value), len(element.raw))
            case FlipBits(mask=mask):
                return min(found.start + len(mask), len(element.raw))
            case SetField():
                return found.end
            case Delete():
                return len(element.raw) if _whole_section(fault) else found.end
        return found.start if fault.point is Point.BEFORE else found.end


def _changed(fault: Fault, before: bytes) -> bytes:
    match fault.action:
        case SetField(value=int(value)):
            return (value % (1 << 8 * len(before))).to_bytes(len(before), "big")
        case SetField(value=bytes(value)):
            return value
        case FlipBits(mask=mask):
            return bytes(a ^ b for a, b in zip(before, mask, strict=False))
    return before


def _resized(commands: list[Command], held: list[Element]) -> list[Command]:
    """Make PACKAGED's be32 say the size that the package has now.

    Not where the fault is on that very command, or cuts the connection inside the package.
    """
    header, *inner = held
    size = sum(len(element.raw) for element in inner)
    sent = [command for command in commands if isinstance(command, Send)]
    whole = sum(len(command.data) for command in sent)
    cut = any(isinstance(command, End | HalfClose | GoDark) for command in commands)
    if cut or not sent or sent[0].data[: len(header.raw)] != header.raw:
        return commands
    new_size = whole - len(header.raw)
    if new_size == size:
        return commands
    first = commands.index(sent[0])
    data = header.raw[:-4] + new_size.to_bytes(4, "big") + sent[0].data[len(header.raw) :]
    return [*commands[:first], Send(sent[0].toward, data), *commands[first + 1 :]]


def _whole_section(fault: Fault) -> bool:
    place = fault.place
    return (
        isinstance(fault.action, Delete)
        and isinstance(place, SectionPlace)
        and place.part == "section"
    )


def _in_device_state(fault: Fault) -> bool:
    place = fault.place
    return isinstance(place, SectionPlace) and place.kind in (None, "full") and place.idstr != "ram"


def _in_package(fault: Fault) -> bool:
    content = not isinstance(fault.action, (*CONNECTION_ACTIONS, Truncate))
    return _in_device_state(fault) or (isinstance(fault.place, CommandPlace) and content)


def _other(side: Side) -> Side:
    return Side.DESTINATION if side is Side.SOURCE else Side.SOURCE


def _each(side: Side) -> tuple[Side, ...]:
    return (Side.SOURCE, Side.DESTINATION) if side is Side.BOTH else (side,)


def validate_fault(fault: Fault) -> str | None:
    """Say why a fault makes no sense; None if it does."""
    content = not isinstance(fault.action, (*CONNECTION_ACTIONS, Truncate))
    if isinstance(fault.place, StatePlace) and content:
        return "a state is no place in the stream: only the connection can be acted on there"
    whole = isinstance(fault.place, SectionPlace) and fault.place.part == "section"
    if whole and isinstance(fault.action, SetField | FlipBits):
        return (
            "say which `part` of the section (header, payload, footer) and which `field` or `byte`"
        )
    return None
