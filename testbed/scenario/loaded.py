"""Which sections a destination loaded, held against those that its source sent. Pure queries.

The destination's own tracing says what it loads (`testbed/endpoint/trace.py`), the proxy what came
from the source before any fault. QEMU's loader takes a section twice, or never, without a word:
it knows no list of what must come (`migration/savevm.c`, `qemu_loadvm_state_main`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from testbed.log import Event

Section = tuple[str, int]
"""idstr and instance_id: what the loader finds a section by."""

NOT_TRACED = (
    "it tells of no section: a QEMU that is built without the trace backend `log`, or whose log "
    "goes elsewhere"
)


@dataclass(frozen=True, slots=True)
class Loading:
    """What was wrong with the sections that were loaded; `unwatched`: why that is not known."""

    problems: tuple[str, ...] = ()
    unwatched: str | None = None

    @property
    def outcome(self) -> bool | None:
        """True: each was loaded once, in order. None: that is not known."""
        return None if self.unwatched is not None else not self.problems


def loading(events: Iterable[Event]) -> Loading:
    """Compare what was loaded with what was sent, in the events of an attempt that arrived.

    Args:
        events: of the attempt, up to when both sides were looked at.

    Returns:
        A sentence for each section that was sent and not loaded, loaded and not sent, loaded in
        another version than it was sent in, too often, too seldom, or out of order. PART and END
        sections are counted where the migration never paused: what is under way when a link is
        lost comes again.
    """
    sent = loaded = None
    begun: list[tuple[str, int, int]] = []
    paused = False
    for event in events:
        facts = event.facts
        if event.kind == "sections-sent":
            sent = facts
        elif event.kind == "sections-loaded":
            loaded = facts
        elif event.kind == "section-loaded" and facts["kind"] == "start or full":
            begun.append((facts["section"], facts["instance"], facts["version"]))
        elif event.kind == "migration-status":
            paused |= facts["status"] == "postcopy-paused"
    if sent is None or loaded is None:
        return Loading(unwatched="the attempt never ended")
    if not loaded["traced"]:
        return Loading(unwatched=f"the destination: {NOT_TRACED}")
    if loaded["cut"]:
        return Loading(unwatched="the destination told of more sections than are kept")
    if sent["unread"] is not None:
        return Loading(unwatched=f"the proxy could not read all of the stream: {sent['unread']}")
    if not sent["begun"]:
        return Loading(unwatched="the proxy saw no section: the stream is encrypted, or no stream")
    came = [(idstr, instance, version) for idstr, instance, version in sent["begun"]]
    problems = list(_problems(came, begun))
    if not paused:
        problems += _counts(sent["parts"], loaded["parts"])
    return Loading(tuple(problems))


def first_attempt(events: Iterable[Event]) -> Iterator[Event]:
    """The events of a run until its first attempt was looked at."""
    for event in events:
        yield event
        if event.kind == "attempt-ended":
            return


def times_loaded(events: Iterable[Event], idstr: str) -> int:
    """How often the destination began to load a section of that name; `*` and `?` match."""
    return sum(
        event.kind == "section-loaded"
        and event.facts["kind"] == "start or full"
        and fnmatchcase(event.facts["section"], idstr)
        for event in events
    )


def _problems(
    sent: list[tuple[str, int, int | None]], loaded: list[tuple[str, int, int]]
) -> Iterator[str]:
    versions: dict[Section, list[int | None]] = {}
    for idstr, instance, version in sent:
        versions.setdefault((idstr, instance), []).append(version)
    times = Counter((idstr, instance) for idstr, instance, _ in loaded)
    for section, came in versions.items():
        if times[section] != len(came):
            how = f"loaded {_times(times[section])}" if times[section] else "never loaded"
            yield f"{_name(section)}: sent {_times(len(came))}, {how}"
    for section in times:
        if section not in versions:
            yield f"{_name(section)}: never sent, loaded {_times(times[section])}"
    for idstr, instance, version in loaded:
        known = versions.get((idstr, instance), [None])
        if version not in known and None not in known:
            yield f"{idstr} {instance}: sent as version {known[0]}, loaded as version {version}"
    yield from _disorder([section[:2] for section in sent], [section[:2] for section in loaded])


def _disorder(sent: list[Section], loaded: list[Section]) -> Iterator[str]:
    """The first section that came before one that was sent before it; of those loaded once."""
    once = {each for each, number in Counter(loaded).items() if number == 1 == sent.count(each)}
    wanted = [each for each in sent if each in once]
    got = [each for each in loaded if each in once]
    for first, instead in zip(wanted, got, strict=True):
        if first != instead:
            yield f"{_name(instead)}: loaded before {_name(first)}, which was sent before it"
            return


def _counts(sent: dict[str, int], loaded: dict[str, int]) -> Iterator[str]:
    for name in [*sent, *(each for each in loaded if each not in sent)]:
        came, taken = sent.get(name, 0), loaded.get(name, 0)
        if came != taken:
            yield f"{name}: {came} PART and END sections sent, {taken} loaded"


def _name(section: Section) -> str:
    return f"{section[0]} {section[1]}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
