"""What a file may say of announcements word by word, and still makes no sense as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.netns.rarp import RARP_FRAME_BYTES

from . import network

Finding = tuple[tuple[str | int, ...], str]


def network_problems(written: network.Network, mode: str) -> Iterator[Finding]:
    """Every impossible combination, with the path of keys below `network` that it shows at."""
    yield from ((("announce", *at), why) for at, why in _announce(written.announce, mode))
    if written.link_up is not None:
        yield from _reported(("link_up", "at"), written.link_up.at, mode)


def _announce(announce: network.Announce, mode: str) -> Iterator[Finding]:
    for key in ("delay", "duplicate", "alter"):
        for nth in getattr(announce, key):
            if announce.drop == "all":
                yield (key,), "all announcements are dropped: nothing else can happen to one"
                break
            if isinstance(announce.drop, list) and nth in announce.drop:
                yield (key, nth), f"announcement {nth} is dropped: nothing else can happen to it"
    if announce.delay and not any(announce.delay.values()):
        yield ("delay",), "no time: nothing is delayed; without `all` there is nothing to except"
    for nth, how in announce.alter.items():
        if isinstance(how, network.NewBytes) and how.byte + len(how.hex) > RARP_FRAME_BYTES:
            why = f"an announcement has {RARP_FRAME_BYTES} bytes, these go on to byte "
            yield ("alter", nth, "hex"), f"{why}{how.byte + len(how.hex) - 1}"
    for number, forge in enumerate(announce.forge):
        if [forge.before, forge.after, forge.at].count(None) != 2:
            why = "say when: `before` or `after` an announcement, or `at` a state"
            yield ("forge", number), why
        if forge.at is not None:
            yield from _reported(("forge", number, "at"), forge.at, mode)


def _reported(at: tuple[str | int, ...], place: network.Reported, mode: str) -> Iterator[Finding]:
    if (place.state is None) == (place.event is None):
        yield at, "say which: `state` (a migration status), or `event`"
    if mode == "precopy" and (place.state or "").startswith("postcopy-"):
        yield at, f"no side is ever {place.state} in a scenario whose `mode` is precopy"
