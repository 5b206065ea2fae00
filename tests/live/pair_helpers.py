"""Pairs of endpoints with a fault between them, through the proxy in namespaces; what came of it.

A table has rows, and a row variants, such as `early off`: words that say how it is run.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from testbed.lab.lab import Lab
from testbed.log import Log
from testbed.scenario.judge import attempts
from testbed.scenario.load import load
from testbed.scenario.machines import resolved
from testbed.scenario.run import Play, Settings, lab_plan
from testbed.tasks import together

ROOMY_BYTES = 8 << 20
"""Of the source's socket buffer, where it is to take the whole stream."""
STALL = {"stall": {"for": "400ms", "toward": "destination"}}
LATE = {"at": {"element": "file-header"}, "do": STALL}
SLOW = "4M"
WORDS = {
    "off": "without a return path",
    "on": "with one",
    "early": "the source still writes when the fault strikes: the rate is limited",
    "late": "the source has written everything into socket buffers by then",
    "first": "MESSAGE is the first message of the return path, PONG; the source still writes",
    "last": "MESSAGE is the last one, SHUT",
    "advised": "postcopy is on, which has a return path, and never begun",
}
STORY = ("STOP", "RESUME")
WRONG = ("step-refused", "upstream-refused")
TRIES = 3
"""Of a run whose fault waits for a page that the guest wants: one that is slow may want none."""
UNABLE = "Unable to write to socket: "
NOT_SAVED = "failed to save SaveStateEntry with id(name): 2(ram): -5"
LOST = ("Connection reset by peer", "Broken pipe", "Bad file descriptor")
HANGS = {"within": "1s"}
HANGS_STILL = {"within": "300ms"}
ALL_PAIRS = os.environ.get("ALL_PAIRS") == "1"


@dataclass(frozen=True)
class Side:
    """One side at its end. `story` has its statuses, and STOP and RESUME between them."""

    story: str
    status: str | None
    run_state: str | None
    exit_status: int | None
    error_desc: str | None
    stderr: tuple[str, ...]

    def without_write_error(self):
        """Which write fails first, and how, is a race: of the words that tell it nothing is left.

        QEMU names RAM if the write that fails is one of RAM's, and not one of a footer that was
        left over from before a wait. It sees the socket as its peer has left it, or closed by its
        own thread of the return path.
        """
        said = [line for line in self.stderr if line != NOT_SAVED]
        words = {f"{UNABLE}{why}": f"{UNABLE}(lost)" for why in LOST}
        return replace(
            self,
            error_desc=words.get(self.error_desc, self.error_desc),
            stderr=tuple(words.get(line, line) for line in said),
        )

    def without_place(self):
        """What it said last: what it says before tells where in the stream it was, a race."""
        return replace(self, stderr=self.stderr[-1:])

    def is_like(self, seen):
        """Whether it is what some fields say; of stderr all lines."""
        seen = {**seen, "stderr": tuple(seen.get("stderr", self.stderr))}
        return all(getattr(self, name) == value for name, value in seen.items())


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    verdict: str
    source: Side
    destination: Side


@dataclass(frozen=True)
class Case:
    """A row of a table, in one of its variants."""

    name: str
    variant: str
    row: dict[str, Any]
    profile: str  # of the models

    @property
    def id(self):
        return f"{self.name}-{self.variant.replace(' ', '-')}" if self.variant else self.name

    @cached_property
    def words(self):
        words = set(self.variant.split())
        assert words <= WORDS.keys(), words
        return words

    @property
    def verdicts(self):
        """Those that it may have, by what a real pair was seen to do."""
        given = {**self.row["verdicts"], **self.row.get("also", {})}[self.variant]
        return given if isinstance(given, list) else [given]

    @property
    def seen(self):
        """By side: what a real pair was seen to be, where that is more than one thing."""
        return self.row.get("seen", {})

    @property
    def is_slow(self):
        return bool(self.words & {"early", "first"}) or self.mode == "postcopy"

    @property
    def is_old(self):
        """It has neither a return path by itself, nor a bandwidth of postcopy."""
        return self.profile == "2.9"

    @property
    def mode(self):
        return self.row.get("mode", "precopy")

    def scenario(self):
        """The scenario file of it."""
        slow, row = self.is_slow, self.row
        capabilities = {"return-path": "off" not in self.words}
        if self.is_old:
            capabilities = {}
        mode = "postcopy" if "advised" in self.words else self.mode
        parameters = {"max-bandwidth": SLOW} if slow else {}
        if self.mode == "postcopy" and not self.is_old:
            parameters["max-postcopy-bandwidth"] = SLOW
        return {
            "description": self.id,
            "mode": mode,
            "guest": {
                "memory": "16M",
                "working_set": "2M" if slow else "1M",
                "pages_per_second": 1000 if self.mode == "postcopy" else 0,
                **row.get("guest", {}),
            },
            "destination": row.get("destination", {}),
            "capabilities": capabilities,
            "parameters": parameters,
            "faults": self._faults(),
            "steps": self._steps(),
            "expect": {"verdict": "completed"},
        }

    def _faults(self):
        text = json.dumps(self.row.get("faults", []))
        text = text.replace("MESSAGE", "PONG" if "first" in self.words else "SHUT")
        faults = json.loads(text)
        return [LATE, *faults] if "late" in self.words else faults

    def _steps(self):
        steps = ["wait_for_guest", "migrate"]
        if self.mode == "postcopy":
            steps.append({"start_postcopy": {"after": {"pages": 60}}})
        if self.row.get("recovers"):
            both = {"source": "postcopy-paused", "destination": "postcopy-paused"}
            steps += [{"wait": both}, "recover"]
            steps.append({"wait": {"source": "completed", "destination": "completed"}})
        elif "hang" in self.verdicts:
            until = self.row.get("until", {}).get(self.variant)
            steps += [{"wait": until}, {"wait": HANGS_STILL}] if until else [{"wait": HANGS}]
        else:
            steps.append("wait")
        # What is said just behind the last status has no event that tells of its end.
        return [*steps, {"settle": "100ms"}]

    def pairs(self, real, model):
        """Those that it is run on: each program at each side, at least."""
        pure, crossed = [(real, real), (model, model)], [(real, model), (model, real)]
        if not self.row.get("crossed"):
            return pure
        return [*pure, *crossed] if ALL_PAIRS else crossed


def cases(path, profile):
    """All of a table, in each of its variants; those that add little only with ALL_PAIRS=1."""
    return [
        Case(name, variant, row, profile)
        for name, row in yaml.safe_load(path.read_text()).items()
        for variant in (*row["verdicts"], *(row.get("also", {}) if ALL_PAIRS else ()))
    ]


class Unfired(Exception):
    """A fault did not strike."""


async def outcome(case, source, destination, folder):
    """Run it until its faults strike; what both sides came to.

    One that never does, or struck too early for one that is to be late, is an error.
    """
    for number in range(1, TRIES):
        with suppress(Unfired):
            return await _outcome(case, source, destination, folder / f"try-{number}")
    return await _outcome(case, source, destination, folder / f"try-{TRIES}")


async def _outcome(case, source, destination, folder):
    folder.mkdir(parents=True)
    path = folder / "pair.yaml"
    path.write_text(json.dumps(case.scenario()))
    scenario, log = load(path), Log()
    settings = await resolved(Settings(source, destination, accelerator="tcg"), scenario)
    async with Lab.build(lab_plan(scenario, settings, folder, "tcg"), log) as lab:
        if "late" in case.words:
            _make_room(lab.net.source)
        await lab.configure(scenario.capabilities, scenario.parameters)
        await Play(scenario, lab, log).run()
    if unfired := [event.facts["sentence"] for event in log.find("fault-unfired")]:
        raise Unfired(unfired)
    went_wrong = [event.facts for kind in WRONG for event in log.find(kind)]
    assert not went_wrong, (went_wrong, [event.facts["text"] for event in log.find("stderr")])
    if "late" in case.words:
        _check_lateness(log)
    attempt = attempts(log)[-1]
    return Outcome(attempt.verdict, *(_side(log, getattr(attempt, side)) for side in SIDES))


SIDES = ("source", "destination")


def _make_room(namespace):
    """Have the sockets that are opened there take a whole stream before anybody reads it."""
    with namespace.entered():
        Path("/proc/sys/net/ipv4/tcp_wmem").write_text(f"4096 {ROOMY_BYTES} {ROOMY_BYTES}")


def _check_lateness(log):
    """The source had stopped its guest, and so had written all, when the destination refused."""
    stopped = log.first("qmp-event", "source", event="STOP")
    refused = log.first("stderr", "destination")
    assert stopped is not None
    assert refused is not None
    assert stopped.number < refused.number


def _side(log, state):
    story = []
    for event in log:
        if event.kind == "attempt-ended":
            break
        if event.actor != state.side:
            continue
        if event.kind == "migration-status":
            story.append(event.facts["status"])
        elif event.kind == "qmp-event" and event.facts["event"] in STORY:
            story.append(event.facts["event"])
    return Side(
        " ".join(story),
        state.status,
        state.run_state,
        state.exit_status,
        state.error_desc,
        state.stderr,
    )


async def outcomes(runs, folder):
    """Run them side by side: of each a case, and the programs of source and destination."""
    return await together(*(outcome(*run, folder / str(number)) for number, run in enumerate(runs)))
