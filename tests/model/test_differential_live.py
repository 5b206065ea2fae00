"""Streams of a real machine, damaged at random: the model judges them as the QEMU installed does.

Its devices are known from the stream's own description; what only a device judges, the values that
it finds in its fields, the model cannot know: those cases are told apart.
"""

import json
import os
import random
import re
import socket
import subprocess
from collections import Counter
from dataclasses import dataclass

import pytest
from model_helpers import MACHINE, Ram

from testbed.endpoint.base import MachineSpec
from testbed.endpoint.qemu import Qemu
from testbed.log import Log
from testbed.model.configuration import Configuration, configuration
from testbed.model.described import register_described
from testbed.model.destination import Destination
from testbed.model.effects import Became, Say
from testbed.model.incoming import Machine
from testbed.model.profile import PROFILES
from testbed.model.registry import Registry
from testbed.wire import MainChannel, Stream, build_command
from testbed.wire.element import EndOfStream, Payload, SectionFooter, SectionHeader, VmDescription
from testbed.wire.piece import Piece

SEED = int(os.environ.get("SEED", "20261124"))
CASES = int(os.environ.get("CASES", "120"))
SAME_TEXT = 0.95
WITHIN_S = 20
QEMU = "qemu-system-x86_64"
PROFILE = PROFILES["7.2"]
DEVICES = ("virtio-net-pci", "e1000", "VGA", "nec-usb-xhci", "ich9-ahci", "AC97,audiodev=none")
ARGUMENTS = ("-audiodev", "none,id=none")

pytestmark = pytest.mark.live


@dataclass(frozen=True)
class Case:
    """A damaged stream, and in which words it was damaged."""

    what: str
    stream: bytes


@dataclass(frozen=True)
class Judged:
    """Whether it was taken in, and what was said."""

    completed: bool
    said: tuple[str, ...]

    @property
    def first(self):
        return self.said[0] if self.said else ""


async def machine_stream(folder):
    """What a machine that never ran sends."""
    path, log = folder / "stream", Log()
    spec = MachineSpec(
        machine=MACHINE,
        memory_bytes=16 << 20,
        accelerator="tcg",
        devices=DEVICES,
        arguments=ARGUMENTS,
        paused=True,
    )
    async with Qemu.start("source", log=log, machine=spec) as source:
        await source.command("migrate", {"uri": f"exec:cat > {path}"})
        await log.wait(
            lambda event: event.kind == "migration-status" and event.facts["status"] == "completed",
            what="the stream to be written",
            within_s=WITHIN_S,
        )
    return path.read_bytes()


class Sent:
    """The device phase of a stream, behind its header; RAM is not in it: nobody misses it."""

    def __init__(self, stream):
        channel = MainChannel()
        elements = channel.feed(stream) + channel.end()
        assert channel.confirmed
        devices = next(
            at
            for at, each in enumerate(elements)
            if each.section and each.section.type == 4 and isinstance(each.value, SectionHeader)
        )
        head = [each for each in elements[:devices] if each.section is None]
        self.elements = [*head, *elements[devices:]]
        self.layout = channel.layout
        self.vmdesc = next(e.value.text for e in elements if isinstance(e.value, VmDescription))
        self.versions = {
            (each.section.idstr, each.section.instance_id): each.section.version_id
            for each in self.elements
            if each.section
        }

    def stream(self):
        return Stream(self.elements, self.layout)

    def judged(self, data):
        """What the model makes of it."""
        registry = Registry()
        registry.register_live("ram", 0, 4, Ram())
        register_described(registry, self.vmdesc, self.versions)
        configured = Configuration(MACHINE)
        machine = Machine(MACHINE, registry, Ram(), configuration(PROFILE), configured)
        destination = Destination(machine, PROFILE)
        effects = destination.begin() + destination.feed(data) + destination.end()
        statuses = [each.status for each in effects if isinstance(each, Became)]
        said = tuple(each.line for each in effects if isinstance(each, Say))
        return Judged(statuses[-1] == "completed", said)

    def cases(self, rng, count):
        """So many damaged streams, by a seed."""
        whole = bytes(self.stream())
        for _ in range(count):
            how = rng.choice((cut, field, byte_out, byte_in, element_out, twice, swapped, between))
            yield how(self, rng, whole)


def cut(sent, rng, whole):
    at = rng.randrange(len(whole) - len(sent.vmdesc))
    return Case(f"cut at {at:#x}", whole[:at])


def picked(sent, rng, kinds):
    at = rng.choice([n for n, e in enumerate(sent.elements) if isinstance(e.value, kinds)])
    return at, sent.stream()


def field(sent, rng, _whole):
    """A field of a header or a footer, not of a device."""
    at, stream = picked(sent, rng, (SectionHeader, SectionFooter))
    span = rng.choice([each for each in stream[at].spans if each.size_bytes])
    value = rng.choice(
        (rng.randbytes(span.size_bytes), b"\0" * span.size_bytes, b"\xff" * span.size_bytes)
    )
    stream.set(at, span.name, value, mend=False)
    return Case(f"{span.name} of element {at} = {value.hex()}", bytes(stream))


def byte_out(sent, rng, _whole):
    at, stream = picked(sent, rng, Payload)
    raw = stream[at].raw
    byte = rng.randrange(len(raw))
    stream.replace(at, raw[:byte] + raw[byte + 1 :])
    return Case(f"byte {byte} of {sent.elements[at].section.idstr} out", bytes(stream))


def byte_in(sent, rng, _whole):
    at, stream = picked(sent, rng, Payload)
    raw = stream[at].raw
    byte = rng.randrange(len(raw) + 1)
    stream.replace(at, raw[:byte] + b"\0" + raw[byte:])
    return Case(f"a byte into {sent.elements[at].section.idstr} at {byte}", bytes(stream))


def element_out(sent, rng, _whole):
    at, stream = picked(sent, rng, (SectionHeader, SectionFooter, Payload))
    stream.delete(at)
    return Case(f"element {at} out", bytes(stream))


def twice(sent, rng, _whole):
    at, stream = picked(sent, rng, (SectionHeader, SectionFooter))
    stream.duplicate(at)
    return Case(f"element {at} twice", bytes(stream))


def swapped(sent, rng, _whole):
    at, stream = picked(sent, rng, (SectionHeader, SectionFooter))
    stream.swap(at)
    return Case(f"element {at} and the next one exchanged", bytes(stream))


def between(sent, rng, _whole):
    at, stream = picked(sent, rng, (SectionHeader, EndOfStream))
    extra = rng.choice(
        (
            bytes([rng.randrange(256)]),
            build_command(rng.randrange(14), rng.randbytes(rng.randrange(5))),
            b"\2" + rng.randbytes(4),
            b"\0",
        )
    )
    stream.insert(at, Piece(extra), mend=False)
    return Case(f"{extra.hex()} before element {at}", bytes(stream))


def judged_by_qemu(stream):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [QEMU, "-M", MACHINE, "-m", "16M", "-accel", "tcg", "-nodefaults", "-display", "none"]
    for device in DEVICES:
        command += ["-device", device]
    command += [
        *ARGUMENTS,
        "-serial",
        "null",
        "-S",
        "-qmp",
        "stdio",
        "-incoming",
        f"tcp:127.0.0.1:{port}",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="latin-1"
    ) as process:
        try:
            return asked(process, port, stream)
        finally:
            process.kill()


def asked(process, port, stream):
    """Its judgement: by its last status, or by its end."""
    process.stdout.readline()  # the greeting: it listens
    on = {"capabilities": [{"capability": "events", "state": True}]}
    for name, arguments in (("qmp_capabilities", {}), ("migrate-set-capabilities", on)):
        said = json.dumps({"execute": name, "arguments": arguments})
        process.stdin.write(f"{said}\n")
        process.stdin.flush()
        process.stdout.readline()
    with socket.create_connection(("127.0.0.1", port), WITHIN_S) as connection:
        try:
            connection.sendall(stream)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has seen enough
        completed = any('"status": "completed"' in line for line in until_settled(process))
    process.kill()
    said = [line.removeprefix(f"{QEMU}: ") for line in process.stderr.read().split("\n")]
    # The NICs of this machine have no peer, which it says before it listens.
    return Judged(completed, tuple(line for line in said if line and " has no peer" not in line))


def until_settled(process):
    for line in process.stdout:
        yield line
        if '"status": "completed"' in line:
            return


@pytest.fixture
async def sent(tmp_path):
    return Sent(await machine_stream(tmp_path))


OPINIONS = re.compile(
    r".*: incoming version_id \d+ is too old for local minimum version_id .*"
    r"|Invalid value \d+ expecting positive value <= \d+"
    r"|[0-9a-f]+ != [0-9a-f]+"
    r"|get_pci_config_device: Bad config data: .*"
    r"|inconsistent state in serial device .*"
)
"""What a device says of its own: no description has it, so neither has the model."""
NUMBERED = re.compile(r"\[\d+\]$")
"""A description numbers the fields that a declaration has twice; QEMU's error does not."""


def same_text(real, ours):
    """Whether both say the same first; of what is coded by hand the model knows no parts."""
    if NUMBERED.sub("", ours.first) == NUMBERED.sub("", real.first):
        return True
    return ours.first in real.said and ours.first.startswith("Failed to load ")


def test_the_whole_stream_is_taken_in_by_both(sent):
    whole = bytes(sent.stream())
    assert sent.judged(whole) == judged_by_qemu(whole) == Judged(True, ())


def test_damaged_streams_are_judged_alike(sent):
    rng = random.Random(SEED)
    seen, verdicts, texts = Counter(), [], []
    opinions = Counter()
    for case in sent.cases(rng, CASES):
        real, ours = judged_by_qemu(case.stream), sent.judged(case.stream)
        seen[real.completed] += 1
        if OPINIONS.fullmatch(real.first):
            opinions[real.first.split(":")[0]] += 1
        elif ours.completed != real.completed:
            verdicts.append((case.what, real, ours))
        elif not same_text(real, ours):
            texts.append((case.what, real, ours))
    assert seen[True] > CASES // 20
    assert not verdicts, f"seed {SEED}"
    assert len(texts) <= (1 - SAME_TEXT) * (CASES - opinions.total()), texts
