"""A run from outside: the scenario played in a sandbox of its own, its log read and judged here."""

from __future__ import annotations

import json
import os
import platform
import select
import shlex
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from testbed import tasks
from testbed.endpoint.base import EndpointError, ScenarioRefused
from testbed.endpoint.program import DEFAULT_PROFILE, MODEL, QEMU, Program, qemu
from testbed.files import new_text_file
from testbed.lab.limits import refused, too_low
from testbed.log import Event, Log
from testbed.netns.inside import FOLDER, SandboxSide
from testbed.netns.require import missing
from testbed.netns.sandbox import Sandbox, SandboxBroke, SandboxRefused, enter_command

from .detour import Detour, detour
from .expect import as_played, judge, watched, why_unknown
from .invariants import Invariant
from .lacks import Lacks
from .machines import with_machines
from .result import Check, Played, Result
from .run import Settings, play
from .scenario import Scenario
from .sense import connections_max
from .toxiproxy import Toxiproxy

LOG = "log.jsonl"
READ_BYTES = 1 << 16
TICK_S = 0.1
OVERTIME_S = 60.0
"""After the scenario's own deadline: a sandbox that still runs then is killed, and unknown."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks of a run."""

    settings: Settings = field(default_factory=Settings)
    folder: Path | None = None  # of this run's files; None: they are not kept
    keep: bool = False


Listener = Callable[[Event], None]


def _ignore(_: object) -> None:
    """For who does not listen."""


def run(
    scenario: Scenario,
    options: Options,
    *,
    on_event: Listener = _ignore,
    on_tick: Callable[[], None] = lambda: None,
    on_kept: Callable[[str], None] = _ignore,
) -> Result:
    """Play a scenario in a sandbox of its own, and judge it.

    Args:
        scenario: to be played.
        options: of the command line.
        on_event: called with every event as it comes.
        on_tick: called about ten times a second.
        on_kept: called with the command that enters the run, if it is left up.

    Returns:
        The result; an environment that lacks something is a result too.
    """
    log = Log()
    began = time.monotonic()
    with _log_file(options.folder) as file:

        def take(event: Event) -> None:
            log.add(event)
            file.write(event)
            on_event(event)

        try:
            _require_limits(scenario, options.settings)
            settings = with_machines(options.settings, scenario)
            options = replace(options, settings=settings)
            with (
                _detour(scenario, options.settings) as way,
                Sandbox.start(
                    lambda side: _inside(side, scenario, options, way),
                    keep=() if way is None else way.fds,
                ) as sandbox,
            ):
                bound = began + scenario.model.deadline + OVERTIME_S
                for event in _events(sandbox.fd, on_tick, bound, way):
                    take(event)
                    if event.kind == "run-kept":
                        break
                if log.first("run-kept") is not None:
                    on_kept(enter_command(sandbox.detach()))
                else:
                    status = sandbox.kill() if time.monotonic() > bound else sandbox.wait()
                    if log.first("run-ended") is None:
                        take(_ended_early(log, status, sandbox.failure))
        except SandboxRefused as error:
            take(_event(log, "run-lacks", what=refused(error), refused=True))
        except SandboxBroke as error:
            take(_event(log, "run-broke", traceback=str(error)))
        except Lacks as error:
            take(_event(log, "run-lacks", what=str(error)))
    unkept = file.failed
    if options.folder is not None and unkept is None:
        unkept = _write_files(options.folder, scenario, log)
    if unkept is not None:
        log.add(_event(log, "run-unkept", what=f"{options.folder}: cannot be written: {unkept}"))
    return _result(scenario, options, log, time.monotonic() - began)


def _detour(scenario: Scenario, settings: Settings) -> AbstractContextManager[Detour | None]:
    """The way through a Toxiproxy server, if there is to be one."""
    wanted = scenario.model.toxiproxy
    if settings.toxiproxy is not None:
        toxics = [] if wanted is None else wanted.toxics
        wanted = Toxiproxy(server=settings.toxiproxy, toxics=toxics)
    return nullcontext() if wanted is None else detour(wanted)


def _inside(inside: SandboxSide, scenario: Scenario, options: Options, way: Detour | None) -> int:
    """The work of PID 1: play, and write every event to the command."""
    log = Log()
    log.listen(lambda event: inside.write(event.to_json().encode() + b"\n"))
    folder = options.folder or FOLDER
    log.write(
        "run",
        "run-began",
        scenario=scenario.name,
        seed=_seed(scenario, options),
        kernel=platform.release(),
    )
    if way is not None:
        log.write("run", "toxiproxy", **way.facts)
    try:
        tasks.run(_play(inside, scenario, options, folder, log, way))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the command must be told
        _write_end(log, error)
    log.note_dropped()
    log.write("run", "run-ended")
    return 0


def _write_end(log: Log, error: BaseException) -> None:
    """Write down why a run ended early.

    What the environment lacks shows before the first attempt. Whatever ends the run later is the
    testbed's own trouble, and no reason to skip a case.
    """
    if log.first("attempt-began") is None:
        if isinstance(error, ScenarioRefused):
            log.write("run", "run-refused", what=str(error))
            return
        if isinstance(error, (EndpointError, Lacks)):
            log.write("run", "run-lacks", what=str(error))
            return
        if isinstance(error, OSError):
            log.write("run", "run-lacks", what=refused(error), refused=True)
            return
    log.write("run", "run-broke", **_own_error(error))


def _own_error(error: BaseException) -> dict[str, Any]:
    """The facts of `run-broke` for an error of the testbed's own."""
    return {
        "traceback": "".join(traceback.format_exception(error)),
        "cause": f"{type(error).__name__}: {error}".splitlines()[0],
    }


async def _play(
    inside: SandboxSide,
    scenario: Scenario,
    options: Options,
    folder: Path,
    log: Log,
    way: Detour | None,
) -> None:
    async def hold() -> None:
        log.write("run", "run-kept")
        await inside.stay()

    await play(scenario, options.settings, folder, log, hold if options.keep else None, way)


def _require_limits(scenario: Scenario, settings: Settings) -> None:
    kinds = [program.kind for program in (settings.source, settings.destination)]
    what = too_low(
        connections=connections_max(scenario), models=kinds.count(MODEL), qemus=kinds.count(QEMU)
    )
    if what is not None:
        raise Lacks(what)


def _events(
    fd: int, on_tick: Callable[[], None], bound: float, way: Detour | None
) -> Iterator[Event]:
    """Events as PID 1 writes them, until it ends, or the bound is over and none is there.

    Connections that it asks for on its way out are made meanwhile.
    """
    doors = () if way is None else (way.doorway,)
    buffer = b""
    while True:
        left_s = bound - time.monotonic()
        watched = [fd, *(door.fileno() for door in doors)]
        ready, _, _ = select.select(watched, [], [], min(max(left_s, 0.0), TICK_S))
        for door in doors:
            if door.fileno() in ready:
                door.answer()
        if fd in ready:
            data = os.read(fd, READ_BYTES)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            yield from (Event.from_json(line) for line in lines)
        elif left_s <= 0:
            return  # only now: a command that was stopped finds the end of a run here, late
        on_tick()


def _ended_early(log: Log, status: int, failure: str) -> Event:
    """The event for a run that ended without saying so."""
    return _event(log, "run-broke", traceback=failure, status=status)


def _event(log: Log, kind: str, **facts: Any) -> Event:
    """An event that the command adds to the run's own."""
    now = log[len(log) - 1].at_s if len(log) else 0.0
    return Event(len(log), now, "run", kind, facts)


class _log_file:  # noqa: N801 - a context manager that is used like a function
    """The log's file in the run's folder, or nothing; `failed` is why no more is written to it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: TextIO | None = None
        self.failed: str | None = None

    def __enter__(self) -> _log_file:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = new_text_file(self._folder / LOG)
        return self

    def write(self, event: Event) -> None:
        """Add a line for an event, if that can be."""
        if self._file is not None and self.failed is None:
            try:
                self._file.write(event.to_json() + "\n")
                self._file.flush()
            except OSError as error:  # a full disk must not end the run, and those after it
                self.failed = error.strerror or str(error)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # it flushes what could not be written
                self._file.close()


def _write_files(folder: Path, scenario: Scenario, log: Log) -> str | None:
    """Write what else people want of a run beside its log and its pcap; why not, if it fails."""
    resolved = json.dumps(as_played(scenario, log).resolved(), indent=2)
    try:
        _write_text(folder / "scenario.json", resolved + "\n")
        if scenario.path.is_file():  # not a pipe, which has been read
            _write_text(folder / "scenario.yaml", scenario.path.read_text(encoding="utf-8-sig"))
        for name, lines in _stderr_by_file(log).items():
            _write_text(folder / name, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _stderr_by_file(log: Log) -> dict[str, list[str]]:
    """The lines of stderr by the file that they go to: those of a second attempt have their own."""
    files: dict[str, list[str]] = {"source.stderr": [], "destination.stderr": []}
    attempt = 1
    for event in log:
        if event.kind == "attempt-began":
            attempt = event.facts["attempt"]
        elif event.kind == "stderr":
            name = f"{event.actor}.stderr" if attempt == 1 else f"{event.actor}.{attempt}.stderr"
            files.setdefault(name, []).append(event.facts["line"])
    return files


def _write_text(path: Path, text: str) -> None:
    with new_text_file(path) as file:
        file.write(text)


def _seed(scenario: Scenario, options: Options) -> int:
    seed = options.settings.seed
    return scenario.model.seed if seed is None else seed


def _result(scenario: Scenario, options: Options, log: Log, duration_s: float) -> Result:
    checks: list[Check] = []
    invariants: list[Invariant] = []
    try:
        verdict, checks = judge(scenario, log)
        invariants = watched(scenario, log)
    except Exception as error:  # noqa: BLE001 - the runs that follow must be played and judged
        log.add(_event(log, "run-broke", **_own_error(error)))
        verdict, checks = "unknown", []
    lacks = log.first("run-lacks")
    not_known = log.first("run-refused")
    broke = log.first("run-broke")
    refused = log.first("step-refused")
    reason = ""
    if broke is not None:
        verdict = "unknown"
        reason = broke.facts["traceback"] or (f"the run ended with status {broke.facts['status']}")
        if "cause" in broke.facts:
            reason += (
                f"\nthis is an error of the testbed's own: report it with {LOG} (--out keeps it)"
            )
            reason += f"\n{broke.facts['cause']}"
    elif (unkept := log.first("run-unkept")) is not None:
        verdict = "unknown"  # nobody can look at it again, as `--out` was to have it
        reason = unkept.facts["what"]
    elif (lost := why_unknown(log)) is not None:
        reason = lost
    elif refused is not None:
        reason = refused.facts["error"]
    elif (failed := log.first("step-failed")) is not None:
        reason = failed.facts["error"]
    elif (ended := log.first("wait-ended")) is not None:
        reason = f"no longer waited for {ended.facts['what']}: {ended.facts['why']}"
    elif (expired := log.first("wait-expired", "run", provided_for=None)) is not None:
        reason = f"waited {expired.facts['within_s']:g} s for {expired.facts['what']}"
    return Result(
        scenario.name,
        scenario.path,
        verdict,
        tuple(checks),
        log,
        duration_s,
        _seed(scenario, options),
        _repeat_command(scenario, options),
        _played(options.settings.source, log, "source"),
        _played(options.settings.destination, log, "destination"),
        reason,
        None if lacks is None else _lacking(lacks),
        tuple(invariants),
        options.folder,
        None if not_known is None else not_known.facts["what"],
    )


def _lacking(event: Event) -> str:
    """What is missing; where the system refused something, tried out, with how to get it."""
    sentences = [event.facts["what"]]
    if event.facts.get("refused"):
        sentences += [f"{each.name}: {each.detail}; {each.remedy}" for each in missing()]
    return "\n".join(sentences)


def _played(program: Program, log: Log, side: str) -> Played:
    ready = log.first("endpoint-ready", side)
    if ready is None:
        return Played(program.kind, program.profile)
    version = ".".join(map(str, ready.facts["version"]))
    return Played(program.kind, program.profile, version, ready.facts.get("machine"))


def _repeat_command(scenario: Scenario, options: Options) -> str:
    words = ["testbed", "run", str(scenario.path), "--seed", str(_seed(scenario, options))]
    settings = options.settings
    words += _endpoint_words(settings)
    if settings.machine is not None:
        words += ["--machine", settings.machine]
    if settings.nic is not None:
        words += ["--nic", settings.nic]
    if settings.toxiproxy is not None:
        words += ["--toxiproxy", settings.toxiproxy]
    if settings.untrusted:
        words.append("--untrusted")
    if settings.accelerator != Settings().accelerator:
        words += ["--accel", settings.accelerator]
    return shlex.join(words)


def _endpoint_words(settings: Settings) -> Iterator[str]:
    """The options that name both sides, where they are not the usual models."""
    sides = {"source": settings.source, "destination": settings.destination}
    usual = [side for side, program in sides.items() if program == qemu()]
    if len(usual) == len(sides):
        yield from ("--endpoint", "qemu")
        return
    for side, program in sides.items():
        if side in usual:
            yield from (f"--{side}", "qemu")
        elif program.kind != MODEL:
            yield from (f"--{side}-qemu", shlex.join(program.command))
    profiles = {program.profile for program in sides.values()} - {None, DEFAULT_PROFILE}
    for profile in profiles:
        yield from ("--profile", str(profile))
