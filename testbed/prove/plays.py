"""The plays of a proof: each scenario as it is, and without each of its faults."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.scenario.folders import run_folders
from testbed.scenario.run import Settings
from testbed.scenario.scenario import Scenario
from testbed.scenario.session import Options, run

from .mutants import Mutant, mutants
from .proof import Proof
from .trial import Trial, trial


@dataclass(frozen=True, slots=True)
class Job:
    """One play: of a scenario as it is, or of one of its mutants."""

    scenario: Scenario
    options: Options
    mutant: Mutant | None = None
    is_last: bool = False  # of its scenario

    def play(self) -> Trial:
        """Play it, and judge what came of it by the scenario's own expectations."""
        if self.mutant is None:
            return trial(self.scenario, run(self.scenario, self.options))
        result = run(self.mutant.scenario, self.options)
        return trial(self.scenario, result, self.mutant.without, self.mutant.where)


def jobs_of(scenarios: Sequence[Scenario], settings: Settings, below: Path | None) -> list[Job]:
    """Return all plays that prove the scenarios, in order.

    Args:
        scenarios: to be proved.
        settings: of the command line.
        below: the folder in which each play has one for its files; None: they are not kept.

    Raises:
        FolderTaken: a play's folder is there already.
    """
    options = Options(settings)
    jobs, names = [], []
    for scenario in scenarios:
        ways: list[Mutant | None] = [None, *mutants(scenario)]
        for number, mutant in enumerate(ways):
            jobs.append(Job(scenario, options, mutant, number == len(ways) - 1))
            names.append(f"{scenario.name}.without.{number}" if number else scenario.name)
    if below is None:
        return jobs
    folders = run_folders(below, names)
    return [
        replace(job, options=replace(options, folder=folder))
        for job, folder in zip(jobs, folders, strict=True)
    ]


_jobs: Sequence[Job] = ()
"""Of this process: a worker has them from the process that it was forked from."""


class WorkerEnded(Exception):
    """A process that played one of the jobs was ended from outside."""


def prove(jobs: Sequence[Job], *, at_once: int) -> Iterator[Proof | None]:
    """Play all, so many at one time.

    Yields:
        After each play, in order, the proof that it has completed, or None.

    Raises:
        WorkerEnded: a process that plays was killed; what had not come by then does not come.
    """
    # Forked, as runs are: a worker has one thread, and all modules are loaded.
    forking = multiprocessing.get_context("fork")
    trials: list[Trial] = []
    with ProcessPoolExecutor(min(at_once, len(jobs)), forking, _begin, (jobs,)) as workers:
        try:
            for job, each in zip(jobs, workers.map(_play, range(len(jobs))), strict=True):
                trials.append(each)
                if job.is_last:
                    yield Proof(job.scenario, tuple(trials))
                    trials = []
                else:
                    yield None
        except BrokenProcessPool as error:
            raise WorkerEnded from error
        except BaseException:  # an interrupt, or nobody wants the rest
            workers.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _begin(jobs: Sequence[Job]) -> None:
    global _jobs
    _jobs = jobs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its workers


def _play(number: int) -> Trial:
    return _jobs[number].play()
