"""Device state that imitates a footer and the header behind it: what is believed, what is denied.

The stream itself cannot tell: a parser that goes forward believes the imitation, and the vmdesc
gives it away.
"""

import pytest
from hostile_helpers import TO_DEVICES
from wire_helpers import device, parse, vmdesc

from testbed.wire import MainChannel
from testbed.wire.element import Payload, SectionHeader, SectionType
from testbed.wire.structs import U32


def forged(count: int, first_id: int) -> bytes:
    """So many footers, each of the section before it, with a header of a new one behind each."""
    made = b""
    for number in range(count):
        made += b"\x7e" + U32.pack(first_id + number)
        made += device(first_id + number + 1, f"forged{number}", b"")[:-5]
    return made


def cut_as(channel: MainChannel, data: bytes) -> list[tuple[str, bytes]]:
    """Each device section as it was cut: its idstr and its payload."""
    sections: list[tuple[str, bytes]] = []
    for element in parse(channel, [data]):
        match element.value:
            case SectionHeader(SectionType.FULL, _, idstr):
                sections.append((idstr, b""))
            case Payload(payload):
                sections[-1] = sections[-1][0], payload
    return sections


@pytest.mark.parametrize("count", [1, 2, 5])
def test_imitations_in_a_row_are_believed_and_the_vmdesc_denies_each(count: int) -> None:
    serial = b"a" + forged(count, 5) + b"z"
    # The last forged section has the id of the true footer: else nothing would end it.
    data = TO_DEVICES + device(5, "serial", serial)[:-5] + b"\x7e" + U32.pack(5 + count)
    data += device(90, "timer", b"t") + vmdesc(("serial", 0, len(serial)), ("timer", 0, 1))
    channel = MainChannel()
    sections = cut_as(channel, data)
    forgeries = [(f"forged{number}", b"") for number in range(count - 1)]
    assert sections == [("serial", b"a"), *forgeries, (f"forged{count - 1}", b"z"), ("timer", b"t")]
    assert not channel.confirmed
    assert f"the vmdesc has serial instance 0 with {len(serial)} bytes" in channel.corrections[0]
    assert len(channel.corrections) == 2 + count


def test_an_imitation_of_a_header_with_the_id_of_a_later_section_hides_that_section() -> None:
    """The true header's section_id is taken by then: nothing legal follows, up to the EOF byte."""
    serial = b"a\x7e\0\0\0\5" + device(6, "timer", b"")[:-5] + b"z"
    data = TO_DEVICES + device(5, "serial", serial) + device(6, "timer", b"t")
    channel = MainChannel()
    sections = cut_as(channel, data + vmdesc(("serial", 0, len(serial)), ("timer", 0, 1)))
    hidden = b"z\x7e\0\0\0\5" + device(6, "timer", b"t")[:-5]
    assert sections == [("serial", b"a"), ("timer", hidden)]
    assert channel.corrections[0].startswith("device section 1: the vmdesc has serial")
    assert len(channel.corrections) == 2


def test_an_imitation_of_a_header_alone_or_a_footer_alone_is_payload() -> None:
    for imitation in (device(6, "forged", b"")[:-5], b"\x7e\0\0\0\5" * 3, b"\x7e\0\0\0\6\0\6"):
        data = TO_DEVICES + device(5, "serial", imitation)
        channel = MainChannel()
        sections = cut_as(channel, data + vmdesc(("serial", 0, len(imitation))))
        assert sections == [("serial", imitation)]
        assert channel.confirmed
