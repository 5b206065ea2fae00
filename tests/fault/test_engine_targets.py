"""Faults in the device state of other machines strike where their section's ends are certain."""

import pytest
from fault_helpers import main, passed, run
from wire_helpers import TARGETS, parse, pieces, recorded, steps

from testbed.fault.engine import FaultEngine
from testbed.fault.plan import (
    Duplicate,
    ElementPlace,
    Fault,
    FlipBits,
    Insert,
    PagePlace,
    Replay,
    SectionPlace,
    SetField,
    Swap,
)
from testbed.wire import MainChannel
from testbed.wire import layout as layout_module
from testbed.wire.element import (
    Element,
    Payload,
    RamPage,
    SectionFooter,
    SectionHeader,
    SectionType,
)

S390_BEFORE_10 = "targets/qemu7.2-s390x.fwd"
CSS = SectionPlace("s390_css", "full")
WHY = "it could not be placed: vmdesc and stream disagree on the section's size: 272 and 1039 bytes"


def footers(name: str) -> list[Element]:
    """Of all device sections."""
    return [
        each
        for each in parse(MainChannel(), [recorded(name)])
        if isinstance(each.value, SectionFooter)
        and each.section is not None
        and each.section.type is SectionType.FULL
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_a_fault_strikes_in_every_section_whose_ends_are_certain(name: str) -> None:
    faults, expected = [], bytearray(recorded(name))
    for number, element in enumerate(footers(name)):
        assert element.section is not None
        idstr, instance_id = element.section.idstr, element.section.instance_id
        nth = element.occurrence
        place = SectionPlace(idstr, "full", instance_id, nth, part="footer", field="mark")
        faults.append(Fault(place, SetField(0x7D), f"{number}"))
        if idstr != "s390_css" or name != S390_BEFORE_10:
            assert expected[element.offset] == 0x7E
            expected[element.offset] = 0x7D
    assert len(faults) >= 4
    engine = FaultEngine(tuple(faults))
    assert passed(run(main(engine), pieces(recorded(name), 5))) == expected
    doubtful = 1 if name == S390_BEFORE_10 else 0
    assert len(engine.unfired()) == doubtful
    assert all(each.endswith(WHY) for each in engine.unfired())


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(CSS, Insert(b"!"), "it"), WHY),
        (Fault(CSS, Duplicate(), "it"), WHY),
        (Fault(SectionPlace("s390_css", part="payload"), SetField(0), "it"), WHY),
        (
            Fault(SectionPlace("s390_css", part="payload", field="max_ssid"), SetField(0), "it"),
            "272",
        ),
        (Fault(ElementPlace("payload", name="s390_css", byte=9), SetField(0), "it"), WHY),
        (Fault(SectionPlace("PCIBUS"), Swap(), "it"), WHY),  # with the one behind it
        (Fault(SectionPlace("todclock"), Replay(CSS), "it"), WHY),
    ],
)
def test_what_would_touch_the_section_in_doubt_is_refused(fault: Fault, why: str) -> None:
    data = recorded(S390_BEFORE_10)
    engine = FaultEngine((fault, Fault(SectionPlace("todclock"), Insert(b"!"), "other")))
    out = passed(run(main(engine), [data]))
    todclock = next(
        each.offset
        for each in parse(MainChannel(), [data])
        if isinstance(each.value, SectionHeader) and each.value.idstr == "todclock"
    )
    assert out == data[:todclock] + b"!" + data[todclock:]
    (unfired,) = engine.unfired()
    assert unfired.startswith("fault 1 (it) never fired: ")
    assert why in unfired


def test_a_field_of_the_second_of_two_sections_of_one_name_is_its_own() -> None:
    name = "targets/qemu7.2-isapc.fwd"
    data = recorded(name)
    payloads = [
        each
        for each in parse(MainChannel(), [data])
        if isinstance(each.value, Payload) and each.section and each.section.idstr == "isa-ide"
    ]
    place = SectionPlace("isa-ide", "full", 0, 2, part="payload", field="bus.unit")
    engine = FaultEngine((Fault(place, SetField(1), "it"),))
    out = passed(run(main(engine), [data]))
    assert engine.unfired() == []
    changed = [at for at, (old, new) in enumerate(zip(data, out, strict=True)) if old != new]
    assert len(changed) == 1
    assert payloads[1].offset <= changed[0] < payloads[1].end


PAGES = [
    ("avr", "sram", 4, 256),  # 0x34 of the page, where the loader put a byte
    ("arm-lm3s6965evb", "stellaris.sram", 4, 1024),
    ("or1k", "openrisc.ram", 3, 8192),
    ("tricore", "powerlink_ext_d.ram", 2, 16384),
]


@pytest.mark.parametrize("step", [7000, 1 << 20])
@pytest.mark.parametrize(("target", "block", "page", "page_bytes"), PAGES)
def test_a_page_is_counted_by_the_size_that_the_stream_shows(
    target: str, block: str, page: int, page_bytes: int, step: int
) -> None:
    data = recorded(f"targets/qemu10.0-{target}.fwd")
    record = next(
        each
        for each in parse(MainChannel(), [data])
        if isinstance(each.value, RamPage)
        and each.value.block == block
        and each.value.offset_bytes == page * page_bytes
    )
    engine = FaultEngine((Fault(PagePlace(block, page), FlipBits(b"\x80"), "it"),))
    out = passed(run(main(engine), steps(data, step)))
    assert engine.unfired() == []
    changed = [at for at, (old, new) in enumerate(zip(data, out, strict=True)) if old != new]
    assert changed == [record.offset]


@pytest.mark.parametrize(
    ("field", "start", "size"),
    [("mig_table[0]", 9, 8), ("mig_table[4095]", 9 + 4095 * 8, 8), ("def_win", 32777, 1)],
)
def test_a_field_is_found_behind_a_table_of_any_length(
    field: str, start: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout_module, "SPANS_MAX", 5)  # the table of a real one has 262144 entries
    data = recorded("targets/qemu7.2-ppc64-pseries.fwd")
    place = SectionPlace("spapr_iommu", "full", 0x80000000, part="payload", field=field)
    engine = FaultEngine((Fault(place, SetField(b"\x5a" * size), "it"),))
    out = passed(run(main(engine), [data]))
    assert engine.unfired() == []
    at = next(
        each.offset
        for each in parse(MainChannel(), [data])
        if isinstance(each.value, Payload) and each.section and each.section.instance_id
    )
    assert out == data[: at + start] + b"\x5a" * size + data[at + start + size :]


@pytest.mark.parametrize(
    "field", ["mig_table[4096]", "mig_table[01]", "mig_table[", "mig_table[]", "mig_table[-1]"]
)
def test_an_element_that_an_array_does_not_have_is_no_field(field: str) -> None:
    place = SectionPlace("spapr_iommu", "full", 0x80000000, part="payload", field=field)
    engine = FaultEngine((Fault(place, SetField(1), "it"),))
    data = recorded("targets/qemu7.2-ppc64-pseries.fwd")
    assert passed(run(main(engine), [data])) == data
    assert f"the section has no field {field!r}" in engine.unfired()[0]
