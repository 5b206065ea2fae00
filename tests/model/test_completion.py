"""The last of a migration, in turns: a source never makes more at once than it can send."""

import os

import pytest
from model_helpers import outgoing

from testbed.model.migration.effects import Became, ResumeGuest, Send, StopGuest
from testbed.model.migration.memory import Memory
from testbed.model.migration.ram import Ram
from testbed.model.migration.source import TURN_BYTES_MAX, Parameters, Source
from testbed.model.profile import PROFILES

MEMORY_BYTES = 8 << 20
PIECE_BYTES_MAX = 1 << 20


@pytest.fixture
def source():
    """One that has all of its memory left when it stops the guest."""
    profile = PROFILES["7.2"]
    memory = Memory()
    block = memory.add("pc.ram", MEMORY_BYTES)
    block.data[:] = os.urandom(4096) * (MEMORY_BYTES // 4096)
    ram = Ram(memory, profile)
    made = Source(outgoing(profile, ram), ram, profile, Parameters(downtime_limit_s=1000.0))
    made.begin(0.0)
    made.advance(0.0)
    return made


def sent(effects):
    return sum(len(each.data) for each in effects if isinstance(each, Send))


def test_it_is_sent_in_turns_while_the_guest_stands_still(source):
    first = source.advance(1.0)  # from then on it knows how fast it is
    assert any(isinstance(each, StopGuest) for each in first)
    turns = [first]
    while not source.has_written_all:
        turns.append(source.advance(1.0))
        assert len(turns) < 100
    assert len(turns) > 3
    assert all(sent(each) <= TURN_BYTES_MAX + PIECE_BYTES_MAX for each in turns)
    assert sum(map(sent, turns)) > MEMORY_BYTES - 2 * TURN_BYTES_MAX
    assert [each.status for each in source.advance(1.0) if isinstance(each, Became)] == [
        "completed"
    ]


def test_in_the_middle_of_it_a_cancel_has_the_guest_go_on(source):
    source.advance(1.0)
    source.advance(1.0)
    effects = source.cancel()
    assert any(isinstance(each, ResumeGuest) for each in effects)
    assert source.status == "cancelled"
    assert source.advance(1.0) == []


def test_in_the_middle_of_it_a_lost_link_has_the_guest_go_on(source):
    source.advance(1.0)
    effects = source.write_failed(-32, "Broken pipe")
    assert any(isinstance(each, ResumeGuest) for each in effects)
    assert source.status == "failed"
