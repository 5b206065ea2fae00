"""`testbed decode`: the channels of a source, decoded and written as lines or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from mmap import mmap
from pathlib import Path

from testbed.wire import MainChannel, ReturnPath, StreamError
from testbed.wire.identify import FIRST_BYTES, ChannelKind
from testbed.wire.learned import LEARNED_BYTES_MAX, LearnedLayout

from .channels import Chunk, SourceChannel, SourceError
from .decoding import Decoding
from .item import Item
from .kind import kind_of, parser_for
from .outline import Outline, printable
from .progress import progress
from .ramout import RamOut
from .sources import open_source


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    as_json: bool = False
    kind: ChannelKind | None = None  # None: as the first bytes say
    return_path: str | None = None  # a recording of it
    ram_out: Path | None = None
    fields: str | None = None  # a pattern of device sections
    learned: LearnedLayout | None = None  # for streams without a vmdesc


def read_layout(path: Path) -> LearnedLayout:
    """The layout that `learn` wrote down.

    Raises:
        SourceError: there is none.
    """
    try:
        with path.open("rb") as file:
            return LearnedLayout.from_json(file.read(LEARNED_BYTES_MAX + 1))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except StreamError as error:
        raise SourceError(f"{path}: no layout that `dump-layout` wrote: {error}") from error


def learn(paths: Sequence[str]) -> LearnedLayout:
    """The layout of the device sections of all these streams, which are of one machine.

    Raises:
        SourceError: one cannot be read, or has no vmdesc, or is of another machine.
    """
    learned: LearnedLayout | None = None
    for path in paths:
        with open_source(path) as source:
            decoding = Decoding(source.channels[0], MainChannel(in_runs=True))
            for _ in decoding.items():
                pass
            try:
                found = LearnedLayout.of(decoding.kept)
                learned = found if learned is None else learned.merge(found)
            except StreamError as error:
                raise SourceError(f"{path}: no layout can be learned from it: {error}") from error
    assert learned is not None, "no path"
    return learned


def show(path: str, wanted: Wanted) -> bool:
    """Decode what is at a path, and print it as it comes.

    Returns:
        True if every channel was whole.

    Raises:
        SourceError: it cannot be read at all.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_source(path))
        channels = source.channels
        for note in source.notes:
            sys.stderr.write(f"{source.name}: {note}\n")
        if wanted.return_path is not None:
            back = stack.enter_context(open_source(wanted.return_path))
            channels = (replace(channels[0], return_path=back.channels[0]), *channels[1:])
        return all([_show(channel, wanted) for channel in channels])


def _show(channel: SourceChannel, wanted: Wanted) -> bool:
    first, channel = headed(channel)
    kind = wanted.kind or kind_of(first, channel.name)
    mapped = channel.data if isinstance(channel.data, mmap) else None
    in_runs = wanted.ram_out is None or mapped is not None
    decoding = Decoding(
        channel,
        parser_for(kind, in_runs=in_runs, learned=wanted.learned),
        None if channel.return_path is None else ReturnPath(),
        fields=wanted.fields,
    )
    began = Item("channel", facts={"name": channel.name, "kind": kind.value})
    written = _json_lines if wanted.as_json else _text_lines
    with ExitStack() as stack:
        tell = stack.enter_context(progress(channel.name, channel.total_bytes))
        if wanted.ram_out is not None:
            ram_out = stack.enter_context(RamOut(wanted.ram_out, mapped))
            decoding.listen(lambda element: ram_out.add(element, decoding.page_bytes))
        for line in written(chain((began,), decoding.items())):
            sys.stdout.write(f"{line}\n")
            if mapped is None:
                sys.stdout.flush()  # a pipe may be slow, and somebody is reading along
            tell(decoding.fed_bytes)
        if wanted.ram_out is not None:
            _tell_files(ram_out)
    return decoding.broken is None


def _tell_files(ram_out: RamOut) -> None:
    for block, path in ram_out.files():
        sys.stderr.write(f"memory block {printable(block)} is in {path}\n")
    if ram_out.unread:
        sys.stderr.write(f"{ram_out.unread} pages cannot be unpacked: they stay as they were\n")


def headed(channel: SourceChannel) -> tuple[bytes, SourceChannel]:
    """The first bytes of a channel, and the channel with nothing taken from it."""
    if channel.data is not None:
        return bytes(channel.data[:FIRST_BYTES]), channel
    chunks = channel.chunks()
    taken: list[Chunk] = []
    first = b""
    while len(first) < FIRST_BYTES and (chunk := next(chunks, None)) is not None:
        taken.append(chunk)
        if chunk.missing_bytes:
            break
        first += chunk.data
    return first[:FIRST_BYTES], replace(channel, carried=lambda: chain(taken, chunks))


def _text_lines(items: Iterable[Item]) -> Iterator[str]:
    outline = Outline()
    for item in items:
        yield from outline.lines(item)
    yield from outline.rest()


def _json_lines(items: Iterable[Item]) -> Iterator[str]:
    for item in items:
        yield json.dumps(item.to_json(), ensure_ascii=False)
