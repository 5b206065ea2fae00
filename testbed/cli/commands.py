"""All commands together, and how what ends them is told."""

from __future__ import annotations

import os
import sys

import click

from .decode import decode_command, dump_layout_command
from .doctor import doctor_command
from .explain import explain_command
from .library import check_command, list_command
from .model import model_command
from .proxy import proxy_command
from .replay import replay_command
from .run import run_command
from .shared import EXIT_INTERRUPTED, EXIT_LACKS, EXIT_PIPE_CLOSED


class _ReaderGone(Exception):
    """The reader of a pipe has seen enough. click has an exit status of its own for that."""


class _Commands(click.Group):
    """The commands; what they wrote is written when they end."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command named."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _ReaderGone from None
        return result


@click.group(cls=_Commands)
def app() -> None:
    """Fault-injection testbed for QEMU live migration."""


for _command in (
    run_command,
    list_command,
    check_command,
    explain_command,
    doctor_command,
    decode_command,
    dump_layout_command,
    model_command,
    proxy_command,
    replay_command,
):
    app.add_command(_command)


def main() -> None:
    """Run the command that the arguments name, and end with its status."""
    try:
        status = app.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.Abort:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except _ReaderGone:
        # Nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_PIPE_CLOSED) from None
    except OSError as error:
        # What is written is all that can fail here: runs turn their own errors into results.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"testbed: cannot write: {error.strerror or error}\n")
        raise SystemExit(EXIT_LACKS) from None
    raise SystemExit(status)
