"""`testbed decode` on streams recorded here and now from a real QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.endpoint.base import MachineSpec
from testbed.endpoint.qemu import Qemu
from testbed.log import Log

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


async def saved(folder: Path, machine: str) -> Path:
    """The stream of a machine that was never started, as QEMU writes it to a file."""
    stream = folder / "stream"
    log = Log()
    spec = MachineSpec(
        machine=machine,
        memory_bytes=16 << 20,
        accelerator="tcg",
        devices=DEVICES[machine],
        paused=True,
    )
    async with Qemu.start("source", log=log, machine=spec) as source:
        await source.command("migrate", {"uri": f"exec:cat > {stream}"})
        await log.wait(
            lambda event: event.kind == "migration-status" and event.facts["status"] == "completed",
            what="the stream to be written",
            within_s=WITHIN_S,
        )
    return stream


@pytest.mark.parametrize("machine", DEVICES)
async def test_a_stream_of_any_machine_is_whole_and_its_vmdesc_confirms_all_ends(
    tmp_path: Path, machine: str
) -> None:
    stream = await saved(tmp_path, machine)
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
