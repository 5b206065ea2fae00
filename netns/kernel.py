"""The few system calls that this room needs and Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import fcntl
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None, use_errno=True)


def setns(fd: int, kind: int = CLONE_NEWNET) -> None:
    """Move the calling thread into the namespace of `fd` (setns(2)).

    Raises:
        OSError: the kernel refused.
    """
    _check(_LIBC.setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    """Put the calling thread into new namespaces (unshare(2)).

    Raises:
        OSError: the kernel refused; EPERM without CAP_SYS_ADMIN, ENOSPC at the limit of
            user namespaces (`user.max_user_namespaces`).
    """
    _check(_LIBC.unshare(flags), "unshare")


def mount(
    source: str | bytes, target: str | bytes, kind: str, flags: int = 0, options: str = ""
) -> None:
    """mount(2); a source that is empty is none, and so are a kind and options.

    Raises:
        OSError: the kernel refused.
        ValueError: a NUL byte, which would end the name for the kernel.
    """
    encoded = [os.fsencode(text) or None for text in (source, target, kind, options)]
    if any(text is not None and b"\0" in text for text in encoded):
        raise ValueError(f"mount {target!r}: a name cannot have a NUL byte")
    _check(
        _LIBC.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]),
        f"mount {os.fsdecode(target)}",
    )


def set_death_signal(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (0: none).

    To be called after `unshare`: new credentials clear it (prctl(2)).
    """
    _check(_LIBC.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0), "prctl")


def open_userfaultfd() -> int:
    """Open a userfaultfd that also sees faults inside the kernel, as QEMU's postcopy does.

    By /dev/userfaultfd (Linux 6.1), else by the system call; QEMU `util/userfaultfd.c` does both.

    Raises:
        OSError: neither is allowed, or the kernel has none.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        number = _SYS_USERFAULTFD.get(os.uname().machine, -1)
        return _check(_LIBC.syscall(number, flags), "userfaultfd")
    try:
        return fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, flags)
    finally:
        os.close(device)


_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "ppc64le": 364, "s390x": 355}
"""Its number by `uname -m`: Linux `arch/*/kernel/syscalls/*.tbl`, `asm-generic/unistd.h`."""
_USERFAULTFD_IOC_NEW = 0xAA00  # _IO(0xAA, 0x00), `linux/userfaultfd.h`


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
