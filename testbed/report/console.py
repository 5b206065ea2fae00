"""The console: a live line while a scenario runs, a line for each that ended, details of failures.

The live line is for terminals that can go back to a line's beginning; elsewhere it is plain text, a
line at a time, also where colour is forced. No threads of its own: the process forks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from io import TextIOWrapper
from typing import TextIO, cast

from rich.console import Console as RichConsole
from rich.text import Text

from testbed.log import Event
from testbed.netns.require import Feature
from testbed.prove.proof import Outcome, Proof
from testbed.scenario.result import Result
from testbed.scenario.scenario import Scenario

from .proofs import proof_lines, summary, trial_lines
from .story import story
from .unblocked import Unblocked
from .words import failure_lines, invariant_lines, outcome, printable

OUTCOMES = {
    "passed": "green",
    "FAILED": "bold red",
    "invalid": "bold red",
    "unknown": "yellow",
    "skipped": "yellow",
}
PROOFS = {"proved": "green", "UNPROVED": "bold red"}
STYLES = {**OUTCOMES, **PROOFS, "ok": "green", "missing": "red", "absent": "yellow"}
ERASE = "\r\x1b[2K"


class _Rich(RichConsole):
    """A reader that is gone is told to the caller, who knows the exit status for it."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled."""
        raise


class _Live:
    """What the live line of the running scenario shows."""

    def __init__(self, scenario: Scenario) -> None:
        self.name = scenario.name
        self._began = time.monotonic()
        self._step = "starting"
        self._status = ""
        self._phase = ""
        self._bytes = 0
        self._rate = 0.0
        self._last: tuple[float, int] = (0.0, 0)
        self._struck = ""

    def event(self, event: Event) -> None:
        """Take what an event changes."""
        match event.kind:
            case "step-began":
                self._step = event.facts["step"].replace("_", " ")
            case "migration-status" if event.actor == "source":
                self._status = event.facts["status"]
            case "progress" if _is_of_main(event):
                self._progress(event)
            case "fault-struck":
                self._struck = f"{event.facts['fault']} struck"

    def _progress(self, event: Event) -> None:
        self._phase, self._bytes = event.facts["phase"], event.facts["bytes"]
        at, before = self._last
        if event.at_s > at and self._bytes > before:
            self._rate = (self._bytes - before) / (event.at_s - at)
        self._last = event.at_s, self._bytes

    def line(self, width: int) -> str:
        """The line, as it stands."""
        parts = [f"{self.name}  {time.monotonic() - self._began:4.1f} s", self._step, self._status]
        parts.append(self._struck)  # what comes last is cut off first
        if self._bytes:
            parts += [self._phase, f"{self._bytes / 1e6:.1f} MB, {self._rate / 1e6:.0f} MB/s"]
        return printable(" · ".join(filter(None, parts)))[: max(width - 1, 0)]


class Console:
    """Writes to standard output, or to `file`; see `testbed/cli/` for who calls what."""

    def __init__(self, file: TextIO | Unblocked | None = None) -> None:
        out = file or sys.stdout
        self._out = out
        if isinstance(out, TextIOWrapper):
            out.reconfigure(errors="replace")  # names of files and what QEMU says hold anything
        # Texts are shown as they are; with `emoji`, `file.yaml:100:5` would become a picture.
        self._rich = _Rich(
            file=cast(TextIO, out), highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self._terminal = out.isatty() and not self._rich.is_dumb_terminal
        self._live: _Live | None = None

    def began(self, scenario: Scenario) -> None:
        """A scenario begins."""
        self._live = _Live(scenario)
        self.tick()

    def event(self, event: Event) -> None:
        """An event of the running scenario came."""
        if self._live is not None:
            self._live.event(event)

    def tick(self) -> None:
        """Some time has passed."""
        waits = False
        if isinstance(self._out, Unblocked):
            self._out.flush()
            waits = self._out.waits  # a live line that is shown late is one of the past
        if self._terminal and self._live is not None and not waits:
            self._raw(f"{ERASE}{self._live.line(self._rich.width)}")

    def kept(self, command: str) -> None:
        """The run is left up."""
        self._erase()
        pid = command.split()[2]
        self._rich.print(f"the run is up; enter it: {command}")
        self._rich.print(
            "  one of its hosts: ... nsenter --net=/dev/shm/testbed/NAME "
            "(source, proxy, destination, switch, client)"
        )
        self._rich.print(
            "  a model's guest answers: ... nsenter --net=/dev/shm/testbed/client ping 10.99.0.2"
        )
        self._rich.print(f"end it:   kill {pid}")

    def ended(self, result: Result, *, told: bool = False) -> None:
        """A scenario has ended: its line, and what there is to say if it did not pass.

        Args:
            result: what it came to.
            told: tell what happened even if it passed.
        """
        self._erase()
        self._live = None
        if told and result.lacks is None and result.refused is None:
            for line in story(result.log):
                self._rich.print(printable(line))
        self._worded(
            outcome(result),
            f"{result.name:<32} {result.duration_s:5.1f} s  {result.verdict}",
        )
        lines = failure_lines(result) if result.passed is not True else invariant_lines(result)
        for line in lines if told or result.passed is not True else ():
            self._rich.print(f"    {line}")

    def left_out(self, reasons: Iterable[str]) -> None:
        """Scenarios of a folder that are for other endpoints."""
        for reason in reasons:
            self._worded("left out", printable(reason))

    def interrupted(self) -> None:
        """The user has had enough."""
        self._erase()
        self._rich.print("interrupted: the run and all that it made are gone")

    def summary(self, results: Sequence[Result]) -> None:
        """The closing line."""
        words = [outcome(result) for result in results]
        counts = ", ".join(f"{words.count(word)} {word}" for word in OUTCOMES if word in words)
        total = sum(result.duration_s for result in results)
        self._rich.print(
            f"{len(results)} scenario{'s' * (len(results) != 1)}: {counts} in {total:.1f} s"
        )

    def finish(self) -> None:
        """Wait until all is written; to be called when nothing is under way any more."""
        if isinstance(self._out, Unblocked):
            with closing(self._out):
                self._out.finish()

    def proving(self, done: int, count: int) -> None:
        """So many plays of a proof are over."""
        if self._terminal:
            self._raw(f"{ERASE}{done} of {count} plays" if done < count else ERASE)

    def proved(self, proof: Proof, *, told: bool = False) -> None:
        """A scenario has had all of its plays: its line, and what is wrong with it.

        Args:
            proof: of the scenario.
            told: tell what each play came to even if it is proved.
        """
        if self._terminal:
            self._raw(ERASE)
        if told:
            self.lines(trial_lines(proof))
        plays = f"{len(proof.trials)} play{'s' * (len(proof.trials) != 1)}"
        verdict = proof.trials[0].verdict
        text = f"{proof.scenario.name:<32} {proof.duration_s:5.1f} s  {plays:<9} {verdict}"
        self._worded(proof.outcome, text)
        if proof.outcome != Outcome.PROVED:
            self.lines(f"    {line}" for line in proof_lines(proof))

    def proofs_summary(self, proofs: Sequence[Proof]) -> None:
        """The closing line of a proof."""
        self._rich.print(summary(proofs))

    def lines(self, lines: Iterable[str]) -> None:
        """Lines as they are."""
        for line in lines:
            self._rich.print(line)

    def listing(self, scenarios: Iterable[Scenario]) -> None:
        """A line for each scenario."""
        for scenario in scenarios:
            model = scenario.model
            about = printable(" ".join(model.description.split()))
            self._rich.print(
                f"{printable(scenario.name):<32} {model.mode:<9} {model.expect.verdict:<19} {about}"
            )

    def features(self, features: Iterable[Feature]) -> None:
        """What `testbed doctor` found."""
        for feature in features:
            word = "ok" if feature.ok else "missing" if feature.needed else "absent"
            self._worded(word, f"{feature.name:<20} {feature.detail}")
            if not feature.ok and feature.remedy:
                self._worded("", f"{'':<20} {feature.remedy}")

    def _worded(self, word: str, text: str) -> None:
        """A line that begins with a word in its colour."""
        self._rich.print(Text.assemble((f"{word:<8}", STYLES.get(word, "")), f" {printable(text)}"))

    def _erase(self) -> None:
        if self._terminal and self._live is not None:
            self._raw(ERASE)

    def _raw(self, text: str) -> None:
        self._rich.file.write(text)
        self._rich.file.flush()


def _is_of_main(event: Event) -> bool:
    """True of the channel that has phases; others report how far they are, too."""
    of = event.facts["channel"], event.facts["direction"]
    return of == ("main", "forward")
