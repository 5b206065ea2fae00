"""What both sides are run by, and what has to be the same on both."""

from testbed.endpoint.program import model, qemu, shared_accelerator


def test_a_model_is_run_by_this_python_and_told_its_version() -> None:
    assert model("2.9").command[-4:] == ("-m", "testbed.model", "--profile", "2.9")
    assert (model().kind, model().profile) == ("model", "7.2")


def test_a_qemu_is_run_by_its_command() -> None:
    assert qemu().command == ("qemu-system-x86_64",)
    assert (qemu(["chroot", "/srv", "q"]).kind, qemu().profile) == ("qemu", None)


def test_a_model_decides_the_accelerator_of_both() -> None:
    assert shared_accelerator(model(), qemu()) == "tcg"
    assert shared_accelerator(qemu(), model()) == "tcg"
    assert shared_accelerator(qemu(), qemu()) is None
