"""What all tests have in common."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test, settings

# How long an example takes says more of what else the machine does than of what is tested.
settings.register_profile("explore", deadline=None)
# What decides whether a change lands must not depend on luck; what looks for more may.
settings.register_profile("the same each time", deadline=None, derandomize=True)
settings.load_profile("the same each time")

FAILED_LIVE, FAILED_OTHERS, RUN_AGAIN = "failed-live", "failed-others", "run-again.txt"
"""Files in the folder of `--results`: node IDs of live tests and of others that failed, one a line,
and for people: what each test that was run again failed with, and what came of it by itself."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("scripts/test")
    group.addoption("--results", type=Path, metavar="FOLDER", help="note here which tests failed")
    group.addoption(
        "--again",
        action="store_true",
        help="run only the live tests that the last run with the same --results saw fail",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts `scripts/test &` with SIGINT ignored, and so does nohup
    # with some shells. Programs that tests interrupt would inherit that, and never end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = config.getoption("--results")
    if folder is not None and not hasattr(config, "workerinput"):  # workers report to their parent
        config.pluginmanager.register(Notes(folder, again=config.getoption("--again")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            # By default, the bound raises in the test. Hypothesis would take that for what the
            # example came to, and try it again, now without a bound. So the process ends;
            # where it was, `faulthandler_timeout` has said by then.
            item.add_marker(pytest.mark.timeout(method="thread"))
    if config.getoption("--again"):
        wanted = set((config.getoption("--results") / FAILED_LIVE).read_text().splitlines())
        config.hook.pytest_deselected(items=[each for each in items if each.nodeid not in wanted])
        items[:] = [each for each in items if each.nodeid in wanted]


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, bool, bool]:
    """Have the bound interrupt a test again and again.

    After the first time, it may wait without a bound for what it has started to end: so does the
    end of `with subprocess.Popen(...)`.
    """
    was_set = yield
    until_then_s, _ = signal.getitimer(signal.ITIMER_REAL)
    if until_then_s:
        signal.setitimer(signal.ITIMER_REAL, until_then_s, settings.timeout)
    return was_set


class Notes:
    """Notes which tests failed, for `scripts/test`, which may run some of them again."""

    def __init__(self, folder: Path, *, again: bool) -> None:
        self._folder = folder
        self._again = again
        self._failed: dict[str, list[pytest.TestReport]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.setdefault(report.nodeid, []).append(report)

    def pytest_sessionfinish(self) -> None:
        if self._again:
            self._tell_what_came_of_it()
            return
        # Of a worker that broke down, the report has no keywords, and so no `live`.
        live = [name for name, reports in self._failed.items() if "live" in reports[0].keywords]
        others = [name for name in self._failed if name not in live]
        self._folder.mkdir(parents=True, exist_ok=True)
        for file, names in ((FAILED_LIVE, live), (FAILED_OTHERS, others)):
            (self._folder / file).write_text("".join(f"{name}\n" for name in names))
        texts = [f"{name}\nfailed beside others:\n{self._text(name)}\n" for name in live]
        (self._folder / RUN_AGAIN).write_text("\n".join(texts))

    def _text(self, name: str) -> str:
        return "\n".join(f"[{report.when}] {report.longreprtext}" for report in self._failed[name])

    def _tell_what_came_of_it(self) -> None:
        with (self._folder / RUN_AGAIN).open("a") as file:
            for name in (self._folder / FAILED_LIVE).read_text().splitlines():
                came_to = self._text(name) if name in self._failed else "passed"
                file.write(f"\n{name}\nrun again by itself: {came_to}\n")
