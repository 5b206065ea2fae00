"""A whole machine, moved on a clock of its own, and cut at every boundary of its stream."""

from collections import Counter
from functools import cache

import pytest
from thoroughness import usually

from testbed.guest import GuestSpec, check_memory
from testbed.model.migration.source import Parameters
from testbed.model.simulation.rehearsal import Rehearsal
from testbed.model.simulation.simulate import Link
from testbed.wire import MainChannel
from testbed.wire.element import Command, CommandType, EndOfStream

SMALL = GuestSpec((512 + 16) * 4096, pages_per_second=5000)
"""The least that the guest needs, and 16 pages to stamp."""
BUFFER_BYTES = 4 << 10
RATE_BYTES = 200_000
"""Slow enough for the source to notice a link that is lost before it has written everything."""
ALIKE = usually(24, thoroughly=8)
"""Of so many boundaries between pages, which are all alike, one."""

POSTCOPY_AT_S = 0.25

FAILED_CLEAN = "the source runs on"
GUEST_LOST = "nobody runs"
SPLIT_BRAIN = "both run"
MOVED = "the destination runs, and both have completed"
MOVED_UNKNOWN = "the destination runs, and the source does not know"
PAUSED = "the destination runs, and waits for the rest"
CORRUPT = "the destination has completed without the rest"


def start_postcopy(source):
    source.start_postcopy_at_once = True


@cache
def rehearsal(profile):
    return Rehearsal(profile, "pc", SMALL)


class Migration:
    """One way to migrate, and its stream if nothing goes wrong."""

    def __init__(self, profile, *, postcopy=False, return_path=False):
        self.profile, self.postcopy = profile, postcopy
        self.parameters = Parameters(
            max_bandwidth_bytes=RATE_BYTES,
            max_postcopy_bandwidth_bytes=RATE_BYTES,
            return_path=return_path,
            postcopy=postcopy,
        )
        whole = self.simulation()
        self.outcome = whole.run()
        self.stream = b"".join(whole.forward)
        channel = MainChannel()
        self.elements = channel.feed(self.stream) + channel.end()

    def simulation(self, cut=None, *, seed=None):
        link = Link(bytes_per_s=2e7, buffer_bytes=BUFFER_BYTES, cut_at_bytes=cut)
        made = rehearsal(self.profile).simulation(self.parameters, link, seed=seed)
        if self.postcopy:
            made.later(POSTCOPY_AT_S, lambda: start_postcopy(made.source))
        return made

    def boundaries(self):
        """Those between elements, their parts included; the whole stream is not cut."""
        offsets = sorted({each.offset for each in self.elements})
        pages = {each.offset for each in self.elements if type(each.value).__name__ == "RamPage"}
        return [
            offset
            for number, offset in enumerate(offsets)
            if offset not in pages or not number % ALIKE
        ]

    def end_of(self, *kinds):
        """Where the first element of that kind ends."""
        return next(
            each.offset + len(each.raw)
            for each in self.elements
            if isinstance(each.value, EndOfStream)
            or (isinstance(each.value, Command) and each.value.command in kinds)
        )


def memory_is_intact(profile):
    destination = rehearsal(profile).destination
    return check_memory(destination.main_block.data[:], SMALL).intact


def judged(migration, outcome):
    """What became of the guest."""
    source, destination = (statuses[-1] for statuses in outcome.statuses)
    if not outcome.runs_at:
        return GUEST_LOST
    if outcome.runs_at == {"source"}:
        assert (source, destination, outcome.exit_status) == ("failed", "failed", 1)
        return FAILED_CLEAN
    if outcome.runs_at == {"source", "destination"}:
        assert (source, destination) == ("failed", "completed")
        return SPLIT_BRAIN
    assert outcome.exit_status is None
    if destination == "postcopy-paused":
        return PAUSED
    assert destination == "completed"
    if not memory_is_intact(migration.profile):
        return CORRUPT
    return MOVED if source == "completed" else MOVED_UNKNOWN


def cut_everywhere(migration):
    """Each verdict, and the cuts that lead to it."""
    found = {}
    for cut in migration.boundaries():
        outcome = migration.simulation(cut).run()
        assert outcome.sent_bytes == cut
        found.setdefault(judged(migration, outcome), []).append(cut)
    return found


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
@pytest.mark.parametrize("postcopy", [False, True])
def test_a_machine_is_moved_whole(profile, postcopy):
    migration = Migration(profile, postcopy=postcopy)
    assert migration.outcome.said == ((), ())
    assert judged(migration, migration.outcome) == MOVED
    assert len(migration.elements) > 500


@pytest.mark.parametrize("profile", ["2.9", "7.2"])
def test_without_a_return_path_what_is_lost_late_loses_the_guest(profile):
    migration = Migration(profile)
    eof = migration.end_of()
    found = cut_everywhere(migration)
    assert set(found) == {FAILED_CLEAN, GUEST_LOST, MOVED}
    assert max(found[FAILED_CLEAN]) < min(found[GUEST_LOST])
    assert max(found[GUEST_LOST]) < eof == min(found[MOVED])


def test_with_a_return_path_no_guest_is_lost_but_it_may_run_twice():
    migration = Migration("7.2", return_path=True)
    eof = migration.end_of()
    found = cut_everywhere(migration)
    assert set(found) == {FAILED_CLEAN, SPLIT_BRAIN}
    assert max(found[FAILED_CLEAN]) < eof
    assert found[SPLIT_BRAIN] == [eof]
    split = migration.simulation(eof).run()
    assert split.said[1] == ("Expected vmdescription section, but got 0",)


def test_in_postcopy_only_the_package_is_critical():
    migration = Migration("7.2", postcopy=True)
    package = migration.end_of(CommandType.PACKAGED)
    found = cut_everywhere(migration)
    assert set(found) == {FAILED_CLEAN, GUEST_LOST, PAUSED}
    assert max(found[FAILED_CLEAN]) < min(found[GUEST_LOST])
    assert max(found[GUEST_LOST]) < min(found[PAUSED])
    assert min(found[GUEST_LOST]) < package


def test_what_was_paused_is_recovered():
    migration = Migration("7.2", postcopy=True)
    outcomes = Counter()
    package = migration.end_of(CommandType.POSTCOPY_RUN)
    for cut in [each for each in migration.boundaries() if each >= package][::2]:
        moved = migration.simulation(cut)
        paused = moved.run()
        outcomes[paused.statuses[0][-1]] += 1
        if paused.statuses[0][-1] != "postcopy-paused":
            continue  # all was written: it waits for an answer
        outcome = moved.recover(Link())
        assert judged(migration, outcome) == MOVED, cut
    assert outcomes["postcopy-paused"] > 5
    assert set(outcomes) == {"postcopy-paused", "postcopy-active"}


def test_before_there_was_recovery_postcopy_loses_or_corrupts_the_guest():
    migration = Migration("2.9", postcopy=True)
    run = migration.end_of(CommandType.POSTCOPY_RUN)
    found = cut_everywhere(migration)
    assert set(found) == {FAILED_CLEAN, GUEST_LOST, CORRUPT, MOVED_UNKNOWN}
    assert max(found[FAILED_CLEAN]) < min(found[GUEST_LOST])
    # Between two sections the end reads as EOF, and nobody looks for an error there.
    assert min(found[CORRUPT]) >= run


@pytest.mark.parametrize("postcopy", [False, True])
def test_a_seed_is_a_history(postcopy):
    migration = Migration("7.2", postcopy=postcopy)
    histories = set()
    for seed in range(6):
        first = migration.simulation(seed=seed)
        outcome = first.run()
        second = migration.simulation(seed=seed)
        assert second.run() == outcome
        assert second.forward == first.forward
        assert second.effects == first.effects
        assert judged(migration, outcome) == MOVED
        histories.add(tuple(map(len, first.forward)))
    assert len(histories) == 6
