"""Which machine types the two sides of a run are started with."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace

from testbed import tasks
from testbed.endpoint.base import EndpointError
from testbed.endpoint.machine_types import (
    MachineTypes,
    NoCommonMachine,
    common_machine,
    machine_types,
)
from testbed.endpoint.program import Program

from .lacks import Lacks
from .machine_sense import MACHINES, machine_problem
from .run import Settings
from .scenario import Scenario

NAMED_MAX = 8
"""Machine types in a message: enough to see what they are of."""


def with_machines(settings: Settings, scenario: Scenario) -> Settings:
    """Return `resolved` settings, where no event loop runs yet."""
    return tasks.run(resolved(settings, scenario))


async def resolved(settings: Settings, scenario: Scenario) -> Settings:
    """Return the settings with each alias of the scenario resolved for both of its sides.

    Both programs are asked for their machine types, each once as long as this process runs.

    Raises:
        Lacks: a side could not be asked, has no such machine, or they have none in common.
    """
    written = scenario.model
    sides = {"source": written.source, "destination": written.destination}
    said = {
        side: own.machine or settings.machine or written.guest.machine
        for side, own in sides.items()
    }
    try:
        machines = await _resolved(said, settings)
    except (EndpointError, NoCommonMachine) as error:
        raise Lacks(str(error)) from error
    return replace(settings, machines=machines)


async def _resolved(said: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Resolve what is said of each side.

    Raises:
        Lacks: a side has no such machine.
    """
    programs = {"source": settings.source, "destination": settings.destination}
    for side, program in programs.items():
        _require_pc(side, program, await machine_types(program))
    machines = {
        machine: await common_machine(machine, settings.source, settings.destination)
        for machine in sorted(set(said.values()))
    }
    for side, program in programs.items():
        _require_machine(side, program, machines[said[side]], await machine_types(program))
    return machines


def _require_pc(side: str, program: Program, types: MachineTypes) -> None:
    """Refuse a program that has no PC at all, such as a `qemu-system-aarch64`.

    Raises:
        Lacks: it has none.
    """
    if not types.names or any(machine_problem(name) is None for name in types.names):
        return
    raise Lacks(
        f"the {side} cannot be {shlex.join(program.command)}: a run's guest needs a PC, "
        f"{MACHINES}, and it has {_some(types.names)}. Name a qemu-system-x86_64 or "
        f"qemu-system-i386 with --{side}-qemu"
    )


def _require_machine(side: str, program: Program, machine: str, types: MachineTypes) -> None:
    """Refuse a machine type that a side does not have.

    Raises:
        Lacks: it has others.
    """
    name = machine.partition(",")[0].removeprefix("type=")
    if not types.names or name in types.names or name in types.aliases:
        return
    pcs = [each for each in types.names if machine_problem(each) is None]
    what = program.profile and f"a model of QEMU {program.profile}"
    raise Lacks(
        f"the {side}, {what or shlex.join(program.command)}, has no machine {name}: it has "
        f"{_some(pcs)}; name one that both sides have with --machine, or in the scenario"
    )


def _some(names: Collection[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(sorted(names)[:NAMED_MAX]) + (f" and {more} others" if more > 0 else "")
