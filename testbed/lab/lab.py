"""One run's world put together: network, endpoints, proxy, capture, one log; one context manager.

The lab does what it is told (begin a migration, start a new destination, look at a machine) and
writes what it sees. It knows no scenario, and judges nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from testbed.endpoint.base import EndpointError, MachineSpec, QmpRefused
from testbed.endpoint.program import QEMU, Program
from testbed.endpoint.qemu import Qemu
from testbed.endpoint.signals import ProcessState, changes_nothing, process_state
from testbed.fault.engine import FaultEngine
from testbed.fault.plan import Fault, Side
from testbed.guest import GuestSpec, boot_image
from testbed.log import Event, Log
from testbed.netns.capture import Capture, Frame, capture, rarp_problems
from testbed.netns.forwarding import forwarding_table
from testbed.netns.probe import ETHERTYPE_PROBE, Outage, Probe, probing
from testbed.netns.topology import BRIDGE, UPLINK, Topology
from testbed.proxy import Proxy
from testbed.tasks import Hosted, beside, hosting, together

from .announce import AnnounceFaults
from .device_state import RUN_STATE, Change, Difference, altered, differences, measured, told_apart
from .heartbeat import ask_regularly
from .interpose import InterposedUplink, interposed_uplink
from .leaks import open_connections
from .link import MIGRATION_PORT, MigrationLink, WayOut, migration_link
from .liveness import see_guest
from .saved import DeviceSection, SavedState, SavedStateError, fields_of, read_saved
from .sent import SentMemory, SentReport

OBSERVE_S = 2.0
"""For each question to an endpoint at the end of an attempt: one that hangs answers none."""
ANNOUNCE_SELF_SINCE = (4, 0, 0)
OVER = frozenset({"completed", "failed", "cancelled"})
"""Migration statuses after which QEMU has closed the migration's connections."""
PCAP = "guest-network.pcap"
DIFFERENCES_MAX = 20
SECTIONS_MAX = 2000
"""Of one stream, in the log: as many as the proxy tells of one by one. A machine has some 60."""
TOO_MANY = f"it had more than {SECTIONS_MAX} sections"


@dataclass(frozen=True, slots=True)
class SidePlan:
    """How one side is started."""

    program: Program
    machine: MachineSpec


@dataclass(frozen=True, slots=True)
class LabPlan:
    """All that a lab is built from."""

    source: SidePlan
    destination: SidePlan
    guest: GuestSpec
    folder: Path
    faults: tuple[Fault, ...] = ()
    seed: int = 0  # of what faults leave to chance
    announce: AnnounceFaults | None = None
    probe_every_s: float | None = None
    sandboxed: bool = False  # a QEMU may not start programs


class Lab:
    """A run's world: two endpoints, the proxy between them, the guest's network.

    Made by `Lab.build`; everything of it ends with that block.
    """

    source: Qemu
    destination: Qemu

    _capture: Capture
    _link: MigrationLink

    def __init__(
        self, plan: LabPlan, log: Log, net: Topology, host: Callable[[Any], Hosted[Any]]
    ) -> None:
        self.plan = plan
        self.net = net
        self.attempt = 1
        self._sent = SentMemory(plan.guest)
        self.engine = FaultEngine(plan.faults, seed=plan.seed, witness=self._sent)
        self._log = log
        self._uplink: InterposedUplink | None = None  # nothing is done to announcements
        self._host = host
        self._hosted_destination: Hosted[Qemu]
        self._capabilities: Mapping[str, bool] = {}
        self._parameters: Mapping[str, Any] = {}
        self._probe: Probe | None = None
        self._saved: dict[Qemu, SavedState] = {}
        self._stopped: list[Qemu] = []  # to be looked at
        self._halted: set[Qemu] = set()  # by a fault's SIGSTOP, which takes a moment to be seen
        self._began_at = 0.0  # the attempt, by time.monotonic()
        self._source_stopped_at: float | None = None
        self._runs_at: str | None = None  # where the guest went on after that

    @classmethod
    @asynccontextmanager
    async def build(cls, plan: LabPlan, log: Log, out: WayOut | None = None) -> AsyncIterator[Lab]:
        """Build the network, start both endpoints and the proxy; all gone when the block ends.

        Args:
            plan: what it is built from.
            log: where all that happens goes.
            out: where the connections leave the run behind the proxy; None: they do not.

        Raises:
            EndpointError: an endpoint could not be started.
            OSError: the environment refused a namespace, link or socket.
        """
        announce = plan.announce
        async with Topology.guests(interposable=announce is not None) as net, hosting() as host:
            lab = cls(plan, log, net, host)
            if announce is not None:
                lab._uplink = await host(interposed_uplink(net, announce, log)).entered()
            # A guest may speak as soon as it runs.
            lab._capture = await host(lab._watching()).entered()
            # Both sides start side by side, and the rest is built meanwhile: they take longest.
            source = host(lab._endpoint("source", plan.source))
            lab._host_destination(plan.destination)
            await net.join_migration_network()
            lab.source = await source.entered()
            lab.destination = await lab._hosted_destination.entered()
            async with migration_link(net, lab.engine, log, lab._signal, out) as lab._link:
                stop_listening = log.listen(lab._overheard)
                try:
                    yield lab
                finally:
                    stop_listening()

    def _watching(self) -> Any:
        """The capture on the switch, each frame once."""
        ports = ("source", "destination", "client")
        return capture(self.net.switch, ports, self._captured, self.plan.folder / PCAP)

    @asynccontextmanager
    async def _endpoint(
        self, side: str, plan: SidePlan, *, incoming: bool = False
    ) -> AsyncIterator[Qemu]:
        """An endpoint of the run; writes `endpoint-ready`.

        Its facts: kind, profile (null: a QEMU), version, machine (its `-M`).
        """
        host = self.net.source if side == "source" else self.net.destination
        guest = self.net.source_guest if side == "source" else self.net.destination_guest
        async with Qemu.start(
            side,
            log=self._log,
            machine=plan.machine,
            command=plan.program.command,
            boot_image=boot_image(self.plan.guest),
            namespace=host,
            tap_fd=guest.fd,
            incoming=incoming,
            sandboxed=self.plan.sandboxed and plan.program.kind == QEMU,
        ) as endpoint:
            self._log.write(
                side,
                "endpoint-ready",
                kind=plan.program.kind,
                profile=plan.program.profile,
                version=list(endpoint.version),
                machine=plan.machine.machine,
            )
            async with beside(ask_regularly(endpoint)):
                yield endpoint

    def _host_destination(self, plan: SidePlan) -> None:
        self._hosted_destination = self._host(self._endpoint("destination", plan, incoming=True))

    @property
    def proxy(self) -> Proxy:
        """The proxy between the endpoints."""
        return self._link.proxy

    # What the lab is told to do

    async def configure(
        self, capabilities: Mapping[str, bool], parameters: Mapping[str, Any]
    ) -> None:
        """Set capabilities and parameters of both sides, and of each new destination.

        Raises:
            EndpointError: an endpoint lacks one of them, or refused a value.
        """
        self._capabilities, self._parameters = capabilities, parameters
        await together(
            self.source.configure(capabilities, parameters),
            self.destination.configure(capabilities, parameters),
        )

    async def begin_migration(self) -> None:
        """Have the switch learn where the guest is, and start migrating it.

        Raises:
            QmpRefused: an endpoint refused.
        """
        await self._announce_at_source()
        await self.note_forwarding("before")
        await self._begin_probing()
        self._began_at = time.monotonic()
        self._source_stopped_at = self._runs_at = None
        await self.destination.command("migrate-incoming", {"uri": self._link.lead_to()})
        await self.source.let_go()
        await self.source.command("migrate", {"uri": self._link.uri})

    async def recover(self) -> None:
        """Recover a paused postcopy migration over a new connection through the proxy."""
        port = MIGRATION_PORT + 1  # the first listener's socket may not be gone yet
        uri = self._link.lead_to(port)
        await self.destination.command("migrate-recover", {"uri": uri}, oob=True)
        await self.source.command("migrate", {"uri": self._link.uri, "resume": True})

    async def next_attempt(self) -> None:
        """Replace the destination by a new one, of the source's own kind, for a clean migration."""
        await self._hosted_destination.leave()
        self.attempt += 1
        self.proxy.next_attempt()
        program, machine = self.plan.destination.program, self.plan.source.machine
        self._host_destination(SidePlan(program, machine))
        self.destination = await self._hosted_destination.entered()
        await self.destination.configure(self._capabilities, self._parameters)

    async def _announce_at_source(self) -> None:
        """See to it that the switch knows the guest's MAC at the source.

        A QEMU that can is asked for one announcement: a guest that never sent anything would not
        be known. An older one has a guest that speaks when it starts, and is waited for.
        """
        seen = 0
        if self.source.version >= ANNOUNCE_SELF_SINCE:
            seen = len(self._log)
            await self.source.command(
                "announce-self", {"initial": 50, "max": 50, "rounds": 1, "step": 10}
            )
        mac = self.plan.source.machine.mac
        await self._log.wait(
            lambda event: (
                event.kind == "frame"
                and event.facts["port"] == "source"
                and event.facts["source"] == mac
            ),
            what="the switch to see a frame of the guest's from the source",
            within_s=OBSERVE_S,
            since=seen,
        )

    async def _begin_probing(self) -> None:
        if self.plan.probe_every_s is not None and self._probe is None:
            net = self.net
            hosts = {"source": (net.source, UPLINK), "destination": (net.destination, UPLINK)}
            mac = self.plan.source.machine.mac
            probing_it = probing((net.client, UPLINK), hosts, mac, self.plan.probe_every_s)
            self._probe = await self._host(probing_it).entered()

    # What the lab sees by itself

    def _captured(self, frame: Frame) -> None:
        if frame.ethertype == ETHERTYPE_PROBE:
            return
        facts: dict[str, Any] = {
            "port": frame.port,
            "source": frame.source,
            "destination": frame.destination,
            "ethertype": f"{frame.ethertype:#06x}",
            "length": len(frame.raw),
        }
        if frame.rarp:
            facts["rarp"] = dict(frame.rarp)
            facts["problems"] = rarp_problems(frame)
        age_s = time.monotonic() - frame.at
        self._log.write("switch", "frame", self._log.now_s() - age_s, **facts)

    def _overheard(self, event: Event) -> None:
        """Tell the proxy and the uplink what the endpoints report: faults wait for it."""
        if event.actor not in ("source", "destination"):
            return
        if event.kind == "migration-status":
            self._reported(Side(event.actor), "MIGRATION", event.facts["status"])
        elif event.kind == "qmp-event":
            name = event.facts["event"]
            self._moved(event.actor, name, time.monotonic() - (self._log.now_s() - event.at_s))
            self._reported(Side(event.actor), name)

    def _moved(self, side: str, event: str, at: float) -> None:
        """Note where the guest is, for who measures how long it was away."""
        if event == "STOP" and side == "source":
            self._source_stopped_at, self._runs_at = at, None
        elif event == "RESUME" and self._source_stopped_at is not None:
            # The destination's own start is the one that counts, if both run.
            self._runs_at = side if side == "destination" else self._runs_at or side

    def _reported(self, side: Side, event: str, status: str | None = None) -> None:
        self.proxy.observed(side, event, status)
        if self._uplink is not None:
            self._uplink.observed(side, event, status)

    def _signal(self, side: Side, name: str) -> str | None:
        """Send an endpoint's process a signal, for a fault says so.

        Returns:
            Why it was not sent: it would have changed nothing.
        """
        end = self.source if side is Side.SOURCE else self.destination
        state = ProcessState.ENDED if end.exit_status is not None else process_state(end.pid)
        if end in self._halted and state is ProcessState.RAN:
            state = ProcessState.STOOD  # or will in a moment
        if changes_nothing(state, name):
            return f"the {side}'s process {state} already"
        os.killpg(end.pid, signal.Signals[f"SIG{name}"])
        (self._halted.add if name == "STOP" else self._halted.discard)(end)
        return None

    # What the lab is asked to look at

    async def observe(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Write down what each side is, by its own account, and what the network is.

        Args:
            states: of each side by its name, as `state` found them.
        """
        for side, facts in states.items():
            told = {name: value for name, value in facts.items() if name != "transferred"}
            self._log.write(side, "observed", attempt=self.attempt, **told)
            self._note_leaks(side, facts)
        self._note_sections()
        await self.note_forwarding("after")
        if (outage := self.outage()) is not None:
            self._log.write(
                "client",
                "outage",
                probes=outage.probes,
                wrong_s=outage.wrong_s,
                nowhere_s=outage.nowhere_s,
                total_s=outage.total_s,
                until_s=outage.until_s,
                unseen=outage.unseen,
                longest_gap_s=outage.longest_gap_s,
            )
        self._note_losses()

    def _note_losses(self) -> None:
        """Write down what the capture has lost so far: what it did not see cannot be asserted."""
        if losses := self._capture.losses():
            self._log.write(
                "switch",
                "capture-lost",
                kernel=losses.kernel,
                bound=losses.bound,
                unwritten=losses.unwritten,
                sentence=str(losses),
            )

    def outage(self) -> Outage | None:
        """For how long frames for the guest have gone astray in this attempt. None: nobody probes.

        It counts from when the source stopped, and a guest that runs nowhere is on its way to the
        destination. One that the source never stopped, or runs again, is to be found there.
        """
        if self._probe is None:
            return None
        if self._source_stopped_at is None:
            return self._probe.outage("source", self._began_at)
        return self._probe.outage(self._runs_at or "destination", self._source_stopped_at)

    def note_unfired(self) -> None:
        """Write down which faults never struck; nothing more will pass."""
        for sentence in self.engine.unfired():
            self._log.write("proxy", "fault-unfired", sentence=sentence)
        if self._uplink is not None:
            self._uplink.note_unfired()

    async def state(self, end: Qemu) -> dict[str, Any]:
        """Ask a side what it is.

        Returns:
            `version`, `exit_status` (None: it still exists) and, as far as it answers,
            `status` and `error_desc` of `query-migrate`, `run_state` of `query-status`, and
            `transferred`, in bytes. `silent` is True if it exists and does not answer.
            `starts_paused` is True of one that runs no guest until it is told to (`-S`).
        """
        facts: dict[str, Any] = {
            "version": list(end.version),
            "exit_status": end.exit_status,
            "starts_paused": self._starts_paused(end),
        }
        if end.exit_status is None:
            try:
                answer = await end.command("query-migrate", within_s=OBSERVE_S)
                facts["status"] = answer.get("status")
                facts["error_desc"] = answer.get("error-desc")
                facts["transferred"] = answer.get("ram", {}).get("transferred")
                status = await end.command("query-status", within_s=OBSERVE_S)
                facts["run_state"] = status["status"]
            except (EndpointError, QmpRefused):
                facts["silent"] = end.exit_status is None
                facts["exit_status"] = end.exit_status
        return facts

    def _starts_paused(self, end: Qemu) -> bool:
        machine = (self.plan.source if end is self.source else self.plan.destination).machine
        if end is self.destination and self.attempt > 1:  # it is of the source's kind
            machine = self.plan.source.machine
        return machine.paused or "-S" in machine.arguments

    async def see_guest(self, end: Qemu) -> None:
        """Watch the guest where a side says that it runs, and write down whether it goes on."""
        seen = await see_guest(end, self._log, self.plan.guest)
        self._log.write(end.side, "guest-seen", alive=seen.alive, how=seen.how)

    def _note_leaks(self, side: str, facts: Mapping[str, Any]) -> None:
        """Write down the connections of a migration that a side whose migration is over holds."""
        end = self.source if side == "source" else self.destination
        if facts.get("status") in OVER and end.exit_status is None:
            for connection in open_connections(end.pid):
                self._log.write(side, "leaked", what=f"a socket: {connection}")

    def _note_sections(self) -> None:
        """Write down which sections the source sent, and how many the destination loaded.

        Those that the destination loaded are events of its own, but for most of the PARTs.
        """
        sent = self.engine.sections_sent
        self._log.write(
            "proxy",
            "sections-sent",
            attempt=self.attempt,
            begun=[list(section) for section in sent.begun[:SECTIONS_MAX]],
            parts={f"{idstr} {instance}": count for (idstr, instance), count in sent.parts.items()},
            unread=TOO_MANY if len(sent.begun) > SECTIONS_MAX else sent.unread,
        )
        loading = self.destination.loading
        self._log.write(
            "destination",
            "sections-loaded",
            attempt=self.attempt,
            traced=loading.is_traced,
            cut=loading.is_cut,
            parts=loading.counts(),
        )

    async def note_forwarding(self, when: str) -> None:
        """Write down where the switch thinks the guest's MAC is."""
        table = await forwarding_table(self.net.switch, BRIDGE)
        mac = self.plan.source.machine.mac
        self._log.write(
            "switch",
            "forwarding",
            when=when,
            attempt=self.attempt,
            guest=table.get(mac),
            table=table,
        )

    def has_arrived(self) -> bool:
        """True if the destination runs, answers, and says that its migration completed."""
        observed = [
            event.facts
            for event in self._log.find("observed", "destination")
            if event.facts["attempt"] == self.attempt
        ]
        statuses = [
            event.facts["status"]
            for event in self._log.find("migration-status", "destination")
            if event.number >= self._attempt_began()
        ]
        return (
            self.destination.exit_status is None
            and bool(observed)
            and not observed[-1].get("silent", False)
            and statuses[-1:] == ["completed"]
        )

    def _attempt_began(self) -> int:
        """Number of the event with which the present attempt began."""
        return max((event.number for event in self._log.find("attempt-began")), default=0)

    async def look(self, end: Qemu, check: Callable[[Qemu, SavedState], None]) -> None:
        """Have an endpoint save itself again, once, and check what it holds.

        If it cannot, the reason is in the log, and no check is: what was not seen is unknown.
        """
        if end not in self._saved:
            try:
                runs = await end.run_state() == "running"
                self._saved[end], _ = await together(
                    read_saved(end.save_again()),
                    asyncio.to_thread(import_module, "testbed.guest.memory"),  # takes as long
                )
                if runs:
                    self._stopped.append(end)
            except (EndpointError, QmpRefused, SavedStateError, OSError) as error:
                self._log.write(end.side, "save-failed", error=str(error))
                return
        check(end, self._saved[end])

    async def wake(self) -> None:
        """Let guests run on that were stopped only to be looked at.

        Raises:
            QmpRefused: an endpoint refused.
        """
        for end in self._stopped:
            if end.exit_status is None:
                await end.command("cont")

    def check_memory(self, end: Qemu, saved: SavedState) -> None:
        """Check each page of the guest's working set against the rule it stamps them by.

        At the destination, all other pages of all blocks are compared with what the source sent.
        """
        from testbed.guest import check_memory  # imported by now, see `look`

        block, ram = saved.guest_ram()
        report = check_memory(ram, self.plan.guest)
        others = self._compare_sent(end, saved)
        self._log.write(
            end.side,
            "memory-checked",
            intact=report.intact and not others.damaged,
            block=block,
            pages=report.pages,
            stamps=report.stamps,
            stale=report.stale,
            damaged=report.damaged,
            others=others.pages,
            others_unknown=others.unknown,
            others_damaged=others.damaged,
            others_unwatched=others.unwatched,
            findings=[*map(str, report.findings), *others.findings],
        )

    def _compare_sent(self, end: Qemu, saved: SavedState) -> SentReport:
        """Compare the pages that are no rule's with those that the source sent."""
        if end is not self.destination:
            return SentReport(unwatched="the guest never left the source")
        if (why := self.engine.sections_sent.unread) is not None:
            return SentReport(unwatched=f"the proxy could not read all of the stream: {why}")
        return self._sent.compare(saved.blocks, ran=self._ran_there(), written=saved.written)

    def _ran_there(self) -> bool:
        """True if the destination was seen to run the guest in the present attempt."""
        return any(
            event.number >= self._attempt_began()
            for event in self._log.find("qmp-event", "destination", event="RESUME")
        )

    def check_device_state(self, end: Qemu, saved: SavedState) -> None:
        """Compare the device state that `end` holds with what the source sent, by section.

        Where its guest has run only which sections there are can be compared, and what faults made
        of their content on the way. The run state is compared so in any case.
        """
        sent = self._device_state_sent()
        if (why := self.engine.sections_sent.unread) is not None or not sent:
            why = why or "the proxy read no device state: the stream is encrypted, or had none"
            self._log.write(end.side, "unchecked", what="device_state", why=why)
            return
        changes = measured().between(self.source.version, end.version)
        # A payload that imitates another section's frame was cut where it is not: the vmdesc tells.
        unplaced = self.engine.sections_sent.denied
        found: Iterable[Difference] = (
            each
            for each in differences(sent, saved.devices)
            if (each.idstr, each.instance_id) not in unplaced
        )
        ran = self._ran_there()
        if ran:
            found = (each for each in found if each.is_of_section)
        wrong, explained = told_apart(found, changes)
        harmful, harmless = self._altered(sent, changes, ran=ran)
        wrong, explained = wrong + harmful, explained + harmless
        self._log.write(
            end.side,
            "device-state-checked",
            equal=not wrong,
            content=not ran,
            unplaced=[f"{idstr} {instance}" for idstr, instance in sorted(unplaced)],
            sections=len(sent),
            differences=[str(difference) for difference in wrong[:DIFFERENCES_MAX]],
            changed=[
                {**difference.facts(), "reason": reason}
                for difference, reason in (
                    *((each, None) for each in wrong[:DIFFERENCES_MAX]),
                    *((each, change.reason) for each, change in explained[:DIFFERENCES_MAX]),
                )
            ],
        )

    def _altered(
        self, sent: Mapping[tuple[str, int], DeviceSection], changes: Sequence[Change], *, ran: bool
    ) -> tuple[list[Difference], list[tuple[Difference, Change]]]:
        """What faults made of content that cannot be compared with what the machine holds."""
        came = {
            key: payload
            for key, payload in self.engine.altered_sections.items()
            if ran or key[0] == RUN_STATE
        }
        # That a machine saves another run state says nothing about the one that it loaded.
        known = [change for change in changes if change.idstr != RUN_STATE]
        return told_apart(altered(sent, came), known)

    def _device_state_sent(self) -> dict[tuple[str, int], DeviceSection]:
        """The FULL sections as the source sent them, with their fields as far as a vmdesc tells."""
        return {
            key: DeviceSection(
                header.idstr,
                header.instance_id,
                header.version_id,
                payload,
                fields_of(self.engine.layout, key),
            )
            for key, (header, payload) in self.engine.device_sections.items()
        }
