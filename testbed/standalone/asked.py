"""From the words of a command line to what a proxy is to do; what is wrong with them, in a line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.fault.plan import Chance, Fault, Latency, Slice
from testbed.proxy.address import Address, AddressError, TcpAddress, parse_address

from .storage import of_storage, storage_problems

if TYPE_CHECKING:  # the language takes its time
    from testbed.scenario.faults_file import FaultsFile


class AskedError(Exception):
    """The user asked for what cannot be: a line for each thing."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a proxy listens, where it goes on to, and what happens on the way."""

    listen: Address
    upstream: Address
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    `seed` is that of chance and jitter; `has_chance` if there is any. With `once` the proxy ends
    with the first migration. `unread`: connections and their ends are told, and nothing of what
    passes, which then costs least.
    """

    migration: Way
    storage: Way | None = None
    seed: int = 1
    has_chance: bool = False
    once: bool = False
    record: Path | None = None
    record_bytes_max: int | None = None
    json_log: Path | None = None
    control: Address | None = None
    control_public: bool = False
    unread: bool = False


def read_way(option: str, listen: str, upstream: str, faults: FaultsFile | None) -> Way:
    """Read the two addresses of a proxy; `option` is what the options' names begin with.

    Raises:
        AskedError: one of them is no address.
    """
    return Way(
        read_address(f"--{option}listen", listen),
        read_address(f"--{option}upstream", upstream, connects=True),
        faults.faults if faults else (),
    )


def read_address(option: str, text: str, *, connects: bool = False) -> Address:
    """Read the address that an option has; `connects`: it is to be connected to.

    Raises:
        AskedError: it is none, or none that can be connected to.
    """
    try:
        address = parse_address(text)
    except AddressError as error:
        raise AskedError(f"{option}: {error}") from error
    if connects and isinstance(address, TcpAddress) and not address.port:
        raise AskedError(f"{option}: {text!r}: nobody listens on port 0")
    return address


def read_faults(path: Path | None, *, for_storage: bool = False) -> FaultsFile | None:
    """Read a file of faults, if there is one; those for storage touch connections only.

    Raises:
        AskedError: with everything that is wrong with it, by line and column.
    """
    if path is None:
        return None
    from testbed.scenario.document import ScenarioError
    from testbed.scenario.faults_file import load_faults

    try:
        loaded = load_faults(path)
    except ScenarioError as error:
        raise AskedError(str(error)) from error
    if not for_storage:
        return loaded
    if wrong := list(storage_problems(loaded.faults)):
        raise AskedError("\n".join(wrong))
    return replace(loaded, faults=tuple(map(of_storage, loaded.faults)))


def has_chance(faults: tuple[Fault, ...]) -> bool:
    """True if what the faults do depends on a seed."""
    return any(
        any(isinstance(each, Chance) for each in fault.conditions)
        or (isinstance(fault.action, Latency) and fault.action.jitter_s > 0)
        or (isinstance(fault.action, Slice) and fault.action.variation_bytes > 0)
        for fault in faults
    )
