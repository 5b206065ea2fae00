"""The JUnit report, as CI systems read it.

It keeps to what Jenkins, GitLab and GitHub's actions have in common: `junit-10.xsd` of Jenkins'
xUnit plugin, in which a case has no properties. What both sides were is in its output.
"""

from __future__ import annotations

import re
import socket
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from testbed.files import replace_file
from testbed.scenario.planned import PlannedRun
from testbed.scenario.result import Result

from .story import story
from .words import failure_lines, invariant_lines, printable, reason_line

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; names of files and stderr hold anything."""
CUT = "it had begun when the command was ended: what it would have come to is not known"
NEVER_BEGUN = "it never began: the command was ended before"


def write_junit(
    path: Path,
    runs: Sequence[PlannedRun],
    results: Sequence[Result],
    *,
    began: datetime,
    under_way: bool = False,
) -> None:
    """Write all runs: an unknown outcome is an error, a lacking environment is skipped.

    A run that has no result is in it as well: no file is green because a command was ended early.

    Args:
        path: the file; its folder is there.
        runs: all that the command is to play, in order.
        results: of the first of them.
        began: when the command began.
        under_way: the first run without a result has begun: it is an error. The others without one
            are skipped.

    Raises:
        OSError: the file cannot be written.
    """
    cases = list(_cases(runs, results, under_way=under_way))
    outcomes = [child.tag for case in cases for child in case]
    suite = _element(
        "testsuite",
        name="testbed",
        tests=len(cases),
        failures=outcomes.count("failure"),
        errors=outcomes.count("error"),
        skipped=outcomes.count("skipped"),
        time=f"{sum(result.duration_s for result in results):.3f}",
        timestamp=began.replace(microsecond=0, tzinfo=None).isoformat(),
        hostname=socket.gethostname(),
    )
    suite.extend(cases)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    replace_file(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _cases(
    runs: Sequence[PlannedRun], results: Sequence[Result], *, under_way: bool
) -> Iterator[ET.Element]:
    for run, result in zip(runs, results, strict=False):
        yield _case(run, result)
    for number, run in enumerate(runs[len(results) :]):
        cut = under_way and number == 0
        case = _element("testcase", classname=run.suite, name=run.case, time="0.000")
        what = ("error", CUT) if cut else ("skipped", NEVER_BEGUN)
        case.append(_element(what[0], message=what[1]))
        yield case


def _case(run: PlannedRun, result: Result) -> ET.Element:
    case = _element(
        "testcase",
        classname=run.suite,
        name=run.case,
        file=result.path,
        time=f"{result.duration_s:.3f}",
    )
    if result.passed is not True:
        kind = "failure" if result.passed is False else "error"
        said = _element(
            "skipped" if result.lacks is not None else kind, message=reason_line(result)
        )
        said.text = NOT_XML.sub("?", "\n".join(failure_lines(result)))
        case.append(said)
    output = ET.SubElement(case, "system-out")
    output.text = NOT_XML.sub("?", "\n".join(_told(result)))
    return case


def _told(result: Result) -> Iterator[str]:
    """What happened, as the console tells a single run."""
    yield f"source: {result.source}"
    yield f"destination: {result.destination}"
    yield f"verdict: {result.verdict}"
    if result.folder is not None:
        yield f"files: {printable(result.folder)}"
    yield from map(printable, story(result.log))
    yield from invariant_lines(result)
    yield f"repeat: {result.repeat_command}"


def _element(tag: str, **attributes: object) -> ET.Element:
    texts = {name: NOT_XML.sub("?", str(value)) for name, value in attributes.items()}
    return ET.Element(tag, texts)
