"""From what a file says of announcements to the faults that the lab takes."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.fault.plan import Side, StatePlace
from testbed.lab.announce import (
    EVERY,
    Alteration,
    AnnounceFaults,
    Forged,
    LinkUp,
    Port,
)
from testbed.netns.rarp import MAC_OFFSETS

from . import network
from .model import Model


def announce_faults(written: network.Network, guest_mac: str, seed: int) -> AnnounceFaults | None:
    """The faults on a run's announcements, if there are any; `seed` is the run's."""
    if not written.hits_announcements:
        return None
    announce, link_up = written.announce, written.link_up
    drop, duplicate = announce.drop, announce.duplicate
    copies = duplicate if isinstance(duplicate, dict) else dict.fromkeys(duplicate, 1)
    return AnnounceFaults(
        drop=frozenset({EVERY} if drop == "all" else drop if isinstance(drop, list) else ()),
        drop_share=drop.share if isinstance(drop, network.ShareOf) else None,
        seed=seed,
        delay_s={_number(nth): delay_s for nth, delay_s in announce.delay.items()},
        copies={_number(nth): count for nth, count in copies.items()},
        alter={_number(nth): tuple(_alterations(how)) for nth, how in announce.alter.items()},
        forge=tuple(_forged(each, guest_mac) for each in announce.forge),
        link_up=LinkUp(link_up.after, _place(link_up.at)) if link_up else None,
    )


def _number(nth: str | int) -> int:
    return EVERY if isinstance(nth, str) else nth


def _alterations(how: Model) -> Iterator[Alteration]:
    match how:
        case network.NewMac(mac=mac):
            addresses = dict.fromkeys(MAC_OFFSETS, mac)
        case network.NewAddresses():
            said = {name: getattr(how, name) for name in MAC_OFFSETS}
            addresses = {name: mac for name, mac in said.items() if mac is not None}
        case network.NewBytes(byte=offset, hex=data):
            yield Alteration(offset, data)
            return
        case _:
            raise AssertionError(how)
    for name, mac in addresses.items():
        yield Alteration(MAC_OFFSETS[name], bytes.fromhex(mac.replace(":", "")), name)


def _forged(written: network.Forge, guest_mac: str) -> Forged:
    return Forged(
        guest_mac if written.mac == "guest" else written.mac,
        Port(written.port),
        written.before,
        written.after,
        _place(written.at) if written.at else None,
    )


def _place(at: network.Reported) -> StatePlace:
    return StatePlace(Side(at.side), at.state, at.event, at.occurrence)
