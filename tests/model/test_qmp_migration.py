"""The commands of migration: what they let through, what they refuse, what they tell.

The texts of 7.2 are the real one's (`test_qmp_migration_live.py`); those of 2.9 are in its sources.
"""

from dataclasses import replace

import pytest
from migration_helpers import NotedMigrations
from snapshot_helpers import Host

from testbed.model.migration.effects import Status
from testbed.model.profile import PROFILES
from testbed.model.qmp.hmp_migration import add_snapshots
from testbed.model.qmp.migration_info import (
    MigrationInfo,
    RamInfo,
    SocketAddress,
    XbzrleInfo,
    as_json,
    as_text,
)
from testbed.model.snapshots.images import Images

IN_PROGRESS = "There's a migration process in progress"
UNDER_WAY = (
    *("setup", "active", "cancelling", "postcopy-active", "postcopy-paused"),
    "postcopy-recover",
)
OVER = ("none", "completed", "failed", "cancelled")


def machine(profile="7.2", *, status="running", outgoing="none", incoming="none", **options):
    noted = NotedMigrations(profile, status=status)
    noted.told = MigrationInfo(status=Status(outgoing), incoming_status=Status(incoming), **options)
    return noted


@pytest.mark.parametrize("outgoing", OVER)
def test_a_migration_begins_after_another_is_over(outgoing):
    noted = machine(outgoing=outgoing)
    assert noted.ask("migrate", uri="tcp:h:1", detach=True) is None
    assert noted.calls == [("migrate", "tcp:h:1", False)]


@pytest.mark.parametrize("outgoing", UNDER_WAY)
def test_nothing_begins_while_a_migration_is_under_way(outgoing):
    noted = machine(outgoing=outgoing)
    assert noted.ask("migrate", uri="tcp:h:1") == IN_PROGRESS
    assert noted.ask("migrate_set_capabilities".replace("_", "-"), capabilities=[]) == IN_PROGRESS
    assert noted.say("migrate_set_capability events on") == f"Error: {IN_PROGRESS}\n"
    assert noted.ask("migrate-set-parameters", max_bandwidth=5) is None, "these may change"
    assert noted.calls == [("parameters_changed", {"max-bandwidth"})]


REFUSED = [
    # run state, what else there is, why
    ("inmigrate", {}, "Guest is waiting for an incoming migration"),
    ("postmigrate", {}, "Can't migrate the vm that was paused due to previous migration"),
    ("running", {"unmigratable": ("a", "b")}, "State blocked by non-migratable device 'a'"),
]


@pytest.mark.parametrize(("status", "options", "why"), REFUSED)
def test_a_machine_that_cannot_be_migrated(status, options, why):
    noted = machine(status=status, **options)
    assert noted.ask("migrate", uri="nope", blk=True) == why
    assert noted.calls == []


def test_what_comes_in_over_postcopy_does_not_go_out_meanwhile():
    noted = machine(status="running", incoming="postcopy-active")
    noted.is_yankable = True
    assert noted.ask("migrate", uri="tcp:h:1") == "duplicate yank instance"


@pytest.mark.parametrize("option", ["blk", "inc"])
def test_disks_are_not_migrated(option):
    noted = machine()
    why = "block is not supported by this model"
    assert noted.ask("migrate", uri="tcp:h:1", **{option: True}) == why
    assert noted.ask("migrate", uri="tcp:h:1", **{option: False}) is None
    assert noted.say(f"migrate -{option[0]} tcp:h:1") == f"Error: {why}\n"


@pytest.mark.parametrize("uri", ["", "x:y", "tcp", "TCP:h:1", "vsock:1:2", "rdma:h:1", "file:x"])
def test_a_protocol_that_there_is_not_fails_the_migration(uri):
    noted = machine()
    text = "Parameter 'uri' expects a valid migration protocol"
    assert noted.ask("migrate", uri=uri) == text
    assert noted.calls == [("fail_setup",)]
    assert noted.ask("query-migrate") == {"status": "failed"}


def test_only_what_is_paused_is_resumed():
    for outgoing in (*OVER, *UNDER_WAY):
        noted = machine(outgoing=outgoing, status="finish-migrate")
        answer = noted.ask("migrate", uri="tcp:h:1", resume=True)
        if outgoing == "postcopy-paused":
            assert answer is None
            assert noted.calls == [("migrate", "tcp:h:1", True)]
            assert noted.say("migrate -d -r x:") == (
                "Error: Parameter 'uri' expects a valid migration protocol\n"
            )
            assert len(noted.calls) == 1, "a paused migration stays paused"
        else:
            assert answer == "Cannot resume if there is no paused migration"
            assert noted.calls == []


def test_what_the_machine_refuses_is_told():
    noted = machine()
    noted.refuses = "error parsing address ''"
    assert noted.ask("migrate", uri="tcp:") == "error parsing address ''"
    assert noted.say("migrate -d tcp:") == "Error: error parsing address ''\n"


def test_incoming_is_told_once():
    noted = machine(status="inmigrate")
    noted.refuses = "unknown migration protocol: x"
    assert noted.ask("migrate-incoming", uri="x") == "unknown migration protocol: x"
    noted.refuses, noted.incoming_started = None, False
    assert noted.ask("migrate-incoming", uri="tcp:h:0") is None, "it can be tried again"
    once = "The incoming migration has already been started"
    noted.status = "running"
    assert noted.ask("migrate-incoming", uri="tcp:h:0") == once
    assert noted.say("migrate_incoming tcp:h:0") == f"Error: {once}\n"
    assert noted.calls == [("incoming", "x"), ("incoming", "tcp:h:0")]


def test_incoming_without_having_been_told_to_wait():
    why = "'-incoming' was not specified on the command line"
    assert machine().ask("migrate-incoming", uri="tcp:h:0") == why
    assert machine("2.9").ask("migrate-incoming", uri="tcp:h:0") == "For use with '-incoming defer'"


@pytest.mark.parametrize("status", [*OVER, *UNDER_WAY])
def test_a_destination_is_recovered_when_it_is_paused(status):
    noted = machine(status="paused", incoming=status)
    answer = noted.ask("migrate-recover", uri="tcp:h:0")
    if status == "postcopy-paused":
        assert (answer, noted.calls) == (None, [("recover", "tcp:h:0")])
    else:
        assert answer == "Migrate recover can only be run when postcopy is paused."
        assert noted.calls == []


@pytest.mark.parametrize("side", ["outgoing", "incoming"])
def test_either_side_pauses_in_postcopy(side):
    for status in (*OVER, *UNDER_WAY):
        noted = machine(**{side: status})
        answer = noted.ask("migrate-pause")
        if status == "postcopy-active":
            assert (answer, noted.calls) == (None, [("pause",)])
        else:
            text = "migrate-pause is currently only supported during postcopy-active state"
            assert (answer, noted.calls) == (text, [])


@pytest.mark.parametrize("profile", PROFILES)
def test_postcopy_is_enabled_before_and_started_after(profile):
    noted = machine(profile)
    enable = "Enable postcopy with migrate_set_capability before the start of migration"
    assert noted.ask("migrate-start-postcopy") == enable
    on = [{"capability": "postcopy-ram", "state": True}]
    assert noted.ask("migrate-set-capabilities", capabilities=on) is None
    not_yet = "Postcopy must be started after migration has been started"
    assert noted.ask("migrate-start-postcopy") == not_yet
    assert noted.calls == []
    noted.told = MigrationInfo(status=Status.ACTIVE)
    assert noted.say("migrate_start_postcopy") == ""
    assert noted.calls == [("start_postcopy",)]


def test_nothing_waits_to_be_continued():
    noted = machine(outgoing="active")
    assert noted.ask("migrate-continue", state="pre-switchover") == (
        "Migration not in expected state: active"
    )
    assert noted.ask("migrate-continue", state="active") is None
    assert noted.say("migrate_continue nope") == "Error: invalid parameter value: nope\n"
    assert noted.calls == []


def test_cancelling_is_never_refused():
    for outgoing in (*OVER, *UNDER_WAY):
        noted = machine(outgoing=outgoing)
        assert noted.ask("migrate_cancel") is None
        assert noted.say("migrate_cancel") == ""
        assert noted.calls == [("cancel",)] * 2


def test_announcements_have_what_was_given():
    noted = machine()
    given = {"initial": -1, "max": 2, "rounds": 3, "step": 4}
    assert noted.ask("announce-self", **given) is None
    assert noted.ask("announce-self", **given, interfaces=["a"], id="t") is None
    times = {"initial_ms": -1, "max_ms": 2, "rounds": 3, "step_ms": 4}
    assert noted.calls == [
        ("announce", {**times, "interfaces": None, "timer_id": None}),
        ("announce", {**times, "interfaces": ["a"], "timer_id": "t"}),
    ]


def test_announcements_by_hand_have_the_parameters():
    noted = machine()
    noted.ask("migrate-set-parameters", announce_initial=7, announce_rounds=2)
    noted.calls.clear()
    assert noted.say("announce_self") == noted.say("announce_self a,,b t") == ""
    times = {"initial_ms": 7, "max_ms": 550, "rounds": 2, "step_ms": 100}
    assert noted.calls == [
        ("announce", {**times, "interfaces": None, "timer_id": None}),
        ("announce", {**times, "interfaces": ["a", "b"], "timer_id": "t"}),
    ]


def test_what_can_be_yanked():
    noted = NotedMigrations(chardevs=["qmp"])
    chardev, migration = {"type": "chardev", "id": "qmp"}, {"type": "migration"}
    assert noted.ask("query-yank") == [chardev]
    assert noted.ask("yank", instances=[migration]) == "Instance not found"
    noted.is_yankable = True
    assert noted.ask("query-yank") == [chardev, migration]
    assert noted.ask("yank", instances=[]) is None
    assert noted.ask("yank", instances=[migration, {"type": "chardev", "id": "x"}]) == (
        "Instance not found"
    )
    assert noted.ask("yank", instances=[migration, chardev]) == (
        "yank of a chardev is not supported by this model"
    )
    assert noted.calls == []
    assert noted.ask("yank", instances=[migration]) is None
    assert noted.calls == [("yank",)]


def test_xen_loads_into_a_guest_that_stands():
    noted = machine()
    assert noted.ask("xen-load-devices-state", filename="f") == (
        "Cannot update device state while vm is running"
    )
    noted.status = "paused"
    assert noted.ask("xen-load-devices-state", filename="f") is None
    assert noted.ask("xen-save-devices-state", filename="f", live=False) is None
    assert noted.ask("xen-save-devices-state", filename="f") is None
    assert noted.calls == [("xen_load", "f"), ("xen_save", "f", False), ("xen_save", "f", True)]


def test_commands_that_overtake_others():
    noted = machine()
    for name in ("migrate-recover", "migrate-pause", "query-yank", "yank"):
        assert noted.commands.find(name, oob=True).name == name


SINCE_2_9 = (
    *("announce-self", "migrate-continue", "migrate-recover", "migrate-pause"),
    *("yank", "query-yank"),
)
UNTIL_6_0 = (
    *("migrate_set_speed", "migrate_set_downtime", "migrate-set-cache-size"),
    "query-migrate-cache-size",
)


def test_each_version_has_its_commands():
    names = {
        profile: {each["name"] for each in machine(profile).ask("query-commands")}
        for profile in PROFILES
    }
    assert names["7.2"] - names["2.9"] == set(SINCE_2_9)
    assert names["2.9"] - names["7.2"] == set(UNTIL_6_0)
    assert machine("2.9").ask("migrate", uri="tcp:h:1", resume=True) == (
        "Parameter 'resume' is unexpected"
    )
    assert machine("2.9").say("migrate_pause") == "unknown command: 'migrate_pause'\n"


def test_speed_downtime_and_cache_of_2_9():
    noted = machine("2.9", ram=RamInfo(total_bytes=1 << 20))
    assert noted.ask("migrate_set_speed", value=-5) is None
    assert noted.ask("migrate_set_downtime", value=1.5) is None
    assert (noted.settings["max-bandwidth"], noted.settings["downtime-limit"]) == (0, 1500)
    assert noted.ask("migrate_set_downtime", value=2001) == (
        "Parameter 'downtime_limit' expects an integer in the range of 0 to 2000 seconds"
    )
    assert noted.ask("migrate_set_downtime", value=True) == (
        "Invalid parameter type for 'value', expected: number"
    )
    assert noted.ask("query-migrate-cache-size") == 64 << 20
    assert noted.ask("migrate-set-cache-size", value=5000) is None
    assert noted.ask("query-migrate-cache-size") == 4096
    for value, why in (
        (-1, "exceeding address space"),
        ((1 << 20) + 1, "exceeds guest ram size "),
        (4095, "is smaller than page size"),
    ):
        assert noted.ask("migrate-set-cache-size", value=value) == (
            f"Parameter 'cache size' expects {why}"
        )


# What is told

RAM = RamInfo(
    *(3 << 20, 2 << 20, 9 << 20),
    **{"duplicate": 4, "normal": 5, "mbps": 1.5, "dirty_pages_rate": 6, "dirty_sync_count": 7},
    **{"postcopy_requests": 8, "pages_per_second": 9},
    **{"precopy_bytes": 1024, "downtime_bytes": 2048, "postcopy_bytes": 4096},
)
TOLD = MigrationInfo(
    error_desc="why",
    total_time_ms=11,
    setup_time_ms=12,
    expected_downtime_ms=13,
    downtime_ms=14,
    ram=RAM,
    xbzrle=XbzrleInfo(16, 2048, 18, 19, 0.25, 2.5, 20),
)
TIMES = {"total-time", "setup-time", "ram", "xbzrle-cache"}
MEMBERS = {
    "none": set(),
    "setup": {"status"},
    "failed": {"status", "error-desc"},
    "cancelled": {"status"},
    "completed": {"status", "downtime"} | TIMES,
    **dict.fromkeys(
        ("active", "cancelling", "postcopy-active", "postcopy-paused", "postcopy-recover"),
        {"status", "expected-downtime"} | TIMES,
    ),
}
RAM_2_9 = {
    *("transferred", "remaining", "total", "duplicate", "skipped", "normal", "normal-bytes"),
    *("dirty-pages-rate", "mbps", "dirty-sync-count", "postcopy-requests"),
}
RAM_7_2 = RAM_2_9 | {
    *("page-size", "multifd-bytes", "pages-per-second", "precopy-bytes", "downtime-bytes"),
    *("postcopy-bytes", "dirty-sync-missed-zero-copy"),
}


@pytest.mark.parametrize(("profile", "ram"), [("2.9", RAM_2_9), ("7.2", RAM_7_2)])
@pytest.mark.parametrize(("status", "members"), MEMBERS.items())
def test_each_status_has_its_members(profile, ram, status, members):
    told = as_json(replace(TOLD, status=Status(status)), PROFILES[profile])
    assert set(told) == members
    assert told.get("status", "none") == status
    if "ram" in told:
        assert set(told["ram"]) == ram
        left = (0, 0) if status == "completed" else (2 << 20, 6)
        assert (told["ram"]["remaining"], told["ram"]["dirty-pages-rate"]) == left


def test_a_destination_tells_its_status_and_where_it_listens():
    listens = SocketAddress(host="::1", port="4444"), SocketAddress(path="/a b")
    info = MigrationInfo(incoming_status=Status.ACTIVE, socket_addresses=listens)
    assert as_json(info, PROFILES["7.2"]) == {
        "status": "active",
        "socket-address": [
            {"type": "inet", "host": "::1", "port": "4444", "ipv6": True},
            {"type": "unix", "path": "/a b"},
        ],
    }
    assert as_json(info, PROFILES["2.9"]) == {}
    shown = as_text(info, PROFILES["7.2"], "")
    assert shown.endswith("socket address: [\n\ttcp:[::1]:4444\n\tunix:/a b\n]\n")
    away = replace(info, status=Status.FAILED, error_desc=None)
    assert as_json(away, PROFILES["7.2"])["status"] == "failed", "what goes out counts"


def test_devices_that_block():
    info = MigrationInfo(unmigratable=("a", "b"))
    assert as_json(info, PROFILES["7.2"]) == {
        "blocked-reasons": ["non-migratable device: b", "non-migratable device: a"]
    }
    assert "Outgoing migration blocked:\n  non-migratable device: b\n" in as_text(
        info, PROFILES["7.2"], ""
    )


def test_2_9_shows_a_migration_by_hand():
    noted = NotedMigrations("2.9")
    assert noted.say("info migrate") == ""
    noted.told = replace(TOLD, status=Status.COMPLETED)
    capabilities = "xbzrle: off rdma-pin-all: off auto-converge: off zero-blocks: off compress: off"
    capabilities += " events: off postcopy-ram: off x-colo: off release-ram: off "
    assert noted.say("info migrate_capabilities") == f"capabilities: {capabilities}\n"
    assert noted.say("info migrate") == (
        f"capabilities: {capabilities}\n"
        "Migration status: completed\n"
        "total time: 11 milliseconds\n"
        "downtime: 14 milliseconds\n"
        "setup: 12 milliseconds\n"
        "transferred ram: 3072 kbytes\n"
        "throughput: 1.50 mbps\n"
        "remaining ram: 0 kbytes\n"
        "total ram: 9216 kbytes\n"
        "duplicate: 4 pages\n"
        "skipped: 0 pages\n"
        "normal: 5 pages\n"
        "normal bytes: 20 kbytes\n"
        "dirty sync count: 7\n"
        "postcopy request count: 8\n"
        "cache size: 16 bytes\n"
        "xbzrle transferred: 2 kbytes\n"
        "xbzrle pages: 18 pages\n"
        "xbzrle cache miss: 19 pages\n"
        "xbzrle cache miss rate: 0.25\n"
        "xbzrle overflow : 20\n"
    )


def test_2_9_sets_by_hand():
    noted = NotedMigrations("2.9")
    assert noted.say("migrate_set_parameter downtime-limit 0x10") == (
        "Unable to parse '0x10' as an int\n"
    )
    assert noted.say("migrate_set_parameter nope 1") == "Invalid parameter 'nope'\n"
    assert noted.say("migrate_set_capability nope on") == "Invalid parameter 'nope'\n"
    assert noted.say("migrate_set_parameter max-bandwidth 1k") == ""
    assert noted.say("migrate_set_parameter downtime-limit 10") == ""
    assert noted.say("migrate_set_parameter tls-hostname h") == ""
    assert noted.say("info migrate_parameters") == (
        "parameters: compress-level: 1 compress-threads: 8 decompress-threads: 2"
        " cpu-throttle-initial: 20 cpu-throttle-increment: 10 tls-creds: '' tls-hostname: 'h'"
        " max-bandwidth: 1024 bytes/second downtime-limit: 10 milliseconds"
        " x-checkpoint-delay: 200\n"
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_snapshots_by_hand(tmp_path, profile):
    with Images() as images:
        host = Host(tmp_path, images, profile, "a")
        noted = NotedMigrations(profile)
        add_snapshots(noted.hmp, host.snapshots)
        assert noted.say('savevm "b c"') == noted.say("savevm d") == ""
        assert host.tags("a") == ["1 b c", "2 d"]
        assert noted.say("info snapshots") == host.shows("info snapshots")
        assert noted.say("loadvm nope") == host.shows("loadvm nope") != ""
        assert noted.say("loadvm d") == noted.say('delvm "b c"') == ""
        assert host.tags("a") == ["2 d"]
        assert noted.say("delvm") == (
            'delvm: string expected\nTry "help delvm" for more information\n'
        )
        assert noted.say("savevm") == ""
        assert len(host.tags("a")) == 2
