"""`testbed decode` and `testbed dump-layout`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from .shared import EXIT_FAILED, PATH, usage


@click.command("decode", short_help="Decode recorded streams: files, pipes, captures.")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--fields",
    is_flag=False,
    flag_value="*",
    metavar="[SECTION]",
    help="The fields of device sections; of those whose idstr matches (* and ? are wild).",
)
@click.option("--diff", is_flag=True, help="Compare two streams by section and field.")
@click.option("--ram-out", type=PATH, metavar="DIR", help="Put memory blocks together here.")
@click.option("--return-path", metavar="FILE", help="A recording of the return path, too.")
@click.option(
    "--layout",
    type=PATH,
    metavar="FILE",
    help="What dump-layout wrote, for streams without vmdesc.",
)
@click.option(
    "--channel",
    type=click.Choice(["main", "recovery", "multifd", "preempt", "return-path", "tls"]),
    help="What FILE is, where its first bytes do not tell.",
)
def decode_command(
    files: tuple[str, ...],
    as_json: bool,
    fields: str | None,
    diff: bool,
    ram_out: Path | None,
    return_path: str | None,
    layout: Path | None,
    channel: str | None,
) -> None:
    """Decode recorded migration streams: files, pipes (-), captures (pcap, pcapng), xz, gz.

    Exit status: 0 whole, 1 cut short or damaged (--diff: they differ), 2 not readable.
    """
    from testbed.decode.channels import SourceError
    from testbed.decode.show import Wanted, read_layout, show
    from testbed.wire.identify import ChannelKind

    wanted = Wanted(
        as_json, ChannelKind(channel) if channel else None, return_path, ram_out, fields
    )
    if not files and fields is not None:  # `--fields FILE`: no section was meant
        files, wanted = (fields,), replace(wanted, fields="*")
    if not files or (diff and len(files) != 2):
        usage("expected two FILEs to compare" if diff else "expected a FILE, or - for a pipe")
    try:
        if layout is not None:
            wanted = replace(wanted, learned=read_layout(layout))
        if diff:
            from testbed.decode.differ import show_differences

            whole = show_differences(files[0], files[1], wanted)
        else:
            whole = all([show(path, wanted) for path in files])
    except SourceError as error:
        usage(error.what)
    sys.exit(0 if whole else EXIT_FAILED)


@click.command(
    "dump-layout", short_help="Write down where device sections end, for postcopy streams."
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def dump_layout_command(files: tuple[str, ...]) -> None:
    """Write down the layout of the device sections of recorded streams, as JSON.

    `decode --layout` reads it, for streams of the same machine that have no vmdesc: postcopy's.
    """
    from testbed.decode.channels import SourceError
    from testbed.decode.show import learn

    try:
        click.echo(learn(files).to_json())
    except SourceError as error:
        usage(error.what)
