"""`testbed decode` on streams recorded here and now from a real QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

ROOT = Path(__file__).parents[2]
WITHIN_S = 120
DEVICES = {
    "microvm": (),
    "pc": ("virtio-net-pci", "e1000", "VGA", "nec-usb-xhci", "usb-tablet", "virtio-serial-pci"),
    "q35": ("e1000e", "virtio-scsi-pci", "virtio-balloon-pci", "rtl8139", "pcie-root-port"),
}

pytestmark = pytest.mark.live


def decode(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed", "decode", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )


def saved(folder: Path, machine: str) -> Path:
    """The stream of a machine that was never started, as QEMU writes it to a file."""
    control, stream = folder / "qmp", folder / "stream"
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S"]
    command += ["-M", machine, "-m", "16", "-qmp", f"unix:{control},server=on,wait=off"]
    command += [word for device in DEVICES[machine] for word in ("-device", device)]
    until = time.monotonic() + WITHIN_S
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not control.exists():
                assert process.poll() is None
                assert time.monotonic() < until
            qmp = QEMUMonitorProtocol(str(control))
            qmp.connect()
            qmp.cmd(
                "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]
            )
            qmp.cmd("migrate", uri=f"exec:cat > {stream}")
            status = ""
            while status != "completed":
                event = qmp.pull_event(wait=WITHIN_S)
                status = event["data"].get("status", status)
                assert status != "failed"
            qmp.close()
        finally:
            process.kill()
    return stream


@pytest.mark.parametrize("machine", DEVICES)
def test_a_stream_of_any_machine_is_whole_and_its_vmdesc_confirms_all_ends(
    tmp_path: Path, machine: str
) -> None:
    stream = saved(tmp_path, machine)
    done = decode(stream, "--json", "--fields")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    items = [json.loads(line) for line in done.stdout.splitlines()]
    assert items[-1] == {"item": "end", "bytes": stream.stat().st_size, "whole": True}
    (vmdesc,) = [item for item in items if item["item"] == "vmdesc"]
    devices = [item for item in items if item["item"] == "device"]
    assert vmdesc["corrections"] == 0
    assert vmdesc["devices"] == len(devices)
    for device in devices:
        assert sum(field["size"] for field in device["fields"]) == device["length"]


@pytest.mark.parametrize("kind", ["precopy", "multifd", "recover"])
def test_every_channel_of_a_migration_is_read(tmp_path: Path, kind: str) -> None:
    record = [sys.executable, ROOT / "scripts" / "record-streams", tmp_path, "--kind", kind]
    subprocess.run(record, cwd=ROOT, check=True, capture_output=True, timeout=WITHIN_S)
    files = sorted(tmp_path.iterdir())
    assert len(files) == {"precopy": 1, "multifd": 3, "recover": 4}[kind]
    for path in files:
        done = decode(path)
        cut = path.name.endswith("-recover.c0.fwd.bin.xz")
        assert done.returncode == cut, done.stdout[-500:] + done.stderr
        last = done.stdout.splitlines()[-1]
        assert last.startswith("not whole" if cut else "whole")
