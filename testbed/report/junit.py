"""The JUnit report, as CI systems read it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from testbed.scenario.result import Result

from .words import failure_lines

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; stderr holds anything."""


def write_junit(path: Path, results: Sequence[Result]) -> None:
    """Write all results: an unknown outcome is an error, a lacking environment is skipped."""
    suite = ET.Element(
        "testsuite",
        name="testbed",
        tests=str(len(results)),
        failures=str(sum(result.passed is False for result in results)),
        errors=str(sum(result.passed is None and result.lacks is None for result in results)),
        skipped=str(sum(result.lacks is not None for result in results)),
        time=f"{sum(result.duration_s for result in results):.3f}",
    )
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname="testbed",
            name=result.name,
            file=str(result.path),
            time=f"{result.duration_s:.3f}",
        )
        if result.passed is not True:
            _not_passed(case, result)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _not_passed(case: ET.Element, result: Result) -> None:
    kind = "skipped" if result.lacks is not None else "error"
    if result.passed is False:
        kind = "failure"
    lines = [NOT_XML.sub("?", line) for line in failure_lines(result)]
    message = lines[0] if lines else result.verdict
    if result.failures:
        first = result.failures[0]
        message = f"{first.name}: expected {first.expected}, got {first.got}"
    ET.SubElement(case, kind, message=NOT_XML.sub("?", message)).text = "\n".join(lines)
