"""Two streams side by side: why one version's QEMU would refuse the other's stream.

What a stream shows of its sender stands for what that sender would accept: the same sections, no
higher versions, the same blocks. The texts are those of QEMU `migration/savevm.c` and
`migration/ram.c`, 2.8 to 11.1.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.wire import Layout
from testbed.wire.fields import values

from .decoding import Decoding
from .fields import DeviceState
from .item import Item
from .kind import kind_of, parser_for
from .outline import printable, size
from .progress import progress
from .show import Wanted, headed
from .sources import open_source

FIELDS_SHOWN_MAX = 20
"""Of one section that differ."""
HEX_SHOWN_MAX = 32
"""Digits of a value that is longer."""
Key = tuple[str, int, int]
"""Of a section: idstr, instance_id, and the how-manieth of these it is."""


@dataclass(slots=True)
class Profile:
    """What of a stream is compared."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)  # once in a stream, by name
    blocks: dict[str, int] = field(default_factory=dict)  # used_length by idstr
    sections: dict[Key, Mapping[str, Any]] = field(default_factory=dict)  # START and FULL
    devices: dict[Key, DeviceState] = field(default_factory=dict)
    _counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # and their type
    layout: Layout | None = None

    @classmethod
    def of(cls, name: str, decoding: Decoding) -> Profile:
        """Read a channel to its end and keep what is compared."""
        profile = cls(name)
        for item in decoding.items():
            profile._take(item)
        profile.devices = {state.key: state for state in decoding.devices}
        profile.layout = decoding.layout
        return profile

    def _take(self, item: Item) -> None:
        facts = item.facts
        match item.kind:
            case "file-header":
                self.facts["stream version"] = facts["version"]
            case "configuration":
                self.facts["machine"] = facts["machine"]
            case "configuration-subsection":
                self.facts[facts["name"]] = facts.get("capabilities", facts)
            case "command":
                self.facts[f"command {facts['command']}"] = "sent"
            case "section" if facts["type"] in ("START", "FULL"):
                name = facts["idstr"], facts["instance"]
                self._counts[facts["type"], *name] += 1
                self.sections.setdefault((*name, self._counts[facts["type"], *name]), facts)
                for block in facts.get("blocks") or ():
                    self.blocks[block["idstr"]] = block["used_bytes"]
            case "end" if not facts["whole"]:
                self.facts["ends"] = facts["why"]


def differences(a: Profile, b: Profile) -> Iterator[str]:
    """A line for each difference; none if the streams are alike in all that is compared."""
    for name in _names(a.facts, b.facts):
        ours, theirs = a.facts.get(name, "none"), b.facts.get(name, "none")
        if ours != theirs:
            yield f"{name}: {ours} | {theirs}"
    for name in _names(a.blocks, b.blocks):
        yield from _block(name, a.blocks.get(name), b.blocks.get(name))
    for key in _names(a.sections, b.sections):
        yield from _section(key, a, b)


def _names(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> list[Any]:
    """The keys of both, in the order of the first one, then of the other."""
    return [*a, *(key for key in b if key not in a)]


def _block(name: str, ours: int | None, theirs: int | None) -> Iterator[str]:
    if ours == theirs:
        return
    if ours is None or theirs is None:
        only, lacks = ("A", "B") if theirs is None else ("B", "A")
        says = f'Unknown ramblock "{name}", cannot accept migration'
        yield f"RAM block {name}: only in {only}; {lacks}'s QEMU would say: {says}"
    else:
        says = f"Size mismatch: {name}: {ours:#x} != {theirs:#x}"
        yield f"RAM block {name}: {size(ours)} | {size(theirs)}; B's QEMU would say: {says}"


def _section(key: Key, a: Profile, b: Profile) -> Iterator[str]:
    ours, theirs = a.sections.get(key), b.sections.get(key)
    instance, nth = key[1:]
    title = f"section {key[0]}{f', instance {instance:#x}' if instance else ''}"
    title += f", number {nth} of that name" if nth > 1 else ""
    if ours is None or theirs is None:
        only, lacks = ("A", "B") if theirs is None else ("B", "A")
        says = f"Unknown savevm section or instance '{key[0]}' {instance}"
        yield f"{title}: only in {only}; {lacks}'s QEMU would say: {says}"
        return
    if ours["version"] != theirs["version"]:
        yield f"{title}: version {ours['version']} | {theirs['version']}; {_refusal(ours, theirs)}"
    if key in a.devices and key in b.devices:
        found = list(_state(key, a, b))
        if found:
            yield f"{title}: {found[0]}"
            yield from (f"  {line}" for line in found[1:])


def _refusal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    high, low = max(ours["version"], theirs["version"]), min(ours["version"], theirs["version"])
    refuses = "B" if ours["version"] > theirs["version"] else "A"
    says = f"unsupported version {high} for '{ours['idstr']}' v{low}"
    return f"{refuses}'s QEMU would say: {says}"


def _state(key: Key, a: Profile, b: Profile) -> Iterator[str]:
    """Where the payloads differ: a headline, then a line a field."""
    ours, theirs = a.devices[key].payload, b.devices[key].payload
    if ours == theirs:
        return
    mine, other = _fields(a.devices[key], a.layout), _fields(b.devices[key], b.layout)
    if not mine or not other:
        yield f"{len(ours)} | {len(theirs)} bytes differ, and no vmdesc names their fields"
        return
    lines = []
    for name in _names(mine, other):
        if mine.get(name) != other.get(name):
            lines.append(f"{name}: {_pair(mine.get(name), other.get(name))}")
    sizes = f"{len(ours)} | {len(theirs)} bytes, " if len(ours) != len(theirs) else ""
    yield f"{sizes}{'1 field differs' if len(lines) == 1 else f'{len(lines)} fields differ'}"
    yield from lines[:FIELDS_SHOWN_MAX]
    if len(lines) > FIELDS_SHOWN_MAX:
        yield f"... and {len(lines) - FIELDS_SHOWN_MAX} more"


def _fields(state: DeviceState, layout: Layout | None) -> dict[str, Any]:
    """Values by name; a name that is there again has its number."""
    fields = state.fields(layout)
    named: dict[str, Any] = {}
    for each, value in zip(fields, values(fields, state.payload), strict=True):
        name, count = each.name, 1
        while name in named:
            count += 1
            name = f"{each.name} ({count})"
        named[name] = value
    return named


def _pair(ours: Any, theirs: Any) -> str:
    """Two values; of long ones the place where they part."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        at = _parting(ours, theirs)
        return f"[{at}] {ours[at]} | {theirs[at]}"
    if isinstance(ours, str) and isinstance(theirs, str) and len(ours) > HEX_SHOWN_MAX:
        at = _parting(ours, theirs) // 2
        return f"byte {at}: {_from(ours, at)} | {_from(theirs, at)}"
    return f"{_shown(ours)} | {_shown(theirs)}"


def _parting(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    """The first place where two sequences differ."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def _from(text: str, at: int) -> str:
    shown = text[2 * at : 2 * at + HEX_SHOWN_MAX]
    return f"{shown}..." if shown else "its end"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def show_differences(path_a: str, path_b: str, wanted: Wanted) -> bool:
    """Print where two streams differ; true if they do not.

    Raises:
        SourceError: one cannot be read.
    """
    found = list(differences(_profile(path_a, wanted), _profile(path_b, wanted)))
    sys.stdout.write(f"A {path_a}\nB {path_b}\n")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in found or ["no difference"]))
    return not found


def _profile(path: str, wanted: Wanted) -> Profile:
    with open_source(path) as source:
        first, channel = headed(source.channels[0])
        kind = wanted.kind or kind_of(first, channel.name)
        parser = parser_for(kind, in_runs=True, learned=wanted.learned)
        with progress(channel.name, channel.total_bytes) as tell:
            decoding = Decoding(channel, parser, fields="*")
            decoding.listen(lambda _: tell(decoding.fed_bytes))
            return Profile.of(path, decoding)
