"""The reports for machines: JUnit and JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from report_helpers import FAILED, PASSED, UNSURE, WHERE, result

from testbed.log import Log
from testbed.report.jsonfile import write_json
from testbed.report.junit import write_junit
from testbed.scenario.result import Check, Result

RESULTS = [
    result(PASSED, name="one"),
    result(PASSED, FAILED, name="two"),
    result(UNSURE, name="three"),
    result(name="four", lacks="no /dev/net/tun\nmodprobe tun"),
    result(name="five", verdict="unknown", reason="Traceback\nValueError: no such thing"),
]


def suite_of(path: Path, results: list[Result]) -> ET.Element:
    write_junit(path, results)
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    return suite


def of(case: ET.Element) -> list[ET.Element]:
    """What a case says of its outcome."""
    return [child for child in case if child.tag != "properties"]


def test_junit_says_what_both_sides_were(tmp_path: Path) -> None:
    suite = suite_of(tmp_path / "junit.xml", RESULTS[:1])
    properties = suite.findall("testcase/properties/property")
    assert {each.get("name"): each.get("value") for each in properties} == {
        "source": "model of QEMU 7.2.22, machine pc-i440fx-7.2",
        "destination": "QEMU 10.0.13, machine pc-i440fx-7.2",
    }


def test_junit_counts_every_outcome_once(tmp_path: Path) -> None:
    suite = suite_of(tmp_path / "junit.xml", RESULTS)
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {
        "tests": "5",
        "failures": "1",
        "errors": "2",
        "skipped": "1",
        "time": "6.250",
    }
    said = {case.get("name"): [child.tag for child in of(case)] for case in suite.iter("testcase")}
    assert said == {
        "one": [],
        "two": ["failure"],
        "three": ["error"],
        "four": ["skipped"],
        "five": ["error"],
    }


def test_junit_says_in_the_message_why_and_in_the_text_all(tmp_path: Path) -> None:
    suite = suite_of(tmp_path / "junit.xml", RESULTS)
    messages = [child.get("message") for case in suite.iter("testcase") for child in of(case)]
    assert messages == [
        "expect.destination.exit: expected 7, got 1",
        "expect.memory: cannot tell, it was never looked at",
        "no /dev/net/tun",
        "ValueError: no such thing",
    ]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.text is not None
    assert failure.text.splitlines()[0] == f"{WHERE}: expect.destination.exit"
    assert failure.text.splitlines()[-1] == "repeat: testbed run scenarios/two.yaml --seed 7"


def test_no_result_is_a_report_too(tmp_path: Path) -> None:
    assert suite_of(tmp_path / "junit.xml", []).get("tests") == "0"
    write_json(tmp_path / "results.json", [])
    assert json.loads((tmp_path / "results.json").read_text()) == {"results": []}


@settings(max_examples=50, deadline=None)
@given(said=st.text(st.characters(), max_size=40))
def test_whatever_qemu_says_the_files_can_be_read(tmp_path_factory: object, said: str) -> None:
    path = Path(tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
    log = Log()
    log.write("source", "stderr", line=said, text=said)
    check = Check("expect.source.stderr", False, said, said, WHERE)
    given_ = result(check, log=log, reason=said, name=f"name{said}".replace("\0", ""))
    suite = suite_of(path / "wild.xml", [given_])
    assert suite.get("failures") == "1"
    write_json(path / "wild.json", [given_])
    (read,) = json.loads((path / "wild.json").read_text())["results"]
    assert read["checks"][0]["got"] == said


def test_json_has_the_keys_that_people_rely_on(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", RESULTS)
    read = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [each["outcome"] for each in read] == [
        "passed",
        "FAILED",
        "unknown",
        "lacking",
        "unknown",
    ]
    assert read[1] == {
        "name": "two",
        "file": "scenarios/two.yaml",
        "outcome": "FAILED",
        "verdict": "failed-clean",
        "duration_s": 1.25,
        "seed": 7,
        "source": {
            "kind": "model",
            "profile": "7.2",
            "version": "7.2.22",
            "machine": "pc-i440fx-7.2",
        },
        "destination": {
            "kind": "qemu",
            "profile": None,
            "version": "10.0.13",
            "machine": "pc-i440fx-7.2",
        },
        "repeat": "testbed run scenarios/two.yaml --seed 7",
        "reason": "",
        "invariants": [],
        "lacks": None,
        "checks": [
            {
                "name": "expect.verdict",
                "passed": True,
                "expected": "failed-clean",
                "got": "failed-clean",
                "where": WHERE,
            },
            {
                "name": "expect.destination.exit",
                "passed": False,
                "expected": "7",
                "got": "1",
                "where": WHERE,
            },
        ],
    }
