"""`testbed list` and `testbed check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .shared import PATH, loaded, loaded_or_faults

if TYPE_CHECKING:
    from testbed.scenario.scenario import Scenario


@click.command("list", short_help="List scenarios, and what each is about.")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE...]")
def list_command(files: tuple[Path, ...]) -> None:
    """List scenarios, the library's if none are named: mode, expected verdict, what about."""
    from testbed.report.console import Console
    from testbed.scenario.load import LIBRARY

    Console().listing(loaded(files or (LIBRARY,)))


@click.command("check", short_help="Check scenarios and files of faults, and run nothing.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
def check_command(files: tuple[Path, ...]) -> None:
    """Check scenario files and files of faults alone, and run nothing."""
    from testbed.scenario.scenario import Scenario

    found = loaded_or_faults(files)
    of_scenarios = [each for each in found if isinstance(each, Scenario)]
    for line in _equal_names(of_scenarios):
        click.echo(line)
    scenarios = len(of_scenarios)
    alone = len(found) - scenarios
    counts = [f"{scenarios} scenario{'s' * (scenarios != 1)}"] if scenarios else []
    counts += [f"{alone} file{'s' * (alone != 1)} of faults"] if alone else []
    click.echo(f"{', '.join(counts)}: nothing wrong")


def _equal_names(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """A line for each scenario whose `name` another one says as well."""
    first: dict[str, Scenario] = {}
    for scenario in scenarios:
        if scenario.model.name is None:
            continue  # it is called as its file
        other = first.setdefault(scenario.name, scenario)
        if other is not scenario:
            where = scenario.where(("name",))
            yield (
                f"{where}: note: {scenario.name!r} is the name of {other.path} as well; reports "
                "tell them apart by their paths"
            )
