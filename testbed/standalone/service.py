"""`testbed proxy`: a proxy between two hosts, without namespaces, endpoints and scenarios."""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

from testbed.fault.engine import FaultEngine
from testbed.lab.limits import raise_files
from testbed.log import Event, Log
from testbed.proxy import Proxy
from testbed.proxy.address import Address, leads_to, resolve
from testbed.proxy.listener import error_text
from testbed.proxy.migrations import Began, Ended, Migration
from testbed.proxy.recording import FolderRecorder, RecordingError
from testbed.tasks import beside, callback_error

from .asked import AskedError, Settings, Way
from .picture import Picture
from .sampling import Sampler
from .writer import Writer

DRAW_EVERY_S = 0.25
FILES_WANTED = 1 << 16
"""Open files: for all connections that the proxies of the API may have, if the system lets us."""
PROXY, NBD = "proxy", "nbd"
"""Who writes into the log: the migration's proxy, and the one for storage."""
BREAKS = frozenset({"broke", "connection-broke", "proxy-broke", "request-failed"})
"""Kinds of events that tell of an error of the testbed's own."""
CONTROLLED = "migration"
"""The name of the migration's proxy in Toxiproxy's API."""


class ServiceError(Exception):
    """The proxy cannot be started as asked: one line that says why."""


class Outcome(Enum):
    """How the service ended."""

    OVER = auto()
    """The one migration that it was for is over, and every fault has struck."""
    UNFIRED = auto()
    """It is over, and a fault never struck."""
    STOPPED = auto()
    """It was asked to end, and nothing was open any more."""
    RESET = auto()
    """It was asked twice: what was open is reset."""
    BROKEN = auto()
    """However it ended, an error of the testbed's own is in the log."""


class Watcher(Protocol):
    """Who looks on; nothing here waits for it."""

    is_live: bool
    """It wants to draw."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def draw(self, picture: Picture) -> None:
        """This is what passes now."""


def serve(settings: Settings, watcher: Watcher) -> Outcome:
    """Be the proxy that the user asked for, until it is over.

    Raises:
        AskedError: nothing can be written where the user wants it.
        ServiceError: an address cannot be had, or a name not be resolved.
    """
    raise_files(FILES_WANTED)
    log = Log(keeps=False)
    log.listen(watcher.event)
    with ExitStack() as stack:
        if settings.json_log is not None:
            json_lines = stack.enter_context(_json_log(settings.json_log, log))
            log.listen(json_lines)
        recorder = None
        if settings.record is not None:
            recorder = stack.enter_context(closing(_recorder(settings, log)))
        service = Service(settings, log, recorder, watcher.draw if watcher.is_live else None)
        return asyncio.run(service.run())


@contextmanager
def _json_log(path: Path, log: Log) -> Iterator[Callable[[Event], None]]:
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise AskedError(f"{path}: cannot be written: {error.strerror}") from error
    failed: list[str] = []
    writer = Writer(file, lambda error: failed.append(error.strerror or str(error)))

    def write(event: Event) -> None:
        if failed:
            log.write(PROXY, "json-log-ended", file=str(path), why=failed.pop())
        writer.write(f"{event.to_json()}\n")

    try:
        yield write
    finally:
        writer.close()
        if writer.dropped:
            log.write(PROXY, "json-log-dropped", file=str(path), events=writer.dropped)
        with suppress(OSError):  # it has been told
            file.close()


def _recorder(settings: Settings, log: Log) -> FolderRecorder:
    assert settings.record is not None
    try:
        return FolderRecorder(
            settings.record,
            lambda why: log.write(PROXY, "recording-ended", why=why),
            bytes_max=settings.record_bytes_max,
        )
    except RecordingError as error:
        raise AskedError(str(error)) from error


class Service:
    """The running proxy.

    Args:
        settings: what it does.
        log: where everything that happens goes.
        recorder: is told all that comes in of the migration's connections.
        on_draw: is shown the picture of what passes, a few times a second; None: nobody draws.
    """

    def __init__(
        self,
        settings: Settings,
        log: Log,
        recorder: FolderRecorder | None = None,
        on_draw: Callable[[Picture], None] | None = None,
    ) -> None:
        self.settings = settings
        self.picture = Picture(fault.name for fault in settings.migration.faults)
        self._log = log
        self._on_draw = on_draw
        self._recorder = recorder
        self._engine = FaultEngine(
            settings.migration.faults, seed=settings.seed, watched=not settings.unread
        )
        self._proxies: list[Proxy] = []
        self._open: set[tuple[str, int]] = set()  # who, and which connection
        self._over: asyncio.Future[Outcome]
        self._sampler: Sampler
        self._stopping = False
        self._broke = False
        self._is_telling = False  # of an error
        self._attempt = 1  # of the engine's, that the migration is

    async def run(self) -> Outcome:
        """Run until the user, or the end of the one migration, ends it.

        Raises:
            AskedError: the control server may not listen where it is asked to.
            ServiceError: an address cannot be had, or a name not be resolved.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        self._over = loop.create_future()
        self._log.listen(self._happened)
        async with AsyncExitStack() as stack:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
                stack.callback(loop.remove_signal_handler, number)
            if self._recorder is not None:
                self._log.write(PROXY, "recording", folder=str(self._recorder.folder))
            if self.settings.has_chance:
                self._log.write(PROXY, "seed", seed=self.settings.seed)
            migration = self.settings.migration
            proxy = await self._start(stack, PROXY, migration, self._engine, self._log)
            self._sampler = Sampler(proxy)
            if self.settings.storage is not None:
                storage = self.settings.storage
                engine = FaultEngine(storage.faults, seed=self.settings.seed, watched=False)
                await self._start(stack, NBD, storage, engine, self._relabelled())
            if self.settings.control is not None:
                await self._start_control(stack, self.settings.control, proxy)
            if self._on_draw is not None:
                await stack.enter_async_context(_drawing(self._draw))
            outcome = await self._over
        return Outcome.BROKEN if self._broke else outcome

    @property
    def proxy(self) -> Proxy:
        """The migration's; there once it listens."""
        return self._proxies[0]

    def _callback_failed(
        self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]
    ) -> None:
        """Write down an error that nobody else can receive: migrations under way go on."""
        if self._is_telling:
            return  # whoever listens to the log failed of just that
        self._is_telling = True
        try:
            error = callback_error(context)
            self._log.write(
                PROXY,
                "broke",
                error=repr(error),
                traceback="".join(traceback.format_exception(error)),
            )
        finally:
            self._is_telling = False

    def stop(self) -> None:
        """Take no more connections, and end when none is open; called again, end now."""
        if self._over.done():
            return
        if self._stopping:
            self._end(Outcome.RESET)
            return
        self._stopping = True
        for proxy in self._proxies:
            proxy.retire()
        if not self._open:
            self._end(Outcome.STOPPED)
            return
        names = ", ".join(str(number) for _, number in sorted(self._open))
        many = f"connection{'s' * (len(self._open) != 1)}"
        self._log.write(
            PROXY,
            "stopping",
            sentence=f"no more connections are taken; still open: {many} {names}; once more to "
            "reset what is open",
        )

    def unfired(self, attempt: int | None = None) -> list[str]:
        """A sentence for each fault that never struck: of all, or of those for one attempt."""
        faults = enumerate(self.settings.migration.faults, 1)
        wanted = [
            f"fault {number} (" for number, fault in faults if attempt in (None, fault.attempt)
        ]
        return [each for each in self.proxy.engine.unfired() if each.startswith(tuple(wanted))]

    async def _start(
        self, stack: AsyncExitStack, who: str, way: Way, engine: FaultEngine, log: Log
    ) -> Proxy:
        is_migration = who == PROXY
        option = "--" if is_migration else "--nbd-"
        try:
            places = await resolve(way.upstream)
        except OSError as error:
            why = error.strerror or str(error)
            raise ServiceError(f"{option}upstream: {way.upstream}: {why}") from error
        try:
            proxy = await stack.enter_async_context(
                Proxy.start(
                    listen=way.listen,
                    upstream=way.upstream,
                    engine=engine,
                    log=log,
                    recorder=self._recorder if is_migration else None,
                    finds_attempts=is_migration,
                    peeks=is_migration,
                    isolates=True,
                )
            )
        except OSError as error:
            why = error_text(error)
            raise ServiceError(
                f"{option}listen: {way.listen}: cannot be listened on: {why}"
            ) from error
        if any(leads_to(place, proxy.address) for _, place in places):
            raise AskedError(
                f"{option}upstream: {way.upstream} is where the proxy itself listens "
                f"({proxy.address}); say where the destination does"
            )
        self._proxies.append(proxy)
        self._log.write(who, "listening", address=str(proxy.address), upstream=str(way.upstream))
        return proxy

    async def _start_control(self, stack: AsyncExitStack, address: Address, proxy: Proxy) -> None:
        """Have the migration's proxy under a name of Toxiproxy's API, and whatever it makes."""
        from testbed.control.server import ControlError, serve  # an HTTP server takes its time

        settings = self.settings
        server = serve(address, self._log, seed=settings.seed, public=settings.control_public)
        try:
            control = await stack.enter_async_context(server)
        except ControlError as error:
            raise AskedError(f"--control: {error} (--control-public)") from error
        except OSError as error:
            why = error_text(error)
            raise ServiceError(f"--control: {address}: cannot be listened on: {why}") from error
        control.adopt(CONTROLLED, proxy, faults=settings.migration.faults)

    def _relabelled(self) -> Log:
        """A log whose events go into ours, as those of the proxy for storage."""

        def pass_on(event: Event) -> None:
            self._log.write(NBD, event.kind, **event.facts)

        log = Log(keeps=False)
        log.listen(pass_on)
        return log

    # What happens

    def _happened(self, event: Event) -> None:
        self._broke |= event.kind in BREAKS
        if "proxy" in event.facts:  # of one that the API has made
            return
        number = event.facts.get("connection")
        if event.kind == "connection-opened":
            self._open.add((event.actor, event.facts["connection"]))
        if event.actor == PROXY:
            if event.kind == "connection-ended":
                self._sampler.ended(event.facts["connection"])
            for change in self.picture.event(event):
                match change:
                    case Began(migration=migration):
                        self._sampler.begin()
                        self._attempt = self.proxy.engine.attempt
                        self._log.write(PROXY, "migration-began", migration=migration.number)
                    case Ended(migration=migration):
                        self._migration_ended(migration, event.at_s)
        if event.kind == "connection-ended":
            self._open.discard((event.actor, number))
            if self._stopping and not self._open:
                self._end(Outcome.STOPPED)

    def _migration_ended(self, migration: Migration, at_s: float) -> None:
        self.picture.sampled(self._sampler.sample(at_s))  # its last pages
        self._log.write(
            PROXY,
            "migration-ended",
            migration=migration.number,
            outcome=migration.outcome,
            bytes_forward=migration.bytes_forward,
            bytes_back=migration.bytes_back,
            took_s=round(at_s - migration.began_s, 3),
            struck=migration.struck,
        )
        once = self.settings.once
        unfired = self.unfired(None if once else self._attempt)
        for sentence in unfired:
            self._log.write(PROXY, "fault-unfired", sentence=sentence)
        if once:
            self._end(Outcome.UNFIRED if unfired else Outcome.OVER)
        elif self.proxy.engine.attempt == self._attempt:  # else the next one has begun already
            self.proxy.attempt_over()

    def _end(self, outcome: Outcome) -> None:
        if not self._over.done():
            self._over.set_result(outcome)

    # The picture

    def _draw(self) -> None:
        assert self._on_draw is not None
        self.picture.sampled(self._sampler.sample(self._log.now_s()))
        self._on_draw(self.picture)


@asynccontextmanager
async def _drawing(draw: Callable[[], None]) -> AsyncIterator[None]:
    """Draw now and then until the block ends, and once more then."""

    async def again_and_again() -> None:
        while True:
            draw()
            await asyncio.sleep(DRAW_EVERY_S)

    async with beside(again_and_again()):
        yield
    draw()
