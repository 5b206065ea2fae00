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
    advise_bytes: int | None
    """Length of POSTCOPY_ADVISE; None: of any length, and checked by its handler."""
    package_bytes_max: int
    notices_short_reads: bool
    """It looks for an error of its file behind each id and type, and not only at the end."""
    pauses: bool
    """A link that is lost in postcopy pauses the migration; or it is the end of it."""
    ids_are_of_entries: bool
    """An entry remembers the last section_id that it was loaded by, and 0 before; or each
    section_id that came remembers its entry."""
    closes_with_shut: bool
    """SHUT is sent whenever the incoming state is torn down, not only after postcopy."""
    setup_advice: str
    """Behind the text for a section that nobody knows."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="2.9",
            version=(2, 9, 0),
            commands_end=8,
            advise_bytes=16,
            package_bytes_max=1 << 24,
            notices_short_reads=False,
            pauses=False,
            ids_are_of_entries=False,
            closes_with_shut=False,
            setup_advice="",
        ),
        Profile(
            name="7.2",
            version=(7, 2, 22),
            commands_end=11,
            advise_bytes=None,
            package_bytes_max=(1 << 32) - 1,
            notices_short_reads=True,
            pauses=True,
            ids_are_of_entries=True,
            closes_with_shut=True,
            setup_advice=(
                ". Make sure that your current VM setup matches your saved VM setup, "
                "including any hotplugged devices"
            ),
        ),
    )
}
"""By name. Sources: QEMU `migration/savevm.c` of early 2017, and of 7.2."""
