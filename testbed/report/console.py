"""The console: a live line while a scenario runs, a line for each that ended, details of failures.

Colour and the live line are for terminals; elsewhere it is plain text, a line at a time. No threads
of its own: the process forks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import Console as RichConsole
from rich.markup import escape

from netns.require import Feature
from testbed.log import Event
from testbed.scenario.result import Result
from testbed.scenario.scenario import Scenario

from .story import story
from .words import failure_lines, outcome, printable

STYLES = {"passed": "green", "FAILED": "bold red", "unknown": "yellow", "lacking": "yellow"}
ERASE = "\r\x1b[2K"


class _Live:
    """What the live line of the running scenario shows."""

    def __init__(self, scenario: Scenario) -> None:
        self.name = scenario.name
        self._began = time.monotonic()
        self._step = "starting"
        self._status = ""
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
            case "progress" if event.facts["direction"] == "forward":
                self._progress(event)
            case "fault-struck":
                self._struck = f"{event.facts['fault']} struck"

    def _progress(self, event: Event) -> None:
        self._bytes = event.facts["bytes"]
        at, before = self._last
        if event.at_s > at and self._bytes > before:
            self._rate = (self._bytes - before) / (event.at_s - at)
        self._last = event.at_s, self._bytes

    def line(self, width: int) -> str:
        """The line, as it stands."""
        parts = [f"{self.name}  {time.monotonic() - self._began:4.1f} s", self._step]
        if self._status:
            parts.append(self._status)
        if self._bytes:
            parts.append(f"{self._bytes / 1e6:.1f} MB, {self._rate / 1e6:.0f} MB/s")
        if self._struck:
            parts.append(self._struck)
        return " · ".join(parts)[: width - 1]


class Console:
    """Writes to standard output; see `testbed/cli.py` for who calls what."""

    def __init__(self) -> None:
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self._terminal = self._rich.is_terminal
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
        if self._terminal and self._live is not None:
            self._raw(f"{ERASE}{self._live.line(self._rich.width)}")

    def kept(self, command: str) -> None:
        """The run is left up."""
        self._erase()
        pid = command.split()[2]
        self._rich.print(f"the run is up; enter it: {escape(command)}")
        self._rich.print(
            "  one of its hosts: ... nsenter --net=/dev/shm/testbed/NAME "
            "(source, proxy, destination, switch, client)"
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
        if told and result.lacks is None:
            for line in story(result.log):
                self._rich.print(escape(printable(line)))
        word = outcome(result)
        style = STYLES[word]
        self._rich.print(
            f"[{style}]{word:<8}[/] {result.name:<32} {result.duration_s:5.1f} s  {result.verdict}"
        )
        if result.passed is not True:
            for line in failure_lines(result):
                self._rich.print(f"    {escape(line)}")

    def interrupted(self) -> None:
        """The user has had enough."""
        self._erase()
        self._rich.print("interrupted: the run and all that it made are gone")

    def summary(self, results: Sequence[Result]) -> None:
        """The closing line."""
        words = [outcome(result) for result in results]
        counts = ", ".join(f"{words.count(word)} {word}" for word in STYLES if word in words)
        total = sum(result.duration_s for result in results)
        self._rich.print(
            f"{len(results)} scenario{'s' * (len(results) != 1)}: {counts} in {total:.1f} s"
        )

    def listing(self, scenarios: Iterable[Scenario]) -> None:
        """A line for each scenario."""
        for scenario in scenarios:
            model = scenario.model
            self._rich.print(
                f"{scenario.name:<32} {model.mode:<9} {model.expect.verdict:<19} "
                f"{escape(' '.join(model.description.split()))}"
            )

    def features(self, features: Iterable[Feature]) -> None:
        """What `testbed doctor` found."""
        for feature in features:
            word, style = ("ok", "green") if feature.ok else ("missing", "red")
            if not feature.ok and not feature.needed:
                word, style = "absent", "yellow"
            self._rich.print(f"[{style}]{word:<8}[/] {feature.name:<20} {escape(feature.detail)}")
            if not feature.ok and feature.remedy:
                self._rich.print(f"         {'':<20} {escape(feature.remedy)}")

    def _erase(self) -> None:
        if self._terminal and self._live is not None:
            self._raw(ERASE)

    def _raw(self, text: str) -> None:
        self._rich.file.write(text)
        self._rich.file.flush()
