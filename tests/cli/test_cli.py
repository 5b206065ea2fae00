"""The command line as a user has it: a process, its output, its exit status."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_helpers import command

from testbed.cli.commands import app, main

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "scenarios"
COMMAND = [sys.executable, "-m", "testbed"]
WITHIN_S = 60


def on_a_terminal(*arguments: str | Path, **environment: str) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "wb", buffering=0) as side:
            process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, "TERM": "xterm", **environment},
                stdin=subprocess.DEVNULL,
                stdout=side,
                stderr=side,
            )
        written = bytearray()
        try:
            while more := terminal.read(1 << 16):
                written += more
        except OSError:  # EIO: nobody has its other end open any more
            pass
        assert process.wait(WITHIN_S) is not None
    return written.decode()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text("description: x\nmode: precpy\nexpect: {verdict: completed}\n")
    return path


def test_an_error_of_its_own_is_no_failed_expectation(monkeypatch, capsys) -> None:
    def breaks(**_: object) -> None:
        raise ValueError("a number that cannot be")

    monkeypatch.setattr(app, "main", breaks)
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 4
    assert told.endswith(
        "testbed: this is an error of the testbed's own: report it with the lines above and the "
        "command: ValueError: a number that cannot be\n"
    )


def test_check_of_the_library_finds_nothing_wrong() -> None:
    done = command("check", "scenarios")
    count = len(list(LIBRARY.rglob("*.yaml")))
    assert (done.returncode, done.stdout) == (0, f"{count} scenarios: nothing wrong\n")
    assert done.stderr == ""


def test_check_takes_files_of_faults_alone(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text("faults: [{at: {offset: 0}, do: reset}]\n")
    done = command("check", path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "1 file of faults: nothing wrong\n",
        "",
    )
    path.write_text("faults: [{at: {offset: 0}, do: restart}]\n")
    done = command("check", path, "scenarios/precopy_ok.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{path}:1:32: faults[0].do: no action 'restart'; did you mean")


def test_explain_says_each_file_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text("faults: [{at: {element: eof}, do: reset}]\n")
    done = command("explain", "scenarios/bad_magic.yaml", path)
    assert (done.returncode, done.stderr) == (0, "")
    scenario, faults = done.stdout.split("\n\n")
    assert scenario.startswith("bad_magic: precopy\n")
    assert (
        "  - damage_magic: At the field magic of the file header: write 0x5145564e over" in scenario
    )
    assert faults.splitlines()[-1] == "  - fault_1: As the EOF byte begins: reset both sides (RST)."


def test_check_says_what_is_wrong_and_where(bad: Path) -> None:
    done = command("check", "scenarios", bad)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{bad}:2:7: mode: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["run", "check", "list", "explain"])
def test_a_file_that_is_not_there_is_said(name: str) -> None:
    done = command(name, "nosuch.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nosuch.yaml: no such file")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source-qemu", "'"], "--source-qemu: No closing quotation"),
        (["--destination-qemu", ""], "--destination-qemu: expected a binary or a command"),
        (["--junit", "nosuch/it.xml"], "nosuch/it.xml"),
        (["--json", "nosuch/it.json"], "nosuch/it.json"),
        (["--keep", "--repeat", "2"], "--keep leaves one run up"),
        (["--repeat", "0"], "'--repeat'"),
        (["--seed", "-1"], "'--seed'"),
        (["--accel", "xen"], "'--accel'"),
        (["--machine", ""], "--machine: expected a machine type"),
        (["--nic", "e1001"], "--nic: a run cannot have the NIC 'e1001'; did you mean"),
        (["--nic", "none"], "--nic: a run cannot do without a NIC"),
        (["--endpoint", "bochs"], "'--endpoint'"),
        (["--profile", "3.0"], "'--profile'"),
        (["--source", "model", "--source-qemu", "q"], "--source model and --source-qemu"),
        (["--endpoint", "qemu", "--profile", "2.9"], "--profile is a model's"),
        (["--accel", "kvm"], "--accel kvm: a model has TCG's devices"),
        (["--accel", "kvm", "--source", "qemu"], "--accel kvm: a model has TCG's devices"),
    ],
)
def test_an_option_that_makes_no_sense_is_said_before_anything_runs(
    arguments: list[str], said: str
) -> None:
    done = command("run", *arguments, "scenarios/precopy_ok.yaml")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_folder_may_have_scenarios_for_other_endpoints(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(
        "description: it\nmode: precopy\nrequires: {endpoint: qemu}\nexpect: {verdict: completed}\n"
    )
    done = command("run", tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == (
        "left out it needs a real QEMU on both sides, the source is a model: --endpoint qemu\n"
    )


def test_an_unknown_command_is_usage() -> None:
    assert command("frobnicate").returncode == 2


def test_the_model_takes_its_arguments_as_they_are() -> None:
    done = command("model", "--profile", "2.9", "-machine", "help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pc-i440fx-2.9" in done.stdout
    assert "pc-i440fx-7.2" not in done.stdout
    done = command("model", "-no-such-option")
    assert done.returncode == 1
    assert "no-such-option" in done.stderr


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",)])
def test_it_helps_who_asks_for_nothing(words: tuple[str, ...]) -> None:
    done = command(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    assert "run " in done.stdout


def test_it_says_its_version() -> None:
    done = command("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"testbed, version \d+\.\d+\.\d+\n", done.stdout)


def test_a_scenario_of_the_library_has_a_name_everywhere() -> None:
    done = command("check", "rarp_ok", "precopy_ok")
    assert done.stdout == "2 scenarios: nothing wrong\n"
    done = command("check", "rarp_okk")
    assert (done.returncode, done.stderr) == (
        2,
        "rarp_okk: no such file, and no scenario of the library has that name; did you mean "
        "rarp_ok?\n",
    )
    done = command("check", "nothing_like_it")
    assert "; `testbed list` names those there are" in done.stderr


def test_check_names_scenarios_of_one_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = "description: x\nname: same\nmode: precopy\nexpect: {verdict: completed}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    done = command("check", tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'b.yaml'}:2:7: note: 'same' is the name of {tmp_path / 'a.yaml'} as well; "
        "reports tell them apart by their paths",
        "2 scenarios: nothing wrong",
    ]


@pytest.mark.live  # doctor finds nothing missing
def test_a_qemu_is_missing_only_where_one_was_named(tmp_path: Path) -> None:
    """Models need none."""
    done = command("doctor", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("^absent +qemu-system-x86_64 ", done.stdout, re.MULTILINE)
    assert re.search("^ok +models ", done.stdout, re.MULTILINE)
    done = command("doctor", "--qemu", "/nosuch")
    assert done.returncode == 3
    assert re.search("^missing +/nosuch ", done.stdout, re.MULTILINE)


def test_list_has_a_plain_line_for_each_scenario() -> None:
    done = command("list", FORCE_COLOR="")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == sorted(
        path.stem for path in LIBRARY.rglob("*.yaml")
    )
    assert "\x1b" not in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [*COMMAND, "list"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as listing:
        assert listing.stdout is not None
        listing.stdout.close()
        assert listing.stderr is not None
        assert listing.stderr.read() == b""
    assert listing.returncode == 141


@pytest.mark.live
def test_a_qemu_that_is_not_there_is_one_clear_message_and_status_3(tmp_path: Path) -> None:
    report = tmp_path / "it.json"
    done = command("run", "--source-qemu", "/nosuch", "--json", report, "scenarios/precopy_ok.yaml")
    assert done.returncode == 3
    assert done.stderr == ""
    assert "/nosuch" in done.stdout
    assert "Traceback" not in done.stdout
    assert '"outcome": "skipped"' in report.read_text()


@pytest.mark.live
def test_on_a_terminal_a_live_line_says_what_runs() -> None:
    written = on_a_terminal("run", "--source-qemu", "/nosuch", "scenarios/precopy_ok.yaml")
    assert "\r\x1b[2Kprecopy_ok  " in written
    assert "\x1b[33mskipped" in written


@pytest.mark.live
def test_no_color_is_respected_on_a_terminal() -> None:
    arguments = ("run", "--source-qemu", "/nosuch", "scenarios/precopy_ok.yaml")
    written = on_a_terminal(*arguments, NO_COLOR="1")
    assert "skipped" in written
    assert "\x1b[33m" not in written


def test_the_commands_fit_on_a_line_each() -> None:
    done = command("--help")
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) == 11
    assert not [line for line in listed if line.endswith("...") or not line.endswith(".")]


def test_ctrl_c_before_anything_has_begun_is_no_traceback() -> None:
    """As early as a user can: the module that takes longest to load has hardly begun."""
    script = (
        "import os, signal, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from testbed.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "list"], capture_output=True, text=True, timeout=WITHIN_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_earlier_run_of_that_folder_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "bad_magic"
    folder.mkdir()
    (folder / "log.jsonl").symlink_to(tmp_path / "other")
    report = tmp_path / "it.json"
    report.write_text("earlier")
    done = command("run", "scenarios/bad_magic.yaml", "--out", tmp_path, "--json", report)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{folder}: an earlier run's files are there, and would be lost: remove them, or name "
        "another folder with --out\n"
    )
    assert report.read_text() == "earlier"
    assert not (tmp_path / "other").exists()


@pytest.mark.live
def test_two_scenarios_of_one_name_have_two_folders(tmp_path: Path) -> None:
    text = (LIBRARY / "bad_magic.yaml").read_text().replace("name: bad_magic\n", "")
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(f"name: same\n{text}")
    out = tmp_path / "out"
    done = command("run", tmp_path / "a.yaml", tmp_path / "b.yaml", "--out", out)
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["same.1", "same.2"]
    for folder in out.iterdir():
        assert (folder / "log.jsonl").read_text().count('"run-began"') == 1
        assert (folder / "guest-network.pcap").stat().st_size > 24


def test_a_scenario_that_is_not_trusted_brings_no_arguments(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(
        "description: x\nmode: precopy\nexpect: {verdict: completed}\n"
        f"guest: {{arguments: [-netdev, 'tap,id=x,script={tmp_path}/mine']}}\n"
    )
    done = command("run", "--untrusted", "scenarios", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{path}:4:20: guest.arguments: a scenario that is not trusted (--untrusted) has no "
        "arguments of its own: QEMU's run programs\n"
    )
    explained = command("explain", path).stdout
    assert explained.count(f"tap,id=x,script={tmp_path}/mine") == 2


@pytest.mark.live
def test_a_qemu_that_cannot_be_sandboxed_is_what_the_environment_lacks(tmp_path: Path) -> None:
    """A build without seccomp ends so: QEMU `softmmu/vl.c`, `QEMU_OPTION_sandbox`, 7.2."""
    fake = tmp_path / "qemu"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *-sandbox*)\n'
        "echo qemu: -sandbox support is not enabled in this QEMU binary >&2; exit 1;; esac\n"
        'exec qemu-system-x86_64 "$@"\n'
    )
    fake.chmod(0o755)
    done = command("run", "--untrusted", "--source-qemu", fake, "scenarios/bad_magic.yaml")
    assert done.returncode == 3
    assert "it said: qemu: -sandbox support is not enabled in this QEMU binary" in done.stdout
    assert "--untrusted needs a QEMU that was built with seccomp" in done.stdout
