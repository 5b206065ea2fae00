"""Requests, and what a Toxiproxy server answered them: plays them, and records them anew.

usage: scripts/record-toxiproxy SERVER

SERVER is the binary of a Toxiproxy server. It is asked what stands in `toxiproxy_2_12.yaml` beside
this, one request after another, and its answers are written there in place of those before. What
is different here on purpose (`ours`, `why`) stays.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("toxiproxy_2_12.yaml")
HOST = "@HOST"
"""In requests and answers: an address of loopback that is nobody else's."""
WITHIN_S = 10
HEADERS = {
    "Content-Type": "{}",
    "X-Content-Type-Options": "{}",
    "Location": "to {}",
    "Server": "by {}",
    "X-Toxiproxy-Request-Id": "id",
}
"""Of answers, and how they stand in the table."""
HEAD = """\
# What a Toxiproxy 2.12 server answers, one request after another, on one server:
# scripts/record-toxiproxy SERVER records it anew. The version is "git" as it was built from source.
# @HOST is an address of loopback. `ours` is what is different here, and `why`. Of a body that is
# refused, the words after "bad request body: " may differ: those are of Go's JSON.
"""

ASKED = ("request", "headers", "body")
OURS = ("ours", "ours_says", "why")
STYLE: dict[str, Any] = {"sort_keys": False, "width": 4096, "allow_unicode": True}

Row = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes a text that ends in a line end as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if text.endswith("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def load() -> list[Row]:
    """The rows, in their order."""
    rows: list[Row] = yaml.safe_load(TABLE.read_text())
    return rows


def own_host(salt: int) -> str:
    """An address of loopback that no other process plays on at this time."""
    pid = os.getpid()
    return f"127.{100 + salt}.{pid >> 8 & 255}.{pid & 255}"


def play(server: tuple[str, int], rows: list[Row], host: str) -> Iterator[Row]:
    """Ask each, and give the answer as it stands in the table."""
    for row in rows:
        method, path = row["request"].split(" ")
        body = row.get("body")
        with closing(http.client.HTTPConnection(*server, timeout=WITHIN_S)) as connection:
            sent = None if body is None else body.replace(HOST, host).encode()
            connection.request(method, path, sent, row.get("headers", {}))
            response = connection.getresponse()
            text = response.read().decode().replace(host, HOST)
        head = [str(response.status)]
        for name, words in HEADERS.items():
            if (value := response.getheader(name)) is not None:
                head.append(words.format(value))
        # What is measured differs each time.
        yield {"answer": ", ".join(head), "says": "" if path == "/metrics" else text}


@contextmanager
def running(server: str) -> Iterator[tuple[str, int]]:
    """A Toxiproxy server, and where it answers."""
    with closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        address: tuple[str, int] = opened.getsockname()
    command = [server, "-host", address[0], "-port", str(address[1]), "-proxy-metrics"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + WITHIN_S
            while True:
                try:
                    socket.create_connection(address).close()
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > until or process.poll() is not None:
                        raise
            yield address
        finally:
            process.terminate()


def record(server: str) -> None:
    """Write the table with the answers of this server."""
    rows, written = load(), list[str]()
    with running(server) as address:
        for row, answer in zip(rows, play(address, rows, own_host(0)), strict=True):
            asked = {name: row[name] for name in ASKED if name in row}
            ours = {name: row[name] for name in OURS if name in row}
            written.append(yaml.dump([asked | answer | ours], Dumper=_Dumper, **STYLE))
    TABLE.write_text("\n".join([HEAD, *written]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    record(sys.argv[1])
