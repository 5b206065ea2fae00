"""Limits of open files and of processes, each told as what it is."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.lab.limits import refused

ROOT = Path(__file__).parents[2]
NOBODY = ROOT / "tests" / "netns" / "nobody.py"
WITHIN_S = 60
LIMITED = """
import resource, sys
resource.setrlimit(resource.{kind}, {limits})
sys.argv = ["testbed", *{arguments}]
from testbed.cli import main
main()
"""
SCENARIO = "scenarios/precopy_ok.yaml"


def limited(kind: str, limits: tuple[int, int], *arguments: str) -> tuple[int, str]:
    """Status and output of a command under a limit, soft and hard; of processes: as a user."""
    code = LIMITED.format(kind=kind, limits=limits, arguments=list(arguments))
    words = [str(NOBODY), "666", code] if kind == "RLIMIT_NPROC" else ["-c", code]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


@pytest.mark.live
@pytest.mark.parametrize(
    ("kind", "limits", "said"),
    [
        (
            "RLIMIT_NOFILE",
            (40, 40),
            "a run needs 64 open files, and the limit is 40 (raise it as root, the hard limit is "
            "the same: `ulimit -n 1024`)",
        ),
        (
            "RLIMIT_NPROC",
            (3, 100),
            "the limit of this user is 3 in all (RLIMIT_NPROC; raise it: `ulimit -Su 4096`)",
        ),
        (
            "RLIMIT_NPROC",
            (1, 1),
            "the limit of this user is 1 in all (RLIMIT_NPROC; raise it as root, the hard limit "
            "is the same: `ulimit -u 4096`)",
        ),
    ],
)
def test_a_limit_that_is_too_low_is_what_the_environment_lacks(kind, limits, said):
    status, output = limited(kind, limits, "run", SCENARIO)
    assert (status, "namespaces" in output) == (3, False)
    assert said in output


@pytest.mark.live
@pytest.mark.parametrize("limits", [(128, 128), (40, 4096)])
def test_a_limit_that_a_run_can_do_with_is_no_hindrance(limits):
    """Not even where a descriptor above it was inherited, as of a shell's script."""
    code = LIMITED.format(kind="RLIMIT_NOFILE", limits=limits, arguments=["run", SCENARIO])
    inherits = f"import os; os.dup2(2, 200); exec({code!r})"
    done = subprocess.run(
        [sys.executable, "-c", inherits], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.live
def test_doctor_says_which_limit_is_too_low():
    status, output = limited("RLIMIT_NPROC", (5, 5), "doctor")
    assert status == 3
    (line,) = [line for line in output.splitlines() if " limits " in line]
    assert line.startswith("missing")
    assert "RLIMIT_NPROC" in line


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "Too many open files; the limit of open files is "),
        (errno.ENFILE, "sysctl fs.file-max"),
        (errno.EAGAIN, "Resource temporarily unavailable; the limit of processes and threads "),
        (errno.ENOSPC, "the system refused: No space left on device (x)"),
    ],
)
def test_an_error_says_the_limit_behind_it(number, said):
    error = OSError(number, os.strerror(number), "x" if number == errno.ENOSPC else None)
    assert said in refused(error)
