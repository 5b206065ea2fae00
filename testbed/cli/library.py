"""`testbed list` and `testbed check`."""

from __future__ import annotations

from pathlib import Path

import click

from .shared import PATH, loaded

LIBRARY = Path(__file__).parents[2] / "scenarios"


@click.command("list")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE...]")
def list_command(files: tuple[Path, ...]) -> None:
    """List scenarios, the library's if none are named: mode, expected verdict, what about."""
    from testbed.report.console import Console

    Console().listing(loaded(files or (LIBRARY,)))


@click.command("check")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
def check_command(files: tuple[Path, ...]) -> None:
    """Check scenario files, and run nothing."""
    scenarios = loaded(files)
    click.echo(f"{len(scenarios)} scenario{'s' * (len(scenarios) != 1)}: nothing wrong")
