"""Any bytes, to any parser: they end as elements that tile them, whatever the bytes are.

`check` is what both a coverage-guided fuzzer and pytest call. Its first byte chooses the parser,
the second one how the rest is cut into chunks. Run it for longer:

    python tests/fuzz/fuzz_wire.py FOLDER -runs=1000000 -seed=1 -max_len=4096 -timeout=10

with the extra `fuzz` installed. FOLDER takes what reaches new code; `--seeds FOLDER` fills it.
"""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/wire"), str(ROOT / "tests/decode")]

INSTRUMENTED = ("testbed.wire", "testbed.decode")
SEED_BYTES_MAX = 4000
PIECES = (1, 3, 64, 1 << 20)


class Broken(AssertionError):
    """A parser did what none may do."""


def _channels() -> list[Callable[[], object]]:
    from wire_helpers import parse, precopy

    from testbed.wire import (
        LearnedLayout,
        MainChannel,
        MultifdChannel,
        OpaqueChannel,
        PreemptChannel,
        ReturnPath,
    )
    from testbed.wire.identify import ChannelKind

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
        lambda: OpaqueChannel(ChannelKind.TLS),
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
        from testbed.wire.element import Opaque, PageRun

        elements = _elements(make(), _pieces(data, how), data)
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


def _elements(channel, pieces, data):
    elements, tiled = [], 0
    for piece in pieces:
        for element in channel.feed(piece):
            _hold(element.offset == tiled, f"{element} does not begin at {tiled}")
            tiled = element.end
            elements.append(element)
        _hold(tiled + channel.pending == channel.fed, f"{channel.pending} pending at {tiled}")
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


OTHERS = (_layout, _learned, _xbzrle, _capture, _decoded)


@cache
def checks() -> tuple[Callable[[bytes, int], None], ...]:
    """What an input's first byte chooses from; imported late, so that a fuzzer sees inside."""
    return (*map(_channel, _channels()), *OTHERS)


def seeds() -> Iterator[bytes]:
    """Short inputs that reach deep: built streams, and the beginnings and ends of recorded ones."""
    from decode_helpers import Ends, pcap, pcapng
    from wire_helpers import DATA, postcopy, precopy, recorded

    built = [precopy(), postcopy()]
    for stream in built:
        for which in (1, 2, 3, len(checks()) - 1):
            yield bytes([which, 3]) + stream[:SEED_BYTES_MAX]
    for path in sorted(DATA.glob("*.bin.xz")):
        data = recorded(path.name.removesuffix(".bin.xz"))
        which = 5 if ".ret." in path.name else 0
        which = {".c1.": 6, ".c2.": 6}.get(path.name[-len(".c1.fwd.bin.xz") :][:4], which)
        yield bytes([which, 3]) + data[:SEED_BYTES_MAX]
        if which == 0:
            if (at := data.rfind(b"\x04\0\0\0", 0, data.rfind(b'"devices"'))) > 0:
                yield bytes([0, 3]) + data[:26] + data[at : at + SEED_BYTES_MAX]
            if (at := data.find(b"{", data.rfind(b"\0\x06"))) > 0:
                yield bytes([9, 0]) + data[at:][:SEED_BYTES_MAX]
    packets = Ends().whole(precopy()[:600], postcopy()[:300], size=200)
    yield bytes([12, 0]) + pcap(packets)
    yield bytes([12, 0]) + pcapng(packets)
    yield bytes([11, 7]) + b"\x05\x02ab\x00\x01c"
    from wire_helpers import parse

    from testbed.wire import LearnedLayout, MainChannel

    yield bytes([10, 0]) + LearnedLayout.of(parse(MainChannel(), [precopy()])).to_json()


def peak_bytes(data: bytes) -> int:
    """What a check takes of memory at most."""
    tracemalloc.start()
    try:
        check(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    """Fuzz, or write the seeds."""
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
