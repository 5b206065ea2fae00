"""All commands together, and how what ends them is told."""

from __future__ import annotations

import sys
from typing import Any

import click

from .decode import decode_command, dump_layout_command
from .doctor import doctor_command
from .explain import explain_command
from .library import check_command, list_command
from .model import model_command
from .prove import prove_command
from .proxy import proxy_command
from .replay import replay_command
from .run import run_command
from .shared import EXIT_INTERRUPTED, EXIT_LACKS, EXIT_PIPE_CLOSED, EXIT_UNKNOWN
from .standard_streams import OutputFailed, ReaderGone, drop_output


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="migration-testbed", prog_name="testbed")
@click.pass_context
def app(context: click.Context) -> None:
    """Fault-injection testbed for QEMU live migration."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    run_command,
    prove_command,
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
    raise SystemExit(_status())


def _status() -> Any:
    """Run it; what ends it early is told in one line, and has an exit status of its own."""
    try:
        try:
            status = app.main(standalone_mode=False)
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except ReaderGone:
        drop_output()
        return EXIT_PIPE_CLOSED
    except OutputFailed as error:
        drop_output()
        return _told(f"standard output cannot be written: {error.strerror}")
    except OSError as error:  # of a file that only this command has
        from testbed.lab.limits import refused

        return _told(refused(error))
    except MemoryError:
        return _told("the system refused: not enough memory (`ulimit -v`, or that of its cgroup)")
    except Exception as error:  # noqa: BLE001 - whatever it is, it says nothing of a migration
        return _broke(error)
    return status


def _told(what: str) -> int:
    sys.stderr.write(f"testbed: {what}\n")
    return EXIT_LACKS


def _broke(error: Exception) -> int:
    """Tell an error of the testbed's own: where it was for who mends it, then in one line."""
    import traceback

    sys.stderr.write("".join(traceback.format_exception(error)))
    sys.stderr.write(
        "testbed: this is an error of the testbed's own: report it with the lines above and the "
        f"command: {traceback.format_exception_only(error)[0]}"
    )
    return EXIT_UNKNOWN
