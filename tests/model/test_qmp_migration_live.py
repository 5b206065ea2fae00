"""The same commands of migration to a real QEMU 7.2 and to ours: the same answers come back.

What `query-migrate` and `info migrate` tell is compared with what real pairs tell in each state.
"""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from migration_helpers import NotedMigrations
from qmp_helpers import Version, connected, listening, within

from testbed.model.migration.effects import Status
from testbed.model.profile import PROFILES
from testbed.model.qmp.migration_info import (
    MigrationInfo,
    RamInfo,
    SocketAddress,
    XbzrleInfo,
    as_json,
    as_text,
)
from testbed.model.qmp.output import line
from testbed.model.qmp.settings import CAPABILITIES_7_2, PARAMETERS_7_2, SUPPORTED

pytestmark = [
    pytest.mark.live,
    pytest.mark.asyncio(loop_scope="module"),
]

PROFILE = PROFILES["7.2"]
UNSUPPORTED = b"is not supported by this model"


class Client:
    """A QMP client that keeps the events that come meanwhile."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self.events = []

    async def raw(self, name, arguments=None, *, oob=False):
        """The line that answers a command."""
        given = {} if arguments is None else {"arguments": arguments}
        command = {"exec-oob" if oob else "execute": name, **given}
        self._writer.write(json.dumps(command).encode())
        while b'"event"' in (answer := await self._line()):
            self.events.append(json.loads(answer))
        return answer

    async def ask(self, name, arguments=None, **options):
        answer = json.loads(await self.raw(name, arguments, **options))
        assert "return" in answer, (name, arguments, answer)
        return answer["return"]

    async def human(self, command):
        return await self.raw("human-monitor-command", {"command-line": command})

    async def until(self, status):
        """Wait for the event MIGRATION with a status, unless it has come."""
        while not any(each.get("data") == {"status": status} for each in self.events):
            self.events.append(json.loads(await self._line()))

    async def _line(self):
        answer = await within(self._reader.readline(), 20)
        assert answer, "QEMU has gone"
        return answer


@asynccontextmanager
async def qemu(folder, *arguments):
    """A client of a real QEMU's; it has negotiated `oob`."""
    folder.mkdir()
    path = folder / "qmp"
    process = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S"),
        *("-qmp", f"unix:{path},server=on,wait=on", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        # It says on which address it waits once it does.
        await within(process.stderr.readuntil(b"server=on"), 20)
        enable = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'
        async with connected(path, negotiation=enable) as (reader, writer):
            client = Client(reader, writer)
            client.process = process
            if (await client.ask("query-version"))["qemu"]["minor"] != 2:
                pytest.skip("the texts are those of QEMU 7.2")
            yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest_asyncio.fixture(loop_scope="module")
async def real(tmp_path):
    async with qemu(tmp_path / "real", "-M", "none") as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def ours(tmp_path, real):
    answer = await real.ask("query-version")
    noted = NotedMigrations(status="prelaunch", chardevs=["compat_monitor0"])
    noted.monitor = noted.monitor(Version(**answer["qemu"], package=answer["package"]))
    async with listening(tmp_path / "ours", noted), connected(tmp_path / "ours") as both:
        client = Client(*both)
        client.noted = noted
        yield client


def switched(**states):
    changes = [{"capability": name.replace("_", "-"), "state": on} for name, on in states.items()]
    return "migrate-set-capabilities", {"capabilities": changes}


EDGES = [
    *(-1, 0, 1, 9, 10, 19, 20, 21, 99, 100, 101, 255, 256, 1000, 1001, 4095, 4096, 10000, 10001),
    *(12288, 100000, 100001, 2000000, 2000001, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63),
    *((1 << 64) - 1, 1 << 64, True, "x", None, 1.5, [], {}),
]
WRITTEN = [
    *("1", "0", "-1", "+1", "x", "on", "off", "yes", "no", "true", "y", "n", "ON", "10k", "1.5"),
    *("1.5M", "1.M", ".5M", "0.1", "1M", "1 2", '"1 2"', '" 1"', '"10 "', "010", "08", "0x10"),
    *(
        "0xk",
        "0x",
        "1e3",
        "1B",
        "1b",
        "1K",
        "1E",
        "16E",
        "1EE",
        "255",
        "256",
        "4294967296",
    ),
    *("18446744073709551615", "18446744073709551616", "none", "zlib", "''", '""', "", "--1", "1g"),
    *("4096", "12288", "9223372036854775808", "8191P", "8192P", "0.0000001M", "1.9999999999999k"),
]
NAMES = [parameter.name for parameter in PARAMETERS_7_2]


async def agree(real, ours, name, arguments):
    """Give both a command; return the pair of answers if they differ."""
    given, expected = await ours.raw(name, arguments), await real.raw(name, arguments)
    return None if given == expected else (arguments, expected, given)


async def unset(real, name):
    """A parameter that the model refuses, and QEMU does not, is what it was there."""
    if name == "tls-creds":
        await real.ask("migrate-set-parameters", {name: ""})


async def test_all_is_the_same_at_first(real, ours):
    for name in ("query-migrate", "query-migrate-capabilities", "query-migrate-parameters"):
        assert await ours.raw(name) == await real.raw(name)
    for name in ("", "_capabilities", "_parameters"):
        assert await ours.human(f"info migrate{name}") == await real.human(f"info migrate{name}")
    assert await ours.raw("query-yank") == await real.raw("query-yank")


@pytest.mark.parametrize("name", NAMES)
async def test_parameters_are_taken_alike(real, ours, name):
    different = []
    for value in EDGES:
        found = await agree(real, ours, "migrate-set-parameters", {name: value})
        if found is not None and UNSUPPORTED in found[2]:
            await unset(real, name)
        elif found is not None:
            different.append(found)
        same = await agree(real, ours, "query-migrate-parameters", {})
        if same is not None:
            different.append((value, *same))
    assert not different


async def test_several_parameters_are_checked_in_the_same_order(real, ours):
    checked = [each for each in PARAMETERS_7_2 if each.expects]
    wrong = {each.name: 0 if each.low else (each.high + 1) % (1 << 64) for each in checked}
    names = list(wrong)
    for at in range(len(names)):
        for some in (names[at:], names[: at + 1]):
            given = {name: wrong[name] for name in some}
            assert b"error" in await real.raw("migrate-set-parameters", given)
            assert await agree(real, ours, "migrate-set-parameters", given) is None


@pytest.mark.parametrize("name", [*NAMES, "nope"])
async def test_parameters_are_read_alike_by_hand(real, ours, name):
    different = []
    for value in WRITTEN:
        command = {"command-line": f"migrate_set_parameter {name} {value}"}
        found = await agree(real, ours, "human-monitor-command", command)
        if found is not None and UNSUPPORTED in found[2]:
            await unset(real, name)
        elif found is not None:
            different.append(found)
        shown = {"command-line": "info migrate_parameters"}
        same = await agree(real, ours, "human-monitor-command", shown)
        if same is not None:
            different.append((value, *same))
    assert not different


async def test_capabilities_go_together_alike(real, ours):
    """What the model refuses beyond QEMU is what it lacks, and nothing else."""
    off = switched(**dict.fromkeys(CAPABILITIES_7_2, False))
    for first in CAPABILITIES_7_2:
        for second in CAPABILITIES_7_2:
            await real.ask(*off)
            await ours.ask(*off)
            both = switched(**{first: True, second: True})
            found = await agree(real, ours, *both)
            if found is not None:
                _, expected, given = found
                assert b'"return"' in expected, found
                lacking = next(name for name in (first, second) if name not in SUPPORTED)
                assert f"{lacking} is not supported by this model".encode() in given
            else:
                same = await agree(real, ours, "query-migrate-capabilities", {})
                assert same is None


COMMANDS = [
    *((name, {}) for name in ("migrate-start-postcopy", "migrate-pause", "migrate_cancel")),
    *((name, {}) for name in ("migrate", "migrate-recover", "migrate-incoming", "yank")),
    ("migrate-recover", {"uri": "unix:/x"}),
    *(("migrate-continue", {"state": state}) for state in ("none", "pre-switchover", "nope", 1)),
    ("migrate-incoming", {"uri": "defer"}),
    ("migrate", {"uri": "x:y", "resume": True}),
    *(("migrate", {"uri": uri}) for uri in ("x:y", "", "tcp", "TCP:1:2", "file:/x")),
    ("query-migrate", {}),
    ("migrate-continue", {"state": "none"}),
    switched(postcopy_ram=True),
    ("migrate-start-postcopy", {}),
    ("migrate-set-capabilities", {}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "nope", "state": True}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events"}]}),
    ("migrate-set-parameters", {"nope": 1}),
    *(
        ("yank", {"instances": [value]})
        for value in (
            *({"type": "migration"}, {"type": "chardev", "id": "nope"}, {"type": "chardev"}, 1),
            *({"type": "migration", "id": "x"}, {"type": "x"}, {}, {"type": 1}),
            {"type": "block-node", "node-name": "x"},
        )
    ),
    ("yank", {"instances": []}),
    ("announce-self", {"initial": -1, "max": 2, "rounds": 3, "step": 0, "id": "x"}),
    ("announce-self", {"initial": 1, "max": 2, "rounds": 0, "step": 0, "interfaces": ["x"]}),
    ("xen-save-devices-state", {}),
    ("xen-load-devices-state", {"filename": 1}),
    *(
        ("human-monitor-command", {"command-line": command})
        for command in (
            *("migrate_start_postcopy", "migrate_pause", "migrate_recover x", "migrate_cancel"),
            *("migrate_continue pre-switchover", "migrate_continue x", "migrate_continue"),
            *("migrate_incoming x", "migrate_incoming", "migrate_recover", "migrate -r x:y"),
            *("migrate x:y", "migrate -d x:y", "migrate -b -d -i x:y", "migrate", "migrate -x y"),
            *("announce_self", "announce_self a,b", "announce_self a b", "announce_self a b c"),
            *("migrate_set_capability", "migrate_set_capability x", "migrate_set_capability x on"),
            *("migrate_set_capability events onx", "migrate_set_capability events ON"),
            *("migrate_set_capability events on x", 'migrate_set_capability "events" on'),
            *("migrate_set_capability events on", "migrate_set_capability Events off"),
            *("info migrate_capabilities", "info migrate", "info migrate x"),
            *("migrate_set_parameter", "migrate_set_parameter x", "migrate_pause x"),
        )
    ),
]


async def test_commands_are_refused_alike(real, ours):
    different = [await agree(real, ours, *command) for command in COMMANDS]
    assert not [found for found in different if found is not None]


async def test_a_destination_refuses_alike(tmp_path, ours):
    ours.noted.status = "inmigrate"
    options = ("-M", "none", "-incoming", "defer")
    async with qemu(tmp_path / "destination", *options) as real:
        commands = [
            ("migrate", {"uri": "x:y"}),
            ("migrate-recover", {"uri": "unix:/x"}),
            ("migrate-pause", {}),
            ("migrate-incoming", {"uri": f"unix:{tmp_path}/migration"}),
            ("migrate-incoming", {"uri": f"unix:{tmp_path}/migration"}),
            ("migrate", {"uri": "x:y"}),
            switched(postcopy_ram=True),
            ("migrate-start-postcopy", {}),
        ]
        different = [await agree(real, ours, *command) for command in commands]
    assert not [found for found in different if found is not None]


# What real pairs tell


def info_of(told, *, outgoing):
    """The record that would be told so."""
    addresses = tuple(
        SocketAddress(each.get("host"), each.get("port"), each.get("path"))
        for each in told.get("socket-address", ())
    )
    status = Status(told.get("status", "none"))
    if not outgoing:
        return MigrationInfo(incoming_status=status, socket_addresses=addresses)
    ram, cache = told.get("ram"), told.get("xbzrle-cache")
    return MigrationInfo(
        status=status,
        error_desc=told.get("error-desc"),
        total_time_ms=told.get("total-time", 0),
        setup_time_ms=told.get("setup-time", 0),
        expected_downtime_ms=told.get("expected-downtime", 0),
        downtime_ms=told.get("downtime", 0),
        ram=RamInfo() if ram is None else ram_of(ram),
        xbzrle=cache
        and XbzrleInfo(
            *(cache[name] for name in ("cache-size", "bytes", "pages", "cache-miss")),
            *(cache[name] for name in ("cache-miss-rate", "encoding-rate", "overflow")),
        ),
    )


def ram_of(ram):
    return RamInfo(
        *(ram[name] for name in ("transferred", "remaining", "total", "duplicate", "normal")),
        *(ram[name] for name in ("page-size", "mbps", "dirty-pages-rate", "dirty-sync-count")),
        *(ram[name] for name in ("postcopy-requests", "pages-per-second", "precopy-bytes")),
        *(ram[name] for name in ("downtime-bytes", "postcopy-bytes")),
    )


TOTAL_TIME = re.compile(rb"total[- ]time[^ ]* \d+")  # what moves even if nothing does
TRIES = 200


async def told(client, *, outgoing=True):
    """Hold what a real one tells against what ours would; return its status."""
    for _ in range(TRIES):
        answer, shown, again = [
            await client.raw("query-migrate"),
            await client.human("info migrate"),
            await client.raw("query-migrate"),
        ]
        if TOTAL_TIME.sub(b"", answer) == TOTAL_TIME.sub(b"", again):
            break
    else:
        raise AssertionError("it never stands still")
    info = info_of(json.loads(answer)["return"], outgoing=outgoing)
    assert line({"return": as_json(info, PROFILE)}) == answer
    text = line({"return": as_text(info, PROFILE, "").replace("\n", "\r\n")})
    assert TOTAL_TIME.sub(b"", text) == TOTAL_TIME.sub(b"", shown)
    return info.status if outgoing else info.incoming_status


@asynccontextmanager
async def pair(tmp_path, **capabilities):
    """A source that is slow, and a destination that listens; yields both, and where to."""
    machine = ("-M", "pc", "-m", "128")
    async with (
        qemu(tmp_path / "source", *machine) as source,
        qemu(tmp_path / "destination", *machine, "-incoming", "defer") as destination,
    ):
        for each in (source, destination):
            await each.ask(*switched(events=True, **capabilities))
        slow = {"max-bandwidth": 50000, "max-postcopy-bandwidth": 50000}
        await source.ask("migrate-set-parameters", slow)
        uri = f"unix:{tmp_path}/migration"
        assert await told(destination, outgoing=False) is Status.NONE
        await destination.ask("migrate-incoming", {"uri": uri})
        assert await told(destination, outgoing=False) is Status.NONE
        await source.ask("migrate", {"uri": uri})
        await source.until("active")
        await destination.until("active")
        assert await told(source) is Status.ACTIVE
        assert await told(destination, outgoing=False) is Status.ACTIVE
        yield source, destination


FAST = ("migrate-set-parameters", {"max-bandwidth": 1 << 40, "max-postcopy-bandwidth": 0})


async def test_a_precopy_is_told_alike(tmp_path):
    async with pair(tmp_path, xbzrle=True, return_path=True) as (source, destination):
        await source.ask(*FAST)
        for each in (source, destination):
            await each.until("completed")
        assert await told(source) is Status.COMPLETED
        assert await told(destination, outgoing=False) is Status.COMPLETED


async def test_a_cancelled_migration_is_told_alike(tmp_path):
    async with pair(tmp_path) as (source, _):
        await source.ask("migrate_cancel")
        await source.until("cancelled")
        assert await told(source) is Status.CANCELLED


async def test_a_failed_migration_is_told_alike(tmp_path):
    async with pair(tmp_path) as (source, destination):
        destination.process.kill()
        await source.until("failed")
        assert await told(source) is Status.FAILED


async def test_a_postcopy_is_told_alike(tmp_path):
    async with pair(tmp_path, postcopy_ram=True) as (source, destination):
        await source.ask("migrate-start-postcopy")
        for each in (source, destination):
            await each.until("postcopy-active")
        assert await told(source) is Status.POSTCOPY_ACTIVE
        assert await told(destination, outgoing=False) is Status.POSTCOPY_ACTIVE
        await source.ask("migrate-pause", oob=True)
        for each in (source, destination):
            await each.until("postcopy-paused")
            each.events.clear()
        assert await told(source) is Status.POSTCOPY_PAUSED
        assert await told(destination, outgoing=False) is Status.POSTCOPY_PAUSED
        uri = f"unix:{tmp_path}/recovery"
        await destination.ask("migrate-recover", {"uri": uri}, oob=True)
        assert await told(destination, outgoing=False) is Status.POSTCOPY_PAUSED
        await source.ask(*FAST)
        await source.ask("migrate", {"uri": uri, "resume": True})
        for each in (source, destination):
            await each.until("completed")
        assert await told(source) is Status.COMPLETED
        assert await told(destination, outgoing=False) is Status.COMPLETED
