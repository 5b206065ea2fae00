"""Whether a signal would change anything for a process: one that changes nothing is no fault."""

from __future__ import annotations

import os
from enum import StrEnum


class ProcessState(StrEnum):
    """What a child of ours does, in words for people."""

    RAN = "ran"
    STOOD = "stood still"
    ENDED = "had ended"


def process_state(pid: int) -> ProcessState:
    """The state of a child that nobody has waited for.

    Asked of the kernel by waitid(2), which leaves the child as it is: where parts of /proc are
    masked, a run cannot have one of its own.
    """
    options = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    try:
        found = os.waitid(os.P_PID, pid, options)
    except ChildProcessError:
        return ProcessState.ENDED
    if found is None:
        return ProcessState.RAN
    return ProcessState.STOOD if found.si_code == os.CLD_STOPPED else ProcessState.ENDED


def changes_nothing(state: ProcessState, signal: str) -> bool:
    """True if a process in that state does not notice the signal: `KILL`, `STOP` or `CONT`."""
    if state is ProcessState.ENDED:
        return True
    return signal == {ProcessState.RAN: "CONT", ProcessState.STOOD: "STOP"}[state]
