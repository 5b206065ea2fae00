"""`testbed explain`."""

from __future__ import annotations

from pathlib import Path

import click

from .shared import PATH, loaded_or_faults


@click.command("explain", short_help="Say in plain words what scenarios will do.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
def explain_command(files: tuple[Path, ...]) -> None:
    """Say in plain words what scenarios will do, and run nothing.

    Files of faults alone are explained, too.
    """
    from testbed.report.console import Console
    from testbed.report.explain import explained, explained_faults, wrapped
    from testbed.scenario.scenario import Scenario

    console = Console()
    for number, file in enumerate(loaded_or_faults(files)):
        lines = explained(file) if isinstance(file, Scenario) else explained_faults(file)
        console.lines([""] * (number > 0))
        console.lines(wrapped(lines))
