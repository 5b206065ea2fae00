"""What the commands share: exit statuses, kinds of arguments, how a user's mistake is told."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

if TYPE_CHECKING:  # each command waits only for what it needs
    from testbed.scenario.faults_file import FaultsFile
    from testbed.scenario.run import Settings
    from testbed.scenario.scenario import Scenario

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_LACKS = 3
EXIT_UNKNOWN = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
QEMU = "qemu-system-x86_64"
PATH = click.Path(path_type=Path)


def seconds(least: float, most: float) -> Callable[..., float]:
    """A callback of an option that is a time: `click.FloatRange` lets nan pass."""

    def check(_: click.Context, __: click.Parameter, value: float) -> float:
        if not least <= value <= most:
            raise click.BadParameter(f"expected {least:g} to {most:g} seconds, got {value:g}")
        return value

    return check


T = TypeVar("T")


def go_on_in_background() -> None:
    """Have a command go on that writes to a terminal it is in the background of (`stty tostop`).

    SIGTTOU would stop it, and with it a migration that passes through it.
    """
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def usage(message: str) -> NoReturn:
    """Tell the user's mistake, and end."""
    click.echo(message, err=True)
    sys.exit(EXIT_USAGE)


def loaded(paths: Sequence[Path], settings: Settings | None = None) -> list[Scenario]:
    """Every scenario of the paths; what is wrong with any of them is said, all of it.

    With settings that do not trust them, what they may not ask for is, too.
    """
    from testbed.scenario.load import load
    from testbed.scenario.untrusted import untrusted_problems

    scenarios = _all_of(paths, load)
    if settings is not None and settings.untrusted:
        server = settings.toxiproxy is not None
        wrong = [line for each in scenarios for line in untrusted_problems(each, server=server)]
        if wrong:
            usage("\n".join(wrong))
    return scenarios


def loaded_or_faults(paths: Sequence[Path]) -> list[Scenario | FaultsFile]:
    """Every scenario and every file of faults alone, likewise."""
    from testbed.scenario.faults_file import is_faults_file, load_faults
    from testbed.scenario.load import load

    def either(path: Path) -> Scenario | FaultsFile:
        return load_faults(path) if is_faults_file(path) else load(path)

    return _all_of(paths, either)


def _all_of(paths: Sequence[Path], load: Callable[[Path], T]) -> list[T]:
    from testbed.scenario.load import ScenarioError, find

    found, wrong = [], []
    try:
        for path in find(paths):
            try:
                found.append(load(path))
            except ScenarioError as error:
                wrong.append(str(error))
    except ScenarioError as error:
        wrong.append(str(error))
    if wrong:
        usage("\n".join(wrong))
    return found


def command_words(option: str, text: str) -> tuple[str, ...]:
    """The words of a command that an option names."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        usage(f"{option}: {error}")
    if not words:
        usage(f"{option}: expected a binary or a command, got nothing")
    return tuple(words)


def writable_file(path: Path) -> None:
    """A report that could not be written after a long run would be found out too late."""
    try:
        with path.open("a"):
            pass
    except OSError as error:
        usage(f"{path}: cannot be written: {error.strerror}")


def writable_folder(path: Path) -> None:
    """Make the folder now, if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        usage(f"{path}: cannot be made a folder: {error.strerror}")
