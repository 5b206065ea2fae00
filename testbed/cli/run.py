"""`testbed run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.model.profile import PROFILES

from .shared import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LACKS,
    EXIT_UNKNOWN,
    PATH,
    QEMU,
    command_words,
    loaded,
    usage,
    writable_file,
    writable_folder,
)

if TYPE_CHECKING:
    from testbed.endpoint.program import Program
    from testbed.report.console import Console
    from testbed.scenario.result import Result
    from testbed.scenario.run import Settings
    from testbed.scenario.scenario import Scenario

KIND = click.Choice(["model", "qemu"])


def _some_machine(_: click.Context, __: click.Parameter, machine: str | None) -> str | None:
    if machine is not None and not machine.strip():
        usage("--machine: expected a machine type such as pc-i440fx-7.2, got nothing")
    return machine


@click.command("run", short_help="Run scenarios.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@click.option("--endpoint", type=KIND, help="What both sides are: the model of QEMU, or QEMU.")
@click.option("--source", type=KIND, help="What the source is.  [default: model]")
@click.option("--destination", type=KIND, help="What the destination is.  [default: model]")
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), help="A model's version.  [default: 7.2]"
)
@click.option(
    "--source-qemu",
    metavar="COMMAND",
    help=f"The source is this QEMU: a binary, or a command that ends in it.  [qemu: {QEMU}]",
)
@click.option(
    "--destination-qemu", metavar="COMMAND", help="The destination is this QEMU, likewise."
)
@click.option(
    "--machine",
    metavar="TYPE",
    callback=_some_machine,
    help="QEMU's -M, in place of the scenarios' `guest.machine`. An alias such as `pc` is the "
    "newest type that both sides have.",
)
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    help="Of QEMU: KVM where it works, else TCG; or one of them. A model has TCG's devices.",
)
@click.option("--junit", type=PATH, metavar="FILE", help="Write a JUnit report here.")
@click.option("--json", type=PATH, metavar="FILE", help="Write a JSON report here.")
@click.option(
    "--out", type=PATH, metavar="DIR", help="Keep each run's log, pcap and stderr in this folder."
)
@click.option("--keep", is_flag=True, help="Leave the run up, and say how to enter it.")
@click.option(
    "--toxiproxy",
    metavar="HOST:PORT",
    help="Lead all connections through this Toxiproxy server, with the scenario's toxics.",
)
@click.option("--seed", type=click.IntRange(0), help="Of the guest's memory and of chance.")
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Run each scenario so many times.",
)
def run_command(
    files: tuple[Path, ...],
    endpoint: str | None,
    source: str | None,
    destination: str | None,
    profile: str | None,
    source_qemu: str | None,
    destination_qemu: str | None,
    machine: str | None,
    accel: str,
    junit: Path | None,
    json: Path | None,
    out: Path | None,
    keep: bool,
    toxiproxy: str | None,
    seed: int | None,
    repeat: int,
) -> None:
    """Run scenarios: build the network, migrate through the proxy, inject, judge.

    Of a folder, those that need another kind of endpoint are left out.

    Exit status: 0 all passed, 1 an expectation failed, 2 usage or an invalid scenario, 3 the
    environment lacks something, 4 the testbed could not tell.
    """
    from testbed.report.console import Console
    from testbed.report.jsonfile import write_json
    from testbed.report.junit import write_junit
    from testbed.scenario.run import Settings
    from testbed.scenario.session import Options, run

    scenarios = loaded(files)
    settings = Settings(
        _program("source", source, endpoint, profile, source_qemu),
        _program("destination", destination, endpoint, profile, destination_qemu),
        accel,
        seed,
        _server(toxiproxy),
        machine,
    )
    kinds = {settings.source.kind, settings.destination.kind}
    if profile is not None and "model" not in kinds:
        usage("--profile is a model's, and neither side is one")
    if accel == "kvm" and "model" in kinds:
        usage("--accel kvm: a model has TCG's devices; run both sides with --endpoint qemu")
    if keep and len(scenarios) * repeat > 1:
        usage("--keep leaves one run up: name one scenario, and no --repeat")
    for path in (junit, json):
        if path is not None:
            writable_file(path)
    if out is not None:
        writable_folder(out)
    console = Console()
    scenarios = _fitting(scenarios, files, settings, console)
    results = []
    try:
        for number in range(1, repeat + 1):
            for scenario in scenarios:
                name = scenario.name if repeat == 1 else f"{scenario.name}.{number}"
                options = Options(settings, out / name if out is not None else None, keep)
                console.began(scenario)
                result = run(
                    scenario,
                    options,
                    on_event=console.event,
                    on_tick=console.tick,
                    on_kept=console.kept,
                )
                console.ended(result, told=len(scenarios) * repeat == 1)
                results.append(result)
    except KeyboardInterrupt:
        console.interrupted()
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if junit is not None:
            write_junit(junit, results)
        if json is not None:
            write_json(json, results)
    console.summary(results)
    sys.exit(_exit_code(results))


def _fitting(
    scenarios: list[Scenario], named: Sequence[Path], settings: Settings, console: Console
) -> list[Scenario]:
    """Those that are named, or are for such endpoints; the others are told."""
    from testbed.scenario.run import other_endpoint

    others = {
        scenario.path: why
        for scenario in scenarios
        if scenario.path not in named and (why := other_endpoint(scenario, settings)) is not None
    }
    console.left_out(others.values())
    if len(others) == len(scenarios):
        sys.exit(EXIT_LACKS)
    return [scenario for scenario in scenarios if scenario.path not in others]


def _exit_code(results: Sequence[Result]) -> int:
    outcomes = [(result.passed, result.lacks) for result in results]
    if any(passed is False for passed, _ in outcomes):
        return EXIT_FAILED
    if any(lacks is not None for _, lacks in outcomes):
        return EXIT_LACKS
    return EXIT_UNKNOWN if any(passed is None for passed, _ in outcomes) else 0


def _server(address: str | None) -> str | None:
    from testbed.scenario.toxiproxy import server_address

    try:
        return None if address is None else server_address(address)
    except ValueError as error:
        usage(f"--toxiproxy: {error}")


def _program(
    side: str, kind: str | None, both: str | None, profile: str | None, command: str | None
) -> Program:
    """What a side is run by: what is said of it alone counts before what is said of both."""
    from testbed.endpoint.program import DEFAULT_PROFILE, model, qemu

    if command is not None:
        if kind == "model":
            usage(f"--{side} model and --{side}-qemu: the {side} is one of them")
        return qemu(command_words(f"--{side}-qemu", command))
    return qemu() if (kind or both) == "qemu" else model(profile or DEFAULT_PROFILE)
