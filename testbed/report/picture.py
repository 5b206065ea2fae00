"""A picture of what passes, for a terminal: a few lines that are drawn again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from testbed.fault.lanes.memory import BlockSeen
from testbed.standalone.picture import Figures, Picture

from .words import printable, shortened

BLOCKS_SHOWN = 6
"""The largest; a machine has some ten, most of them small."""
FAULTS_SHOWN = 8
NAME_MAX = 32
BAR = 24
MESSAGES = ("PONG", "REQ_PAGES", "REQ_PAGES_ID", "RECV_BITMAP", "RESUME_ACK", "SHUT")
COMMANDS = ("PING", "PACKAGED", "POSTCOPY_RUN", "POSTCOPY_RESUME", "SWITCHOVER_START")
LEFT = ("", "memory block", "connection")
BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def drawn(picture: Picture) -> RenderableType:
    """The whole picture."""
    figures = picture.figures()
    parts: list[RenderableType] = [_line(_headline(picture, figures), "bold")]
    if picture.migration is not None:
        parts.append(_line(_memory_line(figures, passes=picture.migrations.current is not None)))
        if picture.sample.blocks:
            parts.append(_blocks(picture.sample.blocks, picture.sample.page_bytes))
    if picture.sample.connections:
        parts.append(_channels(picture))
    if counts := _counts(picture.messages, MESSAGES):
        parts.append(_line(f"return path  {counts}"))
    if counts := _counts(picture.commands, COMMANDS):
        parts.append(_line(f"commands     {counts}"))
    parts += _faults(picture.struck)
    return Group(*parts)


def size(count: float) -> str:
    """Bytes for people: `12 B`, `3.4 MB`; decimal, as rates are."""
    for unit in BYTE_UNITS[:-1]:
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {BYTE_UNITS[-1]}"


def _line(text: str, style: str = "") -> Text:
    """A line that is cut off, never wrapped: the picture keeps its height."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _headline(picture: Picture, figures: Figures) -> str:
    migration = picture.migration
    if migration is None:
        return figures.phase
    if picture.migrations.current is None:
        return f"migration {migration.number} is over ({migration.outcome}); {figures.phase}"
    section = f"  {printable(shortened(figures.section, NAME_MAX))}" if figures.section else ""
    return f"migration {migration.number}: {figures.phase}{section}"


def _memory_line(figures: Figures, *, passes: bool) -> str:
    parts = [f"{size(figures.bytes_forward)}, {size(figures.rate)}/s"]
    if figures.total_pages:
        parts.append(f"pass {figures.passes}")
        parts.append(f"{figures.pages} page records for {figures.total_pages} pages")
    if figures.left_s is not None:
        parts.append(f"{figures.left_s:.0f} s left of this pass")
    elif passes and figures.passes > 1:
        parts.append("how much is dirty again the stream does not say")
    return "  ".join(parts)


def _blocks(blocks: Mapping[str, BlockSeen], page_bytes: int) -> Table:
    table = _table("memory block", "", "passed", "pages", "zero", "pass", give_way=2)
    order = sorted(blocks, key=lambda name: -(blocks[name].used_bytes or 0))
    for name in order[:BLOCKS_SHOWN]:
        seen = blocks[name]
        table.add_row(
            _line(printable(shortened(name, NAME_MAX))),
            *_passed(seen, page_bytes),
            str(seen.pages),
            str(seen.zero_pages),
            str(seen.passes),
        )
    if len(order) > BLOCKS_SHOWN:
        rest = [blocks[name] for name in order[BLOCKS_SHOWN:]]
        pages, zero = sum(each.pages for each in rest), sum(each.zero_pages for each in rest)
        table.add_row(f"{len(rest)} more", "", "", str(pages), str(zero), "")
    return table


def _passed(seen: BlockSeen, page_bytes: int) -> tuple[RenderableType, str]:
    """How much of the block has passed, pages sent again included: full, and stays so."""
    if not seen.used_bytes:
        return "", ""
    total = max(1, seen.used_bytes // page_bytes)
    share = min(1.0, seen.pages / total)
    return _Bar(share), f"{share:.0%} of {size(seen.used_bytes)}"


@dataclass(frozen=True, slots=True)
class _Bar:
    """As long as there is room for: a bar that is cut off would say something else."""

    share: float

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("#" * round(self.share * min(options.max_width, BAR)))

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(options.max_width, BAR))


def _channels(picture: Picture) -> Table:
    table = _table("connection", "", "to destination", "a second", "to source", "a second")
    for each in picture.channels():
        table.add_row(
            str(each.number),
            each.channel,
            size(each.bytes_forward),
            size(each.rate_forward),
            size(each.bytes_back),
            size(each.rate_back),
        )
    if picture.channels_left_out:
        table.add_row(f"{picture.channels_left_out} more", "", "", "", "", "")
    return table


def _table(*headings: str, give_way: int = 0) -> Table:
    """A table whose first columns are narrower on a narrow terminal: numbers are not cut off."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, heading in enumerate(headings):
        table.add_column(
            _line(heading),
            justify="left" if heading in LEFT else "right",
            no_wrap=number >= give_way,  # what could wrap is what Rich makes narrower
        )
    return table


def _counts(counted: Mapping[str, int], known: tuple[str, ...]) -> str:
    return "  ".join(f"{name} {counted[name]}" for name in known if counted.get(name))


def _faults(struck: Mapping[str, int]) -> Iterator[Text]:
    for name, times in list(struck.items())[:FAULTS_SHOWN]:
        what = f"struck {times} times" if times > 1 else "struck" if times else "armed"
        style = "red" if times else ""
        yield _line(f"fault        {printable(shortened(name, NAME_MAX))}: {what}", style)
    if len(struck) > FAULTS_SHOWN:
        yield _line(f"             {len(struck) - FAULTS_SHOWN} more")
