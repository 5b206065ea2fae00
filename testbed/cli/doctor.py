"""`testbed doctor`."""

from __future__ import annotations

import sys

import click

from .shared import EXIT_LACKS, QEMU, command_words


@click.command("doctor", short_help="Say what this machine offers, and what is missing.")
@click.option(
    "--qemu", multiple=True, metavar="COMMAND", help="A binary or command that must be a QEMU."
)
def doctor_command(qemu: tuple[str, ...]) -> None:
    """Say what this machine offers: kernel features, permissions, QEMUs, and what is missing.

    Runs on models need no QEMU: none is missing unless it is named.
    """
    from testbed.lab.doctor import examine
    from testbed.report.console import Console

    commands = [command_words("--qemu", text) for text in qemu or (QEMU,)]
    features = examine(commands, needed=bool(qemu))
    Console().features(features)
    sys.exit(0 if all(each.ok or not each.needed for each in features) else EXIT_LACKS)
