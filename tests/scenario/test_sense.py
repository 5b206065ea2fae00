"""Combinations that no run could fulfil are refused, at the key that shows it."""

from pathlib import Path

import pytest

from testbed.scenario.load import ScenarioError, load

POSTCOPY = "mode: postcopy"
PRECOPY = "mode: precopy"
GOOD = "expect: {verdict: completed}"


def faults(*each: str) -> str:
    return "\n".join(["faults:", *(f"  - {{{fault}}}" for fault in each)])


RESET = "do: reset"

# Lines of the file after its description; where (line and column) and the start of what is said.
CASES: list[tuple[tuple[str, ...], str]] = [
    (
        (PRECOPY, "network: {probe: {}}", "expect: {verdict: completed, outage: {max: 2m}}"),
        "4:38: expect.outage: the run's `deadline` is 120 s",
    ),
    (
        (PRECOPY, "network: {probe: {}}", "expect: {verdict: completed, outage: {min: 120s}}"),
        "4:38: expect.outage: the run's `deadline` is 120 s",
    ),
    (
        (
            PRECOPY,
            "network: {probe: {}}",
            "expect: {verdict: completed, outage: {min: 2s, max: 1s}}",
        ),
        "4:38: expect.outage: `max` is less than `min`: nothing takes so long",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, total_time: {min: 3m}}"),
        "3:42: expect.total_time: the run's `deadline` is 120 s",
    ),
    (
        (PRECOPY, "network: {announce: {delay: {1: 0ms}}}", GOOD),
        "3:29: network.announce.delay: no time: nothing is delayed",
    ),
    (
        (PRECOPY, "capabilities: {postcopy-ram: true}", GOOD),
        "3:30: capabilities.postcopy-ram: the scenario's `mode` is precopy",
    ),
    (
        (POSTCOPY, "capabilities: {postcopy-ram: false}", GOOD),
        "3:30: capabilities.postcopy-ram: the scenario's `mode` is postcopy",
    ),
    (
        (PRECOPY, faults(f"at: {{message: PONG}}, {RESET}"), GOOD),
        "4:10: faults[0].at: without the capability return-path nothing ever comes",
    ),
    (
        (
            POSTCOPY,
            faults(
                f"name: a, at: {{section: cpu}}, {RESET}", f"name: a, at: {{section: ram}}, {RESET}"
            ),
            GOOD,
        ),
        "5:12: faults[1].name: another fault is named 'a' already",
    ),
    (
        (PRECOPY, faults(f"at: {{section: cpu}}, {RESET}, attempt: 2"), GOOD),
        "4:46: faults[0].attempt: the steps have 1 attempts",
    ),
    (
        (PRECOPY, faults(f"at: {{command: POSTCOPY_RUN}}, {RESET}"), GOOD),
        "4:10: faults[0].at: POSTCOPY_RUN never passes",
    ),
    (
        (
            PRECOPY,
            "capabilities: {return-path: true}",
            faults(f"at: {{message: REQ_PAGES}}, {RESET}"),
            GOOD,
        ),
        "5:10: faults[0].at: REQ_PAGES never comes",
    ),
    (
        (PRECOPY, faults(f"at: {{page: 7, phase: postcopy}}, {RESET}"), GOOD),
        "4:10: faults[0].at: there is no postcopy phase",
    ),
    (
        (PRECOPY, faults(f"at: {{page: 7, page_record: 7}}, {RESET}"), GOOD),
        "4:10: faults[0].at: say which: `page`",
    ),
    (
        (PRECOPY, faults(f"at: {{side: source, state: active, event: STOP}}, {RESET}"), GOOD),
        "4:10: faults[0].at: say which: `state`",
    ),
    (
        (PRECOPY, faults('at: {section: cpu}, do: {insert: {hex: "00", command: 7}}'), GOOD),
        "faults[0].do.insert: say which: `hex` or `command`",
    ),
    (
        (PRECOPY, faults("at: {side: source, event: STOP}, do: delete"), GOOD),
        "4:5: faults[0]: a state is no place in the stream",
    ),
    (
        (PRECOPY, faults("at: {section: cpu}, do: {set: 1}"), GOOD),
        "4:5: faults[0]: say which `part` of the section",
    ),
    (
        (PRECOPY, faults(f"at: {{section: cpu}}, {RESET}, when: {{after: fault_1}}"), GOOD),
        "4:51: faults[0].when.after: a fault cannot wait for itself",
    ),
    (
        (
            PRECOPY,
            faults(
                f"name: cut, at: {{section: cpu}}, {RESET}",
                f"at: {{section: ram}}, {RESET}, when: {{after: cat}}",
            ),
            GOOD,
        ),
        "5:51: faults[1].when.after: no fault is named 'cat'; did you mean `cut`?",
    ),
    (
        (
            PRECOPY,
            "steps: [migrate, wait, retry]",
            faults(
                f"name: late, at: {{section: cpu}}, {RESET}, attempt: 2",
                f"at: {{section: ram}}, {RESET}, when: {{after: late}}",
            ),
            "expect: {verdict: completed, retry: completed}",
        ),
        "6:51: faults[1].when.after: late strikes in attempt 2, this one in 1",
    ),
    (
        (PRECOPY, faults("at: {section: cpu}, do: restore"), GOOD),
        "4:30: faults[0].do: nothing to restore",
    ),
    (
        (
            PRECOPY,
            faults(
                f"at: {{section: cpu}}, {RESET}, "
                "when: {reached: [{element: eof}, {page: 1}], until: {page: 1}}"
            ),
            GOOD,
        ),
        "4:89: faults[0].when.until: it is among `reached`: this can never hold",
    ),
    (
        (PRECOPY, faults(f"at: {{block: pc.ram, passed: 1M, share: 5%}}, {RESET}"), GOOD),
        "4:10: faults[0].at: say which: `passed` (bytes)",
    ),
    (
        (
            PRECOPY,
            faults(f"at: {{section: cpu}}, {RESET}, when: {{until: {{message: SHUT}}}}"),
            GOOD,
        ),
        "4:51: faults[0].when.until: without the capability return-path nothing ever comes",
    ),
    (
        (
            PRECOPY,
            faults("at: {section: cpu}, do: {replay: {offset: 1, channel: return-path}}"),
            GOOD,
        ),
        "4:39: faults[0].do.replay: without the capability return-path nothing ever comes",
    ),
    (
        (PRECOPY, faults(f"at: {{offset: 1, channel: multifd}}, {RESET}"), GOOD),
        "4:10: faults[0].at: without the capability multifd there is no such channel",
    ),
    (
        (
            PRECOPY,
            "capabilities: {multifd: true}",
            faults(f"at: {{offset: 1, channel: multifd-3}}, {RESET}"),
            GOOD,
        ),
        "5:10: faults[0].at: there are 2 multifd channels (the parameter multifd-channels)",
    ),
    (
        (POSTCOPY, faults(f"at: {{page: 1, channel: preempt}}, {RESET}"), GOOD),
        "4:10: faults[0].at: without the capability postcopy-preempt there is no such channel",
    ),
    (
        (PRECOPY, faults(f"at: {{offset: 1, channel: tls}}, {RESET}"), GOOD),
        "4:10: faults[0].at: without the parameter tls-creds nothing is encrypted",
    ),
    (
        (PRECOPY, faults("at: {connection: 2}, do: refuse"), GOOD),
        "4:10: faults[0].at: an attempt of this scenario opens 1 at most",
    ),
    (
        (PRECOPY, faults(f"at: {{section: cpu}}, {RESET}, connection: 2"), GOOD),
        "4:49: faults[0].connection: an attempt of this scenario opens 1 at most",
    ),
    (
        (PRECOPY, faults(f"at: {{state: postcopy-active, side: source}}, {RESET}"), GOOD),
        "4:10: faults[0].at: no side is ever postcopy-active in a scenario whose `mode` is precopy",
    ),
    (
        (PRECOPY, "steps: [{migrate: {}}, {start_postcopy: {}}]", GOOD),
        "3:24: steps[1]: start_postcopy needs a scenario whose `mode` is postcopy",
    ),
    (
        (PRECOPY, "steps: [{migrate: {}}, {migrate: {}}]", GOOD),
        "3:24: steps[1]: a scenario migrates once",
    ),
    ((PRECOPY, "steps: [{wait: {}}, {migrate: {}}]", GOOD), "3:9: steps[0]: wait comes before"),
    ((PRECOPY, "steps: [{wait_for_guest: {}}]", GOOD), "steps: no `migrate` step"),
    (
        (PRECOPY, "expect: {verdict: hang}"),
        "3:19: expect.verdict: a bad outcome is expected",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, known_outcome: so it is}"),
        "3:45: expect.known_outcome: completed is a good outcome",
    ),
    (
        (PRECOPY, "steps: [{migrate: {}}, {retry: {}}]", GOOD),
        "4:9: expect: `retry` is both a step and an expectation, or neither",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, outage: {max: 1s}}"),
        "3:38: expect.outage: only `network.probe` measures an outage",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, device_state: equal}"),
        "3:44: expect.device_state: only a destination that never ran",
    ),
    (
        (PRECOPY, "unchecked: {memory: no}", "expect: {verdict: completed, memory: intact}"),
        "3:21: unchecked.memory: the scenario checks it: `check_memory` or `expect.memory`",
    ),
    (
        (PRECOPY, "unchecked: {device_state: no}", "steps: [migrate, check_device_state]", GOOD),
        "3:27: unchecked.device_state: the scenario checks it: `check_device_state` or",
    ),
    (
        (PRECOPY, "steps: [{migrate: {}}]", "expect: {verdict: completed, memory: intact}"),
        "4:38: expect.memory: no step `check_memory`",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, wire: [{command: PING, message: PONG}]}"),
        "3:37: expect.wire[0]: say which: `section`, `command` or `message`",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, announce: {schedule: [1ms]}}"),
        "3:40: expect.announce: a `schedule` has a `tolerance`",
    ),
    (
        (PRECOPY, "guest: {machine: 'virt,gic-version=3'}", GOOD),
        "3:18: guest.machine: a run cannot start the machine 'virt': its guest needs a PC, `pc`",
    ),
    (
        (PRECOPY, "guest: {machine: type=none}", GOOD),
        "3:18: guest.machine: a run cannot start the machine 'none'",
    ),
    (
        (PRECOPY, "destination: {machine: microvm}", GOOD),
        "3:24: destination.machine: a run cannot start the machine 'microvm'",
    ),
    (
        (PRECOPY, "guest: {machine: 'q35,sata=off'}", GOOD),
        "3:18: guest.machine: a run cannot do without sata: the guest boots from a disk",
    ),
    (
        (PRECOPY, "guest: {arguments: [-nographic, --machine, isapc]}", GOOD),
        "3:44: guest.arguments[2]: `machine` says which it is: isapc would take its place",
    ),
    ((PRECOPY, "guest: {nic: none}", GOOD), "3:14: guest.nic: a run cannot do without a NIC"),
    (
        (PRECOPY, "guest: {nic: virtio-net-device}", GOOD),
        "3:14: guest.nic: a run cannot have the NIC 'virtio-net-device'; did you mean "
        "`virtio-net-pci`?; it has those that a PC takes on PCI: virtio-net-pci, ",
    ),
    (
        (
            PRECOPY,
            "guest: {devices: ['virtio-net-pci,mac=52:54:00:AA:aa:aa']}",
            'expect: {verdict: completed, announce: {mac: [guest, "52:54:00:aa:aa:aa"]}}',
        ),
        "4:46: expect.announce.mac: the NIC with 52:54:00:aa:aa:aa is on no network of the run",
    ),
    (
        (PRECOPY, "guest: {memory: 0}", GOOD),
        "3:17: guest.memory: expected 2052K to 1024G, got 0: the firmware",
    ),
    ((PRECOPY, "guest: {memory: 1025G}", GOOD), "3:17: guest.memory: expected 2052K to 1024G"),
    (
        (PRECOPY, "guest: {working_set: 63M}", GOOD),
        "3:22: guest.working_set: expected 63488K or less, got 66060288",
    ),
    (
        (PRECOPY, "guest: {memory: 8G, working_set: 4G}", GOOD),
        "3:34: guest.working_set: expected 2095104K or less",
    ),
    (
        (PRECOPY, "guest: {working_set: 1}", GOOD),
        "3:22: guest.working_set: expected a page (4K) or more, got 1",
    ),
    (
        (PRECOPY, "guest: {pages_per_second: 10000000000000}", GOOD),
        "3:27: guest.pages_per_second: expected 10000000 or less, more than a CPU can do",
    ),
    (
        (PRECOPY, "parameters: {multifd-channels: 256}", GOOD),
        "3:32: parameters.multifd-channels: expected 1 to 255, got 256",
    ),
    (
        (PRECOPY, "expect: {verdict: completed, announce: {count: {min: 5, max: 1}}}"),
        "3:48: expect.announce.count: nothing is both: `min` is more than `max`",
    ),
]


def written(folder: Path, lines: tuple[str, ...]) -> Path:
    path = folder / "it.yaml"
    path.write_text("\n".join(["description: makes no sense", *lines, ""]))
    return path


@pytest.mark.parametrize(("lines", "said"), CASES, ids=[said[:70] for _, said in CASES])
def test_what_no_run_could_do_is_refused(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    path = written(tmp_path, lines)
    with pytest.raises(ScenarioError) as refused:
        load(path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{path}:")
    assert said in line


MAKES_SENSE: list[tuple[str, ...]] = [
    (
        PRECOPY,
        "capabilities: {multifd: true}",
        "parameters: {multifd-channels: 4}",
        faults(
            f"at: {{offset: 1, channel: multifd-4}}, {RESET}", "at: {connection: 5}, do: tarpit"
        ),
    ),
    (
        POSTCOPY,
        "capabilities: {postcopy-preempt: true}",
        "steps: [migrate, start_postcopy, wait, recover, wait]",
        faults(f"at: {{page: 1, channel: preempt}}, {RESET}", "at: {connection: 4}, do: refuse"),
    ),
    (PRECOPY, "parameters: {tls-creds: tls0}", faults(f"at: {{offset: 1, channel: tls}}, {RESET}")),
    (POSTCOPY, faults(f"at: {{section: cpu}}, {RESET}, when: {{until: {{message: SHUT}}}}")),
    (
        PRECOPY,
        faults(
            "name: slow, at: {page: 1}, do: {bandwidth: {rate: 1M}}",
            "name: fast, at: {element: eof}, do: restore, when: {after: slow}",
            f"at: {{element: eof}}, {RESET}, when: {{after: [slow, fast]}}, attempt: every",
        ),
    ),
]


@pytest.mark.parametrize("lines", MAKES_SENSE, ids=[lines[-1][9:60] for lines in MAKES_SENSE])
def test_what_a_run_can_do_is_taken(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert load(written(tmp_path, (*lines, GOOD))).faults


def test_faults_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    circle = faults(
        *(
            f"name: {name}, at: {{section: cpu}}, {RESET}, when: {{after: {other}}}"
            for name, other in ("ab", "bc", "ca", "da")  # d waits for a circle, and is not in it
        )
    )
    with pytest.raises(ScenarioError) as refused:
        load(written(tmp_path, (PRECOPY, circle, GOOD)))
    assert [line.partition("strikes: ")[2] for line in str(refused.value).splitlines()] == [
        "a -> b -> c -> a",
        "b -> c -> a -> b",
        "c -> a -> b -> c",
    ]


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    lines = (PRECOPY, "steps: [{wait: {}}, {recover: {}}]", "expect: {verdict: hang}")
    with pytest.raises(ScenarioError) as refused:
        load(written(tmp_path, lines))
    assert len(str(refused.value).splitlines()) == 5
