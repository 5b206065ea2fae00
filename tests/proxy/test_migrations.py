"""When a migration begins and when it is over, by what a proxy sees."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from testbed.log import Event
from testbed.proxy.migrations import Began, Ended, Migrations


class Told:
    """Migrations that are told events; `said` is what they answered."""

    def __init__(self) -> None:
        self.migrations = Migrations()
        self.said: list[str] = []
        self._numbers = count()

    def __call__(self, kind: str, **facts: Any) -> Told:
        number = next(self._numbers)
        event = Event(number, float(number), "proxy", kind, facts)
        for change in self.migrations.event(event):
            match change:
                case Began(migration=migration):
                    self.said.append(f"{migration.number} begins")
                case Ended(migration=migration):
                    self.said.append(f"{migration.number} {migration.outcome}")
        return self

    def main(self, connection: int) -> Told:
        self("connection-opened", connection=connection)
        self("connection-identified", connection=connection, channel="main")
        return self("file-header", connection=connection, offset=0, version=3)

    def of(self, connection: int, channel: str | None) -> Told:
        self("connection-opened", connection=connection)
        return self("connection-identified", connection=connection, channel=channel)

    def end(self, connection: int) -> Told:
        facts = {"ended_by": "source", "how": "FIN", "bytes_forward": 100, "bytes_back": 10}
        return self("connection-ended", connection=connection, **facts)

    def whole(self, connection: int) -> Told:
        return self("eof", connection=connection, offset=99)

    def postcopy(self, connection: int) -> Told:
        return self("command", connection=connection, command="POSTCOPY_RUN", offset=50)


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_migration_begins_with_its_file_header_and_ends_with_its_connection(told: Told) -> None:
    told.main(1).whole(1).end(1)
    assert told.said == ["1 begins", "1 whole"]


def test_each_file_header_is_another_migration(told: Told) -> None:
    told.main(1).end(1).main(2).whole(2).end(2)
    assert told.said == ["1 begins", "1 cut", "2 begins", "2 whole"]


def test_it_is_over_when_all_its_channels_are(told: Told) -> None:
    told.main(1).of(2, "multifd").of(3, "multifd").whole(1).end(1).end(3)
    assert told.said == ["1 begins"]
    told.end(2)
    assert told.said == ["1 begins", "1 whole"]
    assert told.migrations.current is None


def test_a_connection_that_outlives_its_migration_is_no_part_of_the_next(told: Told) -> None:
    told.main(1).main(2).of(3, "multifd").whole(2).end(2).end(3)
    assert told.said == ["1 begins", "1 cut", "2 begins", "2 whole"]
    told.end(1)
    assert told.said[4:] == []


def test_bytes_of_all_its_channels_are_its_own(told: Told) -> None:
    told.main(1).of(2, "multifd")
    migration = told.migrations.current
    told.end(1).end(2)
    assert migration is not None
    assert (migration.bytes_forward, migration.bytes_back) == (200, 20)


def test_a_postcopy_that_lost_its_connection_is_not_over(told: Told) -> None:
    told.main(1).postcopy(1).end(1)
    assert told.said == ["1 begins"]
    told.of(2, "recovery").whole(2).end(2)
    assert told.said == ["1 begins", "1 whole"]


def test_a_postcopy_that_is_never_recovered_is_over_when_the_next_begins(told: Told) -> None:
    told.main(1).postcopy(1).end(1).main(2)
    assert told.said == ["1 begins", "1 paused", "2 begins"]


def test_a_destination_that_refuses_says_so(told: Told) -> None:
    told.main(1).whole(1)("message", connection=1, message="SHUT", value=1).end(1)
    assert told.said == ["1 begins", "1 refused"]


def test_one_that_is_encrypted_begins_with_its_first_connection(told: Told) -> None:
    told.of(1, "tls").of(2, "tls").end(1).end(2).of(3, "tls").end(3)
    assert told.said == ["1 begins", "1 encrypted", "2 begins", "2 encrypted"]


@pytest.mark.parametrize("channel", [None, "unknown", "main"])
def test_what_has_no_file_header_is_no_migration(told: Told, channel: str | None) -> None:
    told.of(1, channel).end(1)
    assert told.said == []


def test_strangers_do_not_keep_a_migration_open(told: Told) -> None:
    told.of(1, "unknown").main(2)("connection-opened", connection=3).whole(2).end(2)
    assert told.said == ["1 begins", "1 whole"]


def test_what_struck_is_noted_once_each(told: Told) -> None:
    told.main(1)
    for name in ("one", "two", "one"):
        told("fault-struck", connection=1, fault=name)
    assert told.migrations.current is not None
    assert told.migrations.current.struck == ["one", "two"]
