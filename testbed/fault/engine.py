"""The fault engine: elements of a migration in, commands out. Does no I/O.

With nothing armed, bytes pass at once and the parser only watches: labels wait, bytes do not. With
a fault armed, bytes go on element by element, so that it strikes exactly where it says. What lies
in the device phase is held until the vmdesc (precopy) or the package's end (postcopy) tells its
boundaries for certain; RAM never is.
"""

from __future__ import annotations

from testbed.wire import ChannelKind, Layout, MainChannel, ReturnPath

from .command import Command
from .describe import describe_place
from .lane import Lane, Parser
from .ledger import DeviceSections, Ledger
from .place import matcher, on_return_path
from .plan import Fault, Side, StatePlace
from .relay import Due, Passing, Relay
from .validate import validate_fault

__all__ = ["FaultEngine", "validate_fault"]


class FaultEngine:
    """The faults of a run, and what is known of its migrations as a whole.

    Args:
        faults: their names differ.
        seed: of what is left to chance.
    """

    def __init__(self, faults: tuple[Fault, ...] = (), *, seed: int = 0) -> None:
        self.faults = faults
        self.seed = seed
        self.attempt = 1
        self._ledger = Ledger()
        self._matchers = [found for fault in faults if (found := matcher(fault)) is not None]
        self._state_counts = dict.fromkeys((fault.name for fault in faults), 0)
        self._number_of_main = 0
        self._due: list[Due] = []  # their state came while there was no connection
        self._relays: dict[int, Relay] = {}  # the last one of each attempt

    @property
    def layout(self) -> Layout | None:
        """The last vmdesc that came."""
        return self._ledger.layout

    @property
    def device_sections(self) -> DeviceSections:
        """Header and payload of each FULL section by (idstr, instance_id), as last sent."""
        return self._ledger.device_sections

    def next_attempt(self) -> None:
        """What comes now belongs to another migration."""
        self.attempt += 1
        self._due.clear()

    def awaiting(self, _number: int, /) -> list[Command]:
        """What there is to do while connection `number` of the attempt is what may come next.

        Only here, and in what a relay or `observed` answers later, StopListening can come.
        """
        return []

    def came(self, _number: int, /) -> list[Command]:
        """What there is to do with connection `number` of the attempt: nothing of it was read.

        HoldBack, Tarpit, End (of the source's side), Signalled, Everywhere, Observed. What goes on
        for longer (Wait, Shape, GoDark, HalfClose) is in its relay's `opening`.
        """
        return []

    def connection(self, number: int, kind: ChannelKind | None) -> Passing:
        """The relay of connection `number` of this attempt, told apart by its first bytes.

        Args:
            number: of the connections of the attempt, from 1, in the order in which they came.
            kind: None: nothing that we know.
        """
        if kind not in (ChannelKind.MAIN, ChannelKind.RECOVERY):
            return Passing()
        recovers = kind is ChannelKind.RECOVERY
        self._number_of_main = number
        previous = self._relays.get(self.attempt)
        number = 1 if previous is None else previous.number + 1
        main, back = MainChannel(), ReturnPath()
        recovers = recovers and previous is not None
        if previous is not None and recovers:
            main, back = previous.forward.parser.recovered(), previous.backward.parser.recovered()
        relay = Relay(
            number,
            self._lane(Side.DESTINATION, main, number, postcopy=recovers),
            self._lane(Side.SOURCE, back, number, postcopy=recovers),
            self._take_due(number),
        )
        self._relays[self.attempt] = relay
        return relay

    def observed(
        self, side: Side, event: str, status: str | None = None
    ) -> list[tuple[int, list[Command]]]:
        """QMP reported an event (`MIGRATION` with its status): strike what waits for it.

        A state that comes while there is no connection strikes the next one as it begins.

        Returns:
            Commands, and the number of the attempt's connection that they are for; 0 for what is
            for none of them (Signalled, StopListening, Observed).
        """
        for fault in self.faults:
            place = fault.place
            if not isinstance(place, StatePlace) or fault.attempt != self.attempt:
                continue
            wanted = status == place.status if place.status else event == place.event
            if place.side is side and wanted:
                self._state_counts[fault.name] += 1
                if self._state_counts[fault.name] == place.occurrence:
                    self._due.append((fault, f"{side} reported {status or event}"))
        relay = self._relays.get(self.attempt)
        if relay is None or relay.is_over:
            return []
        commands = relay.strike(self._take_due(relay.number))
        return [(self._number_of_main, commands)] if commands else []

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
            if self._state_counts[fault.name] >= fault.place.occurrence:
                return f"there was no connection when {what} came"
            return f"no {what} was reported"
        seen = "nothing"
        if (relay := self._relays.get(fault.attempt)) is not None:
            lane = relay.backward if on_return_path(fault.place) else relay.forward
            seen = lane.parser.seen()
        return f"no {what} passed; the stream had {seen}"

    def _lane(self, toward: Side, parser: Parser, number: int, *, postcopy: bool) -> Lane[Parser]:
        """One direction of a connection, with the faults that may still strike it."""
        done = self._ledger.struck | self._ledger.misses.keys()
        matchers = [
            found
            for found in self._matchers
            if found.fault.name not in done
            and found.fault.attempt == self.attempt
            and found.fault.connection in (None, number)
            and on_return_path(found.fault.place) == (toward is Side.SOURCE)
        ]
        return Lane(toward, parser, matchers, self._ledger, postcopy=postcopy)

    def _take_due(self, number: int) -> list[Due]:
        """The faults whose state has come, for that connection: they strike now."""
        due = [each for each in self._due if each[0].connection in (None, number)]
        for each in due:
            self._due.remove(each)
            self._ledger.strike(each[0])
        return due
