"""What both sides are run by, and what has to be the same on both."""

import pytest

from testbed.endpoint.program import common_machine, model, qemu, shared_accelerator


def test_a_model_is_run_by_this_python_and_told_its_version() -> None:
    assert model("2.9").command[-4:] == ("-m", "testbed.model", "--profile", "2.9")
    assert (model().kind, model().profile) == ("model", "7.2")


def test_a_qemu_is_run_by_its_command() -> None:
    assert qemu().command == ("qemu-system-x86_64",)
    assert (qemu(["chroot", "/srv", "q"]).kind, qemu().profile) == ("qemu", None)


@pytest.mark.parametrize(
    ("machine", "source", "destination", "common"),
    [
        ("pc", model("7.2"), qemu(), "pc-i440fx-7.2"),
        ("pc", qemu(), model("2.9"), "pc-i440fx-2.9"),
        ("q35,usb=off", model("2.9"), qemu(), "pc-q35-2.9,usb=off"),
        ("pc-i440fx-6.0", model("7.2"), qemu(), "pc-i440fx-6.0"),
        ("microvm", model("7.2"), qemu(), "microvm"),
        ("pc", model("7.2"), model("7.2"), "pc"),
        ("pc", qemu(), qemu(), "pc"),
    ],
)
def test_where_a_model_meets_a_qemu_an_alias_is_that_of_the_models_version(
    machine, source, destination, common
) -> None:
    assert common_machine(machine, source, destination) == common


def test_a_model_decides_the_accelerator_of_both() -> None:
    assert shared_accelerator(model(), qemu()) == "tcg"
    assert shared_accelerator(qemu(), model()) == "tcg"
    assert shared_accelerator(qemu(), qemu()) is None
