"""What is missing is found by trying, as root and as a user without rights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.netns.require import missing, probe_features

pytestmark = pytest.mark.live

HERE = Path(__file__).parent
FEATURES = """
import json
from dataclasses import asdict
from testbed.netns.require import missing, probe_features
features = {feature.name: asdict(feature) for feature in probe_features()}
print(json.dumps([features, [feature.name for feature in missing()]]))
"""
TOPOLOGY = """
import asyncio, os, subprocess
from testbed.netns.sandbox import Sandbox, enter_command
from testbed.netns.inside import FOLDER
from testbed.netns.topology import Topology

def work(side):
    async def main():
        async with Topology.create() as net:
            list(net.pin(FOLDER))
            ping = ("ping", "-c1", "-W2", "10.77.0.2")
            process = await asyncio.create_subprocess_exec(
                *ping, preexec_fn=net.source.enter_in_child, stdout=subprocess.DEVNULL
            )
            side.write(f"{os.getuid()} {await process.wait()} ".encode())
            await side.stay()
    asyncio.run(main())

with Sandbox.start(work) as sandbox:
    print(os.getuid(), os.read(sandbox.fd, 100).decode(), flush=True)
    enter = enter_command(sandbox.pid, "switch") + " cat /proc/net/dev"
    entered = subprocess.run(enter, shell=True, capture_output=True, text=True)
    links = [line.split(":")[0].strip() for line in entered.stdout.splitlines() if ":" in line]
    print(*links, sandbox.pid, flush=True)
    os.read(0, 1)
"""


def as_nobody(mode: str, code: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, HERE / "nobody.py", mode, code],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=str(HERE.parents[1])),
        text=True,
        **options,
    )


def features_of_nobody(mode: str):
    output, _ = as_nobody(mode, FEATURES).communicate(timeout=20)
    features, lacks = json.loads(output)
    return features, lacks


def test_root_lacks_nothing_that_is_needed():
    features = {feature.name: feature for feature in probe_features()}
    assert missing() == []
    assert features["tap"].ok
    assert features["tap"].detail == ""
    assert not features["userfaultfd"].needed


def test_a_user_needs_only_the_device():
    features, lacks = features_of_nobody("666")
    assert lacks == []
    assert features["namespaces"]["ok"]


@pytest.mark.parametrize(
    ("mode", "said"), [("600", "Permission denied"), ("none", "No such file or directory")]
)
def test_a_tap_that_may_not_be_made_is_told_with_its_remedy(mode, said):
    features, lacks = features_of_nobody(mode)
    assert lacks == ["tap"]
    assert said in features["tap"]["detail"]
    assert "chmod 0666 /dev/net/tun" in features["tap"]["remedy"]
    assert features["bridge"]["ok"]


def test_where_user_namespaces_are_refused_nothing_else_is_tried():
    features, lacks = features_of_nobody("chroot")
    assert lacks == list(features) == ["namespaces"]
    assert "unshare" in features["namespaces"]["detail"]
    assert "user.max_user_namespaces" in features["namespaces"]["remedy"]


def test_a_user_s_run_is_as_root_s_and_is_gone_when_killed():
    with as_nobody("666", TOPOLOGY) as process:
        assert process.stdout.readline().split() == ["65534", "0", "0"]
        *links, pid = process.stdout.readline().split()
        assert set(links) == {"client", "destination", "guests", "lo", "source"}
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
