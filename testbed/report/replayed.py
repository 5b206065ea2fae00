"""A replay told: what happens while it does, and in the end how the destination reacted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from testbed.log import Event
from testbed.replay.recording import Replayable
from testbed.replay.verdict import Carried, Reaction, Verdict

from .console import Console
from .story import TELLERS
from .unblocked import Unblocked
from .words import printable, shortened

LINES_MAX = 200
"""Of a replay's story: a destination that says more says it in the report."""
TEXT_MAX = 1000
STDERR_LINES = 5


def _ended(facts: Any) -> str:
    how = {"RST": "resets", "FIN": "closes"}.get(facts["how"], f"is lost ({facts['how']}) on")
    return f"{how} connection {facts['connection']}; {facts['sent']} bytes were sent"


def _message(facts: Any) -> str | None:
    if facts["message"] not in ("SHUT", "RECV_BITMAP", "RESUME_ACK"):
        return None
    return f"answers {facts['message']}{f' {value}' if (value := facts.get('value')) else ''}"


REPLAY_TELLERS: dict[str, Callable[[Any], str | None]] = {
    **{kind: TELLERS[kind] for kind in ("migration-status", "qmp-event", "stderr")},
    **{kind: TELLERS[kind] for kind in ("process-ended", "fault-struck")},
    "destination-ready": lambda facts: f"is QEMU {'.'.join(map(str, facts['version']))}",
    "connection-opened": lambda facts: (
        f"connection {facts['connection']}: {facts['channel']}, {facts['bytes']} bytes"
    ),
    "sent-all": lambda facts: f"connection {facts['connection']}: all is sent",
    "destination-ended": _ended,
    "message": _message,
    "upstream-refused": lambda facts: f"the destination takes no connection: {facts['error']}",
}
ACTORS = {"source": "recording", "destination-ended": "destination", "message": "destination"}
"""Who does it, where it is not who saw it."""
TWICE = frozenset({"connection-opened", "message"})
"""Of the proxy's: the source tells them, too."""


class ReplayConsole(Console):
    """Tells a replay on standard output, or in `file`."""

    def __init__(self, file: TextIO | Unblocked | None = None) -> None:
        super().__init__(file)
        self._told = 0
        self._over = False
        self._lost: OSError | None = None

    def began_replay(self, recording: Replayable) -> None:
        """It begins."""
        for note in recording.notes:
            self.line(f"note: {note}")

    def replayed(self, event: Event) -> None:
        """Something happened."""
        tell = REPLAY_TELLERS.get(event.kind)
        self._over |= event.kind == "replay-over"
        if self._over or (event.actor == "proxy" and event.kind in TWICE):
            return
        text = tell(event.facts) if tell is not None else None
        if text is None or self._told > LINES_MAX:
            return
        self._told += 1
        actor = ACTORS.get(event.kind) or ACTORS.get(event.actor, event.actor)
        line = f"{event.at_s:7.3f}  {actor:<11}  {text}" if self._told <= LINES_MAX else "..."
        try:
            self.line(line)
        except OSError as error:  # no matter of whoever writes the log
            self._over, self._lost = True, error

    def reacted(self, reaction: Reaction, expect: str) -> None:
        """It is over.

        Raises:
            OSError: what happens could not be told.
        """
        if self._lost is not None:
            raise self._lost
        for line in _details(reaction):
            self.line(f"    {line}")
        word = outcome_of(reaction, expect)
        self._worded(word, shortened(f"{reaction.verdict}: {reaction.reason}", TEXT_MAX))
        if word == "FAILED" and reaction.verdict != expect:
            self.line(f"    expected: {expect}")

    def line(self, text: str) -> None:
        """A line as it is."""
        self._rich.print(printable(text))


def outcome_of(reaction: Reaction, expect: str) -> str:
    """`passed`, `FAILED` or `unknown`."""
    if reaction.unfired:
        return "FAILED"
    if reaction.verdict == expect:
        return "passed"
    untold = reaction.verdict in (Verdict.UNKNOWN, Verdict.TAKEN)
    return "unknown" if untold else "FAILED"


def _details(reaction: Reaction) -> Iterator[str]:
    process = reaction.process
    if process is not None:
        end = process.exit_status
        state = "ended" if end is not None else f"guest {process.run_state}"
        yield f"QEMU {process.version}: migration {process.status}, {state}"
        if process.error_desc:
            yield f"error: {shortened(process.error_desc, TEXT_MAX)}"
        for line in process.stderr[-STDERR_LINES:] if reaction.verdict != "accepted" else ():
            yield f"stderr: {shortened(line, TEXT_MAX)}"
    for each in reaction.carried:
        if not each.sent_all:
            yield _stopped(each)
    pages = reaction.pages
    if pages.requested or pages.left_out:
        yield (
            f"pages: {pages.requested} asked for, {pages.sent_ahead} of them sent ahead; "
            f"{pages.left_out} left out, as it had them"
        )
    if pages.lacking:
        yield f"{pages.lacking} of the pages that it asked for were never recorded"
    yield from reaction.unfired


def _stopped(carried: Carried) -> str:
    where = f", in {carried.place}" if carried.place else ""
    return (
        f"connection {carried.number} ({carried.channel}): {carried.taken_bytes} of "
        f"{carried.size_bytes} bytes were taken{where}"
    )


def write_replayed(path: Path, recording: str, reaction: Reaction, expect: str) -> None:
    """Write a JSON report; `docs/replay.md` says what each key is.

    Args:
        path: the file; its folder is there.
        recording: as the user named it.
        reaction: what it came to.
        expect: the verdict that was to come.

    Raises:
        OSError: the file cannot be written.
    """
    plain = {
        "recording": recording,
        "outcome": outcome_of(reaction, expect),
        "verdict": reaction.verdict,
        "expected": expect,
        "reason": reaction.reason,
        "destination": None if reaction.process is None else asdict(reaction.process),
        "connections": [asdict(each) for each in reaction.carried],
        "pages": asdict(reaction.pages),
        "unfired": list(reaction.unfired),
        "notes": list(reaction.notes),
    }
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
