#!/usr/bin/env python3
"""Any bytes, to any parser: they end as elements that tile them, whatever the bytes are.

`check` is what both a coverage-guided fuzzer and pytest call. Its first byte chooses the parser,
the second one how the rest is cut into chunks. Run it for longer:

    python tests/fuzz/fuzz_wire.py FOLDER -runs=1000000 -seed=1 -max_len=4096 -timeout=10

with the extra `fuzz` installed. FOLDER takes what reaches new code; `--seeds FOLDER` fills it,
`--pack FOLDER` makes the archive of it that `test_corpus.py` replays.
"""

from __future__ import annotations

import lzma
import random
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/wire"), str(ROOT / "tests/decode")]

CORPUS = Path(__file__).with_name("corpus.tar.xz")
INSTRUMENTED = ("testbed.wire", "testbed.decode")
SEED_BYTES_MAX = 4000
PIECES = (1, 3, 64, 1 << 20)
HELD_MAX = 100
SMALL = {
    "device.PAYLOAD_BYTES_MAX": HELD_MAX,
    "described.HELD_BYTES_MAX": HELD_MAX,
    "live.DATA_BYTES_MAX": 40,
    "main_channel.SECTIONS_MAX": 8,
    "main_channel.VMDESC_BYTES_MAX": 400,
    "ram.BLOCKS_MAX": 3,
}
"""Bounds of `testbed.wire` that no short input would reach, as `_bounded` has them."""


class Broken(AssertionError):
    """A parser did what none may do."""


def _channels() -> list[Callable[[], object]]:
    from wire_helpers import parse, precopy

    from testbed.wire import (
        LearnedLayout,
        MainChannel,
        MultifdChannel,
        PreemptChannel,
        ReturnPath,
        TlsChannel,
    )

    learned = LearnedLayout.of(parse(MainChannel(), [precopy()]))
    return [
        MainChannel,
        lambda: MainChannel(page_bytes=1024),
        lambda: MainChannel(page_bytes=1024, in_runs=True),
        lambda: MainChannel(page_bytes=1024, learned=learned),
        lambda: MainChannel(recovery=True),
        ReturnPath,
        MultifdChannel,
        PreemptChannel,
        TlsChannel,
    ]


def _pieces(data: bytes, how: int) -> Iterator[bytes]:
    """The data in chunks, as a byte says: of one size, or of random ones."""
    if how < len(PIECES):
        sizes: Iterator[int] = iter(lambda: PIECES[how], None)
    else:
        rng = random.Random(how)
        sizes = iter(lambda: rng.choice((1, 2, 5, 30, 200, 3000)), None)
    at = 0
    while at < len(data):
        size = next(sizes)
        yield data[at : at + size]
        at += size


def check(data: bytes) -> None:
    """Parse it; all that must hold of any bytes holds.

    Raises:
        Broken: it does not. Whatever else is raised is a defect, too.
    """
    if len(data) < 2:
        return
    which, how, rest = data[0] % len(checks()), data[1], data[2:]
    checks()[which](rest, how)


def _channel(make: Callable[[], object]) -> Callable[[bytes, int], None]:
    def run(data: bytes, how: int) -> None:
        from testbed.wire import Phase
        from testbed.wire.element import Opaque, PageRun

        channel = make()
        elements = _elements(channel, _pieces(data, how), data)
        if getattr(channel, "phase", None) is Phase.OPAQUE:
            _hold(isinstance(elements[-1].value, Opaque), "gave up without a reason")
        whole = _elements(make(), [data], data)
        if not any(isinstance(each.value, PageRun) for each in whole):
            _alike(elements, whole)
        for element in whole:
            if isinstance(element.value, Opaque):
                _hold(bool(element.value.why), f"no reason for {element}")
            elif not isinstance(element.value, PageRun):
                _encodes(element)
        _recut(whole)

    return run


def _elements(channel, pieces, data, *, silent=False, held_max=None):
    elements, tiled = [], 0
    for piece in pieces:
        found = channel.feed(piece)
        if silent:
            found += channel.silence()
        for element in found:
            _hold(element.offset == tiled, f"{element} does not begin at {tiled}")
            tiled = element.end
            elements.append(element)
        _hold(tiled + channel.pending == channel.fed, f"{channel.pending} pending at {tiled}")
        if held_max is not None:
            held = len(channel._reader.held)
            _hold(held <= held_max + len(piece), f"{held} bytes held")
    for element in channel.end():
        _hold(element.offset == tiled, f"{element} does not begin at {tiled}")
        tiled = element.end
        elements.append(element)
    _hold(tiled == channel.fed == len(data), f"{tiled} of {len(data)} bytes are in elements")
    raw = b"".join(element.raw for element in elements)
    if len(raw) == len(data):
        _hold(raw == data, "the elements' bytes are not those that were fed")
    return elements


def _alike(elements, whole):
    """In chunks the same comes out; but what nobody can read comes as it was fed."""
    from testbed.wire.element import Opaque

    known = [each for each in whole if not isinstance(each.value, Opaque)]
    found = [each for each in elements if not isinstance(each.value, Opaque)]
    _hold(known == found, f"in chunks {len(found)} elements, in one piece {len(known)}")


def _encodes(element):
    from testbed.wire import encode

    _hold(encode(element.value) == element.raw, f"not what it was read from: {element}")


def _recut(elements):
    from testbed.wire import StreamError
    from testbed.wire.recut import recut

    try:
        anew = recut(elements)
    except StreamError:
        return
    raw = b"".join(each.raw for each in anew)
    _hold(raw == b"".join(each.raw for each in elements), "bytes changed by cutting them anew")


def _silent(data: bytes, how: int) -> None:
    """The peer falls silent after each chunk; what that decides may be wrong, but tiles."""
    from testbed.wire import MainChannel

    _elements(MainChannel(page_bytes=1024), _pieces(data, how), data, silent=True)


def _bounded(data: bytes, how: int) -> None:
    """With bounds that are soon reached, no more than they say is held."""
    from testbed.wire import MainChannel
    from testbed.wire.element import SectionHeader, SectionType

    with ExitStack() as stack:
        for name, bound in SMALL.items():
            module, constant = name.split(".")
            where = import_module(f"testbed.wire.{module}")
            stack.enter_context(patch.object(where, constant, bound))
        channel = MainChannel(page_bytes=1024)
        elements = _elements(channel, _pieces(data, how), data, held_max=HELD_MAX)
        announced = sum(
            isinstance(each.value, SectionHeader)
            and each.value.type in (SectionType.START, SectionType.FULL)
            for each in elements
        )
        _hold(announced <= SMALL["main_channel.SECTIONS_MAX"], f"{announced} sections")
        blocks = channel.ram().blocks
        _hold(len(blocks) <= SMALL["ram.BLOCKS_MAX"] + 1, f"{len(blocks)} blocks")


def _layout(data: bytes, _how: int) -> None:
    from testbed.wire import Layout, StreamError
    from testbed.wire.fields import values

    try:
        layout = Layout.parse(data)
    except StreamError:
        return
    for device in islice(layout.devices, 50):
        fields = layout.fields(device.idstr, device.instance_id)
        end = 0
        for field in fields:
            _hold(field.start == end, f"{field} does not begin at {end}")
            end = field.end
        if end < 1 << 16:
            values(fields, bytes(end))


def _learned(data: bytes, _how: int) -> None:
    from testbed.wire import LearnedLayout, StreamError

    try:
        layout = LearnedLayout.from_json(data)
    except StreamError:
        return
    text = layout.to_json()
    _hold(LearnedLayout.from_json(text).to_json() == text, "not what was written")


def _xbzrle(data: bytes, how: int) -> None:
    from testbed.wire import xbzrle

    page = bytes([how]) * 512
    try:
        made = xbzrle.decode(page, data)
    except xbzrle.XbzrleError:
        return
    _hold(len(made) == len(page), f"a page of {len(made)} bytes")


def _capture(data: bytes, _how: int) -> None:
    from testbed.decode.capture import read_capture
    from testbed.decode.channels import SourceError

    try:
        source = read_capture(data, "capture")
        for channel in source.channels:
            carried = sum(len(each.data) for each in channel.chunks())
            _hold(carried <= len(data), f"{carried} bytes of {len(data)}")
    except SourceError as error:
        _hold("\n" not in error.what, "an error of several lines")


def _decoded(data: bytes, how: int) -> None:
    """Everything that `testbed decode` says of a stream, as text and as JSON."""
    import json

    from testbed.decode.channels import Chunk, SourceChannel
    from testbed.decode.decoding import Decoding
    from testbed.decode.outline import Outline
    from testbed.wire import MainChannel

    pieces = [Chunk(None, piece) for piece in _pieces(data, how)]
    channel = SourceChannel("fuzz", None, carried=lambda: iter(pieces))
    outline = Outline()
    decoding = Decoding(channel, MainChannel(in_runs=bool(how & 1)), fields="*")
    last = None
    for last in decoding.items():
        json.dumps(last.to_json())
        for line in outline.lines(last):
            _hold("\n" not in line, f"a line of several: {line!r}")
    _hold(last is not None and last.kind == "end", "no end")


def _hold(condition: bool, what: str) -> None:
    if not condition:
        raise Broken(what)


OTHERS = (_layout, _learned, _xbzrle, _capture, _decoded, _silent, _bounded)


@cache
def checks() -> tuple[Callable[[bytes, int], None], ...]:
    """What an input's first byte chooses from; imported late, so that a fuzzer sees inside."""
    return (*map(_channel, _channels()), *OTHERS)


def seeds() -> Iterator[bytes]:
    """Short inputs that reach deep: built streams, and the beginnings and ends of recorded ones."""
    from decode_helpers import Ends, pcap, pcapng
    from wire_helpers import DATA, postcopy, precopy, recorded

    built = [precopy(), postcopy()]
    decoded, silent, bounded = 13, 14, 15
    for stream in built:
        for which in (1, 2, 3, decoded, silent, bounded):
            yield bytes([which, 3]) + stream[:SEED_BYTES_MAX]
    for path in sorted(DATA.glob("*.bin.xz")):
        data = recorded(path.name.removesuffix(".bin.xz"))
        which = 5 if ".ret." in path.name else 4 if ".rec." in path.name else 0
        if ".c1." in path.name or ".c2." in path.name:
            which = 7 if "preempt" in path.name else 6
        yield bytes([which, 3]) + data[:SEED_BYTES_MAX]
        if which == 0:
            if (at := data.rfind(b"\x04\0\0\0", 0, data.rfind(b'"devices"'))) > 0:
                yield bytes([0, 3]) + data[:26] + data[at : at + SEED_BYTES_MAX]
            if (at := data.find(b"{", data.rfind(b"\0\x06"))) > 0:
                yield bytes([9, 0]) + data[at:][:SEED_BYTES_MAX]
    yield from _built_seeds()
    packets = Ends().whole(precopy()[:600], postcopy()[:300], size=200)
    yield bytes([12, 0]) + pcap(packets)
    yield bytes([12, 0]) + pcapng(packets)
    yield bytes([11, 7]) + b"\x05\x02ab\x00\x01c"
    yield bytes([8, 3]) + b"\x16\3\1\0\5hello" + b"\x17\3\3\1\0" + bytes(256)
    from wire_helpers import parse

    from testbed.wire import LearnedLayout, MainChannel

    yield bytes([10, 0]) + LearnedLayout.of(parse(MainChannel(), [precopy()])).to_json()


def _built_seeds() -> Iterator[bytes]:
    """What no recorded stream has at its beginning."""
    from hostile_helpers import mapped
    from wire_helpers import head

    from testbed.wire import build_section

    at = len(mapped(0, 0))
    yield bytes([1, 3]) + mapped(at, at + 16, 1024, page_bytes=1024) + bytes(1040) + b"\0" * 7
    vfio = bytes.fromhex("ffffffffef100004 0000000000000002 6162 ffffffffef100001")
    attributes = bytes.fromhex("0000000000001002 0000000000000001 aa 0000000000000001")
    table = bytes.fromhex("00000000 00000001 0001 0000") + bytes(16 + 8)
    for idstr, version, payload in (
        ("0000:00:01.0/vfio", 1, vfio),
        ("s390-storage_attributes", 0, attributes),
        ("spapr/htab", 1, table),
    ):
        yield bytes([1, 3]) + head() + build_section(1, 3, idstr, 0, version, payload)


def pack(folder: Path) -> None:
    """Write the files of a folder, which a fuzzer filled, as the corpus."""
    with lzma.open(CORPUS, "wb", preset=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            member = tarfile.TarInfo(path.name)  # nothing of this machine, no time
            member.size = path.stat().st_size
            with path.open("rb") as data:
                tar.addfile(member, data)


def corpus() -> Iterator[tuple[str, bytes]]:
    """The inputs that reach all that a fuzzer ever reached, by name."""
    with tarfile.open(CORPUS, "r:xz") as tar:
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None, "plain files only"
            yield member.name, data.read()


def peak_bytes(data: bytes) -> int:
    """What a check takes of memory at most."""
    tracemalloc.start()
    try:
        check(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    """Fuzz, write the seeds, or pack the corpus."""
    if sys.argv[1:2] == ["--pack"]:
        pack(Path(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--seeds"]:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / f"seed-{number:03}").write_bytes(seed)
        return
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        import testbed.decode.capture
        import testbed.decode.decoding
        import testbed.decode.outline
        import testbed.wire.recut  # noqa: F401
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
