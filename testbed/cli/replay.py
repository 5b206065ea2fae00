"""`testbed replay`."""

from __future__ import annotations

import json as json_text
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.model.profile import PROFILES

from .shared import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LACKS,
    EXIT_UNKNOWN,
    PATH,
    command_words,
    go_on_in_background,
    seconds,
    usage,
    writable_file,
)
from .standard_streams import output_error

if TYPE_CHECKING:
    from testbed.proxy.address import Address
    from testbed.replay.replay import Command
    from testbed.scenario.faults_file import FaultsFile

EXIT_STATUS = {"passed": 0, "FAILED": EXIT_FAILED, "unknown": EXIT_UNKNOWN}
VERDICTS = click.Choice(["accepted", "taken", "paused", "refused", "hung", "crashed"])


@click.command("replay", short_help="Send a recorded migration to a destination, and judge it.")
@click.argument("recording", metavar="RECORDING")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
@click.option("--to", metavar="ADDR", help="A destination that waits at HOST:PORT or unix:PATH.")
@click.option(
    "--qemu",
    metavar="COMMAND",
    help="Start this QEMU: its whole command line, with the machine that the recording is of.",
)
@click.option(
    "--model", is_flag=True, help="Start a model of QEMU, of the recording's type and memory."
)
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), help="A model's version.  [default: 7.2]"
)
@click.option("--faults", type=PATH, metavar="FILE", help="Damage the stream on its way.")
@click.option("--seed", type=click.IntRange(0), help="Of what is left to chance in the faults.")
@click.option(
    "--speed",
    type=click.Choice(["fast", "as-recorded"]),
    default="fast",
    show_default=True,
    help="As fast as the destination takes it, or with the recording's times.",
)
@click.option(
    "--expect",
    type=VERDICTS,
    default="accepted",
    show_default=True,
    help="The verdict that is a success.",
)
@click.option(
    "--within",
    type=float,
    callback=seconds(0.1, 86400),
    default=10.0,
    show_default=True,
    help="Seconds for which nothing may move; then it hangs.",
)
@click.option("--paused", is_flag=True, help="Never let the guest of a started one run.")
@click.option("--capability", multiple=True, metavar="NAME", help="Turn it on, too.")
@click.option("--parameter", multiple=True, metavar="NAME=VALUE", help="Set it, too.")
@click.option("--migration", type=click.IntRange(1), help="Which one of a recording of several.")
@click.option("--json", type=PATH, metavar="FILE", help="Write a JSON report here.")
def replay_command(
    recording: str,
    arguments: tuple[str, ...],
    to: str | None,
    qemu: str | None,
    model: bool,
    profile: str | None,
    faults: Path | None,
    seed: int | None,
    speed: str,
    expect: str,
    within: float,
    paused: bool,
    capability: tuple[str, ...],
    parameter: tuple[str, ...],
    migration: int | None,
    json: Path | None,
) -> None:
    """Send a recorded migration to a destination, whole or damaged, and judge its reaction.

    RECORDING is a folder of `testbed proxy --record`, a stream, or a capture; `-` is a pipe. What
    follows `--` are further arguments of the QEMU or the model.

    Exit status: 0 as expected, 1 not, 2 usage, 3 the destination cannot be started or reached, 4
    nothing tells.
    """
    from testbed import tasks
    from testbed.endpoint.base import EndpointError
    from testbed.log import Log
    from testbed.replay.recording import ReplayError, replayable
    from testbed.replay.replay import NobodyThere, ReplayPlan, replay
    from testbed.report.replayed import ReplayConsole, outcome_of, write_replayed
    from testbed.report.unblocked import unblocked

    if [to is not None, qemu is not None, model].count(True) != 1:
        usage("say where it goes: one of --to ADDR, --qemu COMMAND, --model")
    if profile is not None and not model:
        usage("--profile is a model's: --model")
    if to is not None and (paused or capability or parameter or arguments):
        usage(
            "--paused, --capability, --parameter and arguments after -- are for a destination that "
            "is started: --qemu or --model"
        )
    if json is not None:
        writable_file(json)
    destination = _destination(to, qemu, profile, arguments)
    damage = _faults(faults)
    go_on_in_background()
    log, console = Log(), ReplayConsole(unblocked(sys.stdout, output_error))
    try:
        with replayable(recording, migration) as found:
            plan = ReplayPlan(
                destination,
                damage.faults if damage is not None else (),
                seed if seed is not None else damage.seed if damage is not None else 0,
                as_recorded=speed == "as-recorded",
                paused=paused,
                within_s=within,
                capabilities=dict.fromkeys(capability, True),
                parameters=dict(map(_parameter, parameter)),
            )
            console.began_replay(found)
            log.listen(console.replayed)
            reaction = tasks.run(replay(found, plan, log))
        console.reacted(reaction, expect)
    except ReplayError as error:
        usage(str(error))
    except (EndpointError, NobodyThere) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_LACKS)
    except KeyboardInterrupt:
        click.echo("interrupted: the replay is not judged, and what it started is gone", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except OSError:
        raise  # what is written, here or in the spool: `main` tells it
    except Exception:  # noqa: BLE001 - an error of ours says nothing of the destination
        click.echo(
            f"the replay is not judged, the testbed broke: {traceback.format_exc()}", err=True
        )
        sys.exit(EXIT_UNKNOWN)
    finally:
        console.finish()
    if json is not None:
        try:
            write_replayed(json, recording, reaction, expect)
        except OSError as error:
            click.echo(f"{json}: cannot be written: {error.strerror}", err=True)
            sys.exit(EXIT_LACKS)
    sys.exit(EXIT_STATUS[outcome_of(reaction, expect)])


def _destination(
    to: str | None, qemu: str | None, profile: str | None, arguments: tuple[str, ...]
) -> Address | Command:
    from testbed.endpoint.program import DEFAULT_PROFILE
    from testbed.endpoint.program import model as model_program
    from testbed.replay.replay import Command
    from testbed.standalone.asked import AskedError, read_address

    if to is not None:
        try:
            return read_address("--to", to, connects=True)
        except AskedError as error:
            usage(str(error))
    if qemu is not None:
        return Command(command_words("--qemu", qemu), arguments)
    program = model_program(profile or DEFAULT_PROFILE)
    return Command(program.command, arguments, of_recording=True)


def _faults(path: Path | None) -> FaultsFile | None:
    from testbed.scenario.document import ScenarioError
    from testbed.scenario.faults_file import load_faults

    try:
        return None if path is None else load_faults(path)
    except ScenarioError as error:
        usage(str(error))


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        usage(f"--parameter: expected NAME=VALUE, got {text!r}")
    try:
        return name, json_text.loads(value)
    except ValueError:
        return name, value
