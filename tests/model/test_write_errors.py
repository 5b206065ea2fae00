"""What a source makes of bytes that cannot be sent, and of a return path that is gone.

As seen of QEMU 7.2.22 whose connection was closed, or reset, in the middle of RAM.
"""

import pytest
from model_helpers import Ram, outgoing

from testbed.model.migration.effects import Became, HangUp, ResumeGuest, Say, Send, StopGuest
from testbed.model.migration.source import WINDOW_S, Parameters, Source
from testbed.model.profile import PROFILES
from testbed.wire import build, encode

FAST = 1 << 40
NO_TEXT = "failed to save SaveStateEntry with id(name): 1(ram): -5"
"""Of the small machine, whose RAM is its second entry."""
PIPE, BADF = (f"Unable to write to socket: {why}" for why in ("Broken pipe", "Bad file descriptor"))


class Turns:
    """A source, and what it does turn by turn."""

    def __init__(self, profile="7.2", bytes_per_s=FAST, rounds=3, **parameters):
        ram = Ram()
        ram.rounds = rounds
        profile = PROFILES[profile]
        given = Parameters(max_bandwidth_bytes=bytes_per_s, **parameters)
        self.source = Source(outgoing(profile, ram), ram, profile, given)
        self.effects = self.source.begin(0.0)

    def turn(self, count=1):
        for _ in range(count):
            self.effects += self.source.advance(self.source.next_at_s)
        return self

    def until_written(self):
        while not self.source.has_written_all:
            self.turn()
        return self

    def back(self, *messages):
        self.effects += self.source.back(b"".join(map(encode, messages)))
        return self

    def breaks(self):
        self.effects += self.source.write_failed(-32, "Broken pipe")
        return self

    def of(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def sent(self):
        return b"".join(effect.data for effect in self.of(Send))

    @property
    def said(self):
        return [effect.line for effect in self.of(Say)]

    @property
    def statuses(self):
        return [str(effect.status) for effect in self.of(Became)]


def test_what_an_entry_cannot_write_is_said_with_its_name():
    turns = Turns().turn().breaks()
    assert turns.said == [NO_TEXT, PIPE]
    assert turns.source.error_desc == PIPE
    assert turns.statuses == ["setup", "active", "failed"]


def test_before_there_was_a_text_it_only_fails():
    turns = Turns("2.9").turn().breaks()
    assert (turns.said, turns.source.error_desc) == ([], None)
    assert turns.statuses == ["setup", "active", "failed"]


def test_what_begins_the_stream_belongs_to_no_entry():
    assert Turns().breaks().said == [PIPE]


def test_behind_a_rate_limit_a_footer_is_what_cannot_be_written():
    turns = Turns(bytes_per_s=300, rounds=9).turn()
    assert turns.source.next_at_s == pytest.approx(WINDOW_S)
    assert turns.turn().breaks().said == [PIPE]


FOOTER = bytes.fromhex("7e 00000001")  # of RAM, the second entry of the small machine


def test_while_the_source_waits_the_footer_of_ram_has_not_gone_out():
    turns = Turns(bytes_per_s=300, rounds=9).turn(2)
    whole = Turns(rounds=9).until_written().sent
    assert whole.startswith(turns.sent + FOOTER)
    turns.turn(2)
    assert whole.startswith(turns.sent + FOOTER)
    assert turns.sent.count(FOOTER) == 2  # of START, and of the first PART


def test_before_there_was_a_flush_a_section_goes_out_with_its_footer():
    turns = Turns("2.9", bytes_per_s=300, rounds=9).turn(2)
    assert turns.sent.endswith(FOOTER)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_switch_to_postcopy_that_cannot_be_written_is_a_failure(profile):
    turns = Turns(profile, postcopy=True, rounds=9)
    turns.source.start_postcopy_at_once = True
    turns.turn().breaks()
    assert turns.statuses == ["setup", "active", "postcopy-active", "failed"]
    said = ["postcopy_start: Migration stream errored"]
    if profile == "7.2":
        said.append("migration_iteration_run: postcopy failed to start")
    assert turns.said == said
    assert bool(turns.of(ResumeGuest)) is (profile == "2.9")
    assert len(turns.of(HangUp)) == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_all_was_written_is_no_success_until_it_was_flushed(profile):
    turns = Turns(profile).until_written()
    assert turns.statuses == ["setup", "active"]
    assert turns.of(StopGuest)
    turns.breaks()
    assert turns.statuses[-1] == "failed"
    assert turns.of(ResumeGuest)
    assert NO_TEXT not in turns.said
    assert Turns(profile).until_written().turn().statuses[-1] == "completed"


def test_all_was_written_and_taken_in_is_a_success_at_once():
    turns = Turns(return_path=True).until_written().back(build.shut(0))
    assert turns.statuses[-1] == "completed"


def test_in_postcopy_it_waits_for_ever_for_an_answer_that_cannot_come():
    turns = Turns(postcopy=True)
    turns.source.start_postcopy_at_once = True
    turns.until_written().breaks().turn(3)
    assert turns.statuses[-1] == "postcopy-active"
    assert not turns.of(HangUp)


def test_in_postcopy_the_entry_is_named_before_the_pause():
    turns = Turns(postcopy=True, rounds=9)
    turns.source.start_postcopy_at_once = True
    turns.turn(2).breaks()
    assert turns.statuses[-1] == "postcopy-paused"
    assert turns.said == [NO_TEXT, "Detected IO failure for postcopy. Migration paused."]


@pytest.mark.parametrize("value", [0, 1])
def test_a_destination_that_ends_early_closes_the_connection(value):
    turns = Turns(return_path=True).turn().back(build.shut(value))
    sent = len(turns.of(Send))
    turns.turn()
    assert len(turns.of(Send)) == sent
    assert turns.statuses[-1] == "failed"
    assert turns.said[-2:] == [NO_TEXT, BADF]


def test_a_return_path_that_ends_closes_the_connection():
    turns = Turns(return_path=True).turn()
    turns.effects += turns.source.back_ended()
    assert turns.turn().said == [NO_TEXT, BADF]
    assert turns.source.error_desc == BADF
