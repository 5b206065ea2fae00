"""What leaves the engine is the wire library's own edit of the recorded stream, however it came.

Every recording of every channel, and in each of them elements of every kind: many faults in one
run, each with an action of its own, against the same edits of the parsed stream. ALL_ELEMENTS=1 in
the environment has every element of them, and every action that fits there.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache

import pytest
from fault_helpers import DESTINATION, SOURCE, acts, main, passed, run, through
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import RECORDED, channel_for, parse, pieces, recorded

from testbed.fault.command import Command as CommandOut
from testbed.fault.command import HalfClose, Observed, Send
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    Channel,
    CommandPlace,
    Delete,
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    MessagePlace,
    OffsetPlace,
    PagePlace,
    Point,
    Replay,
    SectionPlace,
    SetField,
    StreamPlace,
    Swap,
    Truncate,
)
from testbed.wire import ChannelKind, MainChannel, Stream
from testbed.wire.element import (
    Command,
    CommandType,
    Element,
    Message,
    Payload,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
    Value,
)
from testbed.wire.identify import FIRST_BYTES, channel_of
from testbed.wire.kinds import kind_of

VERSIONS = ["qemu7.2", "qemu10.0"]
STREAMS = [f"{version}-{kind}.c0.fwd" for version in VERSIONS for kind in ("precopy", "postcopy")]
SEEDS = st.integers(0, 1 << 32)
EACH_KIND = 6
"""Faults in elements of one kind, in one run."""
LONG_BYTES = 1 << 20
"""A longer recording is edited once, a shorter one some times."""
ALL = os.environ.get("ALL_ELEMENTS") == "1"
AT_ONCE = 128
"""Faults in one run, where every element has its turn."""
FIELDS = 6
"""Fields of one element that have their turn; a device section has hundreds."""
APART = 3
"""Elements from one that is edited to the next: an exchange takes two."""
POINTS = list(Point)
PARTS = {SectionHeader: "header", SectionFooter: "footer", Payload: "payload"}


@lru_cache(1)
def parsed(name: str) -> tuple[list[Element], Stream]:
    parser = channel_for(name, recorded(name))
    elements = parse(parser, [recorded(name)])
    layout = parser.layout if isinstance(parser, MainChannel) else None
    return elements, Stream(elements, layout)


def carried(name: str) -> tuple[ChannelKind, Channel]:
    """What a recording's connection is, and the channel that it is a direction of."""
    if ".ret" in name:
        return ChannelKind.MAIN, Channel.RETURN_PATH
    if name == "qemu7.2-preempt.c1.fwd":
        return ChannelKind.PREEMPT, Channel.PREEMPT
    if ".rec." in name:
        return ChannelKind.RECOVERY, Channel.MAIN
    if channel_of(recorded(name)[:FIRST_BYTES]) is ChannelKind.MULTIFD:
        return ChannelKind.MULTIFD, Channel.MULTIFD
    return ChannelKind.MAIN, Channel.MAIN


def is_packaged(value: Value | None) -> bool:
    return isinstance(value, Command) and value.command == CommandType.PACKAGED


class Edits:
    """Faults in a recorded stream, and the same edits of it by the wire library.

    Args:
        name: of the recording.
        seed: of all that is left to chance.
        turns: which elements have their turn, and which of their choices it is; None: by chance.
    """

    def __init__(
        self, name: str, seed: int, turns: Iterable[tuple[int, int]] | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.elements, stream = parsed(name)
        self.channel = carried(name)[1]
        self.stream = stream.copy()
        self.faults: list[Fault] = []
        self.kinds = [kind_of(element.value) for element in self.elements]
        seen: Counter[tuple[str, str]] = Counter()
        self.nth: list[int] = []  # of its kind
        self.nth_page: list[int] = []  # of its block
        for kind, element in zip(self.kinds, self.elements, strict=True):
            block = element.value.block if isinstance(element.value, RamPage) else ""
            seen[kind, ""] += 1
            seen["page", block] += 1
            self.nth.append(seen[kind, ""])
            self.nth_page.append(seen["page", block])
        ends = [
            index
            for index, element in enumerate(self.elements)
            if isinstance(element.value, SectionHeader) and element.value.type is SectionType.END
        ]
        self.live_end = max(ends, default=0)
        wanted = dict.fromkeys(self.chosen()) if turns is None else dict(turns)
        # From the end on, so that indexes of what is before stay.
        for index in sorted(wanted, reverse=True):
            self.strike(index, wanted[index])

    def expected(self) -> bytes:
        """The edited stream; PACKAGED says how long its package is now."""
        pieces = [self.stream[index] for index in range(len(self.stream))]
        more = sum(len(piece.raw) for piece in pieces if piece.in_package)
        more -= sum(len(element.raw) for element in self.elements if element.in_package)
        return b"".join(
            piece.add("payload", more).raw if is_packaged(piece.value) else piece.raw
            for piece in pieces
        )

    def chosen(self) -> set[int]:
        """Elements of every kind, far enough from each other to be edited one by one."""
        by_kind = defaultdict(list)
        for index, (kind, element) in enumerate(zip(self.kinds, self.elements, strict=True)):
            if kind != "opaque" and not is_packaged(element.value):
                by_kind[kind].append(index)
        chosen: set[int] = set()
        for indexes in by_kind.values():
            for index in self.rng.sample(indexes, min(EACH_KIND, len(indexes))):
                if chosen.isdisjoint(range(index - 2, index + 3)):
                    chosen.add(index)
        return chosen

    def strike(self, index: int, turn: int | None) -> None:
        """A fault in that element, and its edit."""
        if turn is None:
            field = self.rng.choice([None, *self.sizes(index)])
            action, point = self.rng.choice(self.actions(index, field)), self.rng.choice(POINTS)
        else:
            field, action, point = self.choices(index)[turn]
        if isinstance(action, Insert | Replay):
            field = None
        else:
            point = Point.BEFORE
        self.faults.append(Fault(self.place(index, field), action, str(index), point))
        self.edit(index, action, field, after=point is Point.AFTER)

    def choices(self, index: int) -> list[tuple[str | None, Action, Point]]:
        """Everything that can be done to an element: to all of it, and to its fields."""
        whole = self.actions(index, None)
        fields = list(self.sizes(index))
        between = [each for each in whole if isinstance(each, Insert | Replay)]
        return [
            *((None, each, Point.BEFORE) for each in whole),
            *((None, each, Point.AFTER) for each in between),
            *(
                (field, each, Point.BEFORE)
                for field in random.Random(index).sample(fields, min(FIELDS, len(fields)))
                for each in self.actions(index, field)
                if not isinstance(each, Insert | Replay)
            ),
        ]

    def sizes(self, index: int) -> dict[str, int]:
        """The fields of an element, and how many bytes each has."""
        if index < self.live_end and isinstance(self.elements[index].value, Payload):
            return {}  # the vmdesc comes long after an early device section has gone on
        spans = self.stream[index].spans
        return {span.name: span.size_bytes for span in reversed(spans) if span.size_bytes}

    def edit(self, index: int, action: Action, field: str | None, *, after: bool) -> None:
        """The same with the wire library."""
        stream = self.stream
        match action:
            case SetField(value=int(value)):
                stream.set(index, str(field), value, mend=False)
            case SetField(value=bytes(value)):
                stream.resize(index, str(field), value, mend=False)
            case FlipBits(mask=mask):
                raw = bytearray(stream[index].raw)
                start = 0 if field is None else stream[index].span(field).start
                for at, bits in enumerate(mask, start):
                    raw[at] ^= bits
                stream.replace(index, bytes(raw), mend=False)
            case Delete() if field is not None:
                stream.resize(index, field, b"", mend=False)
            case Delete():
                stream.delete(index, mend=False)
            case Insert(data=data):
                stream.insert(index, data, after=after, mend=False)
            case Replay(place=ElementPlace(element=kind)):
                last = index - 1 - self.kinds[:index][::-1].index(kind)
                stream.insert(index, self.elements[last].raw, after=after, mend=False)
            case Duplicate():
                stream.duplicate(index, mend=False)
            case Swap():
                stream.swap(index)

    def actions(self, index: int, field: str | None) -> list[Action]:
        """Those that fit there."""
        rng, elements = self.rng, self.elements
        size = len(self.stream[index].raw) if field is None else self.sizes(index)[field]
        actions: list[Action] = [
            FlipBits(b"\x01" + rng.randbytes(rng.randrange(min(size, 40)))),
            Insert(rng.randbytes(rng.randint(1, 300))),
            Delete(),
        ]
        if index:
            earlier = self.kinds[rng.randrange(index)]
            actions.append(Replay(ElementPlace(earlier, channel=self.channel)))
        if field is not None:
            return [*actions, SetField(rng.randrange(256**size)), SetField(rng.randbytes(9))]
        actions.append(Duplicate())
        if self.kinds[index : index + 2] == [self.kinds[index]] * 2:
            following = elements[index + 1]
            if elements[index].in_package == following.in_package and not is_packaged(
                following.value  # which says nothing of its package where it is struck itself
            ):
                actions.append(Swap())
        return actions

    def place(self, index: int, field: str | None) -> StreamPlace:
        """One of the ways to name the element."""
        element, value = self.elements[index], self.elements[index].value
        kind, section = self.kinds[index], element.section
        places: list[StreamPlace] = [
            ElementPlace(kind, field, occurrence=self.nth[index], channel=self.channel)
        ]
        if section is not None and type(value) in PARTS:
            where = section.idstr, section.type.name.lower(), section.instance_id
            places.append(SectionPlace(*where, element.occurrence, PARTS[type(value)], field))
        elif isinstance(value, RamPage):
            nth = self.nth_page[index]
            places.append(PagePlace(value.block, nth=nth, field=field, channel=self.channel))
        elif isinstance(value, Command):
            places.append(CommandPlace(value.name, element.occurrence, field))
        elif isinstance(value, Message):
            places.append(MessagePlace(value.name, element.occurrence, field))
        return self.rng.choice(places)


def all_edits(name: str) -> Iterator[Edits]:
    """Each choice of each element has its turn, many elements at once."""
    edits = Edits(name, 0, ())
    counts = [
        0 if kind == "opaque" or is_packaged(element.value) else len(edits.choices(index))
        for index, (kind, element) in enumerate(zip(edits.kinds, edits.elements, strict=True))
    ]
    for turn in range(max(counts)):
        for first in range(APART):
            these = [at for at in range(first, len(counts), APART) if counts[at] > turn]
            for start in range(0, len(these), AT_ONCE):
                part = these[start : start + AT_ONCE]
                yield Edits(name, turn, [(index, turn) for index in part])


def some_edits(name: str) -> Iterator[Edits]:
    for seed in range(1 if len(recorded(name)) > LONG_BYTES else 4):
        yield Edits(name, seed)


@pytest.mark.parametrize("name", RECORDED)
def test_what_leaves_is_the_edit_of_the_whole_stream(name: str) -> None:
    for seed, edits in enumerate(all_edits(name) if ALL else some_edits(name)):
        engine = FaultEngine(tuple(edits.faults))
        relay = engine.connection(1, carried(name)[0])
        back = ".ret" in name
        commands = run(relay, pieces(recorded(name), seed), DESTINATION if back else SOURCE)
        out, expected = passed(commands, SOURCE if back else DESTINATION), edits.expected()
        assert out == expected, f"first differs at {differs(out, expected)} of {edits.faults}"
        assert engine.unfired() == []


@pytest.mark.parametrize("name", STREAMS)
@given(seed=SEEDS)
@settings(max_examples=2, deadline=None, derandomize=True)
def test_without_a_fault_every_chunk_goes_on_as_it_came(name: str, seed: int) -> None:
    relay = main(FaultEngine())
    for chunk in pieces(recorded(name), seed):
        assert acts(relay.received(SOURCE, chunk)) == [Send(DESTINATION, chunk)]
    assert acts(relay.ended(SOURCE)) == [HalfClose(DESTINATION)]


@given(name=st.sampled_from(STREAMS), seed=SEEDS)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_offsets_sections_and_a_cut_are_exact(name: str, seed: int) -> None:
    """Some bytes before a section, what becomes of the section, and a cut behind it."""
    rng = random.Random(seed)
    data, elements = recorded(name), parsed(name)[0]
    footers = [e for e in elements if isinstance(e.value, SectionFooter) and not e.in_package]
    headers = [e for e in elements if isinstance(e.value, SectionHeader) and not e.in_package]
    at = rng.randrange(1, len(headers) - 1)
    header, start, end = headers[at], headers[at].offset, footers[at].end
    (value, section), following = (header.value, data[start:end]), headers[at + 1].offset
    assert isinstance(value, SectionHeader)
    swapped = data[following : footers[at + 1].end] + data[end:following] + section
    offset, cut = rng.randrange(start), rng.randrange(footers[at + 1].end, len(data))
    action, made = rng.choice(
        [
            (Delete(), data[end : footers[at + 1].end]),
            (Duplicate(), section + data[start : footers[at + 1].end]),
            (Swap(), swapped),
            (
                Replay(SectionPlace("ram", "start")),
                data[headers[0].offset : footers[0].end] + data[start : footers[at + 1].end],
            ),
        ]
    )
    kind = value.type.name.lower()
    engine = FaultEngine(
        (
            Fault(OffsetPlace(offset), FlipBits(b"\xff"), "bytes"),
            Fault(
                SectionPlace(value.idstr, kind, value.instance_id, header.occurrence),
                action,
                "section",
            ),
            Fault(OffsetPlace(cut), Truncate(), "cut"),
        )
    )
    expected = data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 : start]
    expected += made + data[footers[at + 1].end : cut]
    out = through(engine, pieces(data, seed))
    assert out == expected, f"{action} at {value}: first differs at {differs(out, expected)}"
    assert engine.unfired() == []


def differs(one: bytes, other: bytes) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), -1)


@pytest.mark.parametrize("name", STREAMS)
def test_pages_are_counted_alike_one_by_one_and_in_runs(name: str) -> None:
    """A fault that may lie in a page has them come one by one; here they never strike."""
    footer = Fault(SectionPlace("nosuch", part="footer"), Delete(), "footer")
    counted = []
    for faults in ((), (footer,), (Fault(PagePlace("nosuch", nth=1), Delete(), "page"),)):
        commands = run(main(FaultEngine(faults)), pieces(recorded(name), 3))
        (totals,) = [each for each in observed(commands) if each.kind == "stream-totals"]
        sections = [each.facts for each in observed(commands) if each.kind == "section"]
        counted.append((totals, sections))
    assert counted[0][0].facts["zero_pages"] > 0
    assert counted[0] == counted[1] == counted[2]


def observed(commands: list[CommandOut]) -> list[Observed]:
    return [each for each in commands if isinstance(each, Observed)]
