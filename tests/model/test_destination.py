"""What a destination does with a stream, whole or damaged, and what it says, as QEMU."""

import signal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import (
    ADVISE,
    DISCARD,
    EOF,
    EOS,
    LISTEN,
    LIVE,
    MACHINE,
    OPEN,
    PACKAGE,
    POSTCOPY,
    PRECOPY,
    RESUME,
    RUN,
    SETUP,
    TO_POSTCOPY,
    VMDESC,
    Bed,
    head,
    packaged,
    ping,
    ram,
    serial,
    timer,
)

from testbed.model.migration.configuration import Configuration
from testbed.model.migration.configuration import configuration as vmsd
from testbed.model.migration.incoming import PostcopyState
from testbed.model.migration.memory import Missing
from testbed.model.profile import PROFILES as PROFILES_BY_NAME
from testbed.vmstate import VmState, save
from testbed.wire import build, build_command, build_section, encode
from testbed.wire.element import ConfigurationSubsection, FileHeader, SectionType

SHARED = frozenset({"x-ignore-shared"})
CAPABILITIES = "Failed to load configuration/capabilities:capabilities"
INVALID = "Input validation failed: configuration/capabilities/"
PROFILES = ("2.9", "7.2")
EINVAL, EIO = (
    "load of migration failed: Invalid argument",
    "load of migration failed: Input/output error",
)
PERM = "load of migration failed: Operation not permitted"
UNKNOWN = PROFILES_BY_NAME["7.2"].setup_advice


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("end", [True, False])
def test_precopy_loads_the_machine_and_lets_the_guest_run(profile, end):
    bed = Bed(profile).feed(PRECOPY, end=end)
    assert bed.said == []
    assert bed.statuses == ["active", "completed"]
    assert (bed.timer.ticks, bed.timer.clock, bed.serial.payload) == (1, 2, b"abcde")
    assert (bed.runs, bed.hung_up, bed.exit_status) == (1, 1, None)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_guest_waits_for_the_vmdesc(profile):
    bed = Bed(profile).feed(PRECOPY[:-1])
    assert bed.statuses == ["active"]
    assert bed.runs == 0
    assert bed.feed(PRECOPY[-1:]).runs == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_postcopy_runs_the_guest_before_its_memory_is_there(profile):
    bed = Bed(profile).feed(TO_POSTCOPY + DISCARD + ping(2) + PACKAGE)
    assert bed.said == []
    assert bed.statuses == ["active", "postcopy-active"]
    assert bed.runs == 1
    assert bed.ram.done == ["advise", "prepare", (0x1000, 0x2000), "listen"]
    assert bed.destination.postcopy is PostcopyState.RUNNING
    bed.feed(ping(4) + ram() + ram(SectionType.END) + EOF)
    assert bed.statuses[-1] == "completed"
    assert bed.ram.done[-1] == "end"
    assert bed.answers == ["PONG", "PONG", "PONG", "PONG", "SHUT"]
    assert bed.destination.postcopy is PostcopyState.END


@given(
    st.sampled_from(PROFILES), st.sampled_from([PRECOPY, POSTCOPY]), st.lists(st.integers(1, 60))
)
@settings(max_examples=60, deadline=None)
def test_in_any_chunks_it_does_the_same(profile, stream, sizes):
    whole = Bed(profile).feed(stream, end=True)
    chunks, at = [], 0
    for size in sizes:
        chunks.append(stream[at : at + size])
        at += size
    assert Bed(profile).feed(*chunks, stream[at:], end=True).effects == whole.effects


REFUSED = [
    # what comes, what 2.9 says, what 7.2 says; None: the same
    (b"", ["Not a migration stream", EINVAL], None),
    (
        b"QEVM\0\0",
        [
            "Unsupported migration stream version",
            "load of migration failed: Operation not supported",
        ],
        None,
    ),
    (
        b"QEVM\0\0\0\2",
        [
            "SaveVM v2 format is obsolete and don't work anymore",
            "load of migration failed: Operation not supported",
        ],
        None,
    ),
    (b"QEVM\0\0\0\3", ["Configuration section missing", EINVAL], None),
    (b"QEVM\0\0\0\3\7\0\0", ["Failed to load configuration:len", EIO], None),
    (head()[:-3], ["Failed to load configuration:name", EIO], None),
    (head("q35"), ["Machine type received is 'q35' and local is 'pc-i440fx-7.2'", EINVAL], None),
    (
        head("pc-i440fx-7.2x"),
        ["Machine type received is 'pc-i440fx-7.2x' and local is 'pc-i440fx-7.2'", EINVAL],
        None,
    ),
    (head(), [EIO], None),
    (head() + SETUP, [EIO], None),
    (head() + b"\1\0\0\0\2\0", ["Unable to read ID string for section 2", EINVAL], None),
    (head() + b"\1\0\0\0\2\3ra", ["Unable to read ID string for section 2", EINVAL], None),
    (
        head() + SETUP[:9],
        ["error while loading state for instance 0x0 of device 'ram'", EINVAL],
        ["qemu_loadvm_section_start_full: Failed to read instance/version ID: -5", EIO],
    ),
    (
        head() + b"\2\0",
        ["Unknown savevm section 0", EINVAL],
        ["qemu_loadvm_section_part_end: Failed to read section ID: -5", EIO],
    ),
    (
        head() + SETUP[:-5],
        ["Missing section footer for ram", EINVAL],
        ["check_section_footer: Read section footer failed: -5", EINVAL],
    ),
    (
        head() + SETUP[:-3],
        ["Mismatched section id in footer for ram - read 0x0 expected 0x2", EINVAL],
        None,
    ),
    (head() + SETUP[:-5] + b"\x7d", ["Missing section footer for ram", EINVAL], None),
    (
        head() + SETUP[:-1] + b"\3",
        ["Mismatched section id in footer for ram - read 0x3 expected 0x2", EINVAL],
        None,
    ),
    (head() + b"\x7e", ["Unknown savevm section type 126", EINVAL], None),
    (head() + b"\2\0\0\0\x63", ["Unknown savevm section 99", EINVAL], None),
    (
        head() + b"\2\0\0\0\0",
        ["Unknown savevm section 0", EINVAL],
        [
            "timer: incoming version_id 0 is too old for local minimum version_id  1",
            "error while loading state section id 0(timer)",
            EINVAL,
        ],
    ),
    (head() + b"\3\xff\xff\xff\xff", ["Unknown savevm section -1", EINVAL], None),
    (
        head() + build_section(4, 9, "nobody", 3, 1, b""),
        ["Unknown savevm section or instance 'nobody' 3", EINVAL],
        [f"Unknown savevm section or instance 'nobody' 3{UNKNOWN}", EINVAL],
    ),
    (head() + timer(version_id=3), ["savevm: unsupported version 3 for 'timer' v2", EINVAL], None),
    (
        head() + timer(version_id=0x80000001),
        ["savevm: unsupported version -2147483647 for 'timer' v2", EINVAL],
        None,
    ),
    (
        head() + timer(version_id=0),
        [
            "timer: incoming version_id 0 is too old for local minimum version_id  1",
            "error while loading state for instance 0x0 of device 'timer'",
            EINVAL,
        ],
        None,
    ),
    (
        head() + ram(SectionType.START, 3),
        ["error while loading state for instance 0x0 of device 'ram'", EINVAL],
        None,
    ),
    (
        head() + SETUP + ram(payload=bytes(7) + b"\1"),
        [
            "Unknown combination of migration flags: 0x1",
            "error while loading state section id 2(ram)",
            EINVAL,
        ],
        None,
    ),
    (
        head() + LIVE + timer()[:-12],
        [
            "Failed to load timer:cpu_clock_offset",
            "error while loading state for instance 0x0 of device 'timer'",
            EIO,
        ],
        None,
    ),
    (head() + build_command(0, b"ab"), ["MIG_CMD 0x0 unknown (len 0x2)", EINVAL], None),
    (head() + build_command(11), ["MIG_CMD 0xb unknown (len 0x0)", EINVAL], None),
    (
        head() + RESUME,
        ["MIG_CMD 0x9 unknown (len 0x0)", EINVAL],
        ["loadvm_postcopy_handle_resume: illegal resume received", EIO],
    ),
    (
        head() + build_command(2, b"abc"),
        [
            "PING received with bad length - expecting 4, got 3",
            "load of migration failed: Numerical result out of range",
        ],
        None,
    ),
    (head() + ping(0x10), ["CMD_PING (0x10) received with no return path", PERM], None),
    (head() + OPEN + OPEN, ["CMD_OPEN_RETURN_PATH called when RP already open", EIO], None),
    (
        head() + build_command(3, b"12345678"),
        [
            "POSTCOPY_ADVISE received with bad length - expecting 16, got 8",
            "load of migration failed: Numerical result out of range",
        ],
        ["CMD_POSTCOPY_ADVISE invalid length (8)", EINVAL],
    ),
    (
        head() + build_command(3),
        [
            "POSTCOPY_ADVISE received with bad length - expecting 16, got 0",
            "load of migration failed: Numerical result out of range",
        ],
        ["RAM postcopy is enabled but have 0 byte advise", EINVAL],
    ),
    (
        head() + encode(build.advise(0x200000, 4096)),
        ["Postcopy needs matching host page sizes (s=2097152 d=4096)", PERM],
        ["Postcopy needs matching RAM page sizes (s=200000 d=1000)", PERM],
    ),
    (
        head() + encode(build.advise(4096, 1024)),
        ["Postcopy needs matching target page sizes (s=1024 d=4096)", PERM],
        None,
    ),
    (head() + ADVISE + ADVISE, ["CMD_POSTCOPY_ADVISE in wrong postcopy state (1)", PERM], None),
    (head() + DISCARD, ["CMD_POSTCOPY_RAM_DISCARD in wrong postcopy state (0)", PERM], None),
    (
        head() + ADVISE + build_command(6, bytes(19)),
        ["CMD_POSTCOPY_RAM_DISCARD invalid length (19)", PERM],
        None,
    ),
    (
        head() + ADVISE + build_command(6, b"\1" + bytes(19)),
        ["CMD_POSTCOPY_RAM_DISCARD invalid version (1)", PERM],
        None,
    ),
    (
        head() + ADVISE + build_command(6, bytes(20)),
        ["CMD_POSTCOPY_RAM_DISCARD Failed to read RAMBlock ID", PERM],
        None,
    ),
    (
        head() + ADVISE + build_command(6, b"\0\1ax" + bytes(16)),
        ["CMD_POSTCOPY_RAM_DISCARD missing nil (120)", PERM],
        None,
    ),
    (
        head() + ADVISE + build_command(6, b"\0\1a\0" + bytes(17)),
        ["CMD_POSTCOPY_RAM_DISCARD invalid length (17)", PERM],
        None,
    ),
    (
        head() + ADVISE + encode(build.discard("vga", [(0, 1)])),
        ["ram_discard_range: Failed to find block 'vga'", PERM],
        None,
    ),
    (head() + LISTEN, ["CMD_POSTCOPY_LISTEN in wrong postcopy state (0)", PERM], None),
    (head() + RUN, ["CMD_POSTCOPY_RUN in wrong postcopy state (0)", PERM], None),
    (
        head() + packaged(b"xyz")[:-1],
        [
            "CMD_PACKAGED: Buffer receive fail ret=2 length=3",
            "load of migration failed: Resource temporarily unavailable",
        ],
        None,
    ),
    (
        head() + build_command(7, b"\1\0\0\1"),
        ["Unreasonably large packaged state: 16777217", PERM],
        [
            "CMD_PACKAGED: Buffer receive fail ret=0 length=16777217",
            "load of migration failed: Resource temporarily unavailable",
        ],
    ),
    (head() + packaged(timer()) + b"\x55", ["Unknown savevm section type 85", EINVAL], [EIO]),
    (TO_POSTCOPY + packaged(LISTEN, b"\x55"), ["Unknown savevm section type 85", EINVAL], None),
    (TO_POSTCOPY + PACKAGE, ["CMD_POSTCOPY_RUN in wrong postcopy state (2)", PERM], None),
]


@pytest.mark.parametrize(("stream", "said", "said_by_7_2"), REFUSED)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_refused_and_in_which_words(profile, stream, said, said_by_7_2):
    bed = Bed(profile).feed(stream, end=True)
    assert bed.said == (said_by_7_2 if profile == "7.2" and said_by_7_2 else said)
    assert bed.exit_status == 1
    # Once it listens, what goes wrong in the package ends the process without another status.
    assert bed.statuses[-1] in ("failed", "postcopy-active")
    assert ("failed" in bed.statuses) is ("postcopy-active" not in bed.statuses)
    assert bed.runs == 0
    assert bed.feed(b"more").exit_status == 1


ACCEPTED = [
    # what is done to the stream, and what is said of it
    (head("pc") + PRECOPY[len(head()) :], []),
    (head("") + PRECOPY[len(head()) :], []),
    (head() + EOF + VMDESC, []),
    (head() + LIVE + SETUP + timer() + timer(5) + EOF + VMDESC, []),
    (head() + build_section(4, 99, "timer", 0xFFFFFFFF, 2, bytes(24)) + EOF + VMDESC, []),
    (PRECOPY[: -len(VMDESC)] + b"\x55", ["Expected vmdescription section, but got 85"]),
    (PRECOPY[: -len(VMDESC)], ["Expected vmdescription section, but got 0"]),
    (PRECOPY[:-5], []),
    (PRECOPY + b"what trails", []),
    (head() + OPEN + ADVISE + PRECOPY[len(head()) :], []),
    (head() + LIVE + packaged(timer(), EOF) + EOF + VMDESC, []),
]


@pytest.mark.parametrize(("stream", "said"), ACCEPTED)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_accepted_although_it_is_strange(profile, stream, said):
    bed = Bed(profile).feed(stream, end=True)
    assert bed.said == said
    assert bed.statuses == ["active", "completed"]
    assert (bed.runs, bed.exit_status) == (1, None)


def test_precopy_that_had_postcopy_advised_says_that_it_is_done():
    for profile in PROFILES:
        bed = Bed(profile).feed(head() + OPEN + ADVISE + PRECOPY[len(head()) :], end=True)
        assert bed.answers == ["SHUT"]
        assert bed.destination.postcopy is PostcopyState.END


def test_a_way_back_that_is_not_there_is_an_error():
    bed = Bed(can_answer=False).feed(head() + OPEN)
    assert bed.said == ["CMD_OPEN_RETURN_PATH failed", PERM]


def test_postcopy_that_is_off_here_is_not_advised():
    bed = Bed(postcopy=False).feed(head() + ADVISE)
    assert bed.said == ["RAM postcopy is disabled but have 16 byte advise", EINVAL]
    assert Bed(postcopy=False).feed(head() + build_command(3)).said == []


def test_a_machine_that_cannot_be_migrated_takes_nothing_in():
    bed = Bed(beside=VmState("ivshmem", unmigratable=True))
    assert bed.said == ["State blocked by non-migratable device 'ivshmem'", EINVAL]
    assert bed.exit_status == 1


def asked(configuration, **received):
    """What is said to a stream that was configured in another way."""
    sender = Configuration(MACHINE, **received)
    payload = save(vmsd(PROFILES_BY_NAME["7.2"]), sender).data
    start = encode(FileHeader(0x5145564D, 3)) + b"\7" + payload
    return Bed(configured=configuration).feed(start + PRECOPY[len(head()) :], end=True)


CONFIGURED = [
    # of the machine here, of the source, what is said
    ({}, {"page_bits": 14}, ["Received TARGET_PAGE_BITS is 14 but local is 12", EINVAL]),
    (
        {"page_bits": 14},
        {},
        ["Received TARGET_PAGE_BITS is 12 but local is 14", EINVAL],
    ),
    ({"page_bits": 14}, {"page_bits": 14}, []),
    (
        {},
        {"capabilities_on": SHARED},
        ["Capability x-ignore-shared is off, but received capability is on", EINVAL],
    ),
    (
        {"capabilities_on": SHARED},
        {},
        ["Capability x-ignore-shared is on, but received capability is off", EINVAL],
    ),
    ({"capabilities_on": SHARED}, {"capabilities_on": SHARED}, []),
    (
        {"guest_uuid": UUID(int=1)},
        {"guest_uuid": UUID(int=2), "sends_uuid": True},
        [f"UUID received is {UUID(int=2)} and local is {UUID(int=1)}", EINVAL],
    ),
    (
        {},
        {"guest_uuid": UUID(int=2), "sends_uuid": True},
        [f"warning: UUID is received {UUID(int=2)}, but local uuid isn't set"],
    ),
    ({"guest_uuid": UUID(int=2)}, {"guest_uuid": UUID(int=2), "sends_uuid": True}, []),
]


@pytest.mark.parametrize(("ours", "theirs", "said"), CONFIGURED)
def test_what_both_machines_must_have_alike(ours, theirs, said):
    assert asked(Configuration(MACHINE, **ours), **theirs).said == said


NAMES = [
    (b"\0\0\0\1\7no-such", ["Received unknown capability no-such", CAPABILITIES, EINVAL]),
    (b"\0\0\0\1\6xbzrle", []),
    (b"\xff\xff\xff\xff", [f"{INVALID}a count that can be", PERM]),
]


@pytest.mark.parametrize(("payload", "said"), NAMES)
def test_capabilities_that_a_stream_names(payload, said):
    element = ConfigurationSubsection("configuration/capabilities", 1, payload)
    bed = Bed().feed(head() + encode(element) + PRECOPY[len(head()) :], end=True)
    assert bed.said == said


def test_a_subsection_that_nobody_knows_is_refused_without_a_word():
    element = ConfigurationSubsection("configuration/foo", 1, b"")
    bed = Bed().feed(head() + encode(element) + LIVE, end=True)
    assert bed.said == ["load of migration failed: No such file or directory"]


@pytest.mark.parametrize(
    ("name", "fits"),
    [(b"pc-i440fx-7.2\0", True), (b"pc\0", False), (b"\0", False), (b"pc-i440fx-7.2\0x", True)],
)
def test_a_machine_s_name_is_compared_as_in_c(name, fits):
    start = head(name.decode()) + PRECOPY[len(head()) :]
    assert (Bed().feed(start, end=True).exit_status is None) is fits


RUNNING = TO_POSTCOPY + DISCARD + PACKAGE
LOST = {
    "in a section": ram()[:8],
    "between sections": b"",
    "in a footer": ram()[:-2],
    "of an unknown type": b"\x55",
    "of bad flags": ram(payload=bytes(7) + b"\1"),
    "unknown command": build_command(99),
    "RUN again": RUN,
    "discard": DISCARD,
}


@pytest.mark.parametrize("then", LOST.values(), ids=LOST.keys())
def test_whatever_goes_wrong_once_the_guest_runs_pauses(then):
    bed = Bed().feed(RUNNING + then, end=True)
    assert bed.statuses == ["active", "postcopy-active", "postcopy-paused"]
    assert bed.said[-1] == "Detected IO failure for postcopy. Migration paused."
    assert (bed.exit_status, bed.hung_up, bed.runs) == (None, 1, 1)


@pytest.mark.parametrize("then", [ADVISE, LISTEN])
def test_a_state_that_was_set_before_it_was_checked_ends_it(then):
    bed = Bed().feed(RUNNING + then)
    assert bed.said[-1] == "postcopy_ram_listen_thread: loadvm failed: -1"
    assert bed.exit_status == 1
    assert bed.statuses[-1] == "failed"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_package_that_is_wrong_behind_listen_ends_it_without_a_status(profile):
    bed = Bed(profile).feed(TO_POSTCOPY + DISCARD + packaged(LISTEN, build_command(99)))
    assert bed.said[-1] == "load of migration failed: Invalid argument"
    assert bed.statuses == ["active", "postcopy-active"]
    assert bed.exit_status == 1


def test_before_there_was_recovery_it_is_the_end():
    bed = Bed("2.9").feed(RUNNING + ram()[:-2], end=True)
    assert bed.said[-1] == "postcopy_ram_listen_thread: loadvm failed: -22"
    assert (bed.statuses[-1], bed.exit_status) == ("failed", 1)
    # Its loop takes the end of the connection for EOF.
    bed = Bed("2.9").feed(RUNNING, end=True)
    assert bed.statuses[-1] == "completed"
    assert bed.answers[-1] == "SHUT"


def test_a_paused_migration_goes_on_over_another_connection():
    bed = Bed().feed(RUNNING + ram() + b"\2\0", end=True)
    assert bed.statuses[-1] == "postcopy-paused"
    bed.effects.clear()
    bed.effects += bed.destination.recover()
    assert bed.statuses == ["postcopy-recover"]
    bed.feed(encode(build.recv_bitmap("pc.ram")))
    assert bed.answers == ["RECV_BITMAP"]
    bed.feed(RESUME)
    assert bed.answers == ["RECV_BITMAP", "REQ_PAGES_ID", "RESUME_ACK"]
    assert bed.statuses[-1] == "postcopy-active"
    bed.feed(ram() + ram(SectionType.END) + EOF)
    assert bed.statuses[-1] == "completed"
    assert bed.answers[-1] == "SHUT"
    assert bed.said == []


def test_between_a_pause_and_resume_no_page_is_asked_for():
    """The source knows of no block before, and would refuse a request that names none."""
    missing = Missing("pc.ram", 0x1000, 0x1000)
    bed = Bed().feed(RUNNING)
    bed.effects += bed.destination.want(missing)
    assert bed.answers[-1] == "REQ_PAGES"
    bed.feed(end=True)
    bed.effects.clear()
    bed.effects += bed.destination.want(missing)
    bed.effects += bed.destination.recover()
    bed.effects += bed.destination.want(missing)
    assert bed.answers == []
    bed.feed(RESUME)
    assert bed.answers == ["REQ_PAGES_ID", "RESUME_ACK"]
    bed.effects += bed.destination.want(missing)
    assert bed.answers[-1] == "REQ_PAGES"


HANDSHAKE = encode(build.recv_bitmap("pc.ram")) + RESUME
PAUSED = "Detected IO failure for postcopy. Migration paused."


@pytest.mark.parametrize("cut", range(len(HANDSHAKE)))
def test_a_link_that_is_lost_in_the_handshake_of_a_recovery_is_a_crash(cut):
    """As in QEMU 5.2 and 7.2, whose destinations end by SIGSEGV there."""
    bed = Bed().feed(RUNNING, end=True)
    bed.effects += bed.destination.recover()
    bed.feed(HANDSHAKE[:cut], end=True)
    assert bed.statuses[-2:] == ["postcopy-paused", "postcopy-recover"]
    assert bed.said[-1] == PAUSED
    assert bed.exit_status == -signal.SIGSEGV


def test_what_cannot_be_in_the_handshake_of_a_recovery_is_a_crash_too():
    bed = Bed().feed(RUNNING, end=True)
    bed.effects += bed.destination.recover()
    bed.feed(build_command(10, b"\1a"))
    assert bed.said[-2:] == ["loadvm_handle_recv_bitmap: block 'a' not found", PAUSED]
    assert bed.exit_status == -signal.SIGSEGV


def test_a_link_that_is_lost_behind_the_handshake_of_a_recovery_pauses_again():
    bed = Bed().feed(RUNNING, end=True)
    for _ in range(3):
        bed.effects += bed.destination.recover()
        bed.feed(HANDSHAKE, end=True)
        assert bed.statuses[-2:] == ["postcopy-active", "postcopy-paused"]
    assert bed.exit_status is None


BITMAPS = [
    (build_command(10, b"\0"), "loadvm_handle_recv_bitmap: failed to read block name"),
    (build_command(10, b"\1a\0"), "loadvm_handle_recv_bitmap: invalid payload length (3)"),
    (build_command(10, b"\1a"), "loadvm_handle_recv_bitmap: block 'a' not found"),
]


@pytest.mark.parametrize(("stream", "said"), BITMAPS)
def test_a_bitmap_that_cannot_be_asked_for(stream, said):
    bed = Bed().feed(head() + stream)
    assert bed.said == [said, EINVAL]


def test_a_bitmap_is_for_recovery_alone():
    bed = Bed().feed(head() + OPEN + encode(build.recv_bitmap("pc.ram")) + LIVE + EOF + VMDESC)
    said = "migrate_send_rp_recv_bitmap: MSG_RP_RECV_BITMAP only used for recovery"
    assert bed.said == [said]
    assert bed.statuses[-1] == "completed"


@given(st.sampled_from(PROFILES), st.sampled_from([PRECOPY, POSTCOPY]), st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_ends_in_a_state_and_at_most_one_exit(profile, stream, data):
    at = data.draw(st.integers(0, len(stream) - 1))
    new = data.draw(st.binary(max_size=6))
    cut = data.draw(st.integers(0, 8))
    bed = Bed(profile).feed(stream[:at] + new + stream[at + cut :], end=True)
    assert bed.runs <= 1
    last = bed.statuses[-1]
    if last == "postcopy-active" and bed.exit_status == 1:
        assert bed.said[-1].startswith("load of migration failed: ")  # in the package
    else:
        assert (last == "failed") is (bed.exit_status == 1)
    assert last in {"completed", "failed", "postcopy-paused", "active", "postcopy-active"}
    if last == "active":  # DISCARD without LISTEN waits for ever
        assert bed.destination.postcopy is PostcopyState.DISCARD


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stream", [PRECOPY, POSTCOPY])
def test_every_cut_is_a_failure_a_pause_or_too_late(profile, stream):
    for size in range(len(stream)):
        bed = Bed(profile).feed(stream[:size], end=True)
        assert bed.statuses[-1] in {"completed", "failed", "postcopy-paused"}
        assert (bed.exit_status == 1) is (bed.statuses[-1] == "failed")


def test_records_of_ram_end_a_section():
    assert ram().count(EOS) == 1
    assert serial().endswith(b"\x7e\0\0\0\7")
