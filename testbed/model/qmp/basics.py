"""The commands that have nothing to do with a migration: who are you, run, stop, quit.

Source: `qapi/run-state.json`, `qapi/misc.json`, `qapi/control.json`, `monitor/hmp-cmds.c` (7.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .commands import Commands, Version
from .error import CommandError
from .hmp import Hmp
from .schema import INT, STR


class RunStateHolder(Protocol):
    """The machine, for those who run and stop it."""

    @property
    def status(self) -> str:
        """A `RunState`: `running`, `paused`, `inmigrate`, `postmigrate`..."""

    @property
    def running(self) -> bool:
        """Whether the guest runs."""

    def stop(self) -> None:
        """Stop the guest. Emits `STOP` if it ran."""

    def cont(self) -> None:
        """Let the guest run. Emits `RESUME` if it did not.

        Raises:
            CommandError: it cannot.
        """

    def quit(self) -> None:
        """Emit `SHUTDOWN` (guest false, reason `host-qmp-quit`), end the monitor, and the process.

        Returns before the process ends: the answer to `quit` comes after that event.
        """


def add_basics(
    commands: Commands,
    hmp: Hmp,
    machine: RunStateHolder,
    *,
    version: Version,
    name: str | None = None,
    cpu_count: int = 1,
) -> None:
    """Add them to `commands`, and what HMP has of them to `hmp`.

    Args:
        commands: of the monitor.
        hmp: what `human-monitor-command` executes.
        machine: what runs and stops.
        version: what `query-version` says.
        name: of the virtual machine (`-name`).
        cpu_count: CPUs that a `cpu-index` may name.
    """

    def query_status(_: dict[str, Any]) -> dict[str, Any]:
        return {"running": machine.running, "singlestep": False, "status": machine.status}

    async def human_monitor_command(arguments: dict[str, Any]) -> str:
        if not 0 <= arguments.get("cpu-index", 0) < cpu_count:
            raise CommandError("Parameter 'cpu-index' expects a CPU number")
        return await hmp.execute(arguments["command-line"])

    commands.add("query-version", lambda _: version.as_json(), allow_preconfig=True)
    commands.add("query-name", lambda _: {} if name is None else {"name": name},
                 allow_preconfig=True)  # fmt: skip
    commands.add("query-status", query_status, allow_preconfig=True)
    commands.add("stop", lambda _: machine.stop())
    commands.add("cont", lambda _: machine.cont())
    commands.add("quit", lambda _: machine.quit(), allow_preconfig=True)
    commands.add(
        "human-monitor-command", human_monitor_command, {"command-line": STR, "*cpu-index": INT}
    )
    _add_to_hmp(hmp, machine, version, name)


def _add_to_hmp(hmp: Hmp, machine: RunStateHolder, version: Version, name: str | None) -> None:
    def status(_: dict[str, Any]) -> str:
        # `running` and `paused` say it all; what else a machine can be is told in brackets.
        word = "running" if machine.running else "paused"
        more = "" if machine.status in ("running", "paused") else f" ({machine.status})"
        return f"VM status: {word}{more}\n"

    def silent(act: Callable[[], None]) -> Callable[[dict[str, Any]], str]:
        def handler(_: dict[str, Any]) -> str:
            act()
            return ""

        return handler

    hmp.add("stop|s", silent(machine.stop), does="stop emulation")
    hmp.add("cont|c", silent(machine.cont), does="resume emulation")
    hmp.add("quit|q", silent(machine.quit), does="quit the emulator")
    hmp.add("info status", status, does="show the current VM status (running|paused)")
    hmp.add("info version", lambda _: f"{version}\n", does="show the version of QEMU")
    hmp.add("info name", lambda _: f"{name}\n" if name is not None else "",
            does="show the current VM name")  # fmt: skip
