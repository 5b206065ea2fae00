"""What a scenario that nobody vouches for may ask of QEMU, and how it is told what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.scenario.load import find, load
from testbed.scenario.untrusted import untrusted_problems

LIBRARY = Path(__file__).parents[2] / "scenarios"
HEAD = "description: x\nmode: precopy\n"
EXPECT = "expect: {verdict: completed}\n"

REFUSED = [
    ("guest: {arguments: [-S]}", "3:20: guest.arguments: "),
    ("source: {arguments: [-netdev, 'tap,script=/x,id=a']}", "3:21: source.arguments: "),
    ("destination: {arguments: ['-runas', 'x']}", "3:26: destination.arguments: "),
    ("guest: {devices: ['loader,file=/etc/shadow']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: [edu, 'usb-mtp,rootdir=/']}", "3:24: guest.devices[1]: "),
    ("guest: {devices: ['vfio-pci,host=01:00.0']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['e1000,romfile=/etc/shadow']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['e1000,romfile=rom']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['isa-serial,chardev=qmp']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['virtio-rng-pci,rng=x']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['edu,id=a,,romfile=/x']}", "3:19: guest.devices[0]: "),
    ('guest: {devices: [\'{"driver": "edu"}\']}', "3:19: guest.devices[0]: "),
    ("guest: {devices: ['driver=loader,file=/x']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['edu,driver=loader']}", "3:19: guest.devices[0]: "),
    ("guest: {devices: ['edu,id=/etc/shadow']}", "3:19: guest.devices[0]: "),
    ("source: {devices: ['nvme,drive=boot']}", "3:20: source.devices[0]: "),
    ("guest: {nic: 'e1000,romfile=/etc/shadow'}", "3:14: guest.nic: "),
    ("guest: {machine: 'pc,kernel=/boot/vmlinuz'}", "3:18: guest.machine: "),
    ("guest: {machine: 'pc,dumpdtb=on'}", "3:18: guest.machine: "),
    ("guest: {machine: 'pc,firmware=bios'}", "3:18: guest.machine: "),
    ("destination: {machine: 'pc,usb=/x'}", "3:24: destination.machine: "),
    ("parameters: {cpr-exec-command: [sh, -c, id]}", "3:32: parameters.cpr-exec-command: "),
    ("parameters: {tls-creds: tls0}", "3:25: parameters.tls-creds: "),
    ("parameters: {mode: cpr-exec}", "3:20: parameters.mode: "),
    ("parameters: {mode: {y: 1}}", "3:20: parameters.mode: "),
    ("toxiproxy: {server: '192.0.2.1:80'}", "3:12: toxiproxy: "),
    (
        "variants: [{when: {source: '>=10.2'}, parameters: {cpr-exec-command: [sh]}}]",
        "3:70: parameters.cpr-exec-command: ",
    ),
]
ALLOWED = [
    "guest: {devices: [edu, 'virtio-net-pci,id=a,mac=52:54:00:00:00:01,bus=pci.0,addr=0x5.0']}",
    "guest: {nic: 'virtio-net-pci,mq=on,vectors=4', machine: 'pc,usb=off,max-ram-below-4g=1G'}",
    "parameters: {max-bandwidth: 16M, x-checkpoint-delay: 20, multifd-channels: 4}",
    "parameters: {multifd-compression: zstd}",
]


def problems(tmp_path: Path, text: str, *, server: bool = False) -> list[str]:
    path = tmp_path / "it.yaml"
    path.write_text(f"{HEAD}{text}\n{EXPECT}")
    return untrusted_problems(load(path), server=server)


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_reaches_the_host_is_refused_where_it_is_written(
    tmp_path: Path, text: str, said: str
) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"{tmp_path}/it.yaml:{said}")
    assert "a scenario that is not trusted (--untrusted) " in problem


@pytest.mark.parametrize("text", ALLOWED)
def test_what_stays_inside_of_qemu_is_allowed(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == []


def test_a_toxiproxy_server_of_the_users_own_is_allowed(tmp_path: Path) -> None:
    text = "toxiproxy: {toxics: [{type: latency, attributes: {latency: 5}}]}"
    assert len(problems(tmp_path, text)) == 1
    assert problems(tmp_path, text, server=True) == []


@pytest.mark.parametrize("path", find([LIBRARY]), ids=lambda path: path.stem)
def test_the_library_needs_nothing_of_that(path: Path) -> None:
    assert untrusted_problems(load(path), server=False) == []
