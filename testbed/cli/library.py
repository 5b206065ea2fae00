"""`testbed list` and `testbed check`."""

from __future__ import annotations

from pathlib import Path

import click

from .shared import PATH, loaded, loaded_or_faults

LIBRARY = Path(__file__).parents[2] / "scenarios"


@click.command("list", short_help="List scenarios, and what each is about.")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE...]")
def list_command(files: tuple[Path, ...]) -> None:
    """List scenarios, the library's if none are named: mode, expected verdict, what about."""
    from testbed.report.console import Console

    Console().listing(loaded(files or (LIBRARY,)))


@click.command("check", short_help="Check scenarios and files of faults, and run nothing.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
def check_command(files: tuple[Path, ...]) -> None:
    """Check scenario files and files of faults alone, and run nothing."""
    from testbed.scenario.scenario import Scenario

    found = loaded_or_faults(files)
    scenarios = sum(isinstance(each, Scenario) for each in found)
    alone = len(found) - scenarios
    counts = [f"{scenarios} scenario{'s' * (scenarios != 1)}"] if scenarios else []
    counts += [f"{alone} file{'s' * (alone != 1)} of faults"] if alone else []
    click.echo(f"{', '.join(counts)}: nothing wrong")
