"""Source and destination against each other, in one process, cut at every byte that may be cut."""

import pytest
from model_helpers import Pair, outgoing

from testbed.model.migration.effects import HangUp, Say
from testbed.model.migration.memory import Memory
from testbed.model.migration.messages import LENGTHS
from testbed.model.migration.ram import Ram as RealRam
from testbed.model.migration.source import Parameters, Source
from testbed.model.profile import PROFILES
from testbed.wire import MainChannel, build, encode
from testbed.wire.element import MessageType, Opaque, VmDescription
from testbed.wire.structs import MESSAGE

BOTH = ("2.9", "7.2")


def parsed(data):
    channel = MainChannel()
    elements = channel.feed(data) + channel.end()
    assert not [each for each in elements if isinstance(each.value, Opaque) and each.raw]
    return elements, channel


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("return_path", [True, False])
def test_precopy_moves_the_guest(profile, return_path):
    pair = Pair(profile, return_path=return_path).run()
    assert pair.statuses == ["setup", "active", "completed"]
    assert pair.bed.statuses == ["active", "completed"]
    assert (pair.said, pair.bed.said) == ([], [])
    assert pair.runs_at == {"destination"}
    assert (pair.bed.timer.ticks, pair.bed.serial.payload) == (1, b"abcde")
    elements, channel = parsed(pair.forward)
    assert channel.confirmed
    assert isinstance(elements[-1].value, VmDescription)
    assert pair.machine.ram.done == ["complete", "cleanup"]


@pytest.mark.parametrize("profile", BOTH)
def test_postcopy_moves_the_guest_first(profile):
    pair = Pair(profile, postcopy=True).run()
    assert pair.statuses == ["setup", "active", "postcopy-active", "completed"]
    assert pair.bed.statuses == ["active", "postcopy-active", "completed"]
    assert (pair.said, pair.bed.said) == ([], [])
    assert pair.runs_at == {"destination"}
    assert pair.bed.ram.done == ["advise", "prepare", (0x1000, 0x2000), "listen", "end"]
    assert pair.bed.answers == ["PONG"] * 4 + ["SHUT"]
    parsed(pair.forward)


def cuts(**how):
    """All bytes at which a connection can be lost, the last one excluded."""
    return range(len(Pair(**how).run().forward))


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("return_path", [True, False])
def test_precopy_that_is_cut_leaves_the_guest_at_one_side(profile, return_path):
    vmdesc_at = Pair(profile, return_path=return_path).run().forward.index(b"{")
    outcomes = {"failed": 0, "lost": 0, "late": 0}
    for cut in cuts(profile=profile, return_path=return_path):
        pair = Pair(profile, return_path=return_path, cut=cut).run()
        where = (cut, pair.statuses, pair.bed.statuses, pair.runs_at)
        if pair.bed.statuses[-1] == "completed":  # behind EOF: what is lost is the vmdesc
            outcomes["late"] += 1
            assert cut >= vmdesc_at - 5, where
            assert "destination" in pair.runs_at, where
        elif pair.runs_at == {"source"}:
            outcomes["failed"] += 1
            assert (pair.statuses[-1], pair.bed.exit_status) == ("failed", 1), where
        else:  # without a return path it was written, and that was all
            outcomes["lost"] += 1
            assert not pair.source.has_return_path, where
            assert (pair.statuses[-1], pair.bed.exit_status) == ("completed", 1), where
            assert pair.runs_at == set(), where
    assert outcomes["failed"]
    assert outcomes["late"]
    assert bool(outcomes["lost"]) is not pair.source.has_return_path


def test_a_vmdesc_that_is_lost_splits_the_brain_as_in_qemu():
    whole = Pair().run()
    pair = Pair(cut=len(whole.forward) - 1).run()
    assert pair.statuses[-1] == "failed"
    assert pair.bed.statuses[-1] == "completed"
    assert pair.runs_at == {"source", "destination"}


WAITS = ("postcopy-active", "postcopy-paused", "destination")
"""All was written, and the link lost: the source waits for SHUT, as 7.2 does."""


def test_postcopy_that_is_cut_can_be_recovered_once_the_guest_runs():
    outcomes = set()
    for cut in cuts(postcopy=True):
        pair = Pair(postcopy=True, cut=cut).run()
        outcome = pair.statuses[-1], pair.bed.statuses[-1], *sorted(pair.runs_at)
        outcomes.add(outcome)
        if outcome == WAITS:
            continue
        if pair.bed.statuses[-1] == "postcopy-paused":
            assert outcome[:2] == ("postcopy-paused", "postcopy-paused"), cut
            assert pair.runs_at == {"destination"}
            pair.recover()
            assert pair.statuses[-1] == "completed", cut
            assert pair.bed.statuses[-1] == "completed", cut
            assert pair.runs_at == {"destination"}
    assert outcomes == {
        ("failed", "failed", "source"),
        # The package was lost: the guest is stopped there, and the destination is gone.
        ("postcopy-paused", "failed"),
        ("postcopy-paused", "postcopy-paused", "destination"),
        WAITS,
    }


def test_before_there_was_recovery_a_cut_in_postcopy_loses_the_guest():
    outcomes = {
        (pair.statuses[-1], pair.bed.statuses[-1], *sorted(pair.runs_at))
        for cut in cuts(profile="2.9", postcopy=True)
        for pair in [Pair("2.9", postcopy=True, cut=cut).run()]
    }
    assert ("failed", "failed", "source") in outcomes
    assert ("failed", "failed") in outcomes
    assert not [each for each in outcomes if "postcopy-paused" in each]


def test_the_same_seedless_run_gives_the_same_bytes():
    assert Pair().run().forward == Pair().run().forward


def test_a_source_that_is_cancelled_keeps_its_guest():
    pair = Pair()
    pair._do(pair.source.begin(0.0))
    pair._do(pair.source.cancel())
    assert pair.statuses == ["setup", "active", "cancelling", "cancelled"]
    assert pair.runs_at == {"source"}
    assert pair.bed.exit_status == 1


def test_a_rate_limit_holds_until_the_next_window():
    pair = Pair(return_path=False)
    pair.machine.ram.rounds = 2000
    pair.run(turns=400)
    sent = len(pair.forward)
    assert pair.now_s > 0
    assert sent <= 20_000 * (pair.now_s + 0.1) + 500


MESSAGES = [
    ("0000 0000", "RP: Received invalid message 0x0000 length 0x0000"),
    ("0007 0000", "RP: Received invalid message 0x0007 length 0x0000"),
    ("0001 0002 0000", "RP: Received 'SHUT' message (0x0001) withincorrect length 2 expecting 4"),
    (
        "0004 0001 00",
        "RP: Received 'REQ_PAGES' message (0x0004) withincorrect length 1 expecting 12",
    ),
    (
        "0003 0201" + "00" * 513,
        "RP: Received 'REQ_PAGES_ID' message (0x0003) withincorrect length 513 expecting "
        "18446744073709551615",
    ),
    ("0005 0000", "source_return_path_thread: missing block name"),
    ("0005 0003 02 7063 0002", "ram_dirty_bitmap_reload: incorrect state active"),
    ("0001 0004 00000001", "RP: Sibling indicated error 1"),
    ("0003 000f 0000000000003000 00001000 02 7063", "ram_save_queue_pages no block 'pc'"),
    (
        "0005 0003 02 7063 0000000000000000 0123456789abcdef",
        "ram_dirty_bitmap_reload: incorrect state active",
    ),
]


@pytest.mark.parametrize(("message", "said"), MESSAGES)
def test_what_a_destination_may_not_say(message, said):
    pair = Pair()
    pair._do(pair.source.begin(0.0))
    pair._do(pair.source.back(bytes.fromhex(message)))
    assert pair.said == [said]
    pair.go_on()
    assert pair.statuses[-1] == "failed"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("0002 0004 0000", ["RP: Failed reading data for message 0x0002 read 2 expected 4"]),
        ("0002 00", []),
        ("", []),
    ],
)
def test_a_return_path_that_is_cut(message, said):
    pair = Pair()
    pair._do(pair.source.begin(0.0))
    pair._do(pair.source.back(bytes.fromhex(message)))
    assert pair.said == []
    pair._do(pair.source.back_ended())
    assert pair.said == said
    pair.go_on()
    assert pair.statuses[-1] == "failed"


@pytest.mark.parametrize("name", ["SHUT", "PONG", "REQ_PAGES", "RESUME_ACK"])
@pytest.mark.parametrize("more", [-1, 1, 508, 60000])
def test_a_wrong_length_is_refused_before_what_it_announces_has_come(name, more):
    kind = MessageType[name]
    length = LENGTHS[kind] + more
    pair = Pair()
    pair._do(pair.source.begin(0.0))
    header = MESSAGE.pack(kind, length)
    pair._do(pair.source.back(header[:3]))
    assert pair.said == []
    pair._do(pair.source.back(header[3:]))
    told = f"RP: Received '{name}' message ({kind:#06x}) withincorrect length {length} "
    assert pair.said == [f"{told}expecting {LENGTHS[kind]}"]
    pair.go_on()
    assert pair.statuses[-1] == "failed"


@pytest.mark.parametrize("name", ["REQ_PAGES_ID", "RECV_BITMAP"])
def test_a_length_beyond_all_messages_is_refused_before_it_has_come(name):
    pair = Pair()
    pair._do(pair.source.begin(0.0))
    pair._do(pair.source.back(MESSAGE.pack(MessageType[name], 513)))
    assert pair.said[0].endswith("withincorrect length 513 expecting 18446744073709551615")


BITMAP = build.received_bitmap("pc.ram", bytes(8))
MISMATCH = "ram_dirty_bitmap_reload: ramblock 'pc.ram' bitmap size mismatch"
CUT_BITMAP = "ram_dirty_bitmap_reload: read bitmap failed for ramblock 'pc.ram': -5 (size 0x8, got:"


def recovering():
    """A source in the handshake of a recovery, and its effects since."""
    profile = PROFILES["7.2"]
    memory = Memory()
    memory.add("pc.ram", 16 * 4096)
    ram = RealRam(memory, profile)
    source = Source(outgoing(profile, ram), ram, profile, Parameters(postcopy=True))
    source.start_postcopy_at_once = True
    source.begin(0.0)
    while source.status != "postcopy-active":
        source.advance(source.next_at_s)
    source.pause()
    assert source.status == "postcopy-paused"
    source.recover()
    assert source.status == "postcopy-recover"
    return source


def told(effects):
    return [effect.line for effect in effects if isinstance(effect, Say)]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (encode(BITMAP)[:-1], f"{CUT_BITMAP} 0x8)"),
        (encode(BITMAP)[:22], f"{CUT_BITMAP} 0x3)"),
        (encode(BITMAP)[:19], f"{CUT_BITMAP} 0x0)"),
        (encode(BITMAP)[:12], f"{MISMATCH} (0x0 != 0x8)"),
        (encode(BITMAP)[:11], f"{MISMATCH} (0x0 != 0x8)"),
        (encode(BITMAP)[:9], "RP: Failed reading data for message 0x0005 read 5 expected 7"),
    ],
)
def test_a_bitmap_that_is_cut_leaves_the_source_in_recovery_for_ever(message, said):
    source = recovering()
    assert source.back(message) == []
    effects = source.back_ended()
    assert told(effects) == [said]
    assert any(isinstance(effect, HangUp) for effect in effects)
    assert (source.status, source.waits) == ("postcopy-recover", True)
    assert source.advance(99.0) == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            build.received_bitmap("vga", b""),
            "migrate_handle_rp_recv_bitmap: invalid block name 'vga'",
        ),
        (build.received_bitmap("pc.ram", bytes(80)), f"{MISMATCH} (0x50 != 0x8)"),
    ],
)
def test_a_bitmap_that_cannot_be_is_refused_before_it_has_come(message, said):
    source = recovering()
    known = len(encode(message)) - len(message.bitmap) + 8
    assert told(source.back(encode(message)[:known])) == [said]
    assert source.status == "postcopy-recover"


@pytest.mark.parametrize("acts", ["cancel", "lost"])
def test_a_source_in_recovery_whose_link_is_lost_is_beyond_help(acts):
    source = recovering()
    if acts == "lost":
        effects = source.back_ended() + source.write_failed(-32, "Broken pipe")
        assert source.status == "postcopy-recover"
    else:
        effects = source.cancel()
        assert source.status == "cancelling"
    assert any(isinstance(effect, HangUp) for effect in effects)
    assert source.waits


def test_before_there_was_recovery_its_messages_are_unknown():
    pair = Pair("2.9", postcopy=True)
    pair._do(pair.source.begin(0.0))
    pair._do(pair.source.back(bytes.fromhex("0005 0000")))
    assert pair.said == ["RP: Received invalid message 0x0005 length 0x0000"]


def test_device_state_alone_and_a_whole_machine_to_a_file():
    machine = outgoing(PROFILES["7.2"])
    elements, _ = parsed(b"".join(machine.device_state()))
    assert [each.section.idstr for each in elements if each.spans and each.section][::3]
    whole, channel = parsed(b"".join(outgoing(PROFILES["2.9"]).whole(1 << 20)))
    assert channel.confirmed
    assert b'{ "page_size" : 4096' in whole[-1].raw
