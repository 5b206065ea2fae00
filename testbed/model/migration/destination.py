"""The destination of a migration: bytes in, effects out; sockets and the guest are elsewhere.

Source: QEMU `migration/migration.c`, `process_incoming_migration_co`; `migration/savevm.c`,
`postcopy_ram_listen_thread`, `postcopy_pause_incoming`; early 2017 and 7.2.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

from testbed.model.profile import Profile
from testbed.vmstate import DeviceCrash, Incoming, Story
from testbed.wire import build

from .effects import Became, Effect, Exit, GuestMayRun, HangUp, Status
from .incoming import Machine, MigrationIncoming, PostcopyState
from .loadvm import load_elements, load_machine
from .memory import Missing

EXIT_FAILURE = 1


class Destination:
    """One incoming migration, from its first byte to its end.

    Every method returns the effects that it has, in order. After an `Exit` there are no more.
    """

    def __init__(self, machine: Machine, profile: Profile, *, can_answer: bool = True) -> None:
        self._mis = MigrationIncoming(machine, profile, Incoming(), can_answer=can_answer)
        self._mis.effects.append(Became(Status.ACTIVE))
        self._main: Generator[None, None, None] | None = self._incoming()
        self._listener: Generator[None, None, None] | None = self._listen()
        self.exited = False

    @property
    def status(self) -> Status:
        """Of the migration, as `query-migrate` says it."""
        return self._mis.status

    @property
    def postcopy(self) -> PostcopyState:
        """How far postcopy has come."""
        return self._mis.postcopy

    def begin(self) -> list[Effect]:
        """The connection is there."""
        return self._advance()

    def feed(self, data: bytes) -> list[Effect]:
        """Bytes came."""
        self._mis.file.feed(data)
        return self._advance()

    def end(self) -> list[Effect]:
        """The connection ended."""
        self._mis.file.end()
        return self._advance()

    def recover(self) -> list[Effect]:
        """Another connection is there, for a migration that is paused."""
        assert self._mis.status is Status.POSTCOPY_PAUSED, "migrate-recover asks for the status"
        self._mis.file = Incoming()
        self._mis.answers = self._mis.can_answer
        self._mis.become(Status.POSTCOPY_RECOVER)
        return self._advance()

    def want(self, missing: Missing) -> list[Effect]:
        """The guest waits for a page: ask for it, unless that was done.

        While the link is lost that is only noted: RESUME has everything asked for that is missing.
        """
        message = self._mis.machine.ram.want(missing)
        if message is not None and self.status is Status.POSTCOPY_ACTIVE:
            self._mis.answer(message)
        return self._advance()

    def _advance(self) -> list[Effect]:
        mis = self._mis
        if not self.exited:
            try:
                self._main = _resumed(self._main)
                if mis.listening and not self._ended():
                    self._listener = _resumed(self._listener)
            except DeviceCrash:
                mis.effects.append(Exit(-signal.SIGSEGV))
        effects, mis.effects = mis.effects, []
        for at, effect in enumerate(effects):
            if isinstance(effect, Exit):
                self.exited = True
                return effects[: at + 1]
        return effects

    def _ended(self) -> bool:
        return any(isinstance(effect, Exit) for effect in self._mis.effects)

    def _incoming(self) -> Story[None]:
        """`process_incoming_migration_co`, and what it leaves for the main loop."""
        mis = self._mis
        ret = yield from load_machine(mis)
        if mis.postcopy > PostcopyState.ADVISE and ret >= 0:
            return  # the listen thread cleans up at its end
        advised = mis.postcopy is PostcopyState.ADVISE
        if ret < 0:
            mis.say(f"load of migration failed: {os.strerror(-ret)}")
            if mis.status is Status.ACTIVE:  # in a package it is beyond that, and stays it
                mis.become(Status.FAILED)
            mis.effects.append(Exit(EXIT_FAILURE))
            return
        if advised:
            mis.postcopy = PostcopyState.END
        mis.effects.append(GuestMayRun())
        mis.become(Status.COMPLETED)
        self._close(after_postcopy=advised)

    def _listen(self) -> Story[None]:
        """`postcopy_ram_listen_thread`: it reads the main channel from LISTEN on."""
        mis = self._mis
        ret = yield from load_elements(mis, mis.file)
        while ret < 0 and mis.profile.pauses and mis.postcopy is PostcopyState.RUNNING:
            # `postcopy_pause_incoming` (before 8.2) lets go of its file, becomes paused if it was
            # active, waits while it is paused, and has the file of the recovery read. In
            # POSTCOPY_RECOVER it does not become paused: nobody brought a file, and NULL is read.
            dies = mis.status is Status.POSTCOPY_RECOVER
            if not dies:
                mis.become(Status.POSTCOPY_PAUSED)
            mis.effects.append(HangUp())
            mis.say("Detected IO failure for postcopy. Migration paused.")
            if dies:
                mis.effects.append(Exit(-signal.SIGSEGV))
                return
            while mis.status is Status.POSTCOPY_PAUSED:
                yield
            ret = yield from load_elements(mis, mis.file)
        if ret < 0:
            mis.say(f"postcopy_ram_listen_thread: loadvm failed: {ret}")
            mis.become(Status.FAILED)
            mis.postcopy = PostcopyState.END
            mis.effects.append(Exit(EXIT_FAILURE))
            return
        while self._main is not None:
            yield
        mis.postcopy = PostcopyState.END
        mis.become(Status.COMPLETED)
        self._close(after_postcopy=True)

    def _close(self, *, after_postcopy: bool) -> None:
        """Tear the incoming state down, and tell the source that all is done."""
        mis = self._mis
        mis.machine.ram.end()
        if mis.profile.closes_with_shut or after_postcopy:
            mis.answer(build.shut(int(mis.file.error != 0)))
        mis.effects.append(HangUp())


def _resumed(story: Generator[None, None, None] | None) -> Generator[None, None, None] | None:
    """Let a story go on until it waits; None once it has ended."""
    if story is None:
        return None
    try:
        next(story)
    except StopIteration:
        return None
    return story
