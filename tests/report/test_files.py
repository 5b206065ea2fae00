"""The reports for machines: JUnit and JSON."""

from __future__ import annotations

import errno
import json
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_helpers import FAILED, PASSED, UNSURE, WHERE, result, runs_of

from testbed import files
from testbed.log import Log
from testbed.report.jsonfile import write_json
from testbed.report.junit import write_junit
from testbed.report.reports import Reports
from testbed.scenario.result import Check, Result

RESULTS = [
    result(PASSED, name="one"),
    result(PASSED, FAILED, name="two"),
    result(UNSURE, name="three"),
    result(name="four", lacks="no /dev/net/tun\nmodprobe tun"),
    result(name="five", verdict="unknown", reason="Traceback\nValueError: no such thing"),
]


BEGAN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

CASE_HAS = {"classname", "name", "file", "time"}
SAYS = {"error", "failure", "skipped", "system-out"}
"""What Jenkins' junit-10.xsd allows a case, of what is written."""


def suite_of(path: Path, results: list[Result], *more: str, under_way: bool = False) -> ET.Element:
    runs = runs_of(results, *more)
    write_junit(path, runs, results, began=BEGAN, under_way=under_way)
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    return suite


def of(case: ET.Element) -> list[ET.Element]:
    """What a case says of its outcome."""
    return [child for child in case if child.tag != "system-out"]


def output_of(suite: ET.Element) -> list[str]:
    output = suite.find("testcase/system-out")
    assert output is not None
    assert output.text is not None
    return output.text.splitlines()


def test_junit_says_what_both_sides_were_and_what_happened(tmp_path: Path) -> None:
    kept = replace(RESULTS[0], folder=Path("runs/one"))
    said = output_of(suite_of(tmp_path / "junit.xml", [kept]))
    assert said[:4] == [
        "source: model of QEMU 7.2.22, machine pc-i440fx-7.2",
        "destination: QEMU 10.0.13, machine pc-i440fx-7.2",
        "verdict: failed-clean",
        "files: runs/one",
    ]
    assert any("says: Missing section footer for cpu" in line for line in said)
    assert said[-1] == "repeat: testbed run scenarios/one.yaml --seed 7"


def test_junit_has_what_its_readers_allow(tmp_path: Path) -> None:
    suite = suite_of(tmp_path / "junit.xml", RESULTS, "six", "seven", under_way=True)
    assert suite.get("timestamp") == "2026-03-01T12:30:00"
    assert suite.get("hostname")
    for case in suite:
        assert case.tag == "testcase"
        assert set(case.attrib) <= CASE_HAS
        assert {child.tag for child in case} <= SAYS
        assert all(set(child.attrib) <= {"message"} for child in case)


def test_junit_tells_each_run_from_all_others(tmp_path: Path) -> None:
    below, beside = Path("scenarios/a/x.yaml"), Path("scenarios/b/x.yaml")
    results = [replace(RESULTS[0], path=path) for path in (below, beside, below)]
    suite = suite_of(tmp_path / "junit.xml", results)
    assert [(case.get("classname"), case.get("name")) for case in suite] == [
        ("scenarios.a", "x (1)"),
        ("scenarios.b", "x"),
        ("scenarios.a", "x (2)"),
    ]


def test_a_command_that_was_ended_leaves_no_green_report(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    suite = suite_of(path, RESULTS[:1], "two", "three", "four", under_way=True)
    said = {case.get("name"): [child.tag for child in of(case)] for case in suite}
    assert said == {"one": [], "two": ["error"], "three": ["skipped"], "four": ["skipped"]}
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "0", "errors": "1", "skipped": "2"}
    suite = suite_of(path, RESULTS[:1], "two")  # between two runs
    assert [child.tag for case in suite for child in of(case)] == ["skipped"]
    json_path = tmp_path / "results.json"
    write_json(json_path, runs_of(RESULTS[:1], "two", "three"), RESULTS[:1], under_way=True)
    assert json.loads(json_path.read_text())["without_result"] == [
        {"id": "scenarios/two", "began": True},
        {"id": "scenarios/three", "began": False},
    ]


def test_a_report_that_cannot_be_written_for_now_ends_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    reports = Reports(folder / "junit.xml", None)
    reports.update(runs_of([], "one"), [])
    with pytest.raises(FileNotFoundError):
        reports.write([], [], under_way=False)
    folder.mkdir()
    reports.write([], [], under_way=False)
    assert [each.name for each in folder.iterdir()] == ["junit.xml"]


def test_a_file_is_written_in_a_folder_in_which_nothing_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may make files everywhere, so it is refused here as the kernel refuses others."""

    def refused(path: Path, _: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(files, "plain_file", refused)
    path = tmp_path / "it.json"
    path.write_text("old")
    write_json(path, [], [])
    assert json.loads(path.read_text())["results"] == []


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    write_json(Path(f"/dev/fd/{write_end}"), [], [])
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        assert json.load(pipe) == {"results": [], "without_result": []}
    target = tmp_path / "it.json"
    link = tmp_path / "link.json"
    link.symlink_to(target)
    write_json(link, [], [])
    assert link.is_symlink()
    assert json.loads(target.read_text())["results"] == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.json", "link.json"]


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
    write_json(tmp_path / "results.json", [], [])
    assert json.loads((tmp_path / "results.json").read_text())["results"] == []


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
    write_json(path / "wild.json", runs_of([given_]), [given_])
    (read,) = json.loads((path / "wild.json").read_text())["results"]
    assert read["checks"][0]["got"] == said


def test_json_has_the_keys_that_people_rely_on(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", runs_of(RESULTS), RESULTS)
    read = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [each["outcome"] for each in read] == [
        "passed",
        "FAILED",
        "unknown",
        "skipped",
        "unknown",
    ]
    assert read[1] == {
        "id": "scenarios/two",
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
        "folder": None,
        "reason": "",
        "invariants": [],
        "lacks": None,
        "refused": None,
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
