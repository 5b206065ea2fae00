"""The JUnit report, as CI systems read it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from testbed.scenario.result import Result

from .words import failure_lines, reason_line

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; names of files and stderr hold anything."""


def write_junit(path: Path, results: Sequence[Result]) -> None:
    """Write all results: an unknown outcome is an error, a lacking environment is skipped.

    Args:
        path: the file; its folder is there.
        results: in the order in which they ran; a scenario that ran again is there again.

    Raises:
        OSError: the file cannot be written.
    """
    suite = _element(
        "testsuite",
        name="testbed",
        tests=len(results),
        failures=sum(result.passed is False for result in results),
        errors=sum(result.passed is None and result.lacks is None for result in results),
        skipped=sum(result.lacks is not None for result in results),
        time=f"{sum(result.duration_s for result in results):.3f}",
    )
    suite.extend(_case(result) for result in results)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _case(result: Result) -> ET.Element:
    case = _element(
        "testcase",
        classname="testbed",
        name=result.name,
        file=result.path,
        time=f"{result.duration_s:.3f}",
    )
    sides = _element("properties")
    for name, played in (("source", result.source), ("destination", result.destination)):
        sides.append(_element("property", name=name, value=played))
    for each in result.invariants:
        value = each.state if each.state == "held" else f"{each.state}: {each.detail}"
        sides.append(
            _element("property", name=f"invariant {each.number}: {each.name}", value=value)
        )
    case.append(sides)
    if result.passed is not True:
        kind = "failure" if result.passed is False else "error"
        said = _element(
            "skipped" if result.lacks is not None else kind, message=reason_line(result)
        )
        said.text = NOT_XML.sub("?", "\n".join(failure_lines(result)))
        case.append(said)
    return case


def _element(tag: str, **attributes: object) -> ET.Element:
    texts = {name: NOT_XML.sub("?", str(value)) for name, value in attributes.items()}
    return ET.Element(tag, texts)
