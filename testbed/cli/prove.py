"""`testbed prove`."""

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
    PATH,
    go_on_in_background,
    loaded,
    usage,
    writable_file,
    writable_folder,
)

if TYPE_CHECKING:
    from testbed.prove.proof import Proof
    from testbed.scenario.run import Settings

PLAYS_MAX = 64
"""At one time; each takes two endpoints and a network."""


@click.command("prove", short_help="Find scenarios that pass without their faults, too.")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@played_on
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, PLAYS_MAX),
    default=1,
    show_default=True,
    help="Play so many at one time.",
)
@click.option("--json", type=PATH, metavar="FILE", help="Write a JSON report here.")
@click.option(
    "--out", type=PATH, metavar="DIR", help="Keep each play's log, pcap and stderr in this folder."
)
def prove_command(
    files: tuple[Path, ...], settings: Settings, jobs: int, json: Path | None, out: Path | None
) -> None:
    """Find scenarios that prove nothing: those that pass without one of their faults, too.

    Each scenario is played as it is, and once without each of its faults, of whatever kind. What it
    expects must hold of the first play, with no verdict but its own, and of none of the others,
    whatever their verdict.

    Exit status: 0 all are proved, 1 one is not or does not pass, 2 usage or an invalid scenario,
    3 the environment lacks something, 4 the testbed could not tell.
    """
    from testbed.prove.plays import WorkerEnded, jobs_of, prove
    from testbed.report.console import Console
    from testbed.report.proofs import write_proofs
    from testbed.scenario.folders import FolderTaken

    scenarios = loaded(files, settings)
    console = Console()
    scenarios = fitting(scenarios, files, settings, console)
    try:
        plays = jobs_of(scenarios, settings, out)
    except FolderTaken as error:
        usage(str(error))
    if json is not None:
        writable_file(json)
    if out is not None:
        writable_folder(out)
    go_on_in_background()
    proofs: list[Proof] = []
    try:
        console.proving(0, len(plays))
        for done, proof in enumerate(prove(plays, at_once=jobs), 1):
            if proof is not None:
                console.proved(proof, told=len(scenarios) == 1)
                proofs.append(proof)
            console.proving(done, len(plays))
    except KeyboardInterrupt:
        console.interrupted()
        sys.exit(EXIT_INTERRUPTED)
    except WorkerEnded:
        click.echo(
            "testbed: a process that played a scenario was killed (the kernel does so when memory "
            "runs out); what it played and all that follows is unknown",
            err=True,
        )
        sys.exit(EXIT_UNKNOWN)
    finally:
        if json is not None:
            write_proofs(json, proofs)
    console.proofs_summary(proofs)
    sys.exit(_exit_code(proofs))


def _exit_code(proofs: Sequence[Proof]) -> int:
    from testbed.prove.proof import Outcome

    outcomes = {proof.outcome for proof in proofs}
    if outcomes & {Outcome.UNPROVED, Outcome.FAILED}:
        return EXIT_FAILED
    if Outcome.SKIPPED in outcomes:
        return EXIT_LACKS
    return EXIT_UNKNOWN if Outcome.UNKNOWN in outcomes else 0
