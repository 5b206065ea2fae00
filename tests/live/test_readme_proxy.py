"""The README's proxy between hosts: with QEMU it is done as it stands there, on loopback.

What needs libvirt or Proxmox VE cannot be run here; of those commands the proxies are.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from monitor_helpers import Qmp

ROOT = Path(__file__).parents[2]
SECTION = re.search(
    r"### Put a proxy between hosts of your own\n(.*?)\n### ",
    (ROOT / "README.md").read_text(),
    re.DOTALL,
)
assert SECTION is not None
RECIPES = [
    [
        line.partition(" ")[::2]
        for line in re.sub("^([abp]) QMP>", r"\1.qmp", block, flags=re.M).splitlines()
    ]
    for block in re.findall(r"```console\n(.*?)```", SECTION[1], re.DOTALL)
]
"""By recipe: of each line who does it (`a$`, `b$`, `p$`, `a#`, `a.qmp`), and what."""
FAULTS = re.search(r"```yaml\n# (\S+)\n(.*?)```", SECTION[1], re.DOTALL)
NOT_RUN = {"virsh", "qm", "iptables", "useradd"}
WITHIN_S = 60
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

pytestmark = pytest.mark.live


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def running(command: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        shlex.split(command), cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_migration_between_two_qemus_goes_through_it(tmp_path: Path) -> None:
    assert FAULTS is not None
    (tmp_path / FAULTS[1]).write_text(FAULTS[2])
    here, there = free_port(), free_port()
    texts = {
        "--listen :4444": f"--listen 127.0.0.1:{here}",
        "tcp:p:4444": f"tcp:127.0.0.1:{here}",
        "b:4444": f"127.0.0.1:{there}",
        "tcp:0.0.0.0:4444": f"tcp:127.0.0.1:{there}",
    }
    steps = list(RECIPES[0])
    with ExitStack() as stack:
        monitors: dict[str, Qmp] = {}
        proxy: subprocess.Popen[str] | None = None
        while steps:
            who, what = steps.pop(0)
            for example, real in texts.items():
                what = what.replace(example, real)
            if who == "a.qmp":
                asked = json.loads(what)
                monitors["a"].command(asked["execute"], **asked["arguments"])
                break
            process = stack.enter_context(running(what, tmp_path))
            if what.startswith("qemu-"):
                host = who.rstrip("$")
                monitors[host] = Qmp(tmp_path / f"{host}.qmp", process)
                stack.callback(monitors[host].close)
            else:
                proxy = process
                assert proxy.stdout is not None
                assert any("listening on" in line for line in iter(proxy.stdout.readline, ""))
        assert proxy is not None
        said, _ = proxy.communicate(timeout=WITHIN_S)
        monitors["b"].until("RESUME")
        assert proxy.returncode == 0, said
    assert "is over: the stream was whole" in said
    assert "strikes: latency" in said
    assert [who for who, _ in steps] == ["p$", "p$"]
    for _, command in steps:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_other_proxies_listen() -> None:
    commands = [
        re.sub(r".*(?=testbed proxy)", "", what)
        for recipe in RECIPES[1:]
        for _, what in recipe
        if "testbed proxy" in what
    ]
    assert len(commands) == 4
    with ExitStack() as stack:
        processes = []
        for command in commands:
            command = re.sub(r"(listen) \S*:\d+", r"\1 127.0.0.1:0", command)
            command = re.sub(r"(upstream) \S*:(\d+)", r"\1 127.0.0.1:\2", command)
            processes.append(stack.enter_context(running(command, ROOT)))
        for process, command in zip(processes, commands, strict=True):
            assert process.stdout is not None
            for _ in range(command.count("listen ")):
                assert "listening on 127.0.0.1:" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
        assert [process.wait(WITHIN_S) for process in processes] == [0] * 4


def test_what_is_not_run_is_known() -> None:
    others = [what.split()[0] for recipe in RECIPES[1:] for _, what in recipe]
    runs = {each for each in others if each not in ("testbed", "runuser")}
    assert runs == NOT_RUN
