"""The picture of what passes: events and samples in, figures and lines out."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import count
from typing import Any

import pytest
from rich.console import Console

from testbed.fault.lanes.memory import BlockSeen
from testbed.log import Event
from testbed.report.picture import drawn, size
from testbed.standalone.picture import CHANNELS_MAX, ConnectionSample, Picture, Sample

MIB = 1 << 20
PAGE = 4096


class Scene:
    """A picture, and what happens to it."""

    def __init__(self, faults: Sequence[str] = ()) -> None:
        self.picture = Picture(faults)
        self._numbers = count()

    def event(self, kind: str, **facts: Any) -> None:
        number = next(self._numbers)
        self.picture.event(Event(number, float(number), "proxy", kind, facts))

    def opened(self, connection: int, channel: str) -> None:
        self.event("connection-opened", connection=connection)
        self.event("connection-identified", connection=connection, channel=channel)

    def main(self, connection: int) -> None:
        self.opened(connection, "main")
        self.event("file-header", connection=connection, offset=0, version=3)

    def ended(self, connection: int, bytes_forward: int) -> None:
        facts = {"ended_by": "source", "how": "FIN", "bytes_back": 0}
        self.event("connection-ended", connection=connection, bytes_forward=bytes_forward, **facts)

    def sample(self, at_s: float, *connections: tuple[int, int, int], **facts: Any) -> None:
        samples = tuple(ConnectionSample(*each) for each in connections)
        self.picture.sampled(Sample(at_s, samples, **facts))

    def text(self, width: int = 120) -> list[str]:
        out = StringIO()
        Console(file=out, width=width, color_system=None).print(drawn(self.picture))
        return [line.rstrip() for line in out.getvalue().splitlines()]


def ram(pages: int, zero_pages: int = 0, passes: int = 1) -> dict[str, BlockSeen]:
    return {
        "pc.ram": BlockSeen(64 * MIB, pages, zero_pages, passes),
        "pc.bios": BlockSeen(MIB // 4, 64, 0, 1),
    }


def test_nothing_passes() -> None:
    assert Scene().text() == ["waiting for a migration"]


def test_a_precopy_in_its_first_pass() -> None:
    scene = Scene(["cut_it"])
    scene.main(1)
    scene.sample(10.0, (1, 10_000_000, 0), blocks=ram(2000), phase="iterate")
    scene.sample(
        11.0, (1, 40_000_000, 12), blocks=ram(9000, 1500), phase="iterate", section="PART ram"
    )
    assert scene.text() == [
        "migration 1: memory, guest running  PART ram",
        "40.0 MB, 30.0 MB/s  pass 1  9064 page records for 16448 pages  1 s left of this pass",
        "memory block                                    passed  pages  zero  pass",
        "pc.ram        #############             55% of 67.1 MB   9000  1500     1",
        "pc.bios       ########################  100% of 262 kB     64     0     1",
        "connection        to destination  a second  to source  a second",
        "1           main         40.0 MB   30.0 MB       12 B      12 B",
        "fault        cut_it: armed",
    ]


def test_later_passes_have_no_estimate() -> None:
    scene = Scene()
    scene.main(1)
    scene.sample(1.0, (1, 0, 0), blocks=ram(16384))
    scene.sample(2.0, (1, 5_000_000, 0), blocks=ram(18000, passes=3), phase="iterate")
    assert scene.picture.figures().left_s is None
    assert scene.text()[1] == (
        "5.0 MB, 5.0 MB/s  pass 3  18064 page records for 16448 pages  "
        "how much is dirty again the stream does not say"
    )


def test_a_stream_that_stands_still_has_no_estimate() -> None:
    scene = Scene()
    scene.main(1)
    for at_s in (1.0, 2.0):
        scene.sample(at_s, (1, 500, 0), blocks=ram(100), phase="iterate")
    assert scene.picture.figures().left_s is None
    assert scene.picture.figures().rate == 0


def test_rates_are_of_the_last_seconds() -> None:
    scene = Scene()
    scene.main(1)
    for second in range(10):
        sent = 100 * second if second < 5 else 500 + 10 * (second - 5)
        scene.sample(float(second), (1, sent, 0))
    assert scene.picture.figures().rate == 10


def test_postcopy_with_its_channels_and_its_return_path() -> None:
    scene = Scene(["one", "two"])
    scene.main(1)
    scene.opened(2, "preempt")
    scene.event("command", connection=1, command="POSTCOPY_RUN", offset=7)
    for number in range(3):
        scene.event("message", connection=1, message="REQ_PAGES", offset=number)
    scene.event("message", connection=1, message="PONG", offset=9, value=1)
    for _ in range(2):
        scene.event("fault-struck", connection=2, fault="two", action="stall")
    scene.sample(5.0, (1, 7000, 40), (2, 3000, 0), phase="postcopy", section="PART ram")
    assert scene.text() == [
        "migration 1: postcopy, guest running there  PART ram",
        "10.0 kB, 0 B/s",
        "connection           to destination  a second  to source  a second",
        "1           main             7.0 kB       0 B       40 B       0 B",
        "2           preempt          3.0 kB       0 B        0 B       0 B",
        "return path  PONG 1  REQ_PAGES 3",
        "commands     POSTCOPY_RUN 1",
        "fault        one: armed",
        "fault        two: struck 2 times",
    ]


def test_a_migration_that_is_over_stays_in_view_until_the_next_one() -> None:
    scene = Scene()
    scene.main(1)
    scene.sample(1.0, (1, 9_000_000, 0), blocks=ram(16384), phase="iterate")
    scene.event("eof", connection=1, offset=5)
    scene.event("message", connection=1, message="SHUT", offset=5, value=0)
    scene.ended(1, 9_000_000)
    scene.sample(2.0, blocks=ram(16384))
    assert scene.text()[0] == "migration 1 is over (whole); waiting for a migration"
    assert scene.text()[1] == "9.0 MB, 0 B/s  pass 1  16448 page records for 16448 pages"
    assert scene.text()[-1] == "return path  SHUT 1"
    scene.main(2)
    scene.sample(3.0, (2, 50, 0))
    assert scene.text() == [
        "migration 2: set up",
        "50 B, 0 B/s",
        "connection        to destination  a second  to source  a second",
        "2           main            50 B       0 B        0 B       0 B",
    ]


def test_an_encrypted_migration_is_counted() -> None:
    scene = Scene()
    scene.opened(1, "tls")
    scene.sample(1.0, (1, 100, 50))
    assert scene.text()[:2] == ["migration 1: encrypted", "100 B, 0 B/s"]


def test_bytes_of_channels_that_have_ended_still_count() -> None:
    scene = Scene()
    scene.main(1)
    scene.opened(2, "multifd")
    scene.ended(2, 4000)
    scene.sample(1.0, (1, 1000, 0))
    assert scene.picture.figures().bytes_forward == 5000


def test_many_connections_and_blocks_and_faults_are_cut_off() -> None:
    scene = Scene([f"fault_{number}" for number in range(20)])
    scene.main(1)
    many = CHANNELS_MAX + 5
    for number in range(2, many + 1):
        scene.opened(number, "multifd")
    blocks = {f"block{number}": BlockSeen(PAGE, 1, 1, 1) for number in range(10)}
    scene.sample(1.0, *((number, 1, 1) for number in range(1, many + 1)), blocks=blocks)
    text = scene.text()
    assert "5 more" in text
    assert text[-1].strip() == "12 more"
    assert any(line.startswith("4 more ") for line in text)


def test_names_that_a_peer_made_up_cannot_draw_over_the_picture() -> None:
    scene = Scene()
    scene.main(1)
    name = "\x1b[2J[red]" + "x" * 200
    scene.sample(1.0, (1, 1, 1), blocks={name: BlockSeen(PAGE, 1, 0, 1)}, section=f"PART {name}")
    text = "\n".join(scene.text())
    assert "\x1b" not in text
    assert "?[2J[red]xx" in text
    assert "x" * 40 not in text


def test_a_narrow_terminal_cuts_lines_off() -> None:
    scene = Scene(["cut_it"])
    scene.main(1)
    scene.sample(1.0, (1, 1, 1), blocks=ram(18000, passes=3), phase="iterate")
    assert len(scene.text(width=30)) == len(scene.text())


def test_on_an_ordinary_terminal_no_number_is_cut_off() -> None:
    scene = Scene()
    scene.main(1)
    blocks = ram(8192, 300) | {"0000:00:02.0/vga.vram": BlockSeen(16 * MIB, 4096, 4080, 1)}
    scene.sample(1.0, (1, 1, 1), blocks=blocks, phase="iterate")
    for width in (80, 60):
        lines = scene.text(width)
        assert lines[3].startswith("pc.ram ")
        assert lines[3].endswith("  50% of 67.1 MB   8192   300     1")
        half, whole = lines[3].count("#"), lines[4].count("#")
        assert whole >= 8
        assert half == round(whole / 2)


SIZES = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_400: "99.4 kB", 99_600: "100 kB"}
LARGE = {999_400: "999 kB", 10**6: "1.0 MB", 25 * 10**8: "2.5 GB", 7 * 10**15: "7000.0 TB"}


@pytest.mark.parametrize(("count_bytes", "said"), [*SIZES.items(), *LARGE.items()])
def test_sizes_are_for_people(count_bytes: float, said: str) -> None:
    assert size(count_bytes) == said
