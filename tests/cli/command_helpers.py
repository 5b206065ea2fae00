"""The command `testbed`, run in a fork of a process that has its modules loaded.

It is what a user runs, but for the start of an interpreter, which takes longer than many a command.
What a start itself may get wrong is seen where the command is started as a program of its own: by
the tests of the README, of closed streams and of signals.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from testbed.cli import main

ROOT = Path(__file__).parents[2]
LOADED = (
    "testbed.cli.commands",
    "testbed.decode.show",
    "testbed.lab.lab",
    "testbed.prove.plays",
    "testbed.report.console",
    "testbed.report.explain",
    "testbed.report.jsonfile",
    "testbed.report.junit",
    "testbed.report.proofs",
    "testbed.scenario.session",
)
"""What commands load when they run. One that is missing here costs time and nothing else."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(LOADED))


def command(
    *arguments: str | Path, within_s: float = 180, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in the project's folder, with warnings as errors; its output goes to files.

    Raises:
        TimeoutError: it was killed, as it had not ended.
    """
    words = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name) / "stdout", Path(name) / "stderr"]
        process = CONTEXT.Process(
            target=_be_it, args=(words, {**os.environ, **environment}, streams)
        )
        process.start()
        try:
            process.join(within_s)
            if process.exitcode is None:
                raise TimeoutError(f"testbed {' '.join(words)} did not end within {within_s} s")
        finally:
            process.kill()
            process.join()
        output, errors = (stream.read_text() for stream in streams)
    return subprocess.CompletedProcess(words, process.exitcode, output, errors)


def _be_it(words: list[str], environment: dict[str, str], streams: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for fd, stream in enumerate(streams, start=1):
        with stream.open("wb") as file:
            os.dup2(file.fileno(), fd)
    warnings.simplefilter("error")
    sys.argv = ["testbed", *words]
    main()
