"""Runs Python code as a user without rights, in a mount namespace where /dev/net/tun is a copy.

    python nobody.py MODE CODE

MODE is that of /dev/net/tun, in octal; `none`: there is none; `chroot`: 666, and in a chroot, where
the kernel refuses user namespaces. To be started as root. Nothing of the host's /dev changes. What
the interpreter needs is bound where folders closed to others, such as /root, are in its way.
"""

import os
import stat
import sys
from pathlib import Path

from testbed.netns.kernel import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, mount, unshare

NOBODY = 65534
TUN = os.makedev(10, 200)


def open_the_way(paths: list[Path]) -> None:
    outer = [path for path in paths if not any(other in path.parents for other in paths)]
    held = {path: os.open(path, os.O_PATH) for path in outer}
    for path, fd in held.items():
        for folder in reversed(path.parents):
            if not folder.exists():  # hidden by the mount for another path
                break
            if not folder.stat().st_mode & stat.S_IXOTH:
                mount("tmpfs", str(folder), "tmpfs", options="mode=0755")
                break
        if not path.exists():
            path.mkdir(parents=True)
            mount(f"/proc/self/fd/{fd}", str(path), "", MS_BIND | MS_REC)


def main(mode: str, code: str) -> None:
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/dev/net", "tmpfs", options="mode=0755")
    if mode != "none":
        os.mknod("/dev/net/tun", stat.S_IFCHR, TUN)
        os.chmod("/dev/net/tun", 0o666 if mode == "chroot" else int(mode, 8))
    project = Path(__file__).parents[2]
    open_the_way(
        [*{Path(text).resolve() for text in (sys.prefix, sys.base_prefix)}, project.resolve()]
    )
    if mode == "chroot":
        mount("/", "/mnt", "", MS_BIND | MS_REC)
        os.chroot("/mnt")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir(project)
    os.execv(sys.executable, [sys.executable, "-W", "error", "-c", code])


main(*sys.argv[1:])
