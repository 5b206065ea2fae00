"""How fast the model of QEMU is, beside the QEMU installed where there is one to be beside.

    simulated   whole machines moved on a virtual clock, in this process, one after the other
    ram         pages saved and loaded again, in this process
    start       a process, from its start to its QMP greeting
    scenario    `testbed run` of a scenario, a whole process
    network     precopy of a guest full of data, between two namespaces with a veth

What has a peer is measured in turn with it in the same run; figures are medians, and ratios those
of medians.

usage: python benchmarks/model.py [PART...] [--rounds N] [--memory MIB]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

from testbed.endpoint.base import MachineSpec
from testbed.endpoint.program import Program, model, qemu
from testbed.endpoint.qemu import Qemu
from testbed.guest import GuestSpec, boot_image, check_memory
from testbed.log import Log
from testbed.model.migration.memory import Memory
from testbed.model.migration.ram import Ram
from testbed.model.migration.ram_load import VERSION
from testbed.model.migration.source import TURN_BYTES_MAX, Parameters
from testbed.model.profile import PROFILES
from testbed.model.simulation.rehearsal import Rehearsal
from testbed.model.simulation.simulate import Link
from testbed.netns.links import address, up, veth
from testbed.netns.namespace import Namespace
from testbed.vmstate import Incoming
from testbed.wire import MainChannel

ROOT = Path(__file__).parents[1]
MIB, PAGE_BYTES = 1 << 20, 4096
READ_BYTES = 1 << 18
SEED = 1
SCENARIO = ROOT / "scenarios" / "precopy_ok.yaml"
PROGRAMS = {"model": model(), "QEMU": qemu()}
WITHIN_S = 300
PORT = 4444
NO_LIMIT = 1 << 40


def row(part: str, what: str, figure: str) -> None:
    """Print a row."""
    print(f"{part:<10} {what:<34} {figure}", flush=True)


# simulated


def simulated(rounds: int) -> None:
    """Migrations a second: whole ones, and ones cut at any element of theirs."""
    guest = GuestSpec(4 * MIB, working_set_bytes=MIB, pages_per_second=500)
    for profile in PROFILES:
        rehearsal = Rehearsal(profile, "pc", guest)
        devices = sum(entry.live is None for entry in rehearsal.source.registry)
        for mode in ("precopy", "postcopy"):
            parameters = Parameters(
                max_bandwidth_bytes=4 * MIB, return_path=True, postcopy=mode == "postcopy"
            )
            offsets = whole(rehearsal, parameters)
            rng = random.Random(SEED)
            cuts = [rng.choice(offsets) for _ in range(40 * rounds)]
            what = f"{profile} {mode}, {devices} devices"
            seconds = timed(rehearsal, parameters, [None] * 10 * rounds)
            row("simulated", what, f"{1 / seconds:.0f} whole migrations/s")
            seconds = timed(rehearsal, parameters, cuts)
            row("simulated", what, f"{1 / seconds:.0f} migrations/s, each cut at some element")


def whole(rehearsal: Rehearsal, parameters: Parameters) -> list[int]:
    """Where the elements of a migration begin that nothing is wrong with."""
    simulation = rehearsal.simulation(parameters, Link())
    simulation.source.start_postcopy_at_once = parameters.postcopy
    outcome = simulation.run()
    memory = rehearsal.destination.main_block.data[:]
    if outcome.runs_at != {"destination"} or not check_memory(memory, rehearsal.guest).intact:
        raise SystemExit(f"the guest was not moved: {outcome}")
    channel = MainChannel()
    return [each.offset for each in channel.feed(b"".join(simulation.forward)) + channel.end()]


def timed(rehearsal: Rehearsal, parameters: Parameters, cuts: list[int | None]) -> float:
    """Seconds of CPU for each of these migrations."""
    began = time.process_time()
    for cut in cuts:
        simulation = rehearsal.simulation(parameters, Link(cut_at_bytes=cut))
        simulation.source.start_postcopy_at_once = parameters.postcopy
        simulation.run()
    return (time.process_time() - began) / len(cuts)


# ram


def ram(rounds: int, memory_mib: int) -> None:
    """Rates of saving and of loading, of memory in use."""
    for kind in ("random", "zero", "mixed"):
        warm(3 * memory_mib * MIB)
        found = [saved_and_loaded(kind, memory_mib * MIB) for _ in range(rounds)]
        save_s, load_s = (statistics.median(each) for each in zip(*found, strict=True))
        rates = (memory_mib * MIB / seconds / 1e9 for seconds in (save_s, load_s))
        row(
            "ram",
            f"{kind}, {memory_mib} MiB",
            "saved {:.1f} GB/s, loaded {:.1f} GB/s".format(*rates),
        )


def saved_and_loaded(kind: str, size_bytes: int) -> tuple[float, float]:
    """Seconds of saving and of loading; each piece is loaded as soon as it was saved."""
    rams = [Ram(Memory(), PROFILES["7.2"]) for _ in range(2)]
    ours, theirs = (each.memory.add("pc.ram", size_bytes) for each in rams)
    rng = random.Random(SEED)
    for at in range(0, size_bytes if kind != "zero" else 0, MIB):
        piece = bytearray(rng.randbytes(MIB))
        for page in range(0, MIB if kind == "mixed" else 0, 2 * PAGE_BYTES):
            piece[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)
        ours.data[at : at + MIB] = piece
    incoming = Incoming()
    loading = loaded(rams[1], incoming)
    next(loading)
    save_s = load_s = 0.0
    began = time.perf_counter()
    payload, done = rams[0].setup(), False
    while payload:
        save_s += time.perf_counter() - began
        began = time.perf_counter()
        with memoryview(payload) as view:
            for at in range(0, len(payload), READ_BYTES):
                incoming.feed(view[at : at + READ_BYTES])
                next(loading)
        load_s += time.perf_counter() - began
        began = time.perf_counter()
        payload, done = (b"", True) if done else rams[0].iterate(TURN_BYTES_MAX)
    if any(
        ours.data[at : at + MIB] != theirs.data[at : at + MIB] for at in range(0, size_bytes, MIB)
    ):
        raise SystemExit("what was loaded is not what was saved")
    return save_s, load_s


def loaded(handler: Ram, incoming: Incoming) -> Iterator[None]:
    """Load section after section."""
    while True:
        yield from handler.load(incoming, VERSION)


# start


def start(rounds: int) -> None:
    """Seconds until a process says what it is."""
    found = in_turn(rounds, lambda program: greeted_after_s(program))
    compared("start", "-M pc, to its greeting", found, "s")


def greeted_after_s(program: Program) -> float:
    """Start an endpoint, and end it once its greeting came."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [
            *program.command,
            *("-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"),
            *("-M", "pc", "-m", "64M", "-S", "-mon", "chardev=qmp,mode=control"),
            *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}"),
        ]
        began = time.monotonic()
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            greeting = json.loads(ours.makefile().readline())
            seconds = time.monotonic() - began
            process.kill()
    if "QMP" not in greeting:
        raise SystemExit(f"no greeting: {greeting}")
    return seconds


# scenario


def scenario(rounds: int) -> None:
    """Wall time of a scenario."""

    def run(program: Program) -> float:
        began = time.monotonic()
        command = [sys.executable, "-m", "testbed", "run", SCENARIO, "--endpoint", program.kind]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
        return time.monotonic() - began

    compared("scenario", f"testbed run {SCENARIO.name}", in_turn(rounds, run), "s")


# network


def network(rounds: int, memory_mib: int) -> None:
    """Rates of a precopy over a veth."""
    guest = GuestSpec(memory_mib * MIB, pages_per_second=0)
    found = in_turn(rounds, lambda program: asyncio.run(moved_bytes_per_s(program, guest)))
    rates = {name: [each / 1e6 for each in rates] for name, rates in found.items()}
    compared("network", f"{memory_mib} MiB in use, a veth", rates, "MB/s")


def warm(size_bytes: int) -> None:
    """Have the system hold so much free memory that was in use before.

    Where the computer is itself a guest, memory that was never touched costs its host 3 s a GiB.
    """
    with mmap(-1, size_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS) as touched:
        touched.madvise(MADV_HUGEPAGE)
        for at in range(0, size_bytes, PAGE_BYTES):
            touched[at] = 1


async def moved_bytes_per_s(program: Program, guest: GuestSpec) -> float:
    """Migrate a guest that has filled its memory and rests."""
    warm(3 * guest.memory_bytes)
    log = Log()
    image = boot_image(guest)
    machine = MachineSpec("pc", guest.memory_bytes, accelerator="tcg")
    sides = {"log": log, "machine": machine, "command": program.command, "boot_image": image}
    async with contextlib.AsyncExitStack() as stack:
        spaces = [await stack.enter_async_context(Namespace.create(name)) for name in "ab"]
        await veth(spaces[0], "link", spaces[1], "link")
        for number, space in enumerate(spaces, 1):
            await address(space, "link", f"10.0.0.{number}/24")
            await up(space, "link")
        source = await stack.enter_async_context(
            Qemu.start(
                "source", namespace=spaces[0], parameters={"max-bandwidth": NO_LIMIT}, **sides
            )
        )
        destination = await stack.enter_async_context(
            Qemu.start("destination", namespace=spaces[1], incoming=True, **sides)
        )
        await log.wait(
            lambda event: event.kind == "serial" and "stamps" in event.facts["line"],
            what="the guest to fill its memory",
            within_s=WITHIN_S,
        )
        uri = f"tcp:10.0.0.2:{PORT}"
        await destination.migrate_incoming(uri)
        began = time.monotonic()
        await source.migrate(uri)
        for side in ("source", "destination"):
            await log.wait(
                lambda event, side=side: (
                    event.actor == side
                    and event.kind == "migration-status"
                    and event.facts["status"] == "completed"
                ),
                what=f"the {side} to complete",
                within_s=WITHIN_S,
            )
        return guest.page_count * PAGE_BYTES / (time.monotonic() - began)


# All


def in_turn(rounds: int, measure: Callable[[Program], float]) -> dict[str, list[float]]:
    """Measure model and QEMU in turn."""
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            found[name].append(measure(program))
    return found


def compared(part: str, what: str, found: dict[str, list[float]], unit: str) -> None:
    """Print medians, and their ratio."""
    ours, theirs = (statistics.median(found[name]) for name in PROGRAMS)
    row(part, what, f"model {ours:.3g} {unit}, QEMU {theirs:.3g} {unit}, ratio {ours / theirs:.2f}")


PARTS = {
    "simulated": lambda arguments: simulated(arguments.rounds),
    "ram": lambda arguments: ram(arguments.rounds, arguments.memory),
    "start": lambda arguments: start(arguments.rounds),
    "scenario": lambda arguments: scenario(arguments.rounds),
    "network": lambda arguments: network(arguments.rounds, arguments.memory),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=512, help="MiB of ram and network")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    for name in arguments.parts or PARTS:
        PARTS[name](arguments)


if __name__ == "__main__":
    main()
