"""One direction of a connection: bytes in, elements changed and bytes on.

While no fault waits for this direction, bytes pass at once and the parser only labels them. While
one does, bytes go on element by element, so that it strikes exactly where it says; pages go on in
runs, which are split where one strikes. With nothing to watch for, nothing is parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from mmap import mmap
from typing import Generic, TypeVar

from testbed.fault.command import Command, Observed, Send
from testbed.fault.places.place import in_device_state
from testbed.fault.plan import Channel, CommandPlace, ElementPlace, Fault, OffsetPlace, Replay
from testbed.fault.strikes.carried import BETWEEN_BYTES
from testbed.fault.strikes.describe import channel_words, direction_toward
from testbed.fault.strikes.ledger import DEVICE_BYTES_MAX
from testbed.fault.strikes.outlet import Outlet
from testbed.fault.strikes.scene import Scene
from testbed.fault.strikes.strikes import Strikes
from testbed.wire import MainChannel, MultifdChannel, TlsChannel
from testbed.wire.channel import Channel as ChannelParser
from testbed.wire.element import (
    Command as StreamCommand,
)
from testbed.wire.element import (
    CommandType,
    ConfigurationSubsection,
    Element,
    EndOfStream,
    FileHeader,
    Opaque,
    PageRun,
    Payload,
    RamBlock,
    RamPage,
    SectionHeader,
    SectionType,
    VmDescription,
)
from testbed.wire.packet import MultifdInit
from testbed.wire.piece import Piece

from .hold import Hold, begins_device_phase, package_bytes
from .watch import Watch

NOTED = frozenset(
    {
        FileHeader,
        ConfigurationSubsection,
        RamBlock,
        SectionHeader,
        Payload,
        StreamCommand,
        VmDescription,
        MultifdInit,
        Opaque,
    }
)
"""Values that tell something of what follows."""
HELD = frozenset({SectionHeader, StreamCommand})
"""Values that may begin what has to be held."""
Parser = TypeVar("Parser", bound=ChannelParser)


class Lane(Generic[Parser]):
    """What came in of one direction, and what may go on.

    Args:
        outlet: the way that it leads to.
        parser: of this direction; a recovery's goes on where the lost connection's was.
        strikes: what may strike here.
        scene: of its attempt.
        watched: what passes is told.
    """

    def __init__(
        self, outlet: Outlet, parser: Parser, strikes: Strikes, scene: Scene, *, watched: bool
    ) -> None:
        self.toward = outlet.toward
        self.parser: Parser = parser
        self.outlet = outlet
        self._strikes = strikes
        self._scene = scene
        self._is_main = strikes.channel is Channel.MAIN
        words = channel_words(strikes.channel, strikes.number)
        self.watch = Watch(direction_toward(outlet.toward), words) if watched else None
        self._live_ended = False  # an END section has passed: FULL ones are the device phase
        self._next = 0  # offset of the first byte that is in no element that has left
        self._hold: Hold | None = None
        self._is_unread = False  # for good
        self._ended = False

    def begin(self, *, postcopy: bool, page_bytes: int) -> None:
        """What was known before its first byte."""
        self._strikes.known.postcopy = postcopy
        self._strikes.known.page_bytes = page_bytes

    # What happens to the direction

    def received(self, data: bytes) -> list[Command]:
        """Bytes came."""
        return self._received(data, 0, partial(self.parser.feed, data))

    def received_window(self, data: mmap, start: int, end: int) -> list[Command]:
        """Bytes `data[start:end]` came; see `Channel.feed_window` for whose the buffer is."""
        feed = partial(self.parser.feed_window, data, start, end)
        return self._received(memoryview(data)[:end], start, feed)

    def silence(self) -> list[Command]:
        """The sender has been silent for a while: what waits for more is decided now.

        Only what nobody can read may keep the two sides waiting for each other. A package is read
        whole by the destination anyway.
        """
        if self._is_unread:
            return []
        self._elements(self.parser.silence(), armed=self._armed)
        if self._hold is None or not self._hold.is_package:
            self._release()
            self._strikes.let_go("the sender fell silent before the next one came")
            self._let_go()
        return self._taken()

    @property
    def is_over(self) -> bool:
        """The sender has ended."""
        return self._ended

    @property
    def undecided(self) -> bool:
        """True while there are bytes whose meaning, or whose way, more bytes will decide."""
        waits = self._hold is not None or self._strikes.held_from is not None
        return not self._is_unread and (waits or self.parser.pending > 0)

    @property
    def is_passing(self) -> bool:
        """True if nothing parses, watches or shapes what passes, from now on."""
        return self._reads_nothing() and not self.outlet.shut and not self.outlet.is_shaped

    def goes_at_once(self, data: bytes | memoryview) -> bool:
        """True if this, coming next, goes on as it is: no fault waits for it.

        Of what comes while one does only a page by itself can be told so soon: in postcopy a guest
        stands still for it.
        """
        if self.outlet.shut:
            return False
        if not self._armed:
            return True
        is_page = isinstance(self.parser, MainChannel) and self.parser.is_page(data)
        return is_page and self._hold is None and self._strikes.leaves_pages

    @property
    def phase(self) -> str | None:
        """Of a main channel's parser."""
        return str(self.parser.phase) if isinstance(self.parser, MainChannel) else None

    @property
    def number(self) -> int:
        """Of its channel."""
        return self._strikes.number

    @property
    def _armed(self) -> bool:
        return self._strikes.is_armed or self._hold is not None

    def _reads_nothing(self) -> bool:
        """Decide whether the rest need not be parsed; where it need not, it cannot be any more."""
        if not self._is_unread and self.watch is None:
            channel = self._strikes.channel
            needed = channel is not None and self._scene.wants(channel)
            self._is_unread = not needed and not self._armed
        return self._is_unread

    def _received(
        self, data: bytes | memoryview, start: int, feed: Callable[[], list[Element]]
    ) -> list[Command]:
        """Bytes `data[start:]` came; what is before them is room that may be used."""
        self._strikes.prune()
        if isinstance(self.parser, MultifdChannel | TlsChannel):
            self.parser.in_runs = not self._strikes.sees_bulk
        if self._reads_nothing():
            return [] if self.outlet.shut else [Send(self.toward, data[start:])]
        if not self._armed:
            self.outlet.put(data[start:])
            self._elements(feed(), armed=False)
            self._next = self.parser.fed
            self._note_waiting(self.parser.pending)
            return self.outlet.taken()
        self.outlet.kept.came(data, start, self.parser.fed)
        self._elements(feed(), armed=True)
        self._note_waiting(self.parser.fed - self._next)
        return self._taken()

    def _note_waiting(self, size_bytes: int) -> None:
        """Read no more of a direction in which too much waits for what follows: no peer of many
        connections may have all of it kept."""
        if self._scene.ledger.waits(self, size_bytes):
            return
        why = f"{size_bytes} bytes waited for what follows them"
        self._decide(why)
        self._is_unread = True
        self._scene.ledger.waits(self, 0)
        if self._is_main:
            self._scene.ledger.sections.unread = why
        self.outlet.say("stream-unread", {"why": why, "offset": self.parser.fed})

    def finish(self) -> list[Command]:
        """The sender will send no more: what that decides, and all that passed."""
        if self._ended:
            return []
        self._ended = True
        if self._is_unread:
            return []
        self._decide("the stream ended")
        self._scene.ledger.waits(self, 0)
        if self.watch is not None:
            self.outlet.say(*self.watch.totals(self.seen()))
        return self._taken()

    def _decide(self, why: str) -> None:
        """Nothing more will be understood: have all that waits for more go on."""
        self._elements(self.parser.end(), armed=self._armed)
        self._release()
        self._strikes.finish(why)
        self._let_go()

    def _taken(self) -> list[Command]:
        """What there is to do; of bytes that have not gone on a copy is kept."""
        if not self._armed:
            self._let_go()
        commands = self.outlet.taken()
        held_from = self._strikes.held_from
        self.outlet.kept.drop(self._next if held_from is None else min(held_from, self._next))
        return commands

    def _let_go(self) -> None:
        """Send what is in no element yet; as part of its element it must not be sent again."""
        outlet = self.outlet
        outlet.pass_on(max(self._next, outlet.ahead), self.parser.fed)
        outlet.ahead = self.parser.fed

    # Elements on their way

    def _elements(self, elements: list[Element], *, armed: bool) -> None:
        watch = self.watch
        if isinstance(self.parser, MainChannel):
            self._strikes.known.page_bytes = self.parser.page_bytes
        for element in elements:
            value = element.value
            if type(value) is PageRun:  # nearly all of what comes
                if watch is not None:
                    watch.run(value)
                if armed and self._hold is None:
                    self._leave(element)
                    continue
            elif type(value) is RamPage:
                if watch is not None:
                    watch.page(value)
            else:
                self._tell(element)
            if armed:
                self._leave_or_hold(element)
            elif type(value) is EndOfStream and not self.outlet.shut:
                self._tell_end(element)
        if watch is not None:
            fact = watch.progress(self.parser.fed, self.phase)
            if fact is not None:
                self.outlet.say(*fact)

    def _tell(self, element: Element) -> None:
        """Tell of an element that is no page, and remember what it tells."""
        if self.watch is not None:
            for kind, facts in self.watch.element(element):
                self.outlet.say(kind, facts)
        if type(element.value) in NOTED:
            self._note(element)

    def _note(self, element: Element) -> None:
        """Remember where the stream is, and what the source sent."""
        value = element.value
        if isinstance(value, MultifdInit) and self._strikes.channel is Channel.MULTIFD:
            self._strikes.renumber(value.channel_id + 1)
            if self.watch is not None:
                self.watch.channel = channel_words(Channel.MULTIFD, self._strikes.number)
        if not isinstance(self.parser, MainChannel):
            return
        self._scene.note(element)
        ledger = self._scene.ledger
        ledger.learn(element)
        if isinstance(value, SectionHeader):
            self._live_ended |= value.type is SectionType.END
        elif isinstance(value, StreamCommand):
            self._strikes.known.postcopy |= value.command == CommandType.POSTCOPY_RUN
        elif isinstance(value, VmDescription):
            ledger.layout = self.parser.layout or ledger.layout
            if self.parser.layout is not None:
                ledger.sections.described(self.parser.layout, ledger.device_sections)

    def _leave_or_hold(self, element: Element) -> None:
        """Have the element leave, or hold it while what it belongs to is not understood."""
        if self._hold is not None:
            if self._hold.add(element):
                self._release()
        elif self._is_main and self._must_hold(element):
            self._hold = Hold(element)
        else:
            self._leave(element)

    def _leave(self, element: Element) -> None:
        self._next = element.end
        if type(element.value) is EndOfStream:
            self._leave_end(element)
        else:
            self._strikes.leave(element)

    def _leave_end(self, element: Element) -> None:
        """The stream's end leaves: it is told if it goes on, or waits for a fault to let it go."""
        made, sent_bytes = self.outlet.apart(lambda: self._strikes.leave(element))
        if sent_bytes or self._strikes.held_from is not None:
            self._tell_end(element)
        self.outlet.add(made)

    def _tell_end(self, element: Element) -> None:
        if self.watch is not None:
            self.outlet.say("eof", {"offset": element.offset})

    def _must_hold(self, element: Element) -> bool:
        if type(element.value) not in HELD:
            return False
        if begins_device_phase(element):
            return self._live_ended and any(map(_is_in_device_state, self._strikes.faults()))
        if 0 < package_bytes(element) <= DEVICE_BYTES_MAX:
            return any(map(_is_in_package, self._strikes.faults()))
        return False

    def _release(self) -> None:
        """Send on what was held, with its faults."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        parser = self.parser
        if hold.is_described and isinstance(parser, MainChannel) and parser.layout is not None:
            hold.settle(parser.doubts)
            self._strikes.known.doubts = parser.doubts
        if hold.is_package:
            self._release_package(hold)
        else:
            for element in hold.elements:
                self._leave(element)

    def _release_package(self, hold: Hold) -> None:
        """Send on a package; what announces it says the size that it has now.

        Not where the fault is in that very command, nor where the package is cut.
        """
        packaged, *inner = hold.elements
        outlet = self.outlet
        first, _ = outlet.apart(lambda: self._leave(packaged))

        def leave_inner() -> None:
            for element in inner:
                self._leave(element)
            self._strikes.let_go("a package ends before the next one")

        rest, sent_bytes = outlet.apart(leave_inner)
        delta = sent_bytes - sum(element.size_bytes for element in inner)
        is_whole = [type(command) for command in first] == [Send] and not outlet.shut
        if delta and is_whole and b"".join(_sent(first)) == packaged.raw:
            mended = Piece.of(packaged).add("payload", delta)
            facts = {
                "offset": packaged.offset,
                "before": packaged.raw.hex(),
                "after": mended.raw.hex(),
            }
            first = [Send(self.toward, mended.raw), Observed("package-resized", facts)]
        outlet.add(first)
        outlet.add(rest)

    def seen(self) -> str:
        """What passed, for a message."""
        return _seen(self.parser)


def _sent(commands: list[Command]) -> list[bytes | memoryview]:
    return [command.data for command in commands if isinstance(command, Send)]


def _seen(parser: ChannelParser) -> str:
    told = getattr(parser, "seen", None)
    return str(told()) if told is not None else f"{parser.fed} bytes"


def _is_in_device_state(fault: Fault) -> bool:
    """True if the fault may strike in device state, or sends some of it again."""
    again = isinstance(fault.action, Replay) and in_device_state(fault.action.place)
    return again or in_device_state(fault.place)


def _is_in_package(fault: Fault) -> bool:
    """True if the fault may strike in a package where its boundaries or its size matter."""
    changes = not isinstance(fault.action, BETWEEN_BYTES)
    return _is_in_device_state(fault) or (
        changes and isinstance(fault.place, CommandPlace | OffsetPlace | ElementPlace)
    )
