"""Migrations in captures: found among other connections, put together as they were received."""

import random
import time
from functools import cache
from itertools import zip_longest

import pytest
from decode_helpers import (
    EPOCH_S,
    LINKS,
    Ends,
    channels_of,
    holed,
    joined,
    pcap,
    pcapng,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.ppp import PPP
from scapy.packet import Raw
from thoroughness import usually
from wire_helpers import opaque, parse, precopy, recorded

from testbed.decode import capture as capture_module
from testbed.decode import reassembly
from testbed.decode.capture import read_capture
from testbed.decode.channels import SourceError
from testbed.decode.packets import Segment
from testbed.wire import MainChannel

STREAM = precopy()
RETURNED = bytes.fromhex("00020004 00000001 00010004 00000000".replace(" ", ""))
NAME = "10.77.0.1:40000 -> 10.77.0.2:4444"
BACK_NAME = "10.77.0.2:4444 -> 10.77.0.1:40000"
MULTIFD = b"\x11\x22\x33\x44\0\0\0\1" + bytes(56)
RECOVERY = bytes.fromhex("08000a0007") + b"\x06pc.ram"
PREEMPT = bytes.fromhex("0000000000003008") + b"\x06pc.ram" + bytes(4096)
CLIENT_HELLO = bytes.fromhex("16030101000100") + bytes(257)
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"


def read(data: bytes):
    return read_capture(data, "x.pcap")


def only(data: bytes):
    (channel,) = read(data).channels
    return channel


def other(number: int) -> Ends:
    return Ends(source_port=41000 + number)


@pytest.mark.parametrize("write", [pcap, pcapng])
@pytest.mark.parametrize("link", LINKS)
def test_a_connection_is_read_whatever_link_carried_it(link, write):
    channel = only(write(Ends().whole(STREAM, RETURNED, size=100), link))
    assert (channel.name, joined(channel)) == (NAME, STREAM)
    assert channel.return_path is not None
    assert (channel.return_path.name, joined(channel.return_path)) == (BACK_NAME, RETURNED)
    assert (channel.ended, channel.return_path.ended) == ("FIN", "FIN")


def test_a_connection_over_ipv6_is_read():
    ends = Ends(source="fd00::1", destination="fd00::2")
    channel = only(pcap(ends.whole(STREAM, size=100)))
    assert (channel.name, joined(channel)) == ("[fd00::1]:40000 -> [fd00::2]:4444", STREAM)


def test_ipv6_extension_headers_are_passed():
    ends = Ends(source="fd00::1", destination="fd00::2")
    packets = [
        IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt() / packet[TCP]
        for packet in ends.sending(STREAM, size=500)
    ]
    assert joined(only(pcap(packets))) == STREAM


def test_a_link_that_only_scapy_knows_is_read(monkeypatch):
    monkeypatch.setitem(LINKS, "ppp", (9, lambda ip: PPP(b"\xff\x03\0\x21" + bytes(ip))))
    assert joined(only(pcap(Ends().whole(STREAM, size=500), "ppp"))) == STREAM


def test_a_frame_that_scapy_stumbles_over_is_passed(monkeypatch):
    monkeypatch.setitem(LINKS, "ppp", (9, lambda _: Raw(b"\xff")))
    with pytest.raises(SourceError, match="packets that contradict themselves: 3"):
        read(pcap(Ends().opening(), "ppp"))


def test_a_link_that_nobody_knows_is_named(monkeypatch):
    monkeypatch.setitem(LINKS, "none", (60000, lambda ip: ip))
    with pytest.raises(SourceError, match="packets that are of an unknown link type, 60000: 3"):
        read(pcap(Ends().opening(), "none"))


@pytest.mark.parametrize("name", ["qemu10.0-postcopy.c0", "qemu7.2-recover.rec.c0"])
def test_a_recorded_migration_comes_back_shuffled_and_doubled(name, tmp_path):
    sent, returned = recorded(f"{name}.fwd"), recorded(f"{name}.ret")
    packets = Ends().whole(sent, returned, size=9000)
    rng = random.Random(name)
    packets += rng.sample(packets, len(packets) // 3)
    rng.shuffle(packets)
    path = tmp_path / "migration.pcapng"
    path.write_bytes(pcapng(packets))
    assert channels_of(path) == [(NAME, sent, returned)]


def test_what_is_read_parses_as_what_was_recorded():
    sent = recorded("qemu10.0-precopy.c0.fwd")
    channel = only(pcap(Ends().whole(sent, size=60_000)))
    elements = parse(MainChannel(), (chunk.data for chunk in channel.chunks()))
    assert b"".join(element.raw for element in elements) == sent
    assert not opaque(elements)


@settings(max_examples=usually(12, thoroughly=60), deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_segmentation_in_any_order_with_overlaps_is_the_same_stream(sizes, isn, syn, seed):
    """Also where sequence numbers wrap; without a SYN all of a window comes before its decision."""
    rng = random.Random(seed)
    ends = Ends(source_isn=isn, destination_isn=isn ^ 0xFFFF0000)
    packets = ends.opening() if syn else []
    start = 0
    while start < len(STREAM):
        size = rng.choice(sizes)
        before = rng.randrange(min(start, 50) + 1)
        data = STREAM[start - before : start + size]
        packets.append(ends.packet(offset=start - before, data=data))
        if rng.random() < 0.2:
            packets.append(ends.packet(offset=start, data=STREAM[start : start + size // 2]))
        start += size
    if len(packets) < reassembly.PARKED_UNBEGUN_MAX:
        rng.shuffle(packets)
    assert joined(only(pcap(packets, "raw"))) == STREAM


def test_the_first_of_two_that_contradict_each_other_counts():
    ends = Ends()
    packets = [
        *ends.opening(),
        ends.packet(data=STREAM[:100]),
        ends.packet(offset=50, data=b"\xff" * 50 + STREAM[100:]),
    ]
    assert joined(only(pcap(packets))) == STREAM


def test_a_probe_of_a_byte_that_was_sent_adds_nothing():
    ends = Ends()
    packets = [*ends.opening(), *ends.sending(STREAM)]
    packets.insert(4, ends.packet(offset=99, data=b"\0"))
    assert joined(only(pcap(packets))) == STREAM


@pytest.mark.parametrize("shuffle", [False, True])
def test_lost_segments_are_holes_of_their_size(shuffle):
    ends = Ends()
    packets = ends.whole(STREAM, size=100)
    del packets[8]  # the sixth
    del packets[5:7]  # the third and the fourth
    if shuffle:
        random.Random(1).shuffle(packets)
    source = read(pcap(packets))
    (channel,) = source.channels
    assert holed(channel) == [STREAM[:200], 200, STREAM[400:500], 100, STREAM[600:]]
    assert channel.total_bytes == len(STREAM)
    assert source.notes == (f"{NAME}: 300 bytes are not in the capture",)


def test_a_lost_end_is_a_hole_if_its_fin_tells():
    packets = Ends().whole(STREAM, size=100)
    kept = [each for each in packets if len(each[TCP].payload) in (0, 100)]
    channel = only(pcap(kept))
    tail = len(STREAM) % 100
    assert holed(channel) == [STREAM[:-tail], tail]
    assert channel.total_bytes == len(STREAM)


def test_a_hole_is_taken_for_a_loss_once_too_much_waits_behind_it(monkeypatch):
    """What fills it later is late: nothing is put out of order."""
    monkeypatch.setattr(reassembly, "PARKED_BYTES_MAX", 250)
    ends = Ends()
    packets = [*ends.opening(), *ends.sending(STREAM, size=100)]
    packets.append(packets.pop(4))
    assert holed(only(pcap(packets))) == [STREAM[:100], 100, STREAM[200:]]


def test_all_that_waits_is_bounded_over_all_connections(monkeypatch):
    monkeypatch.setattr(reassembly, "PARKED_MAX", 10)
    packets = []
    for number in range(4):
        sent = other(number).sending(STREAM, size=100)
        packets += [*other(number).opening(), *sent[:1], *sent[2:6]]
    source = read(pcap(packets))
    want = [STREAM[:100], 100, STREAM[200:600]]
    assert [holed(channel) for channel in source.channels] == [want] * 4


def test_packets_that_were_cut_are_holes():
    ends = Ends()
    frames = pcap([*ends.opening(), *ends.sending(STREAM, size=400)], "raw", kept_bytes_max=140)
    source = read(frames)
    (channel,) = source.channels
    parts = []
    for start in range(0, len(STREAM), 400):
        segment = STREAM[start : start + 400]
        parts += [segment[:100], len(segment) - 100]
    assert holed(channel) == parts
    cut = len(parts) // 2
    assert f"packets that were cut when captured (-s 0 keeps all): {cut}" in source.notes


def test_a_capture_that_began_after_the_handshake_is_read():
    packets = Ends().sending(STREAM, size=100)
    packets[:3] = packets[2::-1]
    assert joined(only(pcap(packets))) == STREAM


def test_a_capture_that_began_in_the_middle_of_a_migration_is_refused():
    packets = Ends().sending(STREAM, size=100)[2:]
    with pytest.raises(SourceError, match=r"begins with .*, perhaps in its middle\)"):
        read(pcap(packets))


def test_a_migration_whose_first_bytes_were_lost_is_refused():
    packets = [*Ends().opening(), *Ends().sending(STREAM, size=100)[1:]]
    with pytest.raises(SourceError, match=r"40000 -> .* \(its first bytes are not in the capture"):
        read(pcap(packets))


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        ([], None),
        ([Ends().packet(offset=len(STREAM), flags="FA")], "FIN"),
        ([Ends().packet(offset=len(STREAM), flags="RA")], "RST"),
        ([Ends().packet(back=True, flags="R")], "RST"),
        (
            [
                Ends().packet(offset=len(STREAM), flags="FA"),
                Ends().packet(back=True, flags="R"),
            ],
            "FIN",
        ),
    ],
    ids=["the capture's end", "FIN", "RST", "RST of the other side", "FIN, then RST"],
)
def test_a_channel_says_how_it_ended(last, ended):
    packets = [*Ends().opening(), *Ends().sending(STREAM), *last]
    assert only(pcap(packets)).ended == ended


def test_a_later_connection_between_the_same_ports_is_another():
    first, second = Ends(), Ends(source_isn=77, destination_isn=78)
    packets = [*first.whole(STREAM, size=500), *second.whole(RECOVERY, RETURNED)]
    channels = read(pcap(packets)).channels
    assert [joined(channel) for channel in channels] == [STREAM, RECOVERY]
    assert channels[0].return_path is None
    assert channels[1].return_path is not None


def test_a_migration_is_found_behind_another_connection_of_its_ports():
    """Of one that the capture saw only the end of, and of one that it saw whole."""
    before = [Ends(source_isn=1 << 30).packet(data=SSH), *Ends(source_isn=1 << 31).whole(SSH)]
    source = read(pcap([*before, *Ends().whole(STREAM)]))
    assert [joined(channel) for channel in source.channels] == [STREAM]
    assert source.notes[0].startswith("passed over: 2 TCP connections: ")


def test_a_syn_that_came_twice_opens_nothing_again():
    ends = Ends()
    packets = [*ends.opening(), *ends.sending(STREAM[:200]), *ends.opening()]
    packets += ends.whole(STREAM)[3:]
    assert joined(only(pcap(packets))) == STREAM


def test_the_channels_of_one_migration_are_found_in_the_order_of_their_first_packets():
    streams = [MULTIFD, STREAM, MULTIFD[:-1] + b"\1", RECOVERY]
    packets = [each for number in range(4) for each in other(number).opening()]
    for number in (1, 0, 3, 2):
        packets += other(number).sending(streams[number])
    assert [joined(channel) for channel in read(pcap(packets)).channels] == streams


@pytest.mark.parametrize(
    "names",
    [
        [f"qemu10.0-multifd.c{number}.fwd" for number in range(3)],
        ["qemu7.2-preempt.c0.fwd", "qemu7.2-preempt.c1.fwd"],
    ],
    ids=["multifd", "preempt"],
)
def test_recorded_connections_that_ran_side_by_side_are_all_found(names):
    streams = [recorded(name) for name in names]
    ends = [other(number) for number in range(len(names))]
    packets = [each for end in ends for each in end.opening()]
    sending = [end.sending(stream, size=9000) for end, stream in zip(ends, streams, strict=True)]
    for side_by_side in zip_longest(*sending):
        packets += [packet for packet in side_by_side if packet is not None]
    assert [joined(channel) for channel in read(pcap(packets)).channels] == streams


@pytest.mark.parametrize("weak", [PREEMPT, CLIENT_HELLO], ids=["preempt", "TLS"])
@pytest.mark.parametrize("first", [False, True])
def test_what_says_nothing_by_itself_counts_beside_a_main_channel(weak, first):
    beside = other(1).whole(weak)
    packets = [*beside, *Ends().whole(STREAM)] if first else [*Ends().whole(STREAM), *beside]
    found = {joined(channel) for channel in read(pcap(packets)).channels}
    assert found == {STREAM, weak}


@pytest.mark.parametrize("weak", [PREEMPT, CLIENT_HELLO], ids=["preempt", "TLS"])
def test_what_says_nothing_by_itself_is_passed_over_elsewhere(weak):
    elsewhere = Ends(destination_port=443)
    source = read(pcap([*Ends().whole(STREAM), *elsewhere.whole(weak)]))
    assert [joined(channel) for channel in source.channels] == [STREAM]
    (note,) = source.notes
    assert "1 TCP connection: 10.77.0.1:40000 -> 10.77.0.2:443 (" in note


def test_a_capture_without_a_migration_names_what_it_has():
    ssh, silent, tls, mute = other(0), other(1), other(2), other(3)
    packets = [
        *ssh.whole(SSH, SSH),
        *silent.opening(),
        *tls.whole(CLIENT_HELLO),
        *mute.whole(b"", SSH),
        IP(dst="10.0.0.1") / UDP() / b"x",
    ]
    with pytest.raises(SourceError) as raised:
        read(pcap(packets))
    assert raised.value.what == (
        "x.pcap: no migration in this capture: 4 TCP connections: "
        "10.77.0.1:41000 -> 10.77.0.2:4444 (begins with 'SSH-2.0-'), "
        "10.77.0.1:41001 -> 10.77.0.2:4444 (nothing was sent), "
        "10.77.0.1:41002 -> 10.77.0.2:4444 (TLS), "
        "10.77.0.1:41003 -> 10.77.0.2:4444 (its opener is silent)"
    )


def test_of_many_connections_only_the_first_are_named():
    packets = [each for number in range(20) for each in other(number).whole(SSH)]
    with pytest.raises(SourceError, match=r"20 TCP connections: .*41011.* and 8 more"):
        read(pcap(packets))


def test_a_capture_without_tcp_or_without_packets_says_so():
    told = r"no TCP connection; packets: 1; packets that are not TCP: 1$"
    with pytest.raises(SourceError, match=told):
        read(pcap([IP(dst="10.0.0.1") / UDP() / b"x"]))
    with pytest.raises(SourceError, match=r"no TCP connection; packets: 0$"):
        read(pcap([]))


def test_connections_known_at_one_time_are_bounded(monkeypatch):
    """A migration among more connections than that is found all the same."""
    monkeypatch.setattr(capture_module, "CONNECTIONS_MAX", 5)
    opening = [each for number in range(50) for each in other(number).whole(SSH)]
    early, late = Ends(source_port=50000), Ends(source_port=50001)
    packets = [*early.opening(), *early.sending(STREAM[:1000]), *opening]
    packets += [*early.sending(STREAM), *late.whole(STREAM)]
    source = read(pcap(packets))
    assert [joined(channel) for channel in source.channels] == [STREAM, STREAM]
    assert source.notes[0].startswith("passed over: 50 TCP connections")


def test_migration_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(capture_module, "CONNECTIONS_MAX", 5)
    packets = [each for number in range(6) for each in other(number).whole(STREAM)]
    with pytest.raises(SourceError, match="more than 5 migration connections"):
        read(pcap(packets))


def test_migration_connections_of_the_same_ends_are_bounded_too(monkeypatch):
    """Each SYN that cannot be the earlier connection's opens another one in its place."""
    monkeypatch.setattr(capture_module, "CONNECTIONS_MAX", 5)
    again = [  # the ports of a source come again
        each
        for number in range(6)
        for each in Ends(source_isn=1_000_000 * number).whole(STREAM[:2000])
    ]
    with pytest.raises(SourceError, match="more than 5 migration connections"):
        read(pcap(again))


def test_connections_beyond_the_bound_do_not_look_at_all_migrations():
    """Room is made in one step, however many connections of migrations are older."""
    finder = capture_module.Finder(b"QEVM\0\0\0\3", "x")
    count = capture_module.CONNECTIONS_MAX
    flows = [number.to_bytes(8, "big") + bytes(4) for number in range(1, 2 * count)]
    began = time.process_time()
    for flow in flows[: count - 1]:
        finder.take(Segment(0, flow, 1, 0x02, 0, 0, 0))
        finder.take(Segment(0, flow, 2, 0x10, 0, 8, 8))
    for flow in flows[count:]:
        finder.take(Segment(0, flow, 1, 0x02, 0, 0, 0))
    assert time.process_time() - began < 100e-6 * len(flows)
    assert len(finder.finish()) == count - 1


def test_indexed_segments_are_bounded_and_those_of_others_do_not_count(monkeypatch):
    monkeypatch.setattr(reassembly, "INDEXED_MAX", 20)
    chatter = other(1).whole(SSH * 50, SSH * 50, size=20)
    read(pcap([*chatter, *Ends().whole(STREAM)]))
    with pytest.raises(SourceError, match=r"x\.pcap: more than 20 segments .*editcap"):
        read(pcap(Ends().whole(STREAM, size=50)))


def test_a_connection_that_never_says_what_it_is_is_given_up(monkeypatch):
    """Downloads seen from their middle, and TLS, of which a busy host has plenty."""
    monkeypatch.setattr(capture_module, "UNDECIDED_PIECES_MAX", 10)
    monkeypatch.setattr(reassembly, "INDEXED_MAX", 60)
    packets = other(1).sending(b"\xff" * 10_000, back=True, size=100)
    packets += [*other(2).opening(), *other(2).sending(b"\xff" * 10_000, back=True, size=100)]
    packets += other(3).whole(CLIENT_HELLO * 40, size=100)
    source = read(pcap([*packets, *Ends().whole(STREAM)]))
    assert [joined(channel) for channel in source.channels] == [STREAM]


def test_times_count_from_the_first_packet_and_never_run_back():
    ends = Ends()
    packets = [*ends.opening(), *ends.sending(STREAM[:400], size=100)]
    packets.append(packets.pop(4))  # the second of four comes last, at 6 ms
    for write in (pcap, pcapng):
        source = read(write(packets))
        assert source.began_at_s == EPOCH_S
        chunks = list(source.channels[0].chunks())
        assert [chunk.at_s for chunk in chunks] == pytest.approx([0.003, 0.006, 0.006, 0.006])


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_is_read_in_both_byte_orders_and_resolutions(endianness, nano):
    packets = Ends().whole(STREAM)
    source = read(pcap(packets, endianness=endianness, nano=nano))
    (chunk, *_) = source.channels[0].chunks()
    assert (source.began_at_s, chunk.at_s) == (EPOCH_S, pytest.approx(0.003, abs=2e-6))
    assert joined(source.channels[0]) == STREAM


def test_segments_beyond_what_scapy_reads_are_whole():
    """On `lo`, IP packets have 65535 bytes, and frames 14 more."""
    big = STREAM + bytes(200_000)
    assert joined(only(pcap(Ends().whole(big, size=65535 - 40)))) == big


@pytest.mark.parametrize("source", ["10.77.0.1", "fd00::1"])
def test_lengths_that_do_not_fit_their_field_are_the_frame_s(source):
    """BIG TCP, or a length left to the network card: the field says 0."""
    ends = Ends(source=source, destination="fd00::2" if ":" in source else "10.77.0.2")
    big = STREAM + bytes(300_000)
    packets = [*ends.opening(), *ends.sending(big, size=150_000)]
    for packet in packets[3:]:
        setattr(packet, "plen" if ":" in source else "len", 0)
    assert joined(only(pcap(packets))) == big


def test_padding_of_short_frames_is_not_the_stream_s(monkeypatch):
    monkeypatch.setitem(LINKS, "padded", (1, lambda ip: LINKS["Ethernet"][1](ip) / (b"\xaa" * 6)))
    ends = Ends()
    packets = [*ends.opening(), *ends.sending(STREAM, size=100)]
    for packet in packets:
        packet.len = len(packet)
    assert joined(only(pcap(packets, "padded"))) == STREAM


def test_fragments_are_counted_and_leave_a_hole():
    packets = [*Ends().opening(), *Ends().sending(STREAM, size=300)]
    packets[4:5] = fragment(packets[4], 160)
    source = read(pcap(packets))
    assert holed(source.channels[0]) == [STREAM[:300], 300, STREAM[600:]]
    assert "packets that are fragments of IP packets, which are not put together: 2" in source.notes


@pytest.mark.parametrize("write", [pcap, pcapng])
def test_a_capture_cut_short_is_read_as_far_as_it_goes(write):
    whole = write([*Ends().opening(), *Ends().sending(STREAM, size=100)])
    source = read(whole[:-30])
    tail = len(STREAM) % 100
    assert joined(source.channels[0]) == STREAM[:-tail]
    assert "cut short in its last" in source.notes[-1]


def test_a_broken_capture_is_read_up_to_there():
    good = pcap([*Ends().opening(), *Ends().sending(STREAM, size=100)])
    source = read(good + b"\xff" * 100)
    assert joined(source.channels[0]) == STREAM
    assert source.notes == (
        f"the capture is broken at offset {len(good):#x}: "
        "expected a packet, got a packet of 4294967295 bytes",
    )


@pytest.mark.parametrize("size", range(4, 24))
def test_a_header_cut_short_is_no_capture(size):
    with pytest.raises(SourceError, match=r"x\.pcap: a pcap file cut short in its header"):
        read(pcap([])[:size])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([pcap, pcapng]), st.data())
def test_a_mutated_capture_is_read_or_refused(write, data):
    capture = bytearray(_small_capture(write))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(4, len(capture) - 1))
        capture[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, capture[at] ^ 1]))
    try:
        source = read(bytes(capture))
    except SourceError:
        return
    for channel in source.channels:
        size = sum(len(chunk.data) + chunk.missing_bytes for chunk in channel.chunks())
        assert size == channel.total_bytes


@cache
def _small_capture(write):
    six = Ends(source="fd00::1", destination="fd00::2")
    return write([*Ends().whole(STREAM[:300], RETURNED, size=100), *six.whole(STREAM[:200])])
