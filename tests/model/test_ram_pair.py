"""A guest that writes while it is moved, from memory to memory; nothing of it may be lost."""

from dataclasses import dataclass

import pytest
from model_helpers import Pair
from ram_helpers import PAGE, filled

from testbed.model.migration.effects import Send
from testbed.model.migration.memory import Memory, Missing
from testbed.model.migration.ram import Ram
from testbed.model.migration.source import TURN_BYTES_MAX
from testbed.model.profile import PROFILES
from testbed.wire import encode

PAGES = 64
STRIDE = 7
"""So many pages on: every page gets its turn, and it is never the next one."""


@dataclass
class Moving(Pair):
    """The guest writes a number to another page every few turns, wherever it runs."""

    bytes_per_s: int = 60_000
    every: int = 2

    def __post_init__(self):
        profile = PROFILES[self.profile]
        self.rams = Ram(Memory(), profile), Ram(Memory(), profile)
        for ram in self.rams:
            ram.memory.add("pc.ram", PAGES * PAGE)
        super().__post_init__()
        self.expected = bytearray(b"".join(filled(number, PAGE) for number in range(PAGES)))
        self.rams[0].memory.find("pc.ram").data[:] = self.expected
        self.turns = self.count = self.waited = 0

    def guest(self):
        self.turns += 1
        where = {"source": 0, "destination": 1}
        if self.turns % self.every or len(self.runs_at) != 1:
            return
        ram = self.rams[where[next(iter(self.runs_at))]]
        at, data = self.count * STRIDE % PAGES * PAGE, (self.count + 1).to_bytes(4, "big")
        match ram.memory.write(ram.memory.find("pc.ram"), at, data):
            case Missing() as missing:
                self.waited += 1
                request = ram.want(missing)
                if request is not None and self.connected:
                    self._do(self.source.back(encode(request)))
            case None:
                self.expected[at : at + 4] = data
                self.count += 1

    def check(self):
        """Where it runs now, memory is as the guest wrote it; all else is as it was."""
        assert self.runs_at == {"destination"}
        assert self.rams[1].memory.find("pc.ram").data[:] == self.expected


@pytest.mark.parametrize("profile", PROFILES)
def test_precopy_converges_and_loses_nothing(profile):
    pair = Moving(profile)
    pair.run()
    assert pair.statuses == ["setup", "active", "completed"]
    assert pair.count > PAGES // 2
    assert pair.rams[0].counters.dirty_sync_count > 2
    pair.check()


def test_precopy_does_not_converge_if_the_guest_is_faster():
    pair = Moving(bytes_per_s=20_000, every=1)
    pair.run(turns=2_000)
    assert pair.statuses == ["setup", "active"]
    assert pair.rams[0].counters.dirty_sync_count > 10


@pytest.mark.parametrize("profile", PROFILES)
def test_in_postcopy_the_guest_waits_for_what_it_needs(profile):
    pair = Moving(profile, postcopy=True)
    pair.source.start_postcopy_at_once = False
    pair.run(turns=25)
    assert pair.statuses == ["setup", "active"]
    pair.source.start_postcopy_at_once = True
    pair.go_on()
    assert pair.statuses[-1] == "completed"
    assert pair.waited
    assert pair.rams[0].counters.postcopy_requests
    pair.check()


def test_whatever_was_lost_in_postcopy_is_sent_after_its_recovery():
    whole = Moving(postcopy=True)
    whole.run()
    recovered = 0
    for cut in range(1, len(whole.forward), 5_003):
        pair = Moving(postcopy=True, cut=cut)
        pair.run()
        if pair.bed.statuses[-1] != "postcopy-paused":
            continue
        recovered += 1
        for _ in range(9):
            pair.guest()
        pair.recover()
        assert pair.statuses[-1] == "completed", cut
        pair.check()
    assert recovered > 10


def test_no_turn_is_longer_than_whoever_drives_it_can_wait():
    profile = PROFILES["7.2"]
    rams = Ram(Memory(), profile), Ram(Memory(), profile)
    for ram in rams:
        ram.memory.add("pc.ram", 4 * TURN_BYTES_MAX).data[:] = filled(7, 4 * TURN_BYTES_MAX)
    pair = Pair(rams=rams, bytes_per_s=1 << 40).run()
    assert pair.statuses[-1] == "completed"
    sizes = [len(effect.data) for effect in pair.effects if isinstance(effect, Send)]
    assert len(pair.forward) > 4 * TURN_BYTES_MAX
    assert max(sizes) < TURN_BYTES_MAX + 2 * PAGE
