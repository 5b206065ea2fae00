"""What leaves the engine is the edit of the whole recorded stream, however it was cut."""

from functools import lru_cache

import pytest
from fault_helpers import DESTINATION, SOURCE, acts, main, run, through
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_helpers import parse, pieces, recorded

from testbed.fault.command import Command as CommandOut
from testbed.fault.command import HalfClose, Observed, Send
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Action,
    CommandPlace,
    Delete,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    OffsetPlace,
    PagePlace,
    Place,
    Point,
    SectionPlace,
    SetField,
    Truncate,
)
from testbed.wire import Layout, MainChannel
from testbed.wire.element import (
    Command,
    Configuration,
    Element,
    EndOfStream,
    FileHeader,
    Payload,
    RamPage,
    SectionFooter,
    SectionHeader,
    VmDescription,
)

VERSIONS = ["qemu7.2", "qemu10.0"]
STREAMS = [f"{version}-{kind}.c0.fwd" for version in VERSIONS for kind in ("precopy", "postcopy")]
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
SEEDS = st.integers(0, 1 << 32)
ONCE = {
    FileHeader: "file-header",
    Configuration: "configuration",
    EndOfStream: "eof",
    VmDescription: "vmdesc",
}
PARTS = {SectionHeader: "header", SectionFooter: "footer", Payload: "payload"}


@lru_cache
def parsed(name: str) -> tuple[list[Element], Layout | None]:
    channel = MainChannel()
    return parse(channel, [recorded(name)]), channel.layout


def named_fields(element: Element, layout: Layout | None) -> dict[str, tuple[int, int]]:
    """What a fault may name in the element: where each field begins and ends."""
    spans = element.spans
    if isinstance(element.value, Payload) and layout is not None and element.section is not None:
        spans = layout.spans(element.section.idstr, element.section.instance_id)
    named = {span.name: (span.start, span.start + span.size_bytes) for span in reversed(spans)}
    return {field: found for field, found in named.items() if found[0] < found[1]}


def place(
    elements: list[Element], element: Element, field: str | None, byte: int | None
) -> Place | None:
    """The place that names bytes of the element; None for what no fault can name."""
    section, value = element.section, element.value
    if section is not None and type(value) in PARTS:
        kind, part = section.type.name.lower(), PARTS[type(value)]
        return SectionPlace(
            section.idstr, kind, section.instance_id, element.occurrence, part, field, byte
        )
    if isinstance(value, RamPage):
        before = (e.value for e in elements[: elements.index(element)])
        nth = 1 + sum(isinstance(v, RamPage) and v.block == value.block for v in before)
        return PagePlace(value.block, nth=nth, field=field, byte=byte)
    if isinstance(value, Command):
        return CommandPlace(value.name, element.occurrence, field, byte)
    return ElementPlace(ONCE[type(value)], field, byte) if type(value) in ONCE else None


ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.integers(-1, 1 << 64).map(SetField),
    st.binary(max_size=9).map(SetField),
    st.binary(min_size=1, max_size=9).map(FlipBits),
    st.binary(min_size=1, max_size=300).map(Insert),
    st.just(Delete()),
    st.just(Truncate()),
)


@st.composite
def struck_streams(draw: st.DrawFn) -> tuple[str, Fault, bytes | None]:
    """A stream, a fault somewhere in it, and what is to come out; None: it does not fit there."""
    name = draw(st.sampled_from(STREAMS))
    elements, layout = parsed(name)
    kinds = sorted({type(e.value).__name__ for e in elements} - {"RamMark", "RamTotal", "RamBlock"})
    kind = draw(st.sampled_from(kinds))
    element = draw(st.sampled_from([e for e in elements if type(e.value).__name__ == kind]))
    fields = {None: (0, len(element.raw)), **named_fields(element, layout)}
    field = draw(st.sampled_from(list(fields)))
    start, end = fields[field]
    byte = draw(st.none() | st.integers(start - end, end - start - 1))
    if byte is not None:
        start = start + byte if byte >= 0 else end + byte
        end = start + 1
    action, point = draw(ACTIONS), draw(st.sampled_from(Point))
    where = place(elements, element, field, byte)
    assert where is not None
    fault = Fault(where, action, "it", point)
    return name, fault, edited(name, fault, element, start, end, one_byte=byte is not None)


def edited(
    name: str, fault: Fault, element: Element, start: int, end: int, *, one_byte: bool
) -> bytes | None:
    """The edit of bytes `start` to `end` of the element, done on the whole stream."""
    data, raw = recorded(name), element.raw
    room = (len(raw) if one_byte else end) - start
    point = start if fault.point is Point.BEFORE else end
    match fault.action:
        case SetField(value=int(value)):
            size = end - start
            if not -(256**size) // 2 <= value < 256**size:
                return None
            new = raw[:start] + (value % 256**size).to_bytes(size, "big") + raw[end:]
        case FlipBits(mask=mask) if len(mask) > room:
            return None
        case SetField(value=bytes(value)) if one_byte and len(value) > room:
            return None
        case SetField(value=bytes(value)) if one_byte:
            new = raw[:start] + value + raw[start + len(value) :]
        case SetField(value=bytes(value)):
            new = raw[:start] + value + raw[end:]
        case FlipBits(mask=mask):
            flipped = bytes(a ^ b for a, b in zip(raw[start:], mask, strict=False))
            new = raw[:start] + flipped + raw[start + len(flipped) :]
        case Insert(data=more):
            new = raw[:point] + more + raw[point:]
        case Delete():
            new = raw[:start] + raw[end:]
        case _:
            return data[: element.offset + point]
    changed = data[: element.offset] + new + data[element.end :]
    return mended(name, element, changed, len(new) - len(raw))


def mended(name: str, element: Element, data: bytes, more: int) -> bytes:
    """PACKAGED's be32 says how long the package is now, unless it was itself struck."""
    if not element.in_package or not more:
        return data
    packaged = next(
        e for e in parsed(name)[0] if isinstance(e.value, Command) and e.value.name == "PACKAGED"
    )
    size = int.from_bytes(packaged.raw[-4:], "big") + more
    return data[: packaged.end - 4] + size.to_bytes(4, "big") + data[packaged.end :]


@pytest.mark.parametrize("name", STREAMS)
@given(seed=SEEDS)
@settings(EXAMPLES, max_examples=5)
def test_without_a_fault_every_chunk_goes_on_as_it_came(name: str, seed: int) -> None:
    relay = main(FaultEngine())
    for chunk in pieces(recorded(name), seed):
        assert acts(relay.received(SOURCE, chunk)) == [Send(DESTINATION, chunk)]
    assert acts(relay.ended(SOURCE)) == [HalfClose(DESTINATION)]


@given(struck=struck_streams(), seed=SEEDS)
@EXAMPLES
def test_what_leaves_is_the_edit_of_the_whole_stream(
    struck: tuple[str, Fault, bytes | None], seed: int
) -> None:
    name, fault, changed = struck
    engine = FaultEngine((fault,))
    out = through(engine, pieces(recorded(name), seed))
    expected = recorded(name) if changed is None else changed
    assert out == expected, f"{fault}: first differs at {differs(out, expected)}"
    assert len(engine.unfired()) == (changed is None)


@given(name=st.sampled_from(STREAMS), seed=SEEDS, draw=st.data())
@EXAMPLES
def test_any_offset_can_be_struck(name: str, seed: int, draw: st.DataObject) -> None:
    data = recorded(name)
    at = draw.draw(st.integers(0, len(data) - 1))
    engine = FaultEngine((Fault(OffsetPlace(at), FlipBits(b"\xff"), "it"),))
    expected = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    assert through(engine, pieces(data, seed)) == expected
    assert engine.unfired() == []


@given(name=st.sampled_from(STREAMS), seed=SEEDS, draw=st.data())
@EXAMPLES
def test_any_section_can_be_taken_out(name: str, seed: int, draw: st.DataObject) -> None:
    elements, _ = parsed(name)
    headers = [e for e in elements if isinstance(e.value, SectionHeader)]
    header = draw.draw(st.sampled_from(headers))
    footers = (e for e in elements if isinstance(e.value, SectionFooter))
    footer = next(e for e in footers if e.offset > header.offset)
    value = header.value
    assert isinstance(value, SectionHeader)
    where = SectionPlace(value.idstr, value.type.name.lower(), value.instance_id, header.occurrence)
    engine = FaultEngine((Fault(where, Delete(), "it"),))
    data = recorded(name)
    expected = data[: header.offset] + data[footer.end :]
    expected = mended(name, header, expected, header.offset - footer.end)
    assert through(engine, pieces(data, seed)) == expected


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
