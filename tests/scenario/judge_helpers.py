"""Logs of runs, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.log import Log
from testbed.scenario.load import load
from testbed.scenario.result import Check
from testbed.scenario.scenario import Scenario

MAC = "52:54:00:12:34:56"
V10 = [10, 0, 13]

RUNS = {"run_state": "running"}
STOPPED = {"run_state": "postmigrate", "status": "completed"}
PAUSED = {"run_state": "finish-migrate", "status": "postcopy-paused"}
EXITED = {"exit_status": 1}
KILLED = {"exit_status": -9}
SILENT = {"silent": True}


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


class Run:
    """A run, written as it happens; each `at` moves the clock to that second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log = Log(self.clock)
        self._attempt = 0

    def at(self, at_s: float) -> Run:
        self.clock.at_s = at_s
        return self

    def write(self, actor: str, kind: str, /, **facts: Any) -> Run:
        self.log.write(actor, kind, **facts)
        return self

    def begin(self) -> Run:
        self._attempt += 1
        return self.write("run", "attempt-began", attempt=self._attempt)

    def says(self, side: str, *statuses: str) -> Run:
        for status in statuses:
            self.write(side, "migration-status", status=status)
        return self

    def event(self, side: str, name: str) -> Run:
        return self.write(side, "qmp-event", event=name, data={})

    def end(self, source: dict[str, Any], destination: dict[str, Any]) -> Run:
        """End the attempt; a guest that runs was seen to go on, unless `alive` says otherwise."""
        for side, facts in (("source", source), ("destination", destination)):
            seen = {"version": V10, "exit_status": None, **facts}
            alive = seen.pop("alive", True if facts.get("run_state") == "running" else None)
            if alive is not None:
                self.write(side, "guest-seen", alive=alive, how="guest stamps 1")
            self.write(side, "observed", attempt=self._attempt, **seen)
        return self.write("run", "attempt-ended", attempt=self._attempt)

    def memory(self, *, intact: bool, findings: tuple[str, ...] = (), **more: Any) -> Run:
        facts = {"intact": intact, "pages": 9, "findings": list(findings), **more}
        return self.write("destination", "memory-checked", **facts)

    def loads_all(self, *, traced: bool = True) -> Run:
        """One section is sent, and the destination says that it loads it."""
        named = {"section": "timer", "instance": 0, "version": 2, "section_id": 1}
        self.write("destination", "section-loaded", kind="start or full", **named)
        self.write("proxy", "sections-sent", begun=[["timer", 0, 2]], parts={}, unread=None)
        told = {"traced": traced, "cut": False, "parts": {}}
        return self.write("destination", "sections-loaded", **told)

    def devices(self, *differences: str) -> Run:
        facts = {"equal": not differences, "differences": list(differences)}
        return self.write("destination", "device-state-checked", **facts)

    def frame(self, port: str, source: str = MAC, **facts: Any) -> Run:
        return self.write("switch", "frame", port=port, source=source, **facts)

    def rarp(self, *problems: str, source: str = MAC) -> Run:
        return self.frame("destination", source, rarp={}, problems=list(problems))


def completed(*, announced: bool = True, traced: bool = True) -> Run:
    """A run of one attempt that did what it is for."""
    run = Run().begin().says("source", "setup", "active").says("destination", "active")
    run.event("source", "STOP").event("destination", "RESUME")
    if announced:
        run.rarp()
    run.says("source", "completed").says("destination", "completed").loads_all(traced=traced)
    return run.end(STOPPED, {**RUNS, "status": "completed"})


def scenario(folder: Path, expect: str, *, head: str = "mode: postcopy") -> Scenario:
    """A scenario of those expectations, as flow YAML after `verdict:`."""
    path = folder / "it.yaml"
    path.write_text(f"description: written by hand\n{head}\nexpect: {{{expect}}}\n")
    return load(path)


def check(checks: list[Check], name: str) -> Check:
    (found,) = [each for each in checks if each.name == name]
    return found
