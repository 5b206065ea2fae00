"""A word for connections that are not what a source opens, and what QEMU would make of them."""

from __future__ import annotations

STARTS = (
    (b"GET ", "an HTTP request"),
    (b"POST", "an HTTP request"),
    (b"PUT ", "an HTTP request"),
    (b"HEAD", "an HTTP request"),
    (b"OPTI", "an HTTP request"),
    (b"CONN", "an HTTP request"),
    (b"PRI ", "an HTTP request"),
    (b"PROX", "a PROXY protocol header, which a load balancer in front sends"),
    (b"\r\n\r\n", "a PROXY protocol header, which a load balancer in front sends"),
    (b"SSH-", "an SSH client"),
    (b'{"', "JSON: the address of a QMP monitor may be meant"),
    (b"{ ", "JSON: the address of a QMP monitor may be meant"),
    (b"RFB ", "a VNC peer"),
)
"""First bytes of the source's side, and what speaks so."""

FIRST = (
    "a waiting QEMU takes what comes first for the main channel, and ends: "
    "'Not a migration stream'; from 11.1 'unknown channel magic'"
)
LATER = "a destination that waits for another channel takes it for that one; others never read it"
NOTHING_AT_ALL = "a QEMU that waits for a recovery takes it for one, and is paused again at its end"
NOTHING_FIRST = "it was not passed on, for it would end a waiting QEMU, or block its main loop"


def what_speaks(first: bytes) -> str:
    """What begins with these bytes, in words."""
    for start, what in STARTS:
        if first.startswith(start):
            return what
    return f"{first.hex()}, which begins no channel" if first else "it says nothing"
