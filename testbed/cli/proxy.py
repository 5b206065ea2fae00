"""`testbed proxy`."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click

from .shared import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LACKS,
    EXIT_UNKNOWN,
    PATH,
    go_on_in_background,
    usage,
)


@click.command("proxy")
@click.option(
    "--listen", required=True, metavar="ADDR", help="For the source: HOST:PORT, unix:PATH."
)
@click.option("--upstream", required=True, metavar="ADDR", help="Where the destination listens.")
@click.option("--faults", type=PATH, metavar="FILE", help="What is to go wrong, and where.")
@click.option("--record", type=PATH, metavar="DIR", help="Record what comes in, for `replay`.")
@click.option(
    "--record-max", type=click.IntRange(1), metavar="BYTES", help="Record no more than that."
)
@click.option("--live", is_flag=True, help="Draw what passes, on a terminal.")
@click.option("--unread", is_flag=True, help="Read nothing of what passes: the least it can cost.")
@click.option("--once", is_flag=True, help="End when the first migration is over.")
@click.option("--nbd-listen", metavar="ADDR", help="A second listener: storage migration.")
@click.option("--nbd-upstream", metavar="ADDR", help="Where the destination's NBD server is.")
@click.option("--nbd-faults", type=PATH, metavar="FILE", help="Faults of its connections.")
@click.option("--control", metavar="ADDR", help="Serve Toxiproxy's API and /metrics there.")
@click.option(
    "--control-public",
    is_flag=True,
    help="Allow --control on an address that other hosts can reach.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed of random faults and of jitter.  [default: the file's]",
)
@click.option("--json-log", type=PATH, metavar="FILE", help="All events, a JSON object a line.")
def proxy_command(
    listen: str,
    upstream: str,
    faults: Path | None,
    record: Path | None,
    record_max: int | None,
    live: bool,
    unread: bool,
    once: bool,
    nbd_listen: str | None,
    nbd_upstream: str | None,
    nbd_faults: Path | None,
    control: str | None,
    control_public: bool,
    seed: int | None,
    json_log: Path | None,
) -> None:
    """Stand between a source and a destination, until Ctrl-C.

    Addresses are HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH. The first Ctrl-C takes no more
    connections and waits for those that are open, the second one resets them.

    Exit status: 0 ended as asked, 1 --once and a fault never struck, 2 usage, 3 an address cannot
    be had, 4 an error of the testbed's own is in the log, 130 connections were reset by a second
    Ctrl-C.
    """
    from testbed.report.watching import Watching
    from testbed.standalone.asked import (
        AskedError,
        Settings,
        has_chance,
        read_address,
        read_faults,
        read_way,
    )
    from testbed.standalone.service import Outcome, ServiceError, serve

    if (nbd_listen is None) != (nbd_upstream is None) or (nbd_faults and not nbd_listen):
        usage("--nbd-listen and --nbd-upstream go together, and --nbd-faults with them")
    if record_max is not None and record is None:
        usage("--record-max says how much may be recorded: --record DIR")
    if control_public and control is None:
        usage("--control-public says who may reach the control server: --control ADDR")
    if unread and (faults or live or once):
        usage("--unread knows of connections only: no --faults, --live or --once with it")
    try:
        loaded, on_storage = read_faults(faults), read_faults(nbd_faults, for_storage=True)
        migration = read_way("", listen, upstream, loaded)
        storage = None
        if nbd_listen is not None and nbd_upstream is not None:
            storage = read_way("nbd-", nbd_listen, nbd_upstream, on_storage)
        settings = Settings(
            migration,
            storage,
            seed if seed is not None else loaded.seed if loaded else 1,
            has_chance(migration.faults + (storage.faults if storage else ())),
            once,
            record,
            record_max,
            json_log,
            read_address("--control", control) if control is not None else None,
            control_public,
            unread,
        )
        go_on_in_background()
        with closing(Watching(sys.stdout, datetime.now(), live=live)) as watching:
            outcome = serve(settings, watching)
    except AskedError as error:
        usage(str(error))
    except ServiceError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_LACKS)
    statuses = {
        Outcome.UNFIRED: EXIT_FAILED,
        Outcome.RESET: EXIT_INTERRUPTED,
        Outcome.BROKEN: EXIT_UNKNOWN,
    }
    sys.exit(statuses.get(outcome, 0))
