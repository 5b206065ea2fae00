"""Which connections go onward, and when: told as what comes, one after the other."""

from testbed.proxy.admission import Admission
from testbed.wire import ChannelKind, channel_of

MAIN, MULTIFD, TLS = b"QEVM", b"\x11\x22\x33\x44", b"\x16\x03\x01\x00"
RECOVERY, HTTP, PAGE = b"\x08\0\x0a\0", b"GET ", b"\0\0\0\0"


class Story:
    """Connections that come one after the other, and what each has said."""

    def __init__(self, count: int, *, paused: bool = False) -> None:
        self.paused = paused
        self.admission = Admission()
        self.said = dict.fromkeys(range(1, count + 1), b"")
        for number in self.said:
            self.admission.came(number)

    def says(self, number: int, first: bytes) -> list[int]:
        """One speaks; which of those that wait may go now?"""
        self.said[number] = first
        return self.ready()

    def ready(self) -> list[int]:
        return [number for number in self.said if self._may(number)]

    def _may(self, number: int) -> bool:
        first = self.said[number]
        kind: ChannelKind | None = channel_of(first)
        return self.admission.may_go(number, first, kind, paused=self.paused)

    def goes(self, number: int) -> None:
        self.admission.goes(number)
        self.admission.went(number)
        del self.said[number]


def test_the_first_one_waits_until_it_speaks() -> None:
    story = Story(1)
    assert story.ready() == []
    assert story.says(1, MAIN) == [1]


def test_while_postcopy_is_paused_the_first_one_need_not_speak() -> None:
    story = Story(3, paused=True)
    assert story.ready() == [1]
    story.admission.goes(1)
    assert story.ready() == []
    story.admission.went(1)
    del story.said[1]
    assert story.ready() == [2, 3]


def test_while_postcopy_is_paused_a_recovery_that_shows_itself_goes_first() -> None:
    story = Story(2, paused=True)
    assert story.says(2, RECOVERY) == [1, 2]
    story.goes(2)
    assert story.ready() == []


def test_whatever_comes_first_and_speaks_goes_first() -> None:
    assert Story(1).says(1, HTTP) == [1]


def test_a_multifd_channel_that_speaks_first_waits_for_the_main_channel() -> None:
    """A QEMU before 8.0 takes what comes first for the main channel."""
    story = Story(3)
    assert story.says(2, MULTIFD) == []
    assert story.says(3, MULTIFD) == []
    assert story.says(1, MAIN) == [1]
    story.goes(1)
    assert story.ready() == [2, 3]


def test_while_one_is_about_to_go_the_others_wait() -> None:
    story = Story(2)
    assert story.says(1, MAIN) == [1]
    story.admission.goes(1)
    del story.said[1]
    assert story.says(2, MULTIFD) == []
    story.admission.went(1)
    assert story.ready() == [2]


def test_a_main_channel_passes_a_stranger_that_came_before_and_is_silent() -> None:
    for first in (MAIN, RECOVERY, TLS):
        assert Story(2).says(2, first) == [2]


def test_a_stranger_that_came_before_goes_only_with_bytes_in_hand() -> None:
    story = Story(3)
    story.says(2, MAIN)
    story.goes(2)
    assert story.ready() == [3], "the later one may be a preempt channel that has no work"
    assert story.says(1, HTTP) == [1, 3]


def test_one_that_could_not_go_leaves_the_way_to_the_next() -> None:
    story = Story(2)
    story.says(1, MAIN)
    story.admission.goes(1)
    del story.said[1]
    assert story.says(2, HTTP) == []
    story.admission.ended(1)
    assert story.ready() == [2]


def test_after_the_last_one_all_begins_anew() -> None:
    story = Story(2)
    story.says(1, MAIN)
    story.goes(1)
    story.goes(2)
    story.admission.ended(1)
    assert story.admission.is_open, "the second one is still there"
    story.admission.ended(2)
    assert not story.admission.is_open
    story.admission.came(3)
    story.said[3] = b""
    assert story.ready() == []
    assert story.says(3, PAGE) == [3]
