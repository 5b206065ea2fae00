"""Which machine types an endpoint has, and the newest that both sides of a migration have.

`pc` and `q35` mean another machine in each version of QEMU, and a stream of one is refused by a
machine of another type ("Machine type received is ..."). So an alias is resolved before anything is
started, to a type that both sides have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from testbed.model.profile import PROFILES

from .identity import output
from .program import Program

LINE = re.compile(r"(\S+) +(\S.*)")
"""A name, padded to 20 columns, and what it is. QEMU `softmmu/vl.c`, `machine_help_func`."""
ALIAS = re.compile(r"\(alias of (\S+)\)")
VERSIONED = re.compile(r"(.+?)-?(\d+(?:\.\d+)*)")
"""`pc-i440fx-7.2`, `pc-q35-4.0.1`, `pc-q35-rhel9.4.0`: a family of machine types, and the version
that this one is of."""
HEADING = "Supported machines are"


class NoCommonMachine(Exception):
    """There is no machine type that both sides have; the message says so, and what to do."""


@dataclass(frozen=True, slots=True)
class MachineTypes:
    """What `-machine help` of one program lists."""

    names: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)

    def family(self, family: str) -> dict[tuple[int, ...], str]:
        """The machine types of a family such as `pc-i440fx`, by their version."""
        found = ((name, VERSIONED.fullmatch(name)) for name in self.names)
        return {_version(match[2]): name for name, match in found if match and match[1] == family}


def parse(lines: Iterable[str]) -> MachineTypes:
    """Read the lines of `-machine help`; those that list no machine type are passed over."""
    names, aliases = set(), {}
    for line in lines:
        match = LINE.fullmatch(line.rstrip())
        if match is None or line.startswith(HEADING):
            continue
        names.add(match[1])
        if alias := ALIAS.search(match[2]):
            aliases[match[1]] = alias[1]
    return MachineTypes(frozenset(names), aliases)


_known: dict[Program, MachineTypes] = {}


async def machine_types(program: Program) -> MachineTypes:
    """Ask a program which machine types it has.

    The answer is kept as long as this process runs, so a folder of scenarios asks once. A model's
    is known without starting it.

    Raises:
        EndpointError: it is not there, failed, or did not answer in time.
    """
    if program not in _known:
        if program.profile is None:
            lines = await output(*program.command, "-machine", "help")
        else:
            # Imported here: it builds all of the model's devices, which few other users need.
            from testbed.model.machines.machine import machine_help

            lines = machine_help(PROFILES[program.profile]).splitlines()
        _known[program] = parse(lines)
    return _known[program]


async def common_machine(machine: str, source: Program, destination: Program) -> str:
    """Return what both sides are to be started with so that they are the same machine.

    Args:
        machine: QEMU's `-M`, its options included. An alias such as `pc` becomes the newest machine
            type of its family that both sides have; another name is returned as it is.
        source: of a run.
        destination: of the same run.

    Raises:
        EndpointError: a side could not be asked.
        NoCommonMachine: the name is an alias on both sides, and they have no type in common.
    """
    name, comma, options = machine.partition(",")
    types = [await machine_types(program) for program in (source, destination)]
    return f"{newest_common(name, *types)}{comma}{options}"


def newest_common(name: str, source: MachineTypes, destination: MachineTypes) -> str:
    """Return the machine type that `name` is to mean on both sides; see `common_machine`.

    Raises:
        NoCommonMachine: there is none.
    """
    own = source.aliases.get(name), destination.aliases.get(name)
    if own[0] is None or own[1] is None or own[0] == own[1]:
        return own[0] or own[1] or name
    families = {match[1] for each in own if (match := VERSIONED.fullmatch(each or ""))}
    if len(families) == 1:
        (family,) = families
        ours, theirs = source.family(family), destination.family(family)
        if common := ours.keys() & theirs.keys():
            return ours[max(common)]
    raise NoCommonMachine(
        f"machine {name}: it is {own[0]} at the source and {own[1]} at the destination, which have "
        "no machine type of one family in common: name one that both have with --machine "
        "(`-machine help` lists them)"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
