"""How often what passed: occurrences for faults to count by, and a sentence for people."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from .element import Command, Message, SectionHeader, SectionType

SEEN_SECTIONS_MAX = 48
SEEN_COMMANDS_MAX = 24

SectionKind = tuple[SectionType, str, int]


class Tally:
    """Counts of sections by type, idstr and instance, and of commands or messages by name."""

    def __init__(self) -> None:
        self._sections: Counter[SectionKind] = Counter()
        self._names: Counter[str] = Counter()

    def copy(self) -> Tally:
        """A tally that goes on from here on its own."""
        tally = Tally()
        tally._sections, tally._names = self._sections.copy(), self._names.copy()
        return tally

    def section(self, header: SectionHeader) -> int:
        """Count a section; the how-manieth of its kind it is."""
        kind = (header.type, header.idstr, header.instance_id)
        self._sections[kind] += 1
        return self._sections[kind]

    def named(self, value: Command | Message) -> int:
        """Count a command or message; the how-manieth of its name it is."""
        self._names[value.name] += 1
        return self._names[value.name]

    def __str__(self) -> str:
        """What passed, in the order of first occurrence, cut to a readable length."""
        sections = [
            f"{f'{count} ' if count > 1 else ''}{kind.name} {idstr}"
            f"{f' (instance {instance_id:#x})' if instance_id else ''}"
            for (kind, idstr, instance_id), count in islice(
                self._sections.items(), SEEN_SECTIONS_MAX
            )
        ]
        if len(self._sections) > SEEN_SECTIONS_MAX:
            sections.append(f"... ({self._sections.total()} sections)")
        names = [
            f"{name} x{count}" if count > 1 else name
            for name, count in islice(self._names.items(), SEEN_COMMANDS_MAX)
        ]
        if len(self._names) > SEEN_COMMANDS_MAX:
            names.append("...")
        return ", ".join(sections + names) or "nothing"
