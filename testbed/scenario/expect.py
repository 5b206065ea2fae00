"""Expectations: what a scenario asserts, held against the log of its run. Pure queries."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from testbed.log import Log

from . import schema
from .evidence import Evidence
from .invariants import IMPLIED_BY, Invariant, Run, invariants
from .judge import (
    Attempt,
    SideState,
    attempts,
    versions,
)
from .links import missing
from .loaded import first_attempt, times_loaded
from .patterns import found
from .result import Check
from .scenario import Scenario
from .units import ByVersion, for_version

Where = tuple[str | int, ...]


def judge(scenario: Scenario, log: Log) -> tuple[str, list[Check]]:
    """The verdict of a run, and every check that its scenario asks for.

    Args:
        scenario: what was played.
        log: of the run, stored or just ended.

    Returns:
        The verdict of the first attempt (`unknown` if it never ended, or if events are lost that it
        is made of), and the checks in the order of the file; those of the invariants last.
    """
    ended = attempts(log)
    if not ended:
        return "unknown", []
    first = ended[0]
    evidence = Evidence.of(log)
    verdict = _verdict(ended)
    if evidence.why_unknown(verdict) is not None:
        verdict = "unknown"
    checks = Expectations(as_played(scenario, log), log, ended)
    return verdict, [evidence.weighed(check) for check in checks.all(first, verdict)]


def why_unknown(log: Log) -> str | None:
    """Why the verdict of a run that came to an end cannot be told; None: it can."""
    ended = attempts(log)
    return Evidence.of(log).why_unknown(_verdict(ended)) if ended else None


def as_played(scenario: Scenario, log: Log) -> Scenario:
    """The scenario as it was between the versions of a run, if they greeted."""
    between = versions(log)
    return scenario if between is None else scenario.between(*between)


def _verdict(ended: list[Attempt]) -> str:
    """The first attempt's, but what a check found after a retry counts as well."""
    retried = [attempt for attempt in ended[1:] if attempt.intact is False]
    return "corrupt" if retried else ended[0].verdict


class Expectations:
    """One scenario's expectations and the log that they are held against."""

    def __init__(self, scenario: Scenario, log: Log, ended: list[Attempt]) -> None:
        self._scenario = scenario
        self._expect = scenario.model.expect
        self._log = log
        self._ended = ended

    def all(self, first: Attempt, verdict: str) -> Iterator[Check]:
        """Every check, in the order of the file."""
        expect = self._expect
        damage = "; ".join(first.damage) if verdict == "corrupt" else ""
        shown = f"{verdict} ({damage})" if damage else verdict
        yield self._check(("verdict",), expect.verdict, shown, verdict == expect.verdict)
        yield from self._side("source", expect.source, first.source)
        yield from self._side("destination", expect.destination, first.destination)
        if expect.running is not None:
            yield self._check(("running",), expect.running, _running(first))
        if expect.memory is not None:
            yield self._looked("memory", "memory-checked", "intact", "intact", "corrupt")
        if expect.device_state is not None:
            yield self._looked("device_state", "device-state-checked", "equal", "equal", "differs")
        if expect.retry is not None:
            yield self._retry()
        for number, wire in enumerate(expect.wire):
            yield self._wire(("wire", number), wire)
        for number, loaded in enumerate(expect.loaded):
            yield self._loaded(("loaded", number), loaded, first)
        if expect.announce is not None:
            yield from self._announce(expect.announce)
        if expect.forwarding is not None:
            yield from self._forwarding(expect.forwarding)
        if expect.outage is not None:
            yield self._outage(expect.outage)
        if expect.total_time is not None:
            yield self._total_time(expect.total_time)
        yield from self._faults()
        yield from self._invariants()

    def _check(self, at: Where, expected: str, got: str, passed: bool | None = None) -> Check:
        return Check(
            ".".join(["expect", *map(str, at)]),
            expected == got if passed is None else passed,
            expected,
            got,
            self._scenario.where(("expect", *at)),
        )

    def _unknown(self, at: Where, expected: str, why: str) -> Check:
        return Check(
            ".".join(["expect", *map(str, at)]),
            None,
            expected,
            why,
            self._scenario.where(("expect", *at)),
        )

    # Both sides

    def _side(self, side: str, expect: schema.SideExpectation, got: SideState) -> Iterator[Check]:
        if expect.status is not None:
            yield self._one_of((side, "status"), expect.status, got.last_status or "none")
        if expect.statuses is not None:
            shown = " ".join(got.statuses) or "none"
            passed = _in_order(expect.statuses, got.statuses)
            yield self._check((side, "statuses"), " ".join(expect.statuses), shown, passed)
        if expect.run_state is not None:
            shown = got.run_state or ("ended" if got.exit_status is not None else "silent")
            yield self._one_of((side, "run_state"), expect.run_state, shown)
        if expect.exit is not None:
            shown = "running" if got.exit_status is None else str(got.exit_status)
            yield self._check((side, "exit"), str(expect.exit), shown)
        if expect.error != schema.UNSAID:
            yield from self._error((side, "error"), expect.error, got)
        if expect.stderr:
            yield self._stderr((side, "stderr"), expect.stderr, got)
        if expect.no_stderr is not None:
            lines = [line for line in got.stderr if found(expect.no_stderr, line)]
            wanted = f"no line like {expect.no_stderr!r}"
            yield self._check((side, "no_stderr"), wanted, " | ".join(lines) or "none", not lines)

    def _one_of(self, at: Where, wanted: list[str], got: str) -> Check:
        return self._check(at, " or ".join(wanted), got, got in wanted)

    def _error(self, at: Where, expected: ByVersion, got: SideState) -> Iterator[Check]:
        said, pattern = for_version(expected, got.version)
        if not said:
            return
        shown = got.error_desc or "no error"
        if pattern is None:
            yield self._check(at, "no error", shown)
        else:
            passed = found(pattern, got.error_desc or "")
            yield self._check(at, pattern, shown, passed)

    def _stderr(self, at: Where, expected: list[ByVersion], got: SideState) -> Check:
        patterns = [
            pattern
            for said, pattern in (for_version(each, got.version) for each in expected)
            if said and pattern is not None
        ]
        passed = not missing(patterns, got.stderr)
        return self._check(at, " | ".join(patterns), " | ".join(got.stderr) or "nothing", passed)

    # Guest and attempts

    def _looked(self, key: str, kind: str, fact: str, yes: str, no: str) -> Check:
        expected = getattr(self._expect, key)
        events = list(self._log.find(kind))
        if not events:
            failed = self._log.first("save-failed")
            unchecked = self._log.first("unchecked", what=key)
            why = "it was never looked at"
            if failed is not None:
                why = failed.facts["error"]
            elif unchecked is not None:
                why = unchecked.facts["why"]
            return self._unknown((key,), expected, why)
        facts = events[-1].facts
        got = yes if facts[fact] else no
        details = facts.get("findings") or facts.get("differences") or []
        shown = f"{got} ({'; '.join(details)})" if details else got
        return self._check((key,), expected, shown, got == expected)

    def _retry(self) -> Check:
        if len(self._ended) < 2:
            return self._check(("retry",), "completed", "it never ended", passed=False)
        second = self._ended[1]
        return self._check(("retry",), "completed", second.verdict)

    # Wire and network

    def _wire(self, at: Where, wire: schema.WireExpectation) -> Check:
        table, name = _counted(wire)
        count = 0
        for totals in self._log.find("stream-totals", "proxy"):
            count += sum(
                number
                for key, number in totals.facts[table].items()
                if _names(key, name, wire.kind)
            )
        shown, passed = _counts(wire.count, count)
        title = f"{name}{f' of kind {wire.kind}' if wire.kind else ''}"
        return self._check(at, f"{shown} x {title}", f"{count} x {title}", passed)

    def _loaded(self, at: Where, expect: schema.LoadedExpectation, first: Attempt) -> Check:
        """What the destination's own tracing says."""
        count = times_loaded(first_attempt(self._log), expect.section)
        shown, passed = _counts(expect.count, count)
        wanted, got = f"{shown} x {expect.section}", f"{count} x {expect.section}"
        if first.loading.unwatched is not None:
            return self._unknown(at, wanted, first.loading.unwatched)
        return self._check(at, wanted, got, passed)

    def _announcements(self) -> list[Any]:
        return [
            event
            for event in self._log.find("frame", "switch", port="destination")
            if "rarp" in event.facts
        ]

    def _announce(self, expect: schema.AnnounceExpectation) -> Iterator[Check]:
        frames = self._announcements()
        if expect.count is not None:
            shown, passed = _counts(expect.count, len(frames))
            yield self._check(("announce", "count"), shown, str(len(frames)), passed)
        if isinstance(expect.mac, list):
            wanted = " ".join(map(self._mac, expect.mac)) or "none"
            got = " ".join(event.facts["source"] for event in frames) or "none"
            yield self._check(("announce", "mac"), wanted, got)
        elif expect.mac is not None:
            mac = self._mac(expect.mac)
            others = sorted({event.facts["source"] for event in frames} - {mac})
            yield self._check(
                ("announce", "mac"), mac, " ".join(others) or mac, bool(frames) and not others
            )
        if expect.layout is not None:
            wrong = [text for event in frames for text in event.facts["problems"]]
            yield self._check(("announce", "layout"), "as QEMU's", "; ".join(wrong) or "as QEMU's")
        if expect.schedule is not None and expect.tolerance is not None:
            yield self._schedule(expect.schedule, expect.tolerance, frames)

    def _mac(self, said: str) -> str:
        return self._scenario.model.guest.mac if said == "guest" else said

    def _schedule(self, wanted: list[float], tolerance: float, frames: list[Any]) -> Check:
        first = frames[0].at_s if frames else 0.0
        got = [event.at_s - first for event in frames]
        passed = len(got) == len(wanted) and all(
            abs(a - b) <= tolerance for a, b in zip(got, wanted, strict=True)
        )
        return self._check(
            ("announce", "schedule"),
            f"{_milliseconds(wanted)} ms, each within {tolerance * 1000:g} ms",
            f"{_milliseconds(got)} ms",
            passed,
        )

    def _forwarding(self, expect: schema.ForwardingExpectation) -> Iterator[Check]:
        for when in ("before", "after"):
            wanted = getattr(expect, when)
            if wanted is None:
                continue
            found = [event.facts["guest"] for event in self._log.find("forwarding", when=when)]
            if not found:
                yield self._unknown(("forwarding", when), wanted, "it was never looked at")
                continue
            got = found[0] if when == "before" else found[-1]
            yield self._check(("forwarding", when), wanted, got or "nowhere")

    def _outage(self, expect: schema.OutageExpectation) -> Check:
        low, high = expect.min, expect.max
        wanted = _bounds(expect)
        events = list(self._log.find("outage", "client"))
        if not events:
            return self._unknown(("outage",), wanted, "no probe was sent")
        facts = events[0].facts
        total = facts["total_s"]
        shown = f"{total:g} s ({facts['wrong_s']:g} to the wrong host, {facts['nowhere_s']:g} lost)"
        if facts["until_s"] is None:
            shown += " until the run ended, and still so"
            if total < low or (high is not None and total <= high):
                return self._unknown(("outage",), wanted, shown)
        passed = low <= total and (high is None or total <= high)
        gap = facts.get("longest_gap_s", 0.0)
        if not passed and total + gap >= low and (high is None or total - gap <= high):
            why = f"{shown}; for {gap:g} s no probe could be sent: this machine was too busy"
            return self._unknown(("outage",), wanted, why)
        return self._check(("outage",), wanted, shown, passed)

    def _total_time(self, expect: schema.TimeExpectation) -> Check:
        """From `migrate` until the source says that it has completed; as QEMU counts it."""
        at, wanted = ("total_time",), _bounds(expect)
        began = self._log.first("attempt-began")
        completed = next(
            (
                event
                for event in first_attempt(self._log)
                if event.actor == "source" and event.facts.get("status") == "completed"
            ),
            None,
        )
        if began is None or completed is None:
            return self._check(at, wanted, "the source never completed", passed=False)
        total_s = completed.at_s - began.at_s
        passed = expect.min <= total_s and (expect.max is None or total_s <= expect.max)
        return self._check(at, wanted, f"{total_s:.3f} s", passed)

    # What no scenario has to ask for

    def _faults(self) -> Iterator[Check]:
        struck = {event.facts["fault"] for event in self._log.find("fault-struck")}
        unfired = [event.facts["sentence"] for event in self._log.find("fault-unfired")]
        for number, fault in enumerate(self._scenario.faults):
            missed = [text for text in unfired if f"({fault.name})" in text]
            if fault.name in struck:
                passed, got = True, "it struck"
            elif missed:
                passed, got = False, missed[-1]
            else:
                passed, got = None, "the run ended before that was known"
            yield Check(
                f"faults.{number}",
                passed,
                f"{fault.name} strikes",
                got,
                self._scenario.where(("faults", number)),
            )

        if self._scenario.model.network.hits_announcements:
            yield self._announce_faults()

    def _announce_faults(self) -> Check:
        totals = self._log.first("announce-totals", "switch")
        unfired = totals.facts["unfired"] if totals else []
        got = "the run ended before that was known" if totals is None else "; ".join(unfired)
        return Check(
            "network",
            None if totals is None else not unfired,
            "every fault on announcements strikes",
            got or "they struck",
            self._scenario.where(("network",)),
        )

    def _invariants(self) -> Iterator[Check]:
        """A check for each invariant that was watched, unless the expected verdict breaks it."""
        implied = IMPLIED_BY.get(self._expect.verdict, frozenset())
        for each in watched(self._scenario, self._log):
            if each.state != "not watched" and each.number not in implied:
                yield Check(
                    f"invariant: {each.name}",
                    each.state == "held",
                    "held",
                    each.detail or "held",
                    self._scenario.where(()),
                )
        unseen = [event.facts["error"] for event in self._log.find("save-failed", "destination")]
        if unseen:
            yield Check(
                "invariant: what arrived can be looked at",
                None,
                "it saves itself again",
                unseen[0],
                self._scenario.where(()),
            )


def watched(scenario: Scenario, log: Log) -> list[Invariant]:
    """The nine invariants of a scenario's run; none if no attempt came to an end."""
    ended = attempts(log)
    if not ended:
        return []
    expect = as_played(scenario, log).model.expect
    # An outage lasts until the announcement that the switch follows: who bounds it says when.
    states_announcements = expect.announce is not None or expect.outage is not None
    return invariants(Run(log, ended, scenario.model.guest.mac, states_announcements))


def _running(attempt: Attempt) -> str:
    sides = [side.side for side in (attempt.source, attempt.destination) if side.running]
    return "both" if len(sides) == 2 else sides[0] if sides else "none"


def _in_order(wanted: list[str], got: tuple[str, ...]) -> bool:
    rest = iter(got)
    return all(status in rest for status in wanted)


def _counted(wire: schema.WireExpectation) -> tuple[str, str]:
    if wire.section is not None:
        return "sections", wire.section
    if wire.command is not None:
        return "commands", wire.command
    assert wire.message is not None
    return "messages", wire.message


def _bounds(expect: schema.TimeExpectation) -> str:
    if expect.max is None:
        return f"at least {expect.min:g} s"
    return f"{expect.min:g} to {expect.max:g} s"


def _counts(wanted: int | schema.Count, got: int) -> tuple[str, bool]:
    """How many were wanted, in words, and whether so many came."""
    low, high = (wanted, wanted) if isinstance(wanted, int) else (wanted.min, wanted.max)
    shown = f"{low}" if low == high else f"{low} or more" if high is None else f"{low}-{high}"
    return shown, low <= got and (high is None or got <= high)


def _names(key: str, name: str, kind: str | None) -> bool:
    """True if a key of the totals (`PART ram`, `PING`) is what an expectation names."""
    section_kind, blank, idstr = key.partition(" ")
    if not blank:
        return key == name
    return fnmatchcase(idstr, name) and kind in (None, section_kind.lower())


def _milliseconds(times: list[float]) -> str:
    return ", ".join(f"{at * 1000:.0f}" for at in times)
