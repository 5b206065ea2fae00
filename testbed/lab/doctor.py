"""What this machine offers to runs: tried out, not looked up; nothing of the trials stays."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from testbed import tasks
from testbed.endpoint.identity import identify
from testbed.endpoint.kvm import choose_accelerator
from testbed.model.profile import PROFILES
from testbed.netns.require import Feature, probe_features

from .limits import limit_features


def examine(commands: Sequence[tuple[str, ...]], *, needed: bool) -> list[Feature]:
    """Try what runs need, and ask each command what QEMU it is.

    Must be called while the process has one thread.

    Args:
        commands: to be asked.
        needed: a command that is no QEMU is something missing; models need none.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    return [
        Feature("python", True, version, ""),
        *limit_features(),
        *probe_features(),
        Feature("models", True, f"of QEMU {' and '.join(PROFILES)}; they need no QEMU", ""),
        *tasks.run(_qemus(commands, needed=needed)),
    ]


async def _qemus(commands: Sequence[tuple[str, ...]], *, needed: bool) -> list[Feature]:
    found = [await identify(command) for command in commands]
    features = [
        Feature(
            shlex.join(each.command),
            each.error is None,
            each.banner if each.error is None else each.error.splitlines()[0],
            "for runs with --endpoint qemu: apt-get install qemu-system-x86, or name another",
            needed,
        )
        for each in found
    ]
    works = await choose_accelerator(*commands) == "kvm"
    detail = "guests run in it" if works else "guests do not run in it here, but in TCG"
    return [*features, Feature("kvm", works, detail, "", needed=False)]
