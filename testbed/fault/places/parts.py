"""Fields that lie inside another one: of a page record's be64, of what a command or message says.

The names are those that `testbed decode --json` shows, where it shows them. Layouts: QEMU
`migration/savevm.c`, `migration/migration.c`, `migration/ram.c`, 2.8 to 11.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from testbed.wire.element import Command, Element, Message, RamPage
from testbed.wire.structs import COMMAND, MESSAGE, U32, U64

BIT_FIELDS = ("address", "flags")
"""Of a page record: offset in the block, and the bits below the page size."""

Bounds = tuple[int, int]


def part_of(element: Element, name: str, page_bytes: int) -> Bounds | None:
    """Where the part lies, from the element's first byte; None if the element has none such.

    Of `address` and `flags`: in which bytes of the record their bits are.
    """
    match element.value:
        case RamPage() if name == "address":
            return 0, U64.size
        case RamPage() if name == "flags":
            return U64.size - -(-(page_bytes.bit_length() - 1) // 8), U64.size
        case Command(payload=payload) as command:
            return _placed(COMMANDS.get(command.name), payload, name, COMMAND.size)
        case Message(payload=payload) as message:
            return _placed(MESSAGES.get(message.name), payload, name, MESSAGE.size)
    return None


def names_of(name: str | None, *, message: bool) -> tuple[str, ...]:
    """The parts that a command or message of that name may have; of any name: all there are."""
    known = MESSAGES if message else COMMANDS
    layouts = known.values() if name is None else filter(None, [known.get(name)])
    return tuple(dict.fromkeys(part for layout in layouts for part in layout.names))


def with_bits(record: int, name: str, value: int, page_bytes: int) -> int | None:
    """The be64 of a page record with another address or other flags; None if they do not fit."""
    low = page_bytes - 1
    if name == "address":
        fits = 0 <= value < 1 << 64 and not value & low
        return value | record & low if fits else None
    return record & ~low | value if 0 <= value <= low else None


class _Layout:
    """Parts of a payload: their names, and where each of them lies in it."""

    def __init__(self, names: tuple[str, ...], find: Callable[[bytes, str], Bounds | None]) -> None:
        self.names = names
        self.find = find


def _placed(layout: _Layout | None, payload: bytes, name: str, head: int) -> Bounds | None:
    base, _, index = name.partition("[")
    if layout is None or (f"{base}[n]" if index else base) not in layout.names:
        return None
    found = layout.find(payload, name)
    if found is None or found[1] > len(payload):
        return None
    return head + found[0], head + found[1]


def _fixed(*sizes: tuple[str, int], block: bool = False) -> _Layout:
    """Numbers back to back, and behind them a counted string where `block`."""
    bounds: dict[str, Bounds] = {}
    at = 0
    for name, size in sizes:
        bounds[name] = at, at + size
        at += size

    def find(payload: bytes, name: str) -> Bounds | None:
        return _counted(payload, at) if name == "block" else bounds[name]

    return _Layout((*bounds, "block") if block else tuple(bounds), find)


def _counted(payload: bytes, at: int) -> Bounds | None:
    return (at + 1, at + 1 + payload[at]) if len(payload) > at else None


def _discard(payload: bytes, name: str) -> Bounds | None:
    """u8 version, counted string, a zero byte, then be64 start and length of each range."""
    block = _counted(payload, 1)
    if block is None or name == "block":
        return block
    if name == "version":
        return 0, 1
    base, _, index = name.removesuffix("]").partition("[")
    at = block[1] + 1 + 2 * U64.size * int(index) if index.isdecimal() else len(payload)
    at += U64.size * (base == "range_bytes")
    return at, at + U64.size


VALUE = _fixed(("value", U32.size))
PAGES = ("offset_bytes", U64.size), ("requested_bytes", U32.size)
COMMANDS: Mapping[str, _Layout] = {
    "PING": VALUE,
    "POSTCOPY_ADVISE": _fixed(("page_sizes", U64.size), ("target_page_bytes", U64.size)),
    "POSTCOPY_RAM_DISCARD": _Layout(
        ("version", "block", "range_start[n]", "range_bytes[n]"), _discard
    ),
    "PACKAGED": _fixed(("package_bytes", U32.size)),
    "RECV_BITMAP": _fixed(block=True),
}
MESSAGES: Mapping[str, _Layout] = {
    "SHUT": VALUE,
    "PONG": VALUE,
    "REQ_PAGES_ID": _fixed(*PAGES, block=True),
    "REQ_PAGES": _fixed(*PAGES),
    "RECV_BITMAP": _fixed(block=True),
    "RESUME_ACK": VALUE,
}
