"""The steps of a run: a scenario played on a lab. Writes what happens; judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from testbed.endpoint.base import EndpointError, MachineSpec, QmpRefused, ScenarioRefused
from testbed.endpoint.kvm import choose_accelerator
from testbed.endpoint.program import QEMU, Program, model, shared_accelerator
from testbed.endpoint.qemu import Qemu
from testbed.guest import GuestSpec, stamps_said
from testbed.lab.lab import Lab, LabPlan, SidePlan
from testbed.lab.saved import SavedState
from testbed.log import Event, Log, WaitExpired
from testbed.model.profile import PROFILES
from testbed.netns.inside import FOLDER
from testbed.tasks import together

from . import schema
from .detour import Detour
from .lacks import Lacks
from .loaded import loading
from .network_faults import announce_faults
from .resting import Resting
from .scenario import Scenario
from .settling import settled
from .units import VersionRange

SETTLED = frozenset({"completed", "failed", "cancelled", "postcopy-paused"})
"""Migration statuses that stay until somebody acts."""
TO_BE_JUDGED_S = 1.0
"""Before the deadline: a network that has not settled by then leaves something unknown, no hang."""
NO_RULE = (
    "the guest had not filled its working set when it was migrated, as far as its serial line says"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line decides about a run, beside the scenario."""

    source: Program = field(default_factory=model)
    destination: Program = field(default_factory=model)
    accelerator: str = "auto"
    seed: int | None = None
    toxiproxy: str | None = None  # HOST:PORT, in place of the scenario's
    machine: str | None = None  # QEMU's -M, in place of the scenario's `guest.machine`
    nic: str | None = None  # in place of the scenario's `guest.nic`
    machines: Mapping[str, str] = field(default_factory=dict)
    """What each `-M` of the scenario is on both sides; `machines.py` finds it out."""
    untrusted: bool = False  # scenarios are not trusted; `untrusted.py` has checked them


def lab_plan(scenario: Scenario, settings: Settings, folder: Path, accelerator: str) -> LabPlan:
    """What the lab of a scenario is built from; `accelerator` is both sides', `kvm` or `tcg`."""
    written = scenario.model
    guest = written.guest
    seed = written.seed if settings.seed is None else settings.seed

    def side(own: schema.SideMachine, program: Program, *, paused: bool) -> SidePlan:
        machine = own.machine or settings.machine or guest.machine
        return SidePlan(
            program,
            MachineSpec(
                machine=settings.machines.get(machine, machine),
                memory_bytes=guest.memory,
                cpus=guest.cpus,
                accelerator=accelerator,
                devices=tuple(guest.devices if own.devices is None else own.devices),
                arguments=tuple(guest.arguments if own.arguments is None else own.arguments),
                mac=guest.mac,
                nic=settings.nic or guest.nic,
                paused=paused,
            ),
        )

    return LabPlan(
        source=side(written.source, settings.source, paused=False),
        destination=side(
            written.destination, settings.destination, paused=written.destination.paused
        ),
        guest=GuestSpec(
            guest.memory,
            guest.working_set,
            guest.pages_per_second,
            seed,
        ),
        folder=folder,
        faults=scenario.faults,
        seed=seed,
        announce=announce_faults(written.network, guest.mac, seed),
        probe_every_s=written.network.probe.every if written.network.probe else None,
        sandboxed=settings.untrusted,
    )


async def play(
    scenario: Scenario,
    settings: Settings,
    folder: Path,
    log: Log,
    hold: Callable[[], Awaitable[None]] | None = None,
    detour: Detour | None = None,
) -> None:
    """Build the lab and play the scenario's steps on it; everything that happens is in the log.

    Args:
        scenario: to be played.
        settings: of the command line.
        folder: where the capture is written.
        log: of the run.
        hold: called when all is done and everything is still up; may never return.
        detour: what the connections pass behind the proxy, outside of the run.

    Raises:
        Lacks: the environment lacks something that the scenario needs.
        ScenarioRefused: an endpoint does not know a device or capability of the scenario.
        EndpointError: an endpoint could not be started.
        OSError: the environment refused a namespace, link or socket.
    """
    if (other := other_endpoint(scenario, settings)) is not None:
        raise Lacks(other)
    accelerator = await _accelerator(settings)
    async with Lab.build(lab_plan(scenario, settings, folder, accelerator), log, detour) as lab:
        _check_versions(scenario, lab)
        played = scenario.between(lab.source.version, lab.destination.version)
        try:
            await lab.configure(played.capabilities, played.parameters)
        except ScenarioRefused as refused:
            required = scenario.model.requires.capabilities
            if refused.capabilities and refused.capabilities <= {*required}:
                raise Lacks(refused.message) from refused
            raise
        await Play(played, lab, log).run()
        if hold is not None:
            await lab.wake()
            list(lab.net.pin(FOLDER))
            await hold()


async def _accelerator(settings: Settings) -> str:
    """Once for both: device state of KVM and of TCG are not the same."""
    if settings.accelerator != "auto":
        return settings.accelerator
    decided = shared_accelerator(settings.source, settings.destination)
    return decided or await choose_accelerator(
        settings.source.command, settings.destination.command
    )


def other_endpoint(scenario: Scenario, settings: Settings) -> str | None:
    """Why a scenario is for endpoints of another kind than the command line has; None: it is not.

    Whoever runs a whole folder leaves it out.
    """
    wanted = scenario.model.requires.endpoint
    for side in ("source", "destination"):
        kind = getattr(settings, side).kind
        if wanted not in (None, kind):
            needs = "a real QEMU" if wanted == QEMU else "the model"
            return (
                f"{scenario.name} needs {needs} on both sides, the {side} is a {kind}: "
                f"--endpoint {wanted}"
            )
    versions = VersionRange.parse(scenario.model.requires.qemu)
    for side in ("source", "destination"):
        profile = getattr(settings, side).profile
        if profile is not None and not versions.matches(PROFILES[profile].version):
            return (
                f"{scenario.name} needs QEMU {versions.text}, the {side} is the model of "
                f"{profile}: name another with --profile"
            )
    return None


def _check_versions(scenario: Scenario, lab: Lab) -> None:
    wanted = VersionRange.parse(scenario.model.requires.qemu)
    for end in (lab.source, lab.destination):
        if not wanted.matches(end.version):
            raise Lacks(
                f"{scenario.name} needs QEMU {wanted.text}, the {end.side} is "
                f"{'.'.join(map(str, end.version))}: name another with --{end.side}-qemu "
                "or --profile"
            )


class NeverComes(Exception):
    """What is waited for cannot come any more: the sentence says why."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(why)
        self.what = what


def _end_of_process(event: Event) -> str:
    how = event.facts.get("signal") or f"exit status {event.facts.get('status')}"
    return f"the {event.actor}'s process ended ({how}) at {event.at_s:.3f} s"


class Play:
    """One scenario being played: keeps where in the log its present attempt began."""

    def __init__(self, scenario: Scenario, lab: Lab, log: Log) -> None:
        self._scenario = scenario
        self._lab = lab
        self._log = log
        self._since = 0
        self._looked = False  # the present attempt's end has been written down
        self._guests_seen: list[Qemu] = []  # whose guest was watched in the present attempt
        self._recovered: dict[str, int] = {}  # where in the log to look for a side's next status
        self._began_s = log.now_s()

    async def run(self) -> None:
        """Play every step, and end the last attempt; a wait that expired ends the steps."""
        try:
            async with asyncio.timeout(self._scenario.model.deadline):
                for number, step in enumerate(self._scenario.steps):
                    self._log.write("run", "step-began", step=step.name, number=number)
                    await self._step(step.step)
                await self._network_settles()
        except NeverComes as ended:
            self._log.write("run", "wait-ended", what=ended.what, why=str(ended))
        except WaitExpired as expired:
            self._expired(expired)
        except TimeoutError:
            self._expired(WaitExpired("the whole run", self._scenario.model.deadline))
        except QmpRefused as refused:
            self._log.write("run", "step-refused", error=str(refused))
        except EndpointError as error:
            if self._log.first("attempt-began") is None:
                raise  # nothing has been tried yet: this machine cannot run the scenario
            # An endpoint that ends or falls silent between two steps is what a run is to find.
            self._log.write("run", "step-failed", error=str(error))
        await self._end_attempt()
        await self._look_unasked()
        self._lab.note_unfired()
        # What ends an endpoint from here on is the testbed, and says nothing of the migration.
        self._log.write("run", "teardown-began")

    async def _step(self, step: schema.Model) -> None:
        match step:
            case schema.WaitForGuest():
                await self._wait_for_guest(step)
            case schema.Migrate():
                await self._begin()
            case schema.StartPostcopy():
                await self._start_postcopy(step)
            case schema.Wait():
                await self._wait(step)
            case schema.Cancel():
                await self._lab.source.command("migrate_cancel")
            case schema.Recover():
                self._recovered = dict.fromkeys(("source", "destination"), len(self._log))
                await self._lab.recover()
            case schema.Retry():
                await self._retry(step)
            case schema.Settle(for_=seconds):
                await asyncio.sleep(seconds)
            case schema.CheckMemory():
                await self._check(self._lab.check_memory)
            case schema.CheckDeviceState():
                await self._check(self._lab.check_device_state)

    async def _begin(self) -> None:
        self._log.write("run", "attempt-began", attempt=self._lab.attempt)
        self._since = len(self._log)
        self._looked, self._recovered, self._guests_seen = False, {}, []
        await self._lab.begin_migration()

    async def _wait_for_guest(self, step: schema.WaitForGuest) -> None:
        """Until the guest says on its serial line that it has stamped so many pages."""
        guest = self._lab.plan.guest
        stamps = step.passes * guest.page_count if guest.pages_per_second else 0

        def far_enough(event: Event) -> bool:
            if event.kind != "serial" or event.actor != "source":
                return False
            said = stamps_said(event.facts["line"])
            return said is not None and said >= stamps

        await together(
            self._log.wait(
                far_enough, what=f"the guest to stamp {stamps} pages", within_s=step.within
            ),
            # What looks at memory in the end takes a while to load; now there is time for it.
            asyncio.to_thread(import_module, "testbed.guest.memory"),
        )

    async def _start_postcopy(self, step: schema.StartPostcopy) -> None:
        await self._status("source", ["active"], step.within)
        if step.after is not None:
            pages = step.after.pages
            await self._log.wait(
                lambda event: (
                    event.kind == "progress"
                    and event.facts["direction"] == "forward"
                    and event.facts["pages"] >= pages
                ),
                what=f"{pages} page records to pass",
                within_s=step.within,
                since=self._since,
            )
        await self._lab.source.command("migrate-start-postcopy")

    async def _wait(self, step: schema.Wait) -> None:
        """Wait for all that the step names; what its expiry means is the step's to say."""
        waits: list[Coroutine[Any, Any, None]] = []
        for side, wanted in (("source", step.source), ("destination", step.destination)):
            if wanted:
                waits.append(self._status(side, wanted, step.within))
        for side, status in (
            ("source", step.source_exit),
            ("destination", step.destination_exit),
        ):
            if status is not None:
                waits.append(self._exit(side, step.within))
        if not waits:
            waits = [self._settled(side, step.within) for side in ("source", "destination")]
        try:
            await together(*waits)
        except NeverComes as ended:
            if step.on_expiry is None:
                raise
            self._log.write("run", "wait-ended", what=ended.what, why=str(ended))
        except WaitExpired as expired:
            if step.on_expiry is None:
                raise
            self._expired(expired, provided_for=step.on_expiry)
            if step.on_expiry == "cancel":
                await self._lab.source.command("migrate_cancel")

    def _expired(self, expired: WaitExpired, provided_for: str | None = None) -> None:
        self._log.write(
            "run",
            "wait-expired",
            what=expired.what,
            within_s=expired.within_s,
            provided_for=provided_for,
        )

    async def _status(self, side: str, statuses: list[str], within_s: float) -> None:
        """Wait until the side says one of the statuses.

        Raises:
            NeverComes: its process ended, and it cannot say so any more.
        """
        what = f"the {side} to be {' or '.join(statuses)}"
        since = self._last_status(side) if statuses != ["active"] else self._since

        event = await self._log.wait(
            lambda event: (
                event.actor == side
                and (
                    event.kind == "process-ended"
                    or (event.kind == "migration-status" and event.facts["status"] in statuses)
                )
            ),
            what=what,
            within_s=within_s,
            since=since,
        )
        if event.kind == "process-ended":
            raise NeverComes(what, _end_of_process(event))
        if side in self._recovered:
            self._recovered[side] = event.number

    def _last_status(self, side: str) -> int:
        """Where to look from: the side's present status counts, older ones do not.

        In a recovery all count that it had since, in their order: it is `postcopy-paused` before,
        and may be so again before anybody asks.
        """
        if side in self._recovered:
            return self._recovered[side]
        numbers = [
            event.number
            for event in self._log.find("migration-status", side)
            if event.number >= self._since
        ]
        return numbers[-1] if numbers else self._since

    async def _exit(self, side: str, within_s: float) -> None:
        await self._log.wait(
            lambda event: event.actor == side and event.kind == "process-ended",
            what=f"the {side}'s process to end",
            within_s=within_s,
            since=self._since,
        )

    async def _settled(self, side: str, within_s: float) -> None:
        """Until the side's migration is over, one way or another, or its process is."""
        await self._log.wait(
            lambda event: (
                event.actor == side
                and (
                    event.kind == "process-ended"
                    or (event.kind == "migration-status" and event.facts["status"] in SETTLED)
                )
            ),
            what=f"the {side} to settle",
            within_s=within_s,
            since=self._since,
        )

    async def _end_attempt(self) -> None:
        """Wait until both sides are at rest, look at them and at the guest, and write it down."""
        if self._looked:
            return
        self._looked = True
        resting = Resting(self._lab, self._log, self._since)
        facts = await resting.rest(*self._ends)
        for _ in self._ends:
            # A guest that runs at both sides is a split brain whether it goes on or not.
            alone = [end for end in self._ends if self._runs_alone(end, facts)]
            if not alone or alone[0] in self._guests_seen:
                break
            self._guests_seen.append(alone[0])
            await self._lab.see_guest(alone[0])
            # Which took some time, in which a side may have ended, or the guest have gone on.
            facts = await resting.rest(*self._ends)
        await self._lab.observe(facts)
        self._log.write("run", "attempt-ended", attempt=self._lab.attempt)

    @property
    def _ends(self) -> tuple[Qemu, Qemu]:
        return self._lab.source, self._lab.destination

    def _runs_alone(self, end: Qemu, facts: Mapping[str, Mapping[str, Any]]) -> bool:
        paused = facts[end.side].get("status") == "postcopy-paused"
        running = [side for side in facts if facts[side].get("run_state") == "running"]
        return running == [end.side] and not paused

    async def _network_settles(self) -> None:
        """Wait for what the first attempt's expectations are to see of the guest's network."""
        if self._looked or self._lab.attempt > 1:
            return
        deadline = self._began_s + self._scenario.model.deadline
        await settled(
            self._scenario,
            self._log,
            self._lab,
            since=self._since,
            until_s=deadline - TO_BE_JUDGED_S,
        )

    async def _retry(self, step: schema.Retry) -> None:
        """A second, clean migration to a new destination."""
        await self._network_settles()
        await self._end_attempt()
        await self._lab.next_attempt()
        await self._begin()
        await self._settled("source", step.within)
        await self._settled("destination", step.within)

    async def _look_unasked(self) -> None:
        """Check memory and device state of a guest that arrived, unless the scenario says why not.

        What was not checked, and why, is written down as `unchecked`; so are its sections, which
        it tells of by itself or not at all.
        """
        lab, unchecked = self._lab, self._scenario.model.unchecked
        if not lab.has_arrived():
            return
        attempt = (event for event in self._log if event.number >= self._since)
        if (untold := loading(attempt).unwatched) is not None:
            self._log.write("run", "unchecked", what="sections", why=untold)
        memory = unchecked.memory or (None if self._rule_holds() else NO_RULE)
        for what, why, check in (
            ("memory", memory, lab.check_memory),
            ("device_state", unchecked.device_state, lab.check_device_state),
        ):
            checked = f"{what.replace('_', '-')}-checked"
            if any(event.number >= self._since for event in self._log.find(checked)):
                continue
            if why is None:
                await lab.look(lab.destination, check)
            else:
                self._log.write("run", "unchecked", what=what, why=why)

    def _rule_holds(self) -> bool:
        """True if the guest was seen to have filled its working set at the source."""
        return any(
            stamps_said(event.facts["line"]) is not None
            for event in self._log.find("serial", "source")
        )

    async def _check(self, check: Callable[[Qemu, SavedState], None]) -> None:
        """Look at the machine where the guest is, or went to."""
        await self._network_settles()
        await self._end_attempt()
        lab = self._lab
        end = lab.destination if lab.destination.exit_status is None else lab.source
        await lab.look(end, check)
