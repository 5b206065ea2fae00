"""Where the elements of a direction leave: what the faults that strike in them do to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from testbed.fault.command import Command, Observed
from testbed.fault.places.place import Known, Miss
from testbed.fault.places.records import Records
from testbed.fault.places.trigger import Draw, Landmark, Lookout, Trigger
from testbed.fault.plan import Channel, Delete, Duplicate, Fault, HalfClose, Signal, Swap, Truncate
from testbed.fault.sentence import action_name, action_words
from testbed.wire.element import (
    Element,
    EndOfStream,
    Message,
    MessageType,
    PageRun,
    RamPage,
    RunElement,
    SectionFooter,
    SectionHeader,
    VmDescription,
)
from testbed.wire.kinds import kind_of

from .carried import BETWEEN_BYTES, connection_commands
from .collector import Collector
from .copies import Keeper, LastBytes
from .describe import channel_words, describe, direction_toward
from .edit import Edit, changes_nothing, edit_of, edited
from .exchange import Exchange
from .ledger import Ledger
from .outlet import Outlet
from .removal import Removal
from .scene import Scene
from .shown import Shown
from .ways import Ways


class Strikes:
    """The faults that may strike in one direction of one connection.

    Args:
        ways: of the connection.
        channel: what the direction carries; None: what no place can name.
        number: of the channel, where it is one of several.
        connection: the how-manieth main connection of the attempt it belongs to.
    """

    def __init__(
        self,
        scene: Scene,
        outlet: Outlet,
        ways: Ways,
        channel: Channel | None,
        number: int,
        connection: int,
    ) -> None:
        self.known = Known(blocks=scene.blocks)
        self.channel = channel
        self.number = number
        self._has_its_number = channel is not Channel.MULTIFD  # which says it in its first packet
        self._scene = scene
        self._ledger: Ledger = scene.ledger
        self._outlet = outlet
        self._ways = ways
        mine = [] if channel is None else [each for each in scene.lookouts() if self._is_here(each)]
        self._landmarks = [each for each in mine if isinstance(each, Landmark)]
        self._triggers = [
            each
            for each in mine
            if isinstance(each, Trigger) and each.fault.connection in (None, connection)
        ]
        self._keepers: list[tuple[str, Keeper]] = [
            (name, each) for name, each in scene.keepers.items() if each in mine
        ]
        self._awaited: list[Landmark | Trigger | Draw] = []
        self._paged: list[Lookout] = []
        self._in_bulk = False
        self._exchange: Exchange | None = None
        self._collectors: list[Collector] = []
        self._doubled: list[Fault] = []  # their sections are on their way
        self._removal: Removal | None = None
        self._last_cut: tuple[Edit, Element] | None = None  # where the stream may have ended anyway
        self._forget()

    @property
    def is_armed(self) -> bool:
        """Something may strike, or is under way."""
        return bool(
            self._triggers
            or self._landmarks
            or self._keepers
            or self._exchange
            or self._collectors
            or self._removal
            or self._last_cut
        )

    @property
    def held_from(self) -> int | None:
        """The offset of the first byte that is held for an exchange."""
        return None if self._exchange is None else self._exchange.start

    @property
    def sees_bulk(self) -> bool:
        """Somebody may have to see the bytes of multifd's payloads, or of TLS records."""
        return self._in_bulk or self._exchange is not None

    @property
    def leaves_pages(self) -> bool:
        """Nothing strikes in pages, nor keeps them, and no more is under way that could."""
        under_way = self._exchange or self._collectors or self._removal or self._doubled
        return not (self._paged or under_way)

    def faults(self) -> list[Fault]:
        """Those that may strike yet."""
        return [each.fault for each in self._triggers]

    def renumber(self, number: int) -> None:
        """The channel says which number it has."""
        self.number, self._has_its_number = number, True
        self._landmarks = [each for each in self._landmarks if self._is_here(each)]
        self._triggers = [each for each in self._triggers if self._is_here(each)]
        self._keepers = [each for each in self._keepers if self._is_here(each[1])]
        self._forget()

    def prune(self) -> None:
        """Forget what is done, here or on another connection."""
        if any(each.is_done for each in self._awaited):  # seldom, and asked for each read
            self._forget()

    def _forget(self) -> None:
        draws = self._scene.draws
        self._landmarks = [each for each in self._landmarks if not each.is_done]
        self._triggers = [each for each in self._triggers if not each.is_done]
        self._keepers = [each for each in self._keepers if not draws[each[0]].is_done]
        seen: list[Landmark | Trigger] = [*self._landmarks, *self._triggers]
        self._awaited = [*seen, *(draws[name] for name, _ in self._keepers)]
        lookouts = [*seen, *(keeper for _, keeper in self._keepers)]
        self._paged = [each for each in lookouts if each.in_pages]
        self._in_bulk = any(each.in_bulk for each in lookouts)

    def leave(self, element: Element) -> None:
        """The element goes on, changed by what strikes in it."""
        if self._last_cut is not None:
            self._tell_last_cut(self._last_cut)
        run = element.value
        if not isinstance(run, PageRun) or not isinstance(element, RunElement):
            self._leave(element, self._edits(element))
        elif self._paged or (self._exchange is not None and self._exchange.wants(kind_of(run))):
            self._leave_split(Records(element, run))
        else:
            self._leave(element, ())

    def let_go(self, why: str) -> None:
        """What waits for more will not get it: an exchange is undone."""
        while self._exchange is not None:  # what it lets go may begin another one
            self._settle(why)

    def finish(self, why: str) -> None:
        """The stream is over."""
        self.let_go(f"{why} before the next one came")
        for fault in self._doubled:
            self._ledger.miss(fault, f"{why} in the section")
        self._doubled.clear()
        self._collectors.clear()
        self._removed()
        if self._last_cut is not None:
            self._cannot(*self._last_cut, "nothing came after it")
            self._last_cut = None

    def _is_here(self, lookout: Lookout) -> bool:
        number = self.number if self._has_its_number else None
        return self.channel is not None and lookout.is_on(self.channel, number)

    # Runs of page records

    def _leave_split(self, records: Records) -> None:
        at, count = 0, len(records)
        while at < count:
            stop = self._next_single(records, at)
            if stop > at:
                for each in self._paged:
                    each.passed_over(records, at, stop, self.known)
                self._keep_passed(records)
                self._leave(records.between(at, stop), ())
            if stop < count:
                single = self._single(records, stop)
                self._leave(single, self._edits(single))
            at = stop + 1

    def _single(self, records: Records, index: int) -> Element:
        start = records.element.offset
        first, behind = start + records.start(index), start + records.start(index + 1)
        return records.single(index, self._outlet.kept.take(first, behind))

    def _keep_passed(self, records: Records) -> None:
        """Keep what a replay may need of the records that pass."""
        for _, keeper in self._keepers:
            if isinstance(keeper, LastBytes) and keeper.passed is not None:
                self._keep(keeper, self._single(records, keeper.passed))

    def _next_single(self, records: Records, at: int) -> int:
        """The next record that somebody has to see by itself."""
        if self._exchange is not None and self._exchange.wants("ram-page"):
            return at
        wanted = (each.wanted_in(records, at, self.known) for each in self._paged)
        return min((each for each in wanted if each is not None), default=len(records))

    # What strikes in an element

    def _edits(self, element: Element) -> list[Edit]:
        """What the faults that strike in the element do to it, in the order of their places."""
        edits: list[Edit] = []
        known = self.known
        known.layout = self._ledger.layout
        changed = False
        for landmark in self._landmarks:
            changed |= self._reaches(landmark, element)
        for trigger in self._triggers:
            try:
                found = trigger.find(element, known)
                if found is not None:
                    changed = True
                    known.check(element)
                    keeper = self._scene.keepers.get(trigger.fault.name)
                    edits.append(edit_of(trigger.fault, found, element, known, keeper))
            except Miss as miss:
                changed = True
                self._ledger.miss(trigger.fault, f"at the {self._describe(element)}: {miss}")
        for _, keeper in self._keepers:
            self._keep(keeper, element)
        if changed:
            self.prune()
        return sorted(edits, key=lambda edit: edit.start) if len(edits) > 1 else edits

    def _reaches(self, landmark: Landmark, element: Element) -> bool:
        try:
            return landmark.find(element, self.known) is not None
        except Miss:  # it is there, if not all that is named of it
            return True

    def _keep(self, keeper: Keeper, element: Element) -> None:
        try:
            found = keeper.find(element, self.known)
        except Miss:
            return
        if found is None:
            return
        if not isinstance(keeper, LastBytes):
            assert isinstance(element.value, RamPage)
            keeper.keep(element.value, self.known.page_bytes)
            return
        try:
            self.known.check(element)
        except Miss as miss:
            keeper.lose(str(miss))
            return
        if keeper.is_section:
            self._collectors.append(Collector(element, keeper.keep))
        else:
            keeper.keep(element.raw[found.start : found.end])

    # Leaving

    def _leave(self, element: Element, edits: Sequence[Edit]) -> None:
        exchange = self._exchange
        if not (edits or exchange or self._collectors or self._removal):  # nearly always
            self._outlet.pass_on(max(element.offset, self._outlet.ahead), element.end)
            return
        if exchange is not None and not exchange.takes(element):
            exchange.end()
            self._settle("the next one was cut")
            exchange = self._exchange
        if exchange is None:
            self._apply(element, edits)
            return
        try:
            self.known.check(element)
            exchange.add(element, edits)
        except Miss as miss:
            self._settle(str(miss))
            self._leave(element, edits)
            return
        if exchange.is_complete:
            self._settle("")

    def _settle(self, why: str) -> None:
        """Send on what was held for an exchange: exchanged if it is complete, or as it came."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        leaving = exchange.as_it_came()
        if exchange.is_complete and self._are_equal(exchange):
            why = "the next one is the same"
        elif exchange.is_complete and exchange.second is not None:
            leaving, kept = exchange.exchanged(), self._outlet.kept
            first, second = (Shown.kept(kept, *each) for each in exchange.ranges())
            self._tell(exchange.edit, exchange.first, first, second, exchange.second)
            if not exchange.edit.of_section:
                self._ledger.alter(exchange.first, exchange.second.raw)
                self._ledger.alter(exchange.second, exchange.first.raw)
            why = ""
        if why:
            at = self._describe(exchange.first)
            self._ledger.miss(exchange.edit.fault, f"at the {at}: {why}")
        for element, edits in leaving:
            self._leave(element, edits)

    def _are_equal(self, exchange: Exchange) -> bool:
        first, second = (self._outlet.kept.take(*each) for each in exchange.ranges())
        return first == second

    def _apply(self, element: Element, edits: Sequence[Edit]) -> None:
        outlet, offset = self._outlet, element.offset
        at = max(offset, outlet.ahead)
        if self._collectors:
            self._collectors = [each for each in self._collectors if not each.is_over(element)]
        if self._removal is not None and self._is_removed(self._removal, element):
            for edit in edits:
                self._cannot(edit, element, "its section was taken out")
            self._collect(element)
            return
        made: list[Edit] = []
        for number, edit in enumerate(edits):
            if outlet.shut:
                self._ledger.miss(
                    edit.fault, f"the stream was cut before the {self._describe(element)}"
                )
            elif offset + edit.start < at:
                why = "those bytes had been changed, or gone on while the source was silent"
                self._cannot(edit, element, why)
            elif isinstance(edit.fault.action, Swap):
                if number:
                    self._cannot(edit, element, "another fault strikes in it")
                    continue
                self._begin_exchange(edit, element, edits[1:])
                return
            elif (why_idle := self._changes_nothing(edit, element)) is not None:
                self._cannot(edit, element, why_idle)
            else:
                outlet.pass_on(at, offset + edit.start)
                self._do(edit, element)
                made.append(edit)
                at = offset + edit.end
        outlet.pass_on(at, element.end)
        if made:
            self._ledger.alter(element, edited(element.raw, made))
        self._collect(element)

    def _begin_exchange(self, edit: Edit, element: Element, rest: Sequence[Edit]) -> None:
        for other in rest:
            if isinstance(other.fault.action, Swap):
                self._cannot(other, element, "another fault exchanges it")
        others = [each for each in rest if not isinstance(each.fault.action, Swap)]
        self._exchange = Exchange(edit, element, others)

    def _do(self, edit: Edit, element: Element) -> None:
        action = edit.fault.action
        if isinstance(action, Duplicate) and edit.of_section:
            self._doubled.append(edit.fault)
            self._collectors.append(Collector(element, partial(self._double, edit, element)))
            return
        if isinstance(action, Signal):
            struck = self._struck(edit, element, Shown(), Shown())
            self._order(connection_commands(edit.fault, self._outlet.toward, struck))
            return
        commands = connection_commands(edit.fault, self._outlet.toward)
        if self._is_last_cut(edit, element):
            self._last_cut = edit, element
        else:
            self._strike(edit, element, new=edit.new)
        self._outlet.put(edit.new)
        if isinstance(action, Delete) and edit.of_section:
            self._removal = Removal(edit.fault, element)
        self._order(commands)

    def _order(self, commands: list[Command]) -> None:
        self._scene.obey(commands, self._ways)
        for command in commands:
            self._outlet.do(command)

    def _changes_nothing(self, edit: Edit, element: Element) -> str | None:
        """Say why a fault that has come to its place leaves all as it is."""
        if not isinstance(edit.fault.action, BETWEEN_BYTES):
            takes_section = isinstance(edit.fault.action, Duplicate) and edit.of_section
            return None if takes_section else changes_nothing(edit, element)
        commands = connection_commands(edit.fault, self._outlet.toward)
        return self._scene.idle(commands, self._ways)

    def _is_last_cut(self, edit: Edit, element: Element) -> bool:
        """True of a cut behind which nothing may come: it is told when something does."""
        action = edit.fault.action
        cuts = isinstance(action, Truncate) or action == HalfClose(self._outlet.toward)
        match element.value:
            case EndOfStream() | VmDescription() | Message(type=MessageType.SHUT):
                may_be_last = True
            case _:
                may_be_last = False
        is_behind = edit.start == len(element.raw)
        return cuts and may_be_last and is_behind and not edit.fault.everywhere

    def _tell_last_cut(self, cut: tuple[Edit, Element]) -> None:
        self._last_cut = None
        self._strike(*cut, new=b"")

    def _double(self, edit: Edit, header: Element, data: bytes | None) -> None:
        """All of a section has passed that is to pass twice."""
        self._doubled.remove(edit.fault)
        if data is None:
            self._cannot(edit, header, "the section is too long to be kept")
        elif self._outlet.shut:
            self._cannot(edit, header, "the stream was cut in the section")
        else:
            self._strike(edit, header, new=data)
            self._outlet.put(data)

    def _collect(self, element: Element) -> None:
        if not self._collectors:
            return
        data = element.raw
        if isinstance(element, RunElement):
            data = self._outlet.kept.take(element.offset, element.end)
        self._collectors = [each for each in self._collectors if not each.add(element, data)]

    def _is_removed(self, removal: Removal, element: Element) -> bool:
        """True if the element is inside the section that is being taken out."""
        inside = not isinstance(element.value, SectionHeader) and element.section is not None
        if inside:
            removal.add(element, self._outlet.kept)
        if not inside or isinstance(element.value, SectionFooter):
            self._removed()
        return inside

    def _removed(self) -> None:
        """All of a section has been taken out, or no more of it comes."""
        removal, self._removal = self._removal, None
        if removal is not None:
            self._outlet.say("section-removed", removal.facts())

    def _describe(self, element: Element) -> str:
        return describe(element, page_bytes=self.known.page_bytes)

    def _cannot(self, edit: Edit, element: Element, why: str) -> None:
        self._ledger.miss(edit.fault, f"at the {self._describe(element)}: {why}")

    def _strike(self, edit: Edit, element: Element, *, new: bytes) -> None:
        before = element.raw[edit.start : edit.end]
        self._tell(edit, element, Shown.of(before), Shown.of(new))

    def _tell(
        self,
        edit: Edit,
        element: Element,
        before: Shown,
        after: Shown,
        other: Element | None = None,
    ) -> None:
        """Tell what a fault changed; `other`: what the element has changed places with."""
        told = self._struck(edit, element, before, after, other)
        self._outlet.say(told.kind, told.facts)

    def _struck(
        self,
        edit: Edit,
        element: Element,
        before: Shown,
        after: Shown,
        other: Element | None = None,
    ) -> Observed:
        """Count a strike; what is told of it."""
        fault = edit.fault
        facts: dict[str, object] = {
            "fault": fault.name,
            "action": action_name(fault.action),
            "does": action_words(fault.action),
            "channel": channel_words(self.channel, self.number),
            "direction": direction_toward(self._outlet.toward),
            "offset": element.offset + edit.start,
            "element": self._describe(element),
            "certainty": element.certainty.value,
            **before.facts("before"),
            **after.facts("after"),
        }
        if other is not None:
            facts |= {"other_offset": other.offset, "other_element": self._describe(other)}
        strikes = self._ledger.strike(fault)
        if fault.times != 1:
            facts["strike"] = strikes
        return Observed("fault-struck", facts)
