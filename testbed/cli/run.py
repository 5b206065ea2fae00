"""`testbed run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .played_on import fitting, played_on
from .shared import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LACKS,
    EXIT_UNKNOWN,
    EXIT_USAGE,
    PATH,
    go_on_in_background,
    loaded,
    usage,
    writable_file,
    writable_folder,
)
from .standard_streams import output_error

if TYPE_CHECKING:
    from testbed.scenario.planned import PlannedRun
    from testbed.scenario.result import Result
    from testbed.scenario.run import Settings


REPEAT_MAX = 1_000_000
"""Runs of a week, at 0.6 s each."""


@click.command("run", short_help="Run scenarios.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@played_on
@click.option("--junit", type=PATH, metavar="FILE", help="Write a JUnit report here.")
@click.option("--json", type=PATH, metavar="FILE", help="Write a JSON report here.")
@click.option(
    "--out", type=PATH, metavar="DIR", help="Keep each run's log, pcap and stderr in this folder."
)
@click.option("--keep", is_flag=True, help="Leave the run up, and say how to enter it.")
@click.option(
    "--repeat",
    type=click.IntRange(1, REPEAT_MAX),
    default=1,
    show_default=True,
    help="Run each scenario so many times.",
)
def run_command(
    files: tuple[Path, ...],
    settings: Settings,
    junit: Path | None,
    json: Path | None,
    out: Path | None,
    keep: bool,
    repeat: int,
) -> None:
    """Run scenarios: build the network, migrate through the proxy, inject, judge.

    Of a folder, those that need another kind of endpoint are left out.

    Exit status: 0 all passed, 1 an expectation failed, 2 usage or an invalid scenario, 3 the
    environment lacks something, 4 the testbed could not tell.
    """
    from testbed.report.console import Console
    from testbed.report.reports import Reports
    from testbed.report.unblocked import unblocked
    from testbed.scenario.folders import FolderTaken, run_folders
    from testbed.scenario.planned import planned
    from testbed.scenario.session import Options, run

    scenarios = loaded(files, settings)
    if keep and len(scenarios) * repeat > 1:
        usage("--keep leaves one run up: name one scenario, and no --repeat")
    for path in (junit, json):
        if path is not None:
            writable_file(path)
    folders: list[Path | None] = [None] * (len(scenarios) * repeat)
    if out is not None:
        try:
            folders = [*run_folders(out, [each.name for each in scenarios * repeat])]
        except FolderTaken as error:
            usage(str(error))
        writable_folder(out)
    go_on_in_background()
    console = Console(unblocked(sys.stdout, output_error))
    results: list[Result] = []
    runs: list[PlannedRun] = []
    reports = Reports(junit, json)
    under_way = False
    try:
        fit = {each.path for each in fitting(scenarios, files, settings, console)}
        runs = [each for each in planned(scenarios * repeat, folders) if each.scenario.path in fit]
        for each in runs:
            under_way = True
            reports.update(runs, results)
            console.began(each.scenario)
            result = run(
                each.scenario,
                Options(settings, each.folder, keep),
                on_event=console.event,
                on_tick=console.tick,
                on_kept=console.kept,
            )
            under_way = False
            results.append(result)
            console.ended(result, told=len(runs) == 1)
        console.summary(results)
    except KeyboardInterrupt:
        console.interrupted()
        sys.exit(EXIT_INTERRUPTED)
    finally:
        reports.write(runs, results, under_way=under_way)
        console.finish()
    sys.exit(_exit_code(results))


def _exit_code(results: Sequence[Result]) -> int:
    outcomes = [(result.passed, result.lacks) for result in results]
    if any(passed is False for passed, _ in outcomes):
        return EXIT_FAILED
    if any(result.refused is not None for result in results):
        return EXIT_USAGE
    if any(lacks is not None for _, lacks in outcomes):
        return EXIT_LACKS
    return EXIT_UNKNOWN if any(passed is None for passed, _ in outcomes) else 0
