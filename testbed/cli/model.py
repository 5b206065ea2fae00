"""`testbed model`."""

from __future__ import annotations

import os

import click


@click.command(
    "model",
    short_help="Run the model of a QEMU, with QEMU's own arguments.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT...]")
def model_command(arguments: tuple[str, ...]) -> None:
    """Run the model of a QEMU, with QEMU's own arguments; --profile says which version."""
    from testbed.endpoint.program import MODEL_COMMAND

    os.execv(MODEL_COMMAND[0], [*MODEL_COMMAND, *arguments])  # noqa: S606 - no shell is meant
