"""The steps of a scenario, and what it does to the guest network, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.fault.sentence import listed, ordinal, time_words
from testbed.scenario import network, schema
from testbed.scenario.model import Model

from .expectations import exit_words


def step_words(step: schema.StepModel) -> str:
    """A step as one sentence."""
    match step.step:
        case schema.WaitForGuest() as it:
            times = f", and gone over it {_times(it.passes)}" if it.passes else ""
            return f"Wait until the guest has filled its working set{times}{_within(it.within)}."
        case schema.Migrate():
            return "Let the switch learn the guest's MAC at the source, and migrate."
        case schema.StartPostcopy() as it:
            pages = "" if it.after is None else f" and {it.after.pages} page records have passed"
            return f"Once the source is active{pages}, switch over to postcopy{_within(it.within)}."
        case schema.Wait() as it:
            return _wait(it)
        case schema.Cancel():
            return "Cancel the migration at the source."
        case schema.Recover():
            return "Recover over a new connection: migrate-recover, then migrate with resume."
        case schema.Retry() as it:
            how_long = f"within {time_words(it.within)}"
            return f"Start a new destination and migrate to it; both must settle {how_long}."
        case schema.Settle(for_=seconds):
            return f"Watch for another {time_words(seconds)}."
        case schema.CheckMemory():
            return "Stop the guest where it is, save it, and check every page that it stamps."
        case schema.CheckDeviceState():
            return "Save the destination, and compare its devices with what the source sent."
    raise AssertionError(step)


def _wait(it: schema.Wait) -> str:
    awaited = [
        f"the {side} is {' or '.join(statuses)}"
        for side, statuses in (("source", it.source), ("destination", it.destination))
        if statuses
    ]
    awaited += [
        f"the {side}'s process {exit_words(status)}"
        for side, status in (("source", it.source_exit), ("destination", it.destination_exit))
        if status is not None
    ]
    what = listed(awaited) if awaited else "both sides have settled"
    after = {"cancel": "; after that, cancel", "go_on": "; after that, go on", None: ""}
    return f"Wait until {what}{_within(it.within)}{after[it.on_expiry]}."


def _within(seconds: float) -> str:
    return f", for {time_words(seconds)} at most"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def network_words(it: network.Network) -> Iterator[str]:
    """What happens to the destination's announcements, a sentence each."""
    announce = it.announce
    match announce.drop:
        case network.ShareOf(share=share):
            yield f"{share * 100:.10g}% of the announcements are lost, by chance"
        case list(numbers) if numbers:
            yield f"{_announcements(numbers)} lost"
        case str():
            yield "all announcements are lost"
    for nth, delay_s in announce.delay.items():
        yield f"{_announcements([nth])} {time_words(delay_s)} late"
    duplicate = announce.duplicate
    copies = duplicate if isinstance(duplicate, dict) else dict.fromkeys(duplicate, 1)
    for nth, count in copies.items():
        yield f"{_announcements([nth])} followed by {count} cop{'y' if count == 1 else 'ies'}"
    for nth, how in announce.alter.items():
        yield f"{_announcements([nth])} altered: {_altered(how)}"
    for forged in announce.forge:
        yield _forged(forged)
    if it.link_up is not None:
        after = time_words(it.link_up.after)
        yield f"the destination's uplink passes nothing until {after} after {_state(it.link_up.at)}"


def _announcements(numbers: list[int] | list[str | int]) -> str:
    if numbers == ["all"]:
        return "every announcement is"
    words = listed([f"the {ordinal(int(number))}" for number in numbers])
    return f"{words} announcement{'s are' if len(numbers) > 1 else ' is'}"


def _altered(how: Model) -> str:
    match how:
        case network.NewMac(mac=mac):
            return f"its MAC is {mac}"
        case network.NewBytes(byte=byte, hex=raw):
            return f"from byte {byte} on it has {raw.hex(' ')}"
        case _:
            said = how.model_dump(exclude_none=True)
            return listed([f"its {name} is {mac}" for name, mac in said.items()])


def _forged(it: network.Forge) -> str:
    if it.at is not None:
        when = f"after {_state(it.at)}"
    elif it.before is not None:
        when = f"before the {ordinal(it.before)} announcement"
    else:
        when = f"after the {ordinal(it.after or 1)} announcement"
    whose = "the guest" if it.mac == "guest" else it.mac
    return f"{when}, a forged announcement of {whose} comes in at the {it.port}'s port"


def _state(it: network.Reported) -> str:
    nth = "" if it.occurrence == 1 else f" for the {ordinal(it.occurrence)} time"
    return f"the {it.side} has reported {it.state or it.event}{nth}"
