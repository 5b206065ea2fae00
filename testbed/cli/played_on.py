"""Options that say what scenarios are played on, for all commands that play some."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.model.profile import PROFILES

from .shared import EXIT_LACKS, QEMU, command_words, usage

if TYPE_CHECKING:
    from testbed.endpoint.program import Program
    from testbed.report.console import Console
    from testbed.scenario.run import Settings
    from testbed.scenario.scenario import Scenario

KIND = click.Choice(["model", "qemu"])


def _some_machine(_: click.Context, __: click.Parameter, machine: str | None) -> str | None:
    if machine is not None and not machine.strip():
        usage("--machine: expected a machine type such as pc-i440fx-7.2, got nothing")
    if machine is not None:
        from testbed.scenario.machine_sense import machine_problem

        if (why := machine_problem(machine)) is not None:
            usage(f"--machine: {why}")
    return machine


def _some_nic(_: click.Context, __: click.Parameter, nic: str | None) -> str | None:
    if nic is not None:
        from testbed.scenario.machine_sense import nic_problem

        if (why := nic_problem(nic)) is not None:
            usage(f"--nic: {why}")
    return nic


OPTIONS = (
    click.option("--endpoint", type=KIND, help="What both sides are: the model of QEMU, or QEMU."),
    click.option("--source", type=KIND, help="What the source is.  [default: model]"),
    click.option("--destination", type=KIND, help="What the destination is.  [default: model]"),
    click.option(
        "--profile", type=click.Choice(list(PROFILES)), help="A model's version.  [default: 7.2]"
    ),
    click.option(
        "--source-qemu",
        metavar="COMMAND",
        help=f"The source is this QEMU: a binary, or a command that ends in it.  [qemu: {QEMU}]",
    ),
    click.option(
        "--destination-qemu", metavar="COMMAND", help="The destination is this QEMU, likewise."
    ),
    click.option(
        "--machine",
        metavar="TYPE",
        callback=_some_machine,
        help="QEMU's -M, in place of the scenarios' `guest.machine`. An alias such as `pc` is the "
        "newest type that both sides have.",
    ),
    click.option(
        "--nic",
        metavar="MODEL",
        callback=_some_nic,
        help="The guest's NIC, in place of the scenarios' `guest.nic`.  [virtio-net-pci]",
    ),
    click.option(
        "--accel",
        type=click.Choice(["auto", "kvm", "tcg"]),
        default="auto",
        show_default=True,
        help="Of QEMU: KVM where it works, else TCG; or one of them. A model has TCG's devices.",
    ),
    click.option(
        "--toxiproxy",
        metavar="HOST:PORT",
        help="Lead all connections through this Toxiproxy server, with the scenario's toxics.",
    ),
    click.option(
        "--untrusted",
        is_flag=True,
        help="Nobody vouches for the scenarios: QEMU gets no arguments of theirs, and -sandbox.",
    ),
    click.option("--seed", type=click.IntRange(0), help="Of the guest's memory and of chance."),
)


def played_on(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it is called with the `settings` that they make."""

    @functools.wraps(command)
    def with_settings(
        *,
        endpoint: str | None,
        source: str | None,
        destination: str | None,
        profile: str | None,
        source_qemu: str | None,
        destination_qemu: str | None,
        machine: str | None,
        nic: str | None,
        accel: str,
        toxiproxy: str | None,
        untrusted: bool,
        seed: int | None,
        **others: Any,
    ) -> None:
        from testbed.scenario.run import Settings

        settings = Settings(
            _program("source", source, endpoint, profile, source_qemu),
            _program("destination", destination, endpoint, profile, destination_qemu),
            accel,
            seed,
            _server(toxiproxy),
            machine,
            nic=nic,
            untrusted=untrusted,
        )
        _check(settings, profile)
        command(settings=settings, **others)

    for option in reversed(OPTIONS):
        with_settings = option(with_settings)
    return with_settings


def fitting(
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


def _check(settings: Settings, profile: str | None) -> None:
    """Refuse what no pair of these kinds can have."""
    kinds = {settings.source.kind, settings.destination.kind}
    if profile is not None and "model" not in kinds:
        usage("--profile is a model's, and neither side is one")
    if settings.accelerator == "kvm" and "model" in kinds:
        usage("--accel kvm: a model has TCG's devices; run both sides with --endpoint qemu")


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
