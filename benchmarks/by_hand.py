"""Wall time of each scenario beside the same migration done by hand.

By hand: the scenario's two QEMUs on loopback, with its machine, guest, capabilities and parameters;
no namespaces, no proxy, no network, no fault, no check of memory. Both are whole processes, timed
side by side in one run, so what is compared is what a person would wait for.

usage: python benchmarks/by_hand.py [SCENARIO...] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from testbed.endpoint.kvm import choose_accelerator
from testbed.endpoint.program import qemu
from testbed.endpoint.qemu import Qemu
from testbed.guest import boot_image
from testbed.log import Log
from testbed.scenario.load import find, load
from testbed.scenario.run import Settings, lab_plan
from testbed.scenario.scenario import Scenario

ROOT = Path(__file__).parents[1]
TESTBED = (sys.executable, "-m", "testbed", "run")
AIM_S = 1.5
FINAL = ("completed", "failed")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def migrate_by_hand(scenario: Scenario) -> None:
    """Start both sides, wait for the guest, migrate, end both."""
    log = Log()
    settings = Settings(qemu(), qemu())
    accelerator = await choose_accelerator(settings.source.command)
    plan = lab_plan(scenario, settings, ROOT, accelerator)
    # A destination of another machine type would refuse: by hand nobody would have it.
    machine = plan.source.machine
    image = boot_image(plan.guest)
    sides = {
        "capabilities": scenario.capabilities,
        "parameters": scenario.parameters,
        "boot_image": image,
        "machine": machine,
        "log": log,
    }
    async with (
        Qemu.start("source", **sides) as source,
        Qemu.start("destination", incoming=True, **sides) as destination,
    ):
        await log.wait(
            lambda event: event.kind == "serial" and "stamps" in event.facts["line"],
            what="the guest",
            within_s=30,
        )
        uri = f"tcp:127.0.0.1:{free_port()}"
        await destination.migrate_incoming(uri)
        await source.migrate(uri)
        if scenario.model.mode == "postcopy":
            await status(log, "source", ("active",))
            await source.start_postcopy()
        await status(log, "source", FINAL)
        await status(log, "destination", FINAL)


async def status(log: Log, side: str, wanted: tuple[str, ...]) -> None:
    """Wait for a migration status."""
    await log.wait(
        lambda event: (
            event.actor == side
            and event.kind == "migration-status"
            and event.facts["status"] in wanted
        ),
        what=f"the {side} to be {wanted}",
        within_s=60,
    )


def seconds(command: list[str]) -> float:
    """Wall time of a command that must succeed."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - began


def main() -> None:
    """Measure and print a row for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", type=Path, default=[ROOT / "scenarios"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        asyncio.run(migrate_by_hand(load(arguments.one)))
        return
    print(
        f"{'scenario':<32} {'testbed':>8} {'by hand':>8} {'ratio':>6} {'over it':>8}  (s, medians)"
    )
    worst = 0.0
    for path in find(arguments.scenarios):
        rounds = [
            (
                seconds([*TESTBED, str(path), "--endpoint", "qemu"]),
                seconds([sys.executable, __file__, "--one", str(path)]),
            )
            for _ in range(arguments.rounds)
        ]
        ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
        waits = scheduled_s(load(path))
        over = ours - theirs
        worst = max(worst, over - waits)
        note = f"  of which {waits:g} s are the scenario's own waiting" if waits else ""
        print(f"{path.stem:<32} {ours:8.2f} {theirs:8.2f} {ours / theirs:6.2f} {over:8.2f}{note}")
    print(f"most over it, without the scenarios' own waiting: {worst:.2f} s (aim: below {AIM_S} s)")


def scheduled_s(scenario: Scenario) -> float:
    """Time that a scenario waits on purpose: to observe, or for a deadline to expire."""
    return sum(
        step.settle.for_ if step.settle else step.wait.within if step.wait else 0.0
        for step in scenario.steps
        if step.settle or (step.wait and step.wait.on_expiry)
    )


if __name__ == "__main__":
    main()
