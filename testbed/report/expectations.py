"""What a scenario expects, in plain words."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping

from testbed.fault.sentence import listed, time_words
from testbed.scenario import schema

VERDICTS: Mapping[str, str] = {
    "completed": "the destination runs the guest, the source has stopped for good",
    "recovered": "the same as completed, after a pause and a recovery",
    "failed-clean": "the source runs on, the destination never ran",
    "paused-recoverable": "postcopy is paused, and a recovery can finish it",
    "source-lost": "the source's process has died, and nobody runs the guest",
    "split-brain": "both sides run the guest",
    "guest-lost": "neither side runs the guest, and neither will",
    "corrupt": "it says completed, and memory or device state is wrong",
    "hang": "something that had to come does not come within its bound",
    "crash": "an endpoint is ended by a signal that no fault sent",
}
RUNNING = {
    "both": "both sides run the guest",
    "none": "nobody runs the guest",
    "source": "the source runs the guest",
    "destination": "the destination runs the guest",
}


def expectations(expect: schema.Expect) -> Iterator[str]:
    """All that is asserted, a phrase each: the verdict and why, both sides, what else."""
    yield f"the verdict {expect.verdict}: {VERDICTS[expect.verdict]}"
    if expect.known_outcome is not None:
        yield f"this is known: {' '.join(expect.known_outcome.split())}"
    for name, side in (("source", expect.source), ("destination", expect.destination)):
        if phrases := list(_side(side)):
            yield f"the {name}: {'; '.join(phrases)}"
    if expect.running is not None:
        yield RUNNING[expect.running]
    if expect.memory is not None:
        yield f"the guest's memory is {expect.memory}"
    if expect.device_state is not None:
        yield f"the destination's device state {_device_state(expect.device_state)}"
    if expect.retry is not None:
        yield "a second migration to a new destination completes"
    if expect.loaded:
        loaded = [f"{it.section}, {_how_often(it.count)}" for it in expect.loaded]
        yield f"the destination loads: {'; '.join(loaded)}"
    if expect.wire:
        yield f"on the wire: {'; '.join(map(_wire, expect.wire))}"
    yield from _network(expect)
    if expect.total_time is not None:
        yield f"the migration takes {_how_long(expect.total_time)}"


def _device_state(word: str) -> str:
    return "is what the source sent" if word == "equal" else "differs from what the source sent"


def _side(side: schema.SideExpectation) -> Iterator[str]:
    if side.status is not None:
        yield f"status {' or '.join(side.status)}"
    if side.statuses is not None:
        yield f"it goes through {', '.join(side.statuses)}"
    if side.run_state is not None:
        yield f"its machine is {' or '.join(side.run_state)}"
    if side.exit is not None:
        there = side.exit == "running"
        yield f"its process {'is there' if there else exit_words(int(side.exit))}"
    if side.error != schema.UNSAID:
        yield "no error-desc" if side.error is None else f"error-desc like {_text(side.error)}"
    said = [_text(each) for each in side.stderr if each is not None]
    if said:
        yield f"stderr has {', then '.join(said)}"
    if side.no_stderr is not None:
        yield f"stderr has nothing like `{side.no_stderr}`"


def exit_words(status: int) -> str:
    """How a process has ended: with a status, or by a signal, whose number is negative."""
    if status >= 0:
        return f"has ended with {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _text(value: str | Mapping[str, str | None] | None) -> str:
    """A regular expression, or those of certain versions."""
    if not isinstance(value, Mapping):
        return f"`{value}`"
    forms = [
        f"{'nothing' if text is None else f'`{text}`'} (QEMU {versions})"
        for versions, text in value.items()
    ]
    return " or ".join(forms)


def _wire(it: schema.WireExpectation) -> str:
    what = f"the command {it.command}" if it.command else f"the message {it.message}"
    if it.section is not None:
        what = f"{it.kind.upper()} sections of {it.section}" if it.kind else it.section
    return f"{what}, {_how_often(it.count)}"


def _how_often(count: int | schema.Count) -> str:
    match count:
        case schema.Count(min=least, max=None):
            return f"{least} times or more" if least != 1 else "at least once"
        case schema.Count(min=least, max=most):
            return f"{least} to {most} times"
        case int(number):
            return "once" if number == 1 else f"{number} times" if number else "never"
    raise AssertionError(count)


def _network(expect: schema.Expect) -> Iterator[str]:
    if expect.announce is not None:
        yield f"the guest is announced: {'; '.join(_announce(expect.announce))}"
    if expect.forwarding is not None:
        ports = expect.forwarding.model_dump(exclude_none=True).items()
        said = listed([f"{when} the migration at the {side}" for when, side in ports])
        yield f"the switch has the guest's MAC {said}"
    if expect.outage is not None:
        yield f"frames for the guest go astray for {_how_long(expect.outage)}"


def _how_long(it: schema.TimeExpectation) -> str:
    bounds = [f"{time_words(it.min)} at least"] * (it.min > 0)
    bounds += [] if it.max is None else [f"{time_words(it.max)} at most"]
    return listed(bounds) if bounds else "any time"


def _announce(it: schema.AnnounceExpectation) -> Iterator[str]:
    if it.count is not None:
        yield _how_often(it.count)
    if it.mac is not None:
        macs = it.mac if isinstance(it.mac, list) else [it.mac]
        yield f"as {listed(['itself' if mac == 'guest' else mac for mac in macs])}"
    if it.layout is not None:
        yield "in QEMU's layout"
    if it.schedule is not None and it.tolerance is not None:
        times = ", ".join(map(time_words, it.schedule))
        yield f"at {times}, give or take {time_words(it.tolerance)}"
