"""What a destination says of its loading: the lines of QEMU's trace backend `log` on its stderr.

Every section and command of the stream is named as it is loaded, also where the guest runs on.
The events are there from 2.9 to 11.1, and in every build whose trace backends include `log`, as
Debian's do; elsewhere the option is taken and nothing is said.

Source: QEMU `migration/trace-events`; `scripts/tracetool/backend/log.py`: up to 6.1 each line
begins with `pid@seconds.microseconds:`, since 6.2 only with `-msg timestamp=on`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from testbed.wire.element import CommandType

TRACE_ARGUMENTS = ("-trace", "qemu_loadvm_state_section_*", "-trace", "loadvm_process_command*")
"""Patterns, since QEMU warns of an event that it does not have, but not of a pattern."""

PARTS_MAX = 20
"""PART and END sections of one section_id that are told one by one; then only counted. As many as
the proxy tells of what passes."""

LINES_MAX = 20_000
"""START and FULL sections and commands that are told: a stream decides how many there are."""

SECTION_IDS_MAX = 4096
"""Of START and FULL sections that are known by name; a machine has some 60."""

TRACED = re.compile(
    r"(?P<before>.*?)(?:\d+@\d+\.\d+:)?"
    r"(?:"
    r"qemu_loadvm_state_section_startfull (?P<id>\d+)\((?P<idstr>.*)\) (?P<instance>\d+)"
    r" (?P<version>\d+)"
    r"|qemu_loadvm_state_section_partend (?P<part>\d+)"
    r"|loadvm_process_command com=(?P<command>\S+) len=(?P<length>\d+)"
    r"|qemu_loadvm_state_section_command -?\d+"
    r"|loadvm_process_command_ping 0x[0-9a-f]+"
    r")"
)
"""One line. An error message is written in pieces, so a trace line may come in the middle of it:
`before` is then the beginning of that message, whose rest is on the next line."""

Told = tuple[str, dict[str, Any]]
"""Kind and facts of an event."""


@dataclass(slots=True)
class Loading:
    """What a destination was seen to load, and how much of it was not told one by one.

    `is_traced`: it has said anything at all. `is_cut`: there was more than `LINES_MAX`. `parts`
    counts PART and END sections by section_id.
    """

    is_traced: bool = False
    is_cut: bool = False
    parts: Counter[int] = field(default_factory=Counter)
    _told: int = 0
    _names: dict[int, tuple[str, int]] = field(default_factory=dict)

    def read(self, line: str) -> tuple[str, list[Told]] | None:
        """Read a line of stderr.

        Returns:
            What of the line belongs to another message (mostly nothing), and the events that the
            rest makes; None: it is no line of the trace.
        """
        found = TRACED.fullmatch(line)
        if found is None:
            return None
        self.is_traced = True
        return found["before"], list(self._events(found))

    def counts(self) -> dict[str, int]:
        """PART and END sections by idstr and instance; by section_id where that has no name."""
        counted: Counter[str] = Counter()
        for section_id, number in self.parts.items():
            counted[self._name(section_id)] += number
        return dict(counted)

    def _name(self, section_id: int) -> str:
        known = self._names.get(section_id)
        return f"section {section_id}" if known is None else f"{known[0]} {known[1]}"

    def _events(self, found: re.Match[str]) -> Iterator[Told]:
        if found["id"] is not None:
            yield from self._section(found)
        elif found["part"] is not None:
            yield from self._part(int(found["part"]))
        elif found["command"] is not None and self._is_told():
            yield (
                "command-loaded",
                {"command": _command(found["command"]), "length": int(found["length"])},
            )

    def _section(self, found: re.Match[str]) -> Iterator[Told]:
        section_id, instance = int(found["id"]), int(found["instance"])
        if len(self._names) < SECTION_IDS_MAX:
            self._names[section_id] = found["idstr"], instance
        if self._is_told():
            yield (
                "section-loaded",
                {
                    "section": found["idstr"],
                    "kind": "start or full",
                    "instance": instance,
                    "version": int(found["version"]),
                    "section_id": section_id,
                },
            )

    def _part(self, section_id: int) -> Iterator[Told]:
        if section_id not in self.parts and len(self.parts) >= SECTION_IDS_MAX:
            self.is_cut = True
            return
        self.parts[section_id] += 1
        if self.parts[section_id] <= PARTS_MAX:
            idstr, instance = self._names.get(section_id, (None, None))
            facts = {"section": idstr, "kind": "part or end", "instance": instance}
            yield "section-loaded", {**facts, "section_id": section_id}

    def _is_told(self) -> bool:
        self._told += 1
        self.is_cut |= self._told > LINES_MAX
        return self._told <= LINES_MAX


def _command(said: str) -> str:
    """The name of a command, which QEMU up to 5.2 says as a number: `com=0x1`."""
    try:
        number = int(said, 16) if said.startswith("0x") else None
        return said if number is None else CommandType(number).name
    except ValueError:  # a command that we do not know
        return said
