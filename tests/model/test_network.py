"""The guest's network: it answers what is asked of it, and nothing else; scapy makes the frames."""

import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from testbed.model.guest.network import FRAME_BYTES_MAX, NetworkStack, checksum, guest_address

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

MAC, CLIENT_MAC = "52:54:00:12:34:56", "02:00:00:00:00:01"
ADDRESS, CLIENT = "10.99.0.2", "10.99.0.1"
STACK = NetworkStack(bytes.fromhex(MAC.replace(":", "")), guest_address(0))


def who_has(target=ADDRESS, *, to="ff:ff:ff:ff:ff:ff", source=CLIENT_MAC, **more):
    fields = {"op": 1, "hwsrc": source, "psrc": CLIENT, "pdst": target, **more}
    return bytes(Ether(dst=to, src=source) / ARP(**fields))


def echo(payload=b"0123456789", *, to=MAC, ip=None, icmp=None):
    ip = {"src": CLIENT, "dst": ADDRESS, **(ip or {})}
    icmp = {"type": 8, "id": 77, "seq": 3, **(icmp or {})}
    return bytes(Ether(dst=to, src=CLIENT_MAC) / IP(**ip) / ICMP(**icmp) / Raw(payload))


def changed(frame, at, data):
    return frame[:at] + data + frame[at + len(data) :]


@pytest.mark.parametrize(("nic", "address"), [(0, ADDRESS), (1, "10.99.0.3"), (252, "10.99.0.254")])
def test_each_nic_has_its_address(nic, address):
    assert ".".join(map(str, guest_address(nic))) == address


def test_it_announces_its_address_when_it_boots():
    frame = STACK.gratuitous_arp()
    said = Ether(frame)
    assert len(frame) == 60
    assert (said.dst, said.src, said.type) == ("ff:ff:ff:ff:ff:ff", MAC, 0x0806)
    assert (said[ARP].op, said[ARP].hwsrc, said[ARP].psrc) == (1, MAC, ADDRESS)
    assert (said[ARP].hwdst, said[ARP].pdst) == ("00:00:00:00:00:00", ADDRESS)
    assert STACK.answer(frame) is None


@pytest.mark.parametrize("frame", [who_has(), who_has(to=MAC), who_has() + bytes(18)])
def test_it_answers_who_has_its_address(frame):
    answer = STACK.answer(frame)
    said = Ether(answer)
    assert len(answer) == 60
    assert (said.dst, said.src, said.type) == (CLIENT_MAC, MAC, 0x0806)
    body = said[ARP]
    assert (body.hwtype, body.ptype, body.hwlen, body.plen, body.op) == (1, 0x0800, 6, 4, 2)
    assert (body.hwsrc, body.psrc, body.hwdst, body.pdst) == (MAC, ADDRESS, CLIENT_MAC, CLIENT)


def test_it_answers_who_asks_before_having_an_address():
    assert Ether(STACK.answer(who_has(psrc="0.0.0.0")))[ARP].pdst == "0.0.0.0"


@pytest.mark.parametrize("size", [0, 1, 10, 18, 56, 1471, 1472])
@pytest.mark.parametrize("options", [[], [IPOption_NOP()] * 4])
def test_it_answers_a_ping_with_what_it_brought(size, options):
    payload = random.Random(size).randbytes(min(size, 1472 - 4 * bool(options)))
    asked = echo(payload, ip={"options": options, "flags": "DF", "tos": 0x10})
    for frame in (asked, asked.ljust(60, b"\xee")):  # padding is not the packet's
        answer = STACK.answer(frame)
        said = Ether(answer)
        assert (said.dst, said.src, said.type) == (CLIENT_MAC, MAC, 0x0800)
        assert (said[IP].src, said[IP].dst, said[IP].ttl) == (ADDRESS, CLIENT, 64)
        assert (said[IP].ihl, said[IP].len) == (5, 28 + len(payload))
        assert (said[IP].flags, said[IP].frag, said[IP].tos) == (0, 0, 0x10)
        assert (said[ICMP].type, said[ICMP].code, said[ICMP].id, said[ICMP].seq) == (0, 0, 77, 3)
        assert answer[42 : 42 + len(payload)] == payload
        assert len(answer) == max(60, 42 + len(payload))
        assert checksum(answer[14:34]) == 0
        assert checksum(answer[34 : 14 + said[IP].len]) == 0


@pytest.mark.parametrize("data", [b"", b"\1", b"\xff\xff\xff", bytes(range(255))])
def test_the_checksum_is_scapy_s(data):
    from scapy.utils import checksum as theirs

    assert checksum(data) == theirs(data)


NOT_FOR_IT = {
    "nothing": b"",
    "addresses alone": who_has()[:14],
    "ARP for another": who_has("10.99.0.3"),
    "ARP to another MAC": who_has(to="52:54:00:12:34:57"),
    "ARP from a group": who_has(source="03:00:00:00:00:01"),
    "ARP that names a group": who_has(hwsrc="ff:ff:ff:ff:ff:ff"),
    "an ARP reply": who_has(op=2),
    "RARP": who_has(op=3),
    "ARP of another medium": who_has(hwtype=6),
    "ARP of another protocol": changed(who_has(), 16, b"\x86\xdd"),
    "ARP with other lengths": changed(who_has(), 18, b"\4\6"),
    "ARP from who has its address": who_has(psrc=ADDRESS),
    "ARP cut": who_has()[:41],
    "another EtherType": changed(who_has(), 12, b"\x88\xb5"),
    "a tag": bytes(Ether(dst=MAC, src=CLIENT_MAC) / Dot1Q(vlan=1) / IP(dst=ADDRESS) / ICMP()),
    "a ping to another MAC": echo(to="52:54:00:12:34:57"),
    "a ping to all": echo(to="ff:ff:ff:ff:ff:ff"),
    "a ping for another": echo(ip={"dst": "10.99.0.3"}),
    "a ping for all": echo(ip={"dst": "255.255.255.255"}),
    "a ping from itself": echo(ip={"src": ADDRESS}),
    "a ping from a group": echo(ip={"src": "224.0.0.1"}),
    "a ping from all": echo(ip={"src": "255.255.255.255"}),
    "a ping from nobody": echo(ip={"src": "0.0.0.0"}),
    "a first fragment": echo(ip={"flags": "MF"}),
    "a last fragment": echo(ip={"frag": 3}),
    "IPv6": echo(ip={"version": 6}),
    "a header too short": echo(ip={"ihl": 4}),
    "a header longer than the packet": echo(b"", ip={"ihl": 15, "len": 28}),
    "a length of less than its header": echo(ip={"len": 19}),
    "a length beyond the frame": echo(ip={"len": 39}),
    "a wrong checksum": echo(ip={"chksum": 1}),
    "UDP": bytes(Ether(dst=MAC, src=CLIENT_MAC) / IP(src=CLIENT, dst=ADDRESS) / UDP(dport=9)),
    "an answer": echo(icmp={"type": 0}),
    "another question": echo(icmp={"type": 13}),
    "a code": echo(icmp={"code": 1}),
    "a wrong checksum of the question": echo(icmp={"chksum": 1}),
    "a question too short": echo(ip={"len": 27}),
    "a question cut": echo()[:40],
    "one byte more than fits": echo(bytes(1473)),
}


@pytest.mark.parametrize("name", NOT_FOR_IT)
def test_what_is_no_question_to_it_has_no_answer(name):
    assert STACK.answer(NOT_FOR_IT[name]) is None


def test_what_is_refused_above_differs_from_a_question_in_that_alone():
    for frame in (who_has(), echo(), echo(bytes(1472))):
        assert STACK.answer(frame) is not None


@given(
    st.sampled_from([who_has(), echo(), echo(bytes(300))]),
    st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(0, 400),
)
def test_whatever_comes_has_a_frame_as_its_answer_or_none(frame, changes, size):
    for at, data in changes:
        frame = changed(frame, at, data)
    answer = STACK.answer(frame[:size])
    assert answer is None or 60 <= len(answer) <= FRAME_BYTES_MAX


@given(st.binary(max_size=2000))
def test_bytes_are_no_question(frame):
    assert STACK.answer(frame) is None
