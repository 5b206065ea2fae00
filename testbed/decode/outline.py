"""Items as lines for people: offset, length, what it is; PART sections in a row as one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from .item import RETURN_PATH, Item
from .memory import KINDS

UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
RANGES_SHOWN_MAX = 3
VALUES_SHOWN_MAX = 16
TEXT_SHOWN_MAX = 64
SUFFIXES = {"section-cut": "  -- cut short", "section-recut": "  -- as the vmdesc says"}
HEX_FROM = 9
"""Numbers above it are shown in hex, too."""
Facts = Mapping[str, Any]
PLACE = 26
"""Columns of offset and length; `~` before a length: the end is not sure, but inferred."""


class Outline:
    """Renders items one by one; what is held back is one line of what comes many times in a row."""

    def __init__(self) -> None:
        self._group: tuple[object, ...] | None = None
        self._first = self._last = Item("")
        self._count = self._pages = self._zero = 0
        self._records: Counter[str] = Counter()
        self._sections: dict[str, None] = {}  # whose turns alternate: block, ram

    def lines(self, item: Item) -> Iterator[str]:
        """The lines of an item, and of the row that ended with it."""
        group = _group(item)
        if group is None or group != self._group:
            yield from self.rest()
        if group is None:
            yield from map(printable, _lines(item))
            return
        if self._group is None:
            self._group, self._first = group, item
        self._last = item
        self._count += 1
        self._pages += item.facts.get("pages", 0)
        self._zero += item.facts.get("zero", 0)
        self._sections[item.facts.get("idstr", "")] = None
        self._records.update(item.facts.get("records", {}))

    def rest(self) -> Iterator[str]:
        """The line that was held back."""
        if self._group is None:
            return
        counts = _counts(self._pages, self._zero, self._records)
        if self._first.kind == "section":
            many = f"{self._count} " if self._count > 1 else ""
            words = f"{many}PART {', '.join(self._sections)}{counts}"
        else:
            words = f"{_many(self._count, 'multifd packet')}{counts}"
        length = _end(self._last) - (self._first.offset or 0)
        yield printable(_line(self._first, words, length=length))
        self._group = None
        self._count = self._pages = self._zero = 0
        self._records.clear()
        self._sections.clear()


def _group(item: Item) -> tuple[object, ...] | None:
    """What items in a row have in common that are one line together; None: a line of its own."""
    if item.kind == "section" and item.facts["type"] == "PART":
        return ("PART",)
    if item.kind == "multifd-packet" and not item.facts["flags"]:
        return ("packets",)
    return None


def printable(text: str) -> str:
    """A line as it can be shown: names come from a stream, and may be made to harm a terminal."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def size(count: int) -> str:
    """Bytes as people read them: `64 MiB`, `1.5 KiB`, `24 bytes`."""
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} byte{'s' * (count != 1)}"


def _end(item: Item) -> int:
    return (item.offset or 0) + (item.length or 0)


def _line(item: Item, words: str, *, length: int | None = None) -> str:
    if item.offset is None:
        return f"{'':{PLACE}}{words}"
    sure = "" if item.facts.get("certainty", "exact") == "exact" else "~"
    shown = f"{sure}{item.length if length is None else length}"
    at = "" if item.at_s is None else f"{item.at_s:10.6f} "
    arrow = "<- " if item.direction == RETURN_PATH else ""
    return f"{at}{item.offset:#012x} {shown:>11}  {'  ' * item.in_package}{arrow}{words}"


def _lines(item: Item) -> Iterator[str]:
    facts = item.facts
    match item.kind:
        case "channel":
            yield f"{facts['name']}: {facts['kind']} channel"
        case "section" | "section-cut" | "section-recut":
            yield _line(item, _section(item))
            for block in facts.get("blocks") or ():
                yield f"{'':{PLACE}}  {_block(block)}"
        case "command" | "message":
            parts = [_part(name, value) for name, value in facts.items()][1:]
            yield _line(item, " ".join([facts[item.kind], *filter(None, parts)]))
        case "device":
            yield _line(item, _device(facts))
            yield from map(_field, facts.get("fields", ()))
        case "memory":
            yield f"{'':{PLACE}}{_memory(facts)}"
        case "end":
            yield _ended(facts)
        case kind if kind in WORDS:
            yield _line(item, WORDS[kind](facts))
        case kind:
            parts = [_part(name, value) for name, value in facts.items()]
            yield _line(item, " ".join([kind, *filter(None, parts)]))


def _subsection(facts: Facts) -> str:
    value = next((value for name, value in facts.items() if name not in _NAMED), "")
    return f"{facts['name']}: {_shown(value)}"


_NAMED = ("name", "version")


def _device(facts: Facts) -> str:
    words = f"payload of {facts['idstr']}, version {facts['version']}"
    instance = f", instance {facts['instance']:#x}" if facts["instance"] else ""
    why = f": {facts['why']}" if "why" in facts else ""
    return f"{words}{instance}{why}"


def _field(field: Facts) -> str:
    place = f"+{field['offset']:<6} {field['size']:>6}"
    shown = _value(field["value"])
    return f"{'':{PLACE}}  {place}  {field['name']}: {field['type']}  {shown}"


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value > HEX_FROM:
            return f"{value} ({value:#x})"
        case None:
            return "null"
        case str() if len(value) > TEXT_SHOWN_MAX:
            return f"{value[:TEXT_SHOWN_MAX]}... ({len(value) // 2} bytes)"
        case list() if len(value) > VALUES_SHOWN_MAX:
            first = " ".join(map(str, value[:VALUES_SHOWN_MAX]))
            return f"{first} ... ({len(value)} values)"
        case list():
            return " ".join(map(str, value))
    return str(value)


def _vmdesc(facts: Facts) -> str:
    if "error" in facts:
        return str(facts["error"])
    agrees = "not all sections end where it says" if facts["corrections"] else "confirms all ends"
    return f"{facts['devices']} device sections, {agrees}"


def _packet(facts: Facts) -> str:
    flags = " ".join(facts["flags"])
    return f"multifd packet {flags}{_counts(facts.get('pages', 0), facts.get('zero', 0))}"


def _memory(facts: Facts) -> str:
    used = facts["used_bytes"]
    counts = [f"{facts[name]} {name}" for name in KINDS if facts.get(name)]
    words = [f"{_many(facts['pages'], 'page')} ({', '.join(counts)})"]
    words += [_many(facts["runs"], "run"), _many(facts["passes"], "pass", "es")]
    of = "" if used is None else f" of {size(used)}"
    return f"memory {facts['block']}{of}: {', '.join(words)}"


def _ended(facts: Facts) -> str:
    if facts["whole"]:
        return f"whole: {facts['bytes']} bytes"
    return f"not whole, {facts['bytes']} bytes: {facts['why']}"


def _many(count: int, one: str, more: str = "s") -> str:
    return f"{count} {one}{more * (count != 1)}"


def _section(item: Item) -> str:
    facts = item.facts
    words = [f"{facts['type']} {facts['idstr']}"]
    if facts["type"] in ("START", "FULL"):
        if facts["instance"]:
            words.append(f"instance {facts['instance']:#x}")
        words += [f"section {facts['section_id']}", f"version {facts['version']}"]
    if "total_bytes" in facts:
        words.append(f"block list of {size(facts['total_bytes'])}")
    counts = _counts(facts.get("pages", 0), facts.get("zero", 0), facts.get("records", {}))
    if "mapped_bytes" in facts:
        counts += f", {size(facts['mapped_bytes'])} in place"
    return f"{', '.join(words)}{counts}{SUFFIXES.get(item.kind, '')}"


def _counts(pages: int, zero: int, records: Mapping[str, int] = MappingProxyType({})) -> str:
    words = [_many(pages, "page"), f"{zero} zero"] if pages else []
    words += [f"{count} {kind}" for kind, count in records.items()]
    return f": {', '.join(words)}" if words else ""


def _block(block: dict[str, Any]) -> str:
    extra = [f"page size {size(block['page_bytes'])}"] if "page_bytes" in block else []
    if "guest_physical_address" in block:
        extra.append(f"at {block['guest_physical_address']:#x}")
    if "pages_offset" in block:
        extra.append(f"pages from {block['pages_offset']:#x}")
    return ", ".join([f"{block['idstr']}  {size(block['used_bytes'])}", *extra])


def _part(name: str, value: Any) -> str:
    match name:
        case "value":
            return f"{value:#x}" if value > 9 else f"{value}"
        case "ranges":
            shown = [f"{start:#x}+{length:#x}" for start, length in value[:RANGES_SHOWN_MAX]]
            more = [f"... ({len(value)} ranges)"] if len(value) > RANGES_SHOWN_MAX else []
            return " ".join(shown + more)
        case "offset_bytes":
            return f"{value:#x}"
        case "requested_bytes":
            return f"length {value:#x}"
        case "discarded_bytes" | "package_bytes" | "target_page_bytes" | "page_sizes":
            return f"{name.removesuffix('_bytes').replace('_', ' ')} {value:#x}"
        case "block":
            return str(value)
    return f"{name.replace('_', ' ')} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


WORDS: Mapping[str, Callable[[Facts], str]] = {
    "file-header": lambda facts: f"file header, version {facts['version']}",
    "configuration": lambda facts: f"configuration: machine {facts['machine']}",
    "configuration-subsection": _subsection,
    "eof": lambda _: "EOF",
    "vmdesc": lambda facts: f"vmdesc: {_vmdesc(facts)}",
    "multifd-init": lambda facts: f"multifd channel {facts['channel']}, version 1",
    "multifd-packet": lambda facts: _packet(facts),
    "correction": lambda facts: f"correction: {facts['why']}",
    "layout-refused": lambda facts: f"the layout was not used: {facts['why']}",
    "opaque": lambda facts: f"?? {facts['why']}",
}
"""What people are told of an item of that kind."""
