"""Whether a process notices a signal, asked of the kernel about real ones."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from testbed.endpoint.signals import ProcessState, changes_nothing, process_state

NOTICED = {
    ProcessState.RAN: {"KILL": True, "STOP": True, "CONT": False},
    ProcessState.STOOD: {"KILL": True, "STOP": False, "CONT": True},
    ProcessState.ENDED: {"KILL": False, "STOP": False, "CONT": False},
}


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("state", NOTICED)
@pytest.mark.parametrize("name", ["KILL", "STOP", "CONT"])
def test_every_signal_in_every_state(state: ProcessState, name: str) -> None:
    assert changes_nothing(state, name) is not NOTICED[state][name]


def test_a_process_that_stands_runs_and_ends(child: subprocess.Popen[bytes]) -> None:
    assert process_state(child.pid) is ProcessState.RAN
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert process_state(child.pid) is ProcessState.STOOD
    assert process_state(child.pid) is ProcessState.STOOD  # asking has changed nothing
    child.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)
    assert process_state(child.pid) is ProcessState.RAN
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_state(child.pid) is ProcessState.ENDED
    child.wait()
    assert process_state(child.pid) is ProcessState.ENDED
