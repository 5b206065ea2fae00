"""The announcement that we build is QEMU's, and its addresses are where they are said to be."""

import pytest
from netns_helpers import GUEST_MAC, rarp

from testbed.netns.capture import decode, rarp_problems
from testbed.netns.rarp import MAC_OFFSETS, is_rarp, rarp_frame

OTHER = "52:54:00:aa:bb:cc"


def test_it_is_the_frame_that_qemu_builds():
    assert rarp_frame(GUEST_MAC) == rarp(GUEST_MAC)
    assert rarp_problems(decode("destination", 0.0, rarp_frame(GUEST_MAC))) == []


def test_it_is_told_by_its_ethertype():
    assert is_rarp(rarp())
    assert not is_rarp(rarp().replace(b"\x80\x35", b"\x08\x06", 1))
    assert not is_rarp(rarp()[:13])


@pytest.mark.parametrize("name", MAC_OFFSETS)
def test_each_address_is_at_its_offset(name):
    at = MAC_OFFSETS[name]
    raw = rarp()[:at] + bytes.fromhex(OTHER.replace(":", "")) + rarp()[at + 6 :]
    frame = decode("destination", 0.0, raw)
    macs = {
        "source": frame.source,
        "sender": frame.rarp["sender_mac"],
        "target": frame.rarp["target_mac"],
    }
    assert macs == {**dict.fromkeys(macs, GUEST_MAC), name: OTHER}
