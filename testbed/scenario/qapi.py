"""QEMU's own words that a scenario may use, so that a misspelt one is found before a run.

Source: QEMU `qapi/migration.json` (MigrationStatus) and `qapi/run-state.json` (RunState), all that
any version from 5.2 to 11.1 has. Which capabilities and parameters a version has, QEMU says itself;
a name that is none of any version's is a mistake.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from .model import got, matching, one_of

MIGRATION_STATUSES = (
    "none",
    "setup",
    "active",
    "device",
    "pre-switchover",
    "wait-unplug",
    "postcopy-device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "colo",
    "cancelling",
    "cancelled",
    "completed",
    "failing",
    "failed",
)
RUN_STATES = (
    "running",
    "paused",
    "prelaunch",
    "preconfig",
    "inmigrate",
    "finish-migrate",
    "postmigrate",
    "save-vm",
    "restore-vm",
    "shutdown",
    "suspended",
    "debug",
    "io-error",
    "internal-error",
    "watchdog",
    "guest-panicked",
    "colo",
)
NO_RUN_STATE = ("ended", "silent")
"""What stands for a run state where a side has none: its process ended, or QMP did not answer."""

CAPABILITIES = (
    "auto-converge",
    "background-snapshot",
    "block",
    "compress",
    "dirty-bitmaps",
    "dirty-limit",
    "events",
    "late-block-activate",
    "mapped-ram",
    "multifd",
    "pause-before-switchover",
    "postcopy-blocktime",
    "postcopy-preempt",
    "postcopy-ram",
    "rdma-pin-all",
    "release-ram",
    "return-path",
    "switchover-ack",
    "validate-uuid",
    "x-colo",
    "x-ignore-shared",
    "xbzrle",
    "zero-blocks",
    "zero-copy-send",
)
"""As `query-migrate-capabilities` of 5.2, 7.2, 10.0 and 11.1 lists them."""
PARAMETERS = (
    "announce-initial",
    "announce-max",
    "announce-rounds",
    "announce-step",
    "avail-switchover-bandwidth",
    "block-bitmap-mapping",
    "block-incremental",
    "compress-level",
    "compress-threads",
    "compress-wait-thread",
    "cpr-exec-command",
    "cpu-throttle-increment",
    "cpu-throttle-initial",
    "cpu-throttle-tailslow",
    "decompress-threads",
    "direct-io",
    "downtime-limit",
    "max-bandwidth",
    "max-cpu-throttle",
    "max-postcopy-bandwidth",
    "mode",
    "multifd-channels",
    "multifd-compression",
    "multifd-qatzip-level",
    "multifd-zlib-level",
    "multifd-zstd-level",
    "throttle-trigger-threshold",
    "tls-authz",
    "tls-creds",
    "tls-hostname",
    "vcpu-dirty-limit",
    "x-checkpoint-delay",
    "x-rdma-chunk-size",
    "x-vcpu-dirty-limit-period",
    "xbzrle-cache-size",
    "zero-page-detection",
)
"""The members of `migrate-set-parameters` in `query-qmp-schema` of the same."""
KNOWN_VERSIONS = ((2, 9, 0), (5, 2, 0), (7, 2, 0), (10, 0, 0), (11, 1, 0))
"""Versions whose names are among these: what is for later ones only may say others."""

MigrationStatus = Annotated[str, AfterValidator(one_of(MIGRATION_STATUSES, "migration status"))]
RunState = Annotated[str, AfterValidator(one_of((*RUN_STATES, *NO_RUN_STATE), "run state"))]
EventName = Annotated[
    str, AfterValidator(matching(r"[A-Z][A-Z0-9_]*", "an event of QMP's such as STOP"))
]
HYPHENED = r"[a-z0-9]+(-[a-z0-9]+)*"


def _hyphened(value: str) -> str:
    if re.fullmatch(HYPHENED, value) is not None:
        return value
    meant = value.strip().replace("_", "-").lower()
    hint = f"; did you mean `{meant}`?" if re.fullmatch(HYPHENED, meant) else ""
    raise ValueError(f"expected a name of QEMU's such as return-path{got(value)}{hint}")


Hyphened = Annotated[str, AfterValidator(_hyphened)]
