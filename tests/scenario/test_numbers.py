"""Numbers that nobody can mean are refused wherever a scenario has one, with line and column."""

from pathlib import Path

import pytest

from testbed.scenario.load import ScenarioError, load

HEAD = "description: x\nmode: postcopy\n"
EXPECT = "expect: {verdict: completed}\n"
FAULT = "faults: [{at: %s, do: reset}]\n" + EXPECT
ACTION = "faults: [{at: {section: cpu}, do: %s}]\n" + EXPECT
STEP = "steps: [migrate, %s]\n" + EXPECT
HUGE = "9" * 32
LONG = "9" * 5000  # more digits than Python reads
INTEGERS = [
    "seed: %s\n" + EXPECT,
    "guest: {memory: %s}\n" + EXPECT,
    "guest: {cpus: %s}\n" + EXPECT,
    "guest: {working_set: %s}\n" + EXPECT,
    "guest: {pages_per_second: %s}\n" + EXPECT,
    "parameters: {multifd-channels: %s}\n" + EXPECT,
    FAULT % "{section: cpu, occurrence: %s}",
    FAULT % "{section: cpu, byte: %s}",
    FAULT % "{section: cpu, instance: %s}",
    FAULT % "{block: pc.ram, page: %s}",
    FAULT % "{block: pc.ram, page_record: %s}",
    FAULT % "{block: pc.ram, passed: %s}",
    FAULT % "{offset: %s}",
    FAULT % "{connection: %s}",
    ACTION % "{bandwidth: {rate: %s}}",
    ACTION % "{slice: {size: %s}}",
    ACTION % "{insert: {page: {page: %s}}}",
    STEP % "{wait_for_guest: {passes: %s}}",
    STEP % "{wait: {source_exit: %s}}",
    STEP % "{start_postcopy: {after: {pages: %s}}}",
    "expect: {verdict: completed, source: {exit: %s}}\n",
    "expect: {verdict: completed, announce: {count: %s}}\n",
    "expect: {verdict: completed, wire: [{section: cpu, count: {min: %s}}]}\n",
    "network: {announce: {drop: [%s]}}\n" + EXPECT,
    "network: {announce: {delay: {%s: 1s}}}\n" + EXPECT,
    "network: {announce: {duplicate: {1: %s}}}\n" + EXPECT,
    'network: {announce: {alter: {1: {byte: %s, hex: "00"}}}}\n' + EXPECT,
    "toxiproxy: {toxics: [{type: x, toxicity: %s}]}\n" + EXPECT,
]
DURATIONS = [
    "deadline: %s\n" + EXPECT,
    ACTION % "{stall: {for: %s}}",
    ACTION % "{latency: {delay: %s}}",
    ACTION % "{latency: {delay: 1s, jitter: %s}}",
    ACTION % "{slice: {size: 10, delay: %s}}",
    STEP % "{settle: %s}",
    STEP % "{wait: {within: %s}}",
    "expect: {verdict: completed, announce: {schedule: [%s], tolerance: 1s}}\n",
    "network: {probe: {every: %s}}\n" + EXPECT,
    "network: {link_up: {after: %s}}\n" + EXPECT,
]


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "it.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(ScenarioError) as error:
        load(path)
    (line, *_) = str(error.value).splitlines()
    assert line.startswith(f"{path}:3:")
    assert len(line) < 400
    return line


@pytest.mark.parametrize("written", INTEGERS, ids=[text.splitlines()[0] for text in INTEGERS])
@pytest.mark.parametrize("value", [HUGE, f"'{LONG}'", "1e300", ".nan", ".inf", "true", "[]"])
def test_no_number_is_without_a_bound(tmp_path: Path, written: str, value: str) -> None:
    line = refused(tmp_path, written % value)
    assert "sys.set_int_max_str_digits" not in line


@pytest.mark.parametrize("written", DURATIONS, ids=[text.splitlines()[0] for text in DURATIONS])
@pytest.mark.parametrize("value", [f"{HUGE}s", f"{LONG}s", "1441m", "1e9s", "-1s", "true", "5"])
def test_no_time_is_longer_than_a_day(tmp_path: Path, written: str, value: str) -> None:
    refused(tmp_path, written % value)
