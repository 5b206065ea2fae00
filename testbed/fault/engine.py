"""The fault engine: elements of a migration in, commands out. Does no I/O.

With nothing armed, bytes pass at once and the parser only watches: labels wait, bytes do not. With
a fault armed, bytes go on element by element, so that it strikes exactly where it says. What lies
in the device phase is held until the vmdesc (precopy) or the package's end (postcopy) tells its
boundaries for certain; RAM never is.
"""

from __future__ import annotations

from collections import Counter

from testbed.wire import ChannelKind, Layout
from testbed.wire.channel import Channel as ChannelParser
from testbed.wire.successor import Phase
from testbed.wire.witness import Witness

from .command import Command, Everywhere, Observed, Signalled
from .lanes.lane import Lane
from .lanes.relay import Relay
from .parsers import PAGE_BYTES, page_bytes_of, parsers, unread_places
from .places.place import channel_of, number_of
from .places.trigger import chances
from .plan import (
    Bandwidth,
    Blackhole,
    Channel,
    ConnectionPlace,
    Fault,
    HalfClose,
    Latency,
    Refuse,
    Restore,
    Side,
    Signal,
    Slice,
    Stall,
    StatePlace,
    Truncate,
)
from .sentence import action_name, action_words
from .strikes.carried import connection_commands
from .strikes.describe import describe_place
from .strikes.ledger import DeviceSections, Ledger, SectionsSent
from .strikes.outlet import Outlet
from .strikes.scene import Scene
from .strikes.strikes import Strikes
from .strikes.ways import Ways
from .validate import validate_fault

__all__ = ["FaultEngine", "validate_fault"]

CHANNELS = {
    ChannelKind.MAIN: Channel.MAIN,
    ChannelKind.RECOVERY: Channel.MAIN,
    ChannelKind.MULTIFD: Channel.MULTIFD,
    ChannelKind.PREEMPT: Channel.PREEMPT,
    ChannelKind.TLS: Channel.TLS,
}
VCPUS_RUN = {"STOP": False, "RESUME": True}
"""QMP events that say whether the vCPUs run."""
RELAYS_MAX = 1024
"""Connections of an attempt that are known of; the data plane has 256 open at most."""
ATTEMPTS_MAX = 64
"""Past ones of which is known what passed."""
LASTING = (Blackhole, HalfClose, Truncate, Stall, Latency, Bandwidth, Slice, Restore)
"""What goes on after the moment: on a connection that just came, it begins with the first byte."""
Due = tuple[Fault, str]
"""A fault whose state has come, and what was reported."""


class FaultEngine:
    """The faults of a run, and what is known of its migrations as a whole.

    Args:
        faults: their names differ.
        seed: of what is left to chance.
        watched: what passes is told (`Observed`); else only what faults do, and what no fault
            needs to see need not be shown (`Relay.is_passing`).
        witness: sees the data of pages as the source sends them.
    """

    def __init__(
        self,
        faults: tuple[Fault, ...] = (),
        *,
        seed: int = 0,
        watched: bool = True,
        witness: Witness | None = None,
    ) -> None:
        self.faults = faults
        self.seed = seed
        self.attempt = 1
        self._watched = watched
        self._witness = witness
        self._ledger = Ledger()
        self._chance = chances(faults, seed)
        self._seen: dict[int, dict[tuple[Channel, int], str]] = {}  # of past attempts
        self._vcpus_run = True  # of the source, as QMP said last
        self._begin()

    @property
    def layout(self) -> Layout | None:
        """The last vmdesc that came."""
        return self._ledger.layout

    @property
    def device_sections(self) -> DeviceSections:
        """Header and payload of each FULL section by (idstr, instance_id), as last sent."""
        return self._ledger.device_sections

    @property
    def altered_sections(self) -> dict[tuple[str, int], bytes]:
        """Payloads of `device_sections` that a fault changed, as they left."""
        return self._ledger.altered_sections

    @property
    def sections_sent(self) -> SectionsSent:
        """The sections of the last stream, as the source sent them."""
        return self._ledger.sections

    def next_attempt(self) -> None:
        """What comes now belongs to another migration."""
        if any(fault.attempt == self.attempt for fault in self.faults):  # else nobody asks for it
            self._seen[self.attempt] = self._seen_now()
        self._seen.pop(self.attempt - ATTEMPTS_MAX, None)
        self.attempt += 1
        self._begin()

    def _begin(self) -> None:
        self._scene = Scene(self.attempt, self.faults, self._ledger, self._chance)
        self._scene.vcpus_run = self._vcpus_run
        self._relays: dict[int, Relay] = {}
        self._numbers: Counter[Channel] = Counter()  # connections of each channel so far
        self._due: list[Due] = []  # their state came while there was no connection
        self._opening: dict[int, list[Command]] = {}  # of connections that are no relay yet
        self._coming: dict[int, Ways] = {}  # of those that faults have touched
        self._refuses = False  # for the rest of the attempt
        self._awaited = 0  # what may come next

    # Connections

    def awaiting(self, number: int) -> list[Command]:
        """What there is to do while connection `number` of the attempt is what may come next.

        StopListening and Observed; either can also come later, in what is answered to anything
        else, when what a fault waits for is reached.
        """
        self._awaited = number
        return self._refusals()

    def came(self, number: int) -> list[Command]:
        """What there is to do with connection `number` of the attempt: nothing of it was read.

        HoldBack, Tarpit, End, Signalled, Everywhere, Observed. What goes on for longer (Wait,
        Shape, GoDark, HalfClose) comes as its relay's `opening`.
        """
        self._scene.came(number)
        commands: list[Command] = []
        for fault in self._scene.at_connection(number, refusing=False):
            ways = self._coming.setdefault(number, Ways())
            struck, more = self._struck(fault, f"connection {number} came", ways)
            commands += struck
            if isinstance(fault.action, LASTING) and not fault.everywhere:
                self._opening.setdefault(number, []).extend(more)
            else:
                commands += more
        self._everywhere(commands)
        return commands + self._refusals()

    @property
    def awaits_recovery(self) -> bool:
        """The last main channel is over, and was in postcopy: both ends are paused."""
        main = self._last(Channel.MAIN)
        return main is not None and main.is_over and main.phase == Phase.POSTCOPY

    def connection(self, number: int, kind: ChannelKind | None) -> Relay:
        """The relay of connection `number` of this attempt, told apart by its first bytes.

        Args:
            number: of the connections of the attempt, from 1, in the order in which they came.
            kind: None: nothing that we know.
        """
        channel = Channel.UNKNOWN if kind is None else CHANNELS.get(kind, Channel.UNKNOWN)
        main = self._last(Channel.MAIN)
        self._numbers[channel] += 1
        connection = max(self._numbers[Channel.MAIN], 1)
        index = self._numbers[channel]
        page_bytes = PAGE_BYTES if main is None else page_bytes_of(main.forward.parser)
        lost = None if main is None else (main.forward.parser, main.backward.parser)
        forward, backward = parsers(
            kind, lost, page_bytes, unread_places(self.faults), self._witness
        )
        ways = self._coming.pop(number, None) or Ways()
        self._scene.ways.add(ways)
        relay = Relay(
            number,
            channel,
            connection,
            self._lane(Side.DESTINATION, forward, ways, channel, index, connection),
            self._lane(Side.SOURCE, backward, ways, _back(channel), index, connection),
            ways,
            self._answered,
        )
        in_postcopy = kind in (ChannelKind.RECOVERY, ChannelKind.PREEMPT)
        relay.forward.begin(postcopy=in_postcopy, page_bytes=page_bytes)
        self._forget()
        self._relays[number] = relay
        opening = self._opening.pop(number, [])
        for fault, reported in self._take_due(relay):
            struck, more = self._struck(fault, reported, relay.ways, _toward(fault))
            opening += struck + more
        relay.opening = relay.struck(opening)
        return relay

    def observed(
        self, side: Side, event: str, status: str | None = None
    ) -> list[tuple[int, list[Command]]]:
        """QMP reported an event (`MIGRATION` with its status): strike what waits for it.

        A state that comes while there is no connection strikes the next one as it begins.

        Returns:
            Commands, and the number of the attempt's connection that they are for; 0 for what is
            for none of them (Signalled, StopListening, Everywhere, Observed).
        """
        if side is Side.SOURCE:
            self._vcpus_run = VCPUS_RUN.get(event, self._vcpus_run)
            self._scene.vcpus_run = VCPUS_RUN.get(event, self._scene.vcpus_run)
        reported = f"{side} reported {status or event}"
        answers: list[tuple[int, list[Command]]] = []
        for fault in self._scene.reported(side, event, status):
            relay = self._relay_for(fault)
            if relay is None and not self._needs_none(fault):
                if all(due is not fault for due, _ in self._due):
                    self._due.append((fault, reported))
                continue
            ways = None if relay is None else relay.ways
            toward = Side.DESTINATION if relay is None else _toward(fault)
            struck, more = self._struck(fault, reported, ways, toward)
            commands = struck + more
            if relay is None:
                self._everywhere(commands)
                answers.append((0, commands))
            else:
                answers.append((relay.number, relay.struck(commands)))
        if refusals := self._refusals():
            answers.append((0, refusals))
        return answers

    def changed_nothing(self, struck: Observed, why: str) -> None:
        """A fault that was taken to strike, by a command that carried `struck`, did not."""
        facts = struck.facts
        where = f"at the {facts['element']}" if "channel" in facts else facts["element"]
        self._ledger.undo(facts["fault"], f"{where}: {why}")

    # What never struck

    def unfired(self) -> list[str]:
        """A sentence for each fault that never struck."""
        return [
            f"fault {number} ({fault.name}) never fired: {self._why_not(fault)}"
            for number, fault in enumerate(self.faults, 1)
            if fault.name not in self._ledger.struck
        ]

    def _why_not(self, fault: Fault) -> str:
        if fault.name in self._ledger.misses:
            return self._ledger.misses[fault.name]
        what = describe_place(fault.place)
        if isinstance(fault.place, StatePlace):
            if any(due is fault for due, _ in self._due):
                return f"there was no connection when {what} came"
            return f"no {what} was reported"
        if isinstance(fault.place, ConnectionPlace):
            return f"{what} never came"
        seen = "nothing"
        attempt = self.attempt if fault.attempt is None else fault.attempt
        told = self._seen_now() if attempt == self.attempt else self._seen.get(attempt, {})
        channel = channel_of(fault.place)
        for (each, number), words in told.items():
            if each is channel and number_of(fault.place) in (None, number):
                seen = words
        return f"no {what} passed; the stream had {seen}"

    def _seen_now(self) -> dict[tuple[Channel, int], str]:
        """What passed, by channel and number; of a recovered one all of it."""
        seen: dict[tuple[Channel, int], str] = {}
        for relay in self._relays.values():
            seen[relay.channel, relay.forward.number] = relay.forward.seen()
            back = _back(relay.channel)
            if back is not None:
                seen[back, relay.forward.number] = relay.backward.seen()
        return seen

    # Inside

    def _lane(
        self,
        toward: Side,
        parser: ChannelParser,
        ways: Ways,
        channel: Channel | None,
        number: int,
        connection: int,
    ) -> Lane[ChannelParser]:
        outlet = Outlet(toward)
        strikes = Strikes(self._scene, outlet, ways, channel, number, connection)
        return Lane(outlet, parser, strikes, self._scene, watched=self._watched)

    def _forget(self) -> None:
        """Forget the oldest connection that is over, when there are too many."""
        if len(self._relays) < RELAYS_MAX:
            return
        main = self._last(Channel.MAIN)  # a recovery goes on with it
        others = [each for each in self._relays.values() if each is not main]
        oldest = next((each for each in others if each.is_over), others[0])
        del self._relays[oldest.number]

    def _last(self, channel: Channel, number: int | None = None) -> Relay | None:
        """The last connection with that channel."""
        found = None
        for relay in self._relays.values():
            carries = channel in (relay.channel, _back(relay.channel))
            if carries and number in (None, relay.forward.number):
                found = relay
        return found

    def _relay_for(self, fault: Fault) -> Relay | None:
        """The live connection that a fault with no place in the stream acts on."""
        assert isinstance(fault.place, StatePlace)
        relay = self._last(fault.place.channel, fault.place.number)
        if relay is None or relay.is_over or fault.connection not in (None, relay.connection):
            return None
        return relay

    def _take_due(self, relay: Relay) -> list[Due]:
        """The faults whose state has come, for that connection: they strike now."""
        due = [each for each in self._due if self._is_for(each[0], relay)]
        for each in due:
            self._due.remove(each)
        return due

    def _is_for(self, fault: Fault, relay: Relay) -> bool:
        place = fault.place
        assert isinstance(place, StatePlace)
        carries = place.channel in (relay.channel, _back(relay.channel))
        numbered = place.number in (None, relay.forward.number)
        return carries and numbered and fault.connection in (None, relay.connection)

    def _needs_none(self, fault: Fault) -> bool:
        """True if it needs no connection to act on."""
        commands = connection_commands(fault, Side.DESTINATION)
        return all(isinstance(command, Signalled) for command in commands)

    def _struck(
        self,
        fault: Fault,
        what: str,
        ways: Ways | None = None,
        toward: Side = Side.DESTINATION,
    ) -> tuple[list[Command], list[Command]]:
        """A fault strikes where no stream is: what is told of it, and what it does.

        Args:
            fault: that strikes.
            what: has come.
            ways: of the connection that it is on; None: of none.
            toward: the side that the way leads to which its place names.
        """
        commands = connection_commands(fault, toward)
        if ways is not None:
            if (why := self._scene.idle(commands, ways)) is not None:
                self._ledger.miss(fault, f"{what}: {why}")
                return [], []
            self._scene.obey(commands, ways)
        strikes = self._ledger.strike(fault)
        facts: dict[str, object] = {
            "fault": fault.name,
            "action": action_name(fault.action),
            "does": action_words(fault.action),
            "element": what,
        }
        if fault.times != 1:
            facts["strike"] = strikes
        struck = Observed("fault-struck", facts)
        if isinstance(fault.action, Signal):
            return [], connection_commands(fault, toward, struck)
        return [struck], commands

    def _answered(self, commands: list[Command]) -> list[Command]:
        """A connection's faults did that: what it means for others, and what follows from it."""
        self._everywhere(commands)
        return self._refusals()

    def _everywhere(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Everywhere):
                for relay in self._relays.values():
                    relay.obey(command.command)

    def _refusals(self) -> list[Command]:
        """What ends listening for the connection that may come next; each is asked once."""
        commands: list[Command] = []
        for fault in self._scene.at_connection(self._awaited, refusing=True):
            if self._refuses:
                self._ledger.miss(fault, "nobody listened any more already")
                continue
            self._refuses = isinstance(fault.action, Refuse) and fault.action.for_s is None
            struck, more = self._struck(fault, f"connection {self._awaited} is awaited")
            commands += struck + more
        return commands


def _toward(fault: Fault) -> Side:
    """The side that the way leads to which a place without a stream names."""
    place = fault.place
    returns = isinstance(place, StatePlace) and place.channel is Channel.RETURN_PATH
    return Side.SOURCE if returns else Side.DESTINATION


def _back(channel: Channel) -> Channel | None:
    """What the direction destination to source is, where a place can name it."""
    return Channel.RETURN_PATH if channel in (Channel.MAIN, Channel.TLS) else None
