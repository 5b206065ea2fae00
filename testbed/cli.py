"""The command line: arguments in, exit code out. No logic lives here."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from testbed.model.profile import PROFILES

if TYPE_CHECKING:  # each command waits only for what it needs
    from testbed.endpoint.program import Program
    from testbed.scenario.result import Result
    from testbed.scenario.scenario import Scenario

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_LACKS = 3
EXIT_UNKNOWN = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
QEMU = "qemu-system-x86_64"
LIBRARY = Path(__file__).parents[1] / "scenarios"


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


PATH = click.Path(path_type=Path)
KIND = click.Choice(["model", "qemu"])


@app.command("run")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@click.option("--endpoint", type=KIND, help="What both sides are: the model of QEMU, or QEMU.")
@click.option("--source", type=KIND, help="What the source is.  [default: model]")
@click.option("--destination", type=KIND, help="What the destination is.  [default: model]")
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), help="A model's version.  [default: 7.2]"
)
@click.option(
    "--source-qemu",
    metavar="COMMAND",
    help=f"The source is this QEMU: a binary, or a command that ends in it.  [qemu: {QEMU}]",
)
@click.option(
    "--destination-qemu", metavar="COMMAND", help="The destination is this QEMU, likewise."
)
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    help="Of QEMU: KVM where it works, else TCG; or one of them. A model has TCG's devices.",
)
@click.option("--junit", type=PATH, help="Write a JUnit report here.")
@click.option("--json", type=PATH, help="Write a JSON report here.")
@click.option("--out", type=PATH, help="Keep each run's log, pcap and stderr in this folder.")
@click.option("--keep", is_flag=True, help="Leave the run up, and say how to enter it.")
@click.option("--seed", type=click.IntRange(0), help="Of the guest's memory pattern.")
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Run each scenario so many times.",
)
def run_command(
    files: tuple[Path, ...],
    endpoint: str | None,
    source: str | None,
    destination: str | None,
    profile: str | None,
    source_qemu: str | None,
    destination_qemu: str | None,
    accel: str,
    junit: Path | None,
    json: Path | None,
    out: Path | None,
    keep: bool,
    seed: int | None,
    repeat: int,
) -> None:
    """Run scenarios: build the network, migrate through the proxy, inject, judge.

    Exit status: 0 all passed, 1 an expectation failed, 2 usage or an invalid scenario, 3 the
    environment lacks something, 4 the testbed could not tell.
    """
    from testbed.report.console import Console
    from testbed.report.jsonfile import write_json
    from testbed.report.junit import write_junit
    from testbed.scenario.run import Settings
    from testbed.scenario.session import Options, run

    scenarios = _loaded(files)
    settings = Settings(
        _program("source", source, endpoint, profile, source_qemu),
        _program("destination", destination, endpoint, profile, destination_qemu),
        accel,
        seed,
    )
    kinds = {settings.source.kind, settings.destination.kind}
    if profile is not None and "model" not in kinds:
        _usage("--profile is a model's, and neither side is one")
    if accel == "kvm" and "model" in kinds:
        _usage("--accel kvm: a model has TCG's devices; run both sides with --endpoint qemu")
    if keep and len(scenarios) * repeat > 1:
        _usage("--keep leaves one run up: name one scenario, and no --repeat")
    for path in (junit, json):
        if path is not None:
            _writable_file(path)
    if out is not None:
        _writable_folder(out)
    console = Console()
    results = []
    try:
        for number in range(1, repeat + 1):
            for scenario in scenarios:
                name = scenario.name if repeat == 1 else f"{scenario.name}.{number}"
                options = Options(settings, out / name if out is not None else None, keep)
                console.began(scenario)
                result = run(
                    scenario,
                    options,
                    on_event=console.event,
                    on_tick=console.tick,
                    on_kept=console.kept,
                )
                console.ended(result, told=len(scenarios) * repeat == 1)
                results.append(result)
    except KeyboardInterrupt:
        console.interrupted()
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if junit is not None:
            write_junit(junit, results)
        if json is not None:
            write_json(json, results)
    console.summary(results)
    sys.exit(_exit_code(results))


def _exit_code(results: Sequence[Result]) -> int:
    outcomes = [(result.passed, result.lacks) for result in results]
    if any(passed is False for passed, _ in outcomes):
        return EXIT_FAILED
    if any(lacks is not None for _, lacks in outcomes):
        return EXIT_LACKS
    return EXIT_UNKNOWN if any(passed is None for passed, _ in outcomes) else 0


@app.command("list")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE...]")
def list_command(files: tuple[Path, ...]) -> None:
    """List scenarios, the library's if none are named: mode, expected verdict, what about."""
    from testbed.report.console import Console

    Console().listing(_loaded(files or (LIBRARY,)))


@app.command("check")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
def check_command(files: tuple[Path, ...]) -> None:
    """Check scenario files, and run nothing."""
    scenarios = _loaded(files)
    click.echo(f"{len(scenarios)} scenario{'s' * (len(scenarios) != 1)}: nothing wrong")


@app.command("doctor")
@click.option("--qemu", multiple=True, help="A binary or command that must be a QEMU.")
def doctor_command(qemu: tuple[str, ...]) -> None:
    """Say what this machine offers: kernel features, permissions, QEMUs, and what is missing.

    Runs on models need no QEMU: none is missing unless it is named.
    """
    from testbed.lab.doctor import examine
    from testbed.report.console import Console

    commands = [_command("--qemu", text) for text in qemu or (QEMU,)]
    features = examine(commands, needed=bool(qemu))
    Console().features(features)
    sys.exit(0 if all(each.ok or not each.needed for each in features) else EXIT_LACKS)


@app.command("decode")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--fields",
    is_flag=False,
    flag_value="*",
    metavar="[SECTION]",
    help="The fields of device sections; of those whose idstr matches (* and ? are wild).",
)
@click.option("--diff", is_flag=True, help="Compare two streams by section and field.")
@click.option("--ram-out", type=PATH, metavar="DIR", help="Put memory blocks together here.")
@click.option("--return-path", metavar="FILE", help="A recording of the return path, too.")
@click.option("--layout", type=PATH, help="What dump-layout wrote, for streams without vmdesc.")
@click.option(
    "--channel",
    type=click.Choice(["main", "recovery", "multifd", "preempt", "return-path", "tls"]),
    help="What FILE is, where its first bytes do not tell.",
)
def decode_command(
    files: tuple[str, ...],
    as_json: bool,
    fields: str | None,
    diff: bool,
    ram_out: Path | None,
    return_path: str | None,
    layout: Path | None,
    channel: str | None,
) -> None:
    """Decode recorded migration streams: files, pipes (-), captures (pcap, pcapng), xz, gz.

    Exit status: 0 whole, 1 cut short or damaged (--diff: they differ), 2 not readable.
    """
    from testbed.decode.channels import SourceError
    from testbed.decode.show import Wanted, read_layout, show
    from testbed.wire.identify import ChannelKind

    wanted = Wanted(
        as_json, ChannelKind(channel) if channel else None, return_path, ram_out, fields
    )
    if not files and fields is not None:  # `--fields FILE`: no section was meant
        files, wanted = (fields,), replace(wanted, fields="*")
    if not files or (diff and len(files) != 2):
        _usage("expected two FILEs to compare" if diff else "expected a FILE, or - for a pipe")
    try:
        if layout is not None:
            wanted = replace(wanted, learned=read_layout(layout))
        if diff:
            from testbed.decode.differ import show_differences

            whole = show_differences(files[0], files[1], wanted)
        else:
            whole = all([show(path, wanted) for path in files])
    except SourceError as error:
        _usage(error.what)
    sys.exit(0 if whole else EXIT_FAILED)


@app.command("dump-layout")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def dump_layout_command(files: tuple[str, ...]) -> None:
    """Write down the layout of the device sections of recorded streams, as JSON.

    `decode --layout` reads it, for streams of the same machine that have no vmdesc: postcopy's.
    """
    from testbed.decode.channels import SourceError
    from testbed.decode.show import learn

    try:
        click.echo(learn(files).to_json())
    except SourceError as error:
        _usage(error.what)


@app.command(
    "model",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT...]")
def model_command(arguments: tuple[str, ...]) -> None:
    """Run the model of a QEMU, with QEMU's own arguments; --profile says which version."""
    from testbed.endpoint.program import MODEL_COMMAND

    os.execv(MODEL_COMMAND[0], [*MODEL_COMMAND, *arguments])  # noqa: S606 - no shell is meant


def _loaded(paths: Sequence[Path]) -> list[Scenario]:
    """Every scenario of the paths; what is wrong with any of them is said, all of it."""
    from testbed.scenario.load import ScenarioError, find, load

    scenarios, wrong = [], []
    try:
        for path in find(paths):
            try:
                scenarios.append(load(path))
            except ScenarioError as error:
                wrong.append(str(error))
    except ScenarioError as error:
        wrong.append(str(error))
    if wrong:
        _usage("\n".join(wrong))
    return scenarios


def _program(
    side: str, kind: str | None, both: str | None, profile: str | None, command: str | None
) -> Program:
    """What a side is run by: what is said of it alone counts before what is said of both."""
    from testbed.endpoint.program import DEFAULT_PROFILE, model, qemu

    if command is not None:
        if kind == "model":
            _usage(f"--{side} model and --{side}-qemu: the {side} is one of them")
        return qemu(_command(f"--{side}-qemu", command))
    return qemu() if (kind or both) == "qemu" else model(profile or DEFAULT_PROFILE)


def _command(option: str, text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        _usage(f"{option}: {error}")
    if not words:
        _usage(f"{option}: expected a binary or a command, got nothing")
    return tuple(words)


def _writable_file(path: Path) -> None:
    """A report that could not be written after a long run would be found out too late."""
    try:
        with path.open("a"):
            pass
    except OSError as error:
        _usage(f"{path}: cannot be written: {error.strerror}")


def _writable_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _usage(f"{path}: cannot be made a folder: {error.strerror}")


def _usage(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(EXIT_USAGE)


def main() -> None:
    """The command `testbed`."""
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


if __name__ == "__main__":
    main()
