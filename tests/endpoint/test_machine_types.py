"""Machine types as `-machine help` lists them, and the newest that two programs have."""

import pytest

from testbed.endpoint.base import EndpointError
from testbed.endpoint.machine_types import (
    MachineTypes,
    NoCommonMachine,
    common_machine,
    machine_types,
    newest_common,
    parse,
)
from testbed.endpoint.program import model, qemu

# Of Debian's QEMU 5.2, 10.0 and 11.1, cut; and as RHEL 9's qemu-kvm lists its own.
HELP_5_2 = """\
Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-5.2)
pc-i440fx-5.2        Standard PC (i440FX + PIIX, 1996) (default)
pc-i440fx-2.9        Standard PC (i440FX + PIIX, 1996)
pc-i440fx-2.12       Standard PC (i440FX + PIIX, 1996)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-5.2)
pc-q35-5.2           Standard PC (Q35 + ICH9, 2009)
pc-q35-4.0.1         Standard PC (Q35 + ICH9, 2009)
pc-q35-4.0           Standard PC (Q35 + ICH9, 2009)
isapc                ISA-only PC
none                 empty machine
"""
HELP_10_0 = """\
Supported machines are:
pc-i440fx-9.2        Standard PC (i440FX + PIIX, 1996)
pc-i440fx-5.2        Standard PC (i440FX + PIIX, 1996) (deprecated)
pc-i440fx-2.9        Standard PC (i440FX + PIIX, 1996) (deprecated)
pc-i440fx-2.12       Standard PC (i440FX + PIIX, 1996) (deprecated)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)
pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)
pc-q35-4.0.1         Standard PC (Q35 + ICH9, 2009) (deprecated)
pc-q35-4.0           Standard PC (Q35 + ICH9, 2009) (deprecated)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)
pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)
"""
HELP_11_1 = """\
Supported machines are:
pc-i440fx-9.2        Standard PC (i440FX + PIIX, 1996)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-11.1)
pc-i440fx-11.1       Standard PC (i440FX + PIIX, 1996) (default)
pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996)
"""
HELP_RHEL = """\
Supported machines are:
pc                   RHEL 7.6.0 PC (i440FX + PIIX, 1996) (alias of pc-i440fx-rhel7.6.0)
pc-i440fx-rhel7.6.0  RHEL 7.6.0 PC (i440FX + PIIX, 1996) (default) (deprecated)
q35                  RHEL-9.4.0 PC (Q35 + ICH9, 2009) (alias of pc-q35-rhel9.4.0)
pc-q35-rhel9.4.0     RHEL-9.4.0 PC (Q35 + ICH9, 2009)
pc-q35-rhel9.2.0     RHEL-9.2.0 PC (Q35 + ICH9, 2009)
"""
HELP_RHEL_OLDER = """\
Supported machines are:
q35                  RHEL-9.2.0 PC (Q35 + ICH9, 2009) (alias of pc-q35-rhel9.2.0)
pc-q35-rhel9.2.0     RHEL-9.2.0 PC (Q35 + ICH9, 2009)
"""


def types(text: str) -> MachineTypes:
    return parse(text.splitlines())


def test_each_line_is_a_machine_type_or_an_alias_of_one() -> None:
    found = types(HELP_5_2)
    assert "Supported" not in found.names
    assert {"microvm", "pc", "pc-q35-4.0.1", "none"} <= found.names
    assert found.aliases == {"pc": "pc-i440fx-5.2", "q35": "pc-q35-5.2"}


@pytest.mark.parametrize(
    ("name", "source", "destination", "newest"),
    [
        ("pc", HELP_5_2, HELP_5_2, "pc-i440fx-5.2"),
        ("pc", HELP_5_2, HELP_10_0, "pc-i440fx-5.2"),
        ("pc", HELP_10_0, HELP_11_1, "pc-i440fx-10.0"),
        ("pc", HELP_11_1, HELP_10_0, "pc-i440fx-10.0"),
        ("q35", HELP_10_0, HELP_5_2, "pc-q35-4.0.1"),
        ("q35", HELP_RHEL, HELP_RHEL_OLDER, "pc-q35-rhel9.2.0"),
        ("pc-i440fx-2.9", HELP_10_0, HELP_11_1, "pc-i440fx-2.9"),
        ("microvm", HELP_5_2, HELP_5_2, "microvm"),
        ("no-such-machine", HELP_5_2, HELP_11_1, "no-such-machine"),
        ("q35", HELP_10_0, HELP_11_1, "pc-q35-10.0"),  # no alias at one side: it will say so
    ],
)
def test_an_alias_is_the_newest_type_that_both_have(
    name: str, source: str, destination: str, newest: str
) -> None:
    assert newest_common(name, types(source), types(destination)) == newest


@pytest.mark.parametrize(
    ("name", "source", "destination"),
    [("pc", HELP_5_2, HELP_11_1), ("q35", HELP_5_2, HELP_RHEL)],
)
def test_where_no_type_is_common_both_are_named(name: str, source: str, destination: str) -> None:
    with pytest.raises(NoCommonMachine, match=r"5\.2 at the source and .* name one .*--machine"):
        newest_common(name, types(source), types(destination))


@pytest.mark.parametrize(
    ("machine", "source", "destination", "common"),
    [
        ("pc", model("7.2"), model("7.2"), "pc-i440fx-7.2"),
        ("pc", model("7.2"), model("2.9"), "pc-i440fx-2.9"),
        ("q35,usb=off", model("2.9"), model("2.9"), "pc-q35-2.9,usb=off"),
    ],
)
async def test_a_model_is_known_without_starting_it(machine, source, destination, common) -> None:
    assert await common_machine(machine, source, destination) == common


@pytest.mark.live
async def test_a_qemu_is_asked() -> None:
    found = await machine_types(qemu())
    assert {"pc", "q35", "none"} <= found.names
    assert found.aliases["pc"] in found.names
    assert await common_machine("pc", qemu(), model("2.9")) == "pc-i440fx-2.9"


async def test_what_is_no_qemu_is_an_error() -> None:
    with pytest.raises(EndpointError, match="it ended with status 1"):
        await machine_types(qemu(["false"]))
