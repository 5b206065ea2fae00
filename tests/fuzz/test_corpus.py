"""What a fuzzer found to reach new code, replayed: each of it holds what must hold."""

from __future__ import annotations

import fuzz_wire
import pytest

INPUT_BYTES_MAX = 4096
PEAK_BYTES_MAX = 32 << 20
"""Of one input: parsed twice, with all its elements at once."""


@pytest.fixture(scope="module")
def corpus() -> dict[str, bytes]:
    return dict(fuzz_wire.corpus())


def test_every_input_of_the_corpus_holds(corpus: dict[str, bytes]) -> None:
    assert max(map(len, corpus.values())) <= INPUT_BYTES_MAX
    for name, data in corpus.items():
        try:
            fuzz_wire.check(data)
        except Exception as error:
            error.add_note(f"input {name} of the corpus")
            raise


def test_the_corpus_and_the_seeds_have_inputs_for_every_check(corpus: dict[str, bytes]) -> None:
    every = set(range(len(fuzz_wire.checks())))
    assert {data[0] % len(every) for data in corpus.values() if len(data) > 1} == every
    assert {data[0] for data in fuzz_wire.seeds()} == every


def test_every_seed_holds_and_takes_little_memory() -> None:
    for number, data in enumerate(fuzz_wire.seeds()):
        assert fuzz_wire.peak_bytes(data) < PEAK_BYTES_MAX, f"seed {number}"


def test_a_check_notices_a_parser_that_loses_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks themselves can fail."""
    from testbed.wire.channel import Channel

    feed = Channel.feed
    monkeypatch.setattr(Channel, "feed", lambda channel, data: feed(channel, data[:-1]))
    with pytest.raises(fuzz_wire.Broken, match="bytes are in elements"):
        fuzz_wire.check(bytes([0, 3]) + b"QEVM\0\0\0\3")
