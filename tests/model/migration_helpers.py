"""A machine that is told to migrate, and only notes it; commands and human monitor on top."""

import asyncio

from testbed.model.migration.effects import Status
from testbed.model.profile import PROFILES
from testbed.model.qmp.basics import add_basics
from testbed.model.qmp.commands import Commands
from testbed.model.qmp.error import CommandError
from testbed.model.qmp.hmp import Hmp
from testbed.model.qmp.hmp_migration import add_human_migration
from testbed.model.qmp.migration import MigrationCommands, add_migration
from testbed.model.qmp.migration_info import MigrationInfo
from testbed.model.qmp.server import Monitor
from testbed.model.qmp.settings import Settings
from testbed.model.snapshots.texts import TEXTS


class NotedMigrations:
    """Migrations and the machine's run state, both as a test says; `calls` has what was asked."""

    def __init__(self, profile="7.2", *, status="running", chardevs=()):
        self.profile = PROFILES[profile]
        self.settings = Settings(self.profile)
        self.status = status
        self.is_deferred = status == "inmigrate"
        self.incoming_started = False
        self.is_yankable = False
        self.told = MigrationInfo()
        self.refuses = None  # what the next act is refused with
        self.calls = []
        self.commands = Commands()
        self.hmp = Hmp(TEXTS[self.profile.name].error_prefix)
        acts = MigrationCommands(self, self, self.profile)
        add_migration(self.commands, acts, chardevs=chardevs)
        add_human_migration(self.hmp, acts)

    @property
    def running(self):
        return self.status == "running"

    def ask(self, name, **arguments):
        """What QMP answers; of an error its text. Members with a dash are given with a `_`."""
        command = self.commands.find(name, oob=False)
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return command.handler(command.arguments.check(given, "", "null"))
        except CommandError as error:
            return error.desc

    def say(self, line):
        """What the human monitor shows."""
        return asyncio.run(self.hmp.execute(line)).replace("\r\n", "\n")

    def monitor(self, version):
        """All of it behind a socket."""
        add_basics(self.commands, self.hmp, self, version=version)
        return Monitor(self.commands, version, is_running=lambda: self.running)

    def _note(self, *call):
        self.calls.append(call)
        if self.refuses is not None:
            raise CommandError(self.refuses)

    # Migrations

    def info(self):
        return self.told

    def migrate(self, uri, *, resume):
        self._note("migrate", uri, resume)

    def fail_setup(self):
        self._note("fail_setup")
        self.told = MigrationInfo(status=Status.FAILED)

    def cancel(self):
        self._note("cancel")

    def incoming(self, uri):
        self._note("incoming", uri)
        self.incoming_started = True

    def recover(self, uri):
        self._note("recover", uri)

    def pause(self):
        self._note("pause")

    def start_postcopy(self):
        self._note("start_postcopy")

    def parameters_changed(self, names):
        self._note("parameters_changed", names)

    def announce(self, **how):
        self._note("announce", how)

    def yank(self):
        self._note("yank")

    def xen_save(self, filename, *, live):
        self._note("xen_save", filename, live)

    def xen_load(self, filename):
        self._note("xen_load", filename)

    # RunStateHolder

    def stop(self):
        self.status = "paused"

    def cont(self):
        self.status = "running"

    def quit(self):
        raise AssertionError("no test quits")
