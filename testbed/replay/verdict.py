"""How a destination reacted to a replay: what was seen, and one word for it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from testbed.endpoint.process import signal_name

WORDS_MAX = 3
"""Lines of stderr that are quoted: the last one alone often names no cause."""

ENDS = ("FIN", "RST")
"""How a destination ends a connection itself; all else is an error of the way to it."""


class Verdict(StrEnum):
    """What a destination made of a stream."""

    ACCEPTED = "accepted"
    """It says that it has arrived: completed and runs, or SHUT 0."""
    TAKEN = "taken"
    """It read all and closed in order; without a return path nothing says what it made of it."""
    PAUSED = "paused"
    """Its postcopy is paused, and a recovery could go on with it."""
    REFUSED = "refused"
    HUNG = "hung"
    CRASHED = "crashed"
    """A signal ended it."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Carried:
    """One connection: what of it was sent, and how the destination ended it.

    `place` is what lies where it stopped, in the recording; None where all was sent.
    """

    number: int
    channel: str
    size_bytes: int
    sent_bytes: int
    taken_bytes: int  # by the destination's kernel: it cannot have read more
    sent_all: bool
    ended: str | None  # FIN or RST of the destination, or `ETIMEDOUT`; None: it did not end it
    shut: int | None  # value of SHUT on its return path
    cut_by_fault: bool = False
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """What a destination that we started was in the end, by its own account."""

    version: str
    status: str | None = None  # of the migration
    error_desc: str | None = None
    run_state: str | None = None
    exit_status: int | None = None  # negative: the signal that ended it; None: it runs
    stderr: tuple[str, ...] = ()  # since the first connection was opened
    refused: str | None = None  # what it answered to `cont`
    silent: bool = False  # QMP gave no answer


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages that a postcopy's destination asked for."""

    requested: int = 0
    sent_ahead: int = 0  # out of the recorded order, because they were asked for
    left_out: int = 0  # a recovery's destination had them
    lacking: int = 0  # asked for, and never recorded


@dataclass(frozen=True, slots=True)
class Reaction:
    """All that was seen of the destination."""

    carried: Sequence[Carried]
    hung: str | None = None  # what did not come, and for how long; None: all came
    process: Process | None = None  # None: somebody else's, of which only the socket tells
    pages: Pages = field(default_factory=Pages)
    unfired: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> Verdict:
        """The word for it."""
        return self.judged[0]

    @property
    def reason(self) -> str:
        """What shows it."""
        return self.judged[1]

    @property
    def judged(self) -> tuple[Verdict, str]:
        """Verdict and reason."""
        return _by_socket(self) if self.process is None else _by_process(self, self.process)


def _by_process(reaction: Reaction, process: Process) -> tuple[Verdict, str]:
    status = process.exit_status
    words = _words(process)
    if status is not None and status < 0:
        return Verdict.CRASHED, f"{signal_name(-status)} ended it{words}"
    if status is not None:
        return Verdict.REFUSED, f"it ended with status {status}{words}"
    if process.status == "failed":
        return Verdict.REFUSED, f"its migration failed{words}"
    if reaction.hung is not None:
        return Verdict.HUNG, f"{reaction.hung}{_waits_for(reaction.pages)}"
    if process.status == "postcopy-paused":
        return Verdict.PAUSED, f"its postcopy is paused{words}"
    if process.status == "completed":
        if process.refused is not None:
            return Verdict.REFUSED, f"completed, but its guest cannot run: {process.refused}"
        if process.silent:
            what = "completed, and then QMP gave no answer"
            return Verdict.HUNG, f"{what}{_waits_for(reaction.pages)}"
        if process.run_state in ("running", "paused"):
            return Verdict.ACCEPTED, f"completed, and its guest is {process.run_state}"
        return Verdict.UNKNOWN, f"completed, and its guest is {process.run_state}"
    return Verdict.UNKNOWN, f"its migration is {process.status}{words}"


def _words(process: Process) -> str:
    said = [process.error_desc] if process.error_desc else process.stderr[-WORDS_MAX:]
    return f": {'; '.join(said)}" if said else ""


def _waits_for(pages: Pages) -> str:
    if not pages.lacking:
        return ""
    return f"; {pages.lacking} pages were never recorded: the destination waits for them"


def _by_socket(reaction: Reaction) -> tuple[Verdict, str]:
    main = [each for each in reaction.carried if each.channel in ("main", "recovery", "unknown")]
    for each in main or reaction.carried:
        if each.shut:
            return Verdict.REFUSED, f"SHUT {each.shut} on connection {each.number}"
    if any(each.cut_by_fault for each in reaction.carried):
        return Verdict.UNKNOWN, "a fault ended the connection, and with it all that could tell"
    for each in reaction.carried:
        if each.ended in ENDS and not each.sent_all:
            return (
                Verdict.REFUSED,
                f"it ended connection {each.number} ({each.ended}) {_where(each)}",
            )
    if main and main[-1].shut == 0:
        return Verdict.ACCEPTED, f"SHUT 0 on connection {main[-1].number}"
    for each in filter(_is_lost, reaction.carried):
        what = f"connection {each.number} was lost on the way ({each.ended}) {_where(each)}"
        return Verdict.UNKNOWN, what
    if reaction.hung is not None:
        return Verdict.HUNG, f"{reaction.hung}{_waits_for(reaction.pages)}"
    for each in reaction.carried:
        if each.ended == "RST":
            what = f"it closed connection {each.number} with bytes unread, or reset it (RST)"
            return Verdict.REFUSED, what
    if all(each.sent_all and each.ended == "FIN" for each in reaction.carried):
        return Verdict.TAKEN, "it read all and closed; nothing says what it made of it"
    return Verdict.UNKNOWN, "nothing that came over the socket tells"


def _is_lost(carried: Carried) -> bool:
    """True if not the destination ended it, but an error of the way there."""
    return carried.ended is not None and carried.ended not in ENDS


def _where(carried: Carried) -> str:
    place = f", in {carried.place}" if carried.place else ""
    return f"before offset {carried.taken_bytes:#x}{place}"
