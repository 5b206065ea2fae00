"""What differs between the versions of QEMU that the model behaves as, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """One version's behaviour, as far as it differs from another's."""

    name: str
    version: tuple[int, int, int]  # as QMP's greeting says it
    commands_end: int
    """The first command that is unknown: `MIG_CMD_MAX`."""
    messages_end: int
    """The first message of the return path that is unknown: `MIG_RP_MSG_MAX`."""
    advise_bytes: int | None
    """Length of POSTCOPY_ADVISE; None: of any length, and checked by its handler."""
    package_bytes_max: int
    notices_short_reads: bool
    """It looks for an error of its file behind each id and type, and not only at the end."""
    pauses: bool
    """A link that is lost in postcopy pauses the migration; or it is the end of it."""
    dies_in_virtio: bool
    """A virtio device whose MSI-X table or configuration is cut ends it by SIGSEGV; or it notices
    that its own part is missing. Seen: 7.2.22, 10.0.13 and 11.1.3 die, 5.2.0 does not."""
    ids_are_of_entries: bool
    """An entry remembers the last section_id that it was loaded by, and 0 before; or each
    section_id that came remembers its entry."""
    tells_write_errors: bool
    """The source says whose section could not be written, and why; or only that it failed."""
    footer_waits: bool
    """RAM is flushed where its PART ends, and the footer behind it goes out with what comes next:
    while the source waits, the destination waits at the footer."""
    closes_with_shut: bool
    """SHUT is sent whenever the incoming state is torn down, not only after postcopy."""
    setup_advice: str
    """Behind the text for a section that nobody knows."""
    lists_page_sizes: bool
    """With postcopy the block list has the page size of a block whose pages are not the host's."""
    no_flags: str
    """A RAM record's flags that are 0, as the text says them."""
    size_mismatch: str
    """A block's size that is not its own; of `block`, `theirs` and `ours`."""
    too_large: str
    """A block's size that is beyond what it can have; the same."""
    unaligned_length: str
    """A range to discard that is not whole pages; of `end`, its host address, and `length`."""
    traces_numbers: bool
    """Tracing says a command as a number, or by its name; and each line begins with process and
    time, or does not."""
    checks_postcopy_pages: bool
    """In postcopy it looks for an error of its file behind the flags of a RAM record, and counts
    the target pages of a host page; or it wants them in order, and says more of a bad block."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="2.9",
            version=(2, 9, 0),
            commands_end=8,
            messages_end=5,
            advise_bytes=16,
            package_bytes_max=1 << 24,
            notices_short_reads=False,
            pauses=False,
            dies_in_virtio=False,
            ids_are_of_entries=False,
            tells_write_errors=False,
            footer_waits=False,
            closes_with_shut=False,
            setup_advice="",
            lists_page_sizes=False,
            no_flags="0",
            size_mismatch="Length mismatch: {block}: {theirs:#x} in != {ours:#x}",
            too_large="Length too large: {block}: {theirs:#x} > {ours:#x}",
            unaligned_length="Unaligned end address: {end:#x}",
            traces_numbers=True,
            checks_postcopy_pages=False,
        ),
        Profile(
            name="7.2",
            version=(7, 2, 22),
            commands_end=11,
            messages_end=7,
            advise_bytes=None,
            package_bytes_max=(1 << 32) - 1,
            notices_short_reads=True,
            pauses=True,
            dies_in_virtio=True,
            ids_are_of_entries=True,
            tells_write_errors=True,
            footer_waits=True,
            closes_with_shut=True,
            setup_advice=(
                ". Make sure that your current VM setup matches your saved VM setup, "
                "including any hotplugged devices"
            ),
            lists_page_sizes=True,
            no_flags="0x0",
            size_mismatch="Size mismatch: {block}: {theirs:#x} != {ours:#x}",
            too_large="Size too large: {block}: {theirs:#x} > {ours:#x}",
            unaligned_length="Unaligned length: {length:x}",
            traces_numbers=False,
            checks_postcopy_pages=True,
        ),
    )
}
"""By name. Sources: QEMU `migration/savevm.c`, `migration/ram.c` and `exec.c` of early 2017;
`softmmu/physmem.c` instead of the last one of 7.2."""
