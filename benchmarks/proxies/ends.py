"""The ends of a measured way, each a small process of its own: `ends.py ROLE ARGUMENT...`.

They import nothing of the project's, so that they start at once, and cost as little CPU as can be:
pages go out by sendfile from a file in memory, and what comes in is dropped in the kernel
(MSG_TRUNC), so that neither end copies a byte. All say what they found as one line of JSON, with
times of CLOCK_MONOTONIC, which is the same in all processes.

    source HOST PORT FILE REPEATS HEAD,BODY,TAIL...
        a connection for each triple of sizes, whose bytes lie one after the other in FILE; the
        first one is the first to speak and the last to end
    sink HOST PORT CONNECTIONS
        drop what comes on so many, and hold them open until standard input ends
    answer HOST PORT FILE PAGE_BYTES REQUEST_BYTES
        send all of FILE but the page at its end, and that for each request, until the end
    ask HOST PORT FILE PAGE_BYTES REQUEST COUNT
        take all of FILE but that page, then ask for it so many times
    knock HOST PORT COUNT
        connect and close so many times, one after the other
    door HOST PORT
        take connections, and close each once its peer has
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

DROP_BYTES = 1 << 22
CONNECTIONS_WAITING = 4096
ENDED_WITHIN_S = 600.0
LISTENS = "listens"


def say(**facts: object) -> None:
    """One line for whoever started this."""
    print(json.dumps(facts), flush=True)


def listening(host: str, port: str) -> socket.socket:
    """Listen, and say so."""
    listener = socket.create_server((host, int(port)), backlog=CONNECTIONS_WAITING)
    say(state=LISTENS)
    return listener


def connected(host: str, port: str) -> socket.socket:
    """Connect, without delay for small writes."""
    opened = socket.create_connection((host, int(port)))
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def side_by_side(works: list[Callable[[], None]]) -> None:
    """Run all in threads until all have ended."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def source(host: str, port: str, file: str, repeats: str, *triples: str) -> None:
    """Send streams from a file, and wait until the other end has closed."""
    fd = os.open(file, os.O_RDONLY)
    sizes = [tuple(map(int, triple.split(","))) for triple in triples]
    starts = [sum(map(sum, sizes[:number])) for number in range(len(sizes))]
    began = time.monotonic()
    opened = [connected(host, port) for _ in triples]

    def send(number: int, start: int, size: int) -> None:
        while size:
            sent = os.sendfile(opened[number].fileno(), fd, start, size)
            start, size = start + sent, size - sent

    def stream(number: int) -> None:
        head, body, _ = sizes[number]
        if number:
            send(number, starts[number], head)
        for _ in range(int(repeats)):
            send(number, starts[number] + head, body)

    # The main channel's first bytes tell a destination what comes, and its last ones that all did.
    send(0, starts[0], sizes[0][0])
    side_by_side([partial(stream, number) for number in range(len(triples))])
    for number in reversed(range(len(triples))):
        head, body, tail = sizes[number]
        send(number, starts[number] + head + body, tail)
        opened[number].shutdown(socket.SHUT_WR)
    for each in opened:
        each.settimeout(ENDED_WITHIN_S)
        each.recv(1)
    say(began=began, cpu_s=time.process_time())


def sink(host: str, port: str, connections: str) -> None:
    """Count and drop what comes; say so when all have ended, and hold them open until told."""
    listener = listening(host, port)
    accepted = [listener.accept()[0] for _ in range(int(connections))]
    counts = [0] * len(accepted)

    def drain(number: int) -> None:
        buffer = bytearray(DROP_BYTES)
        while got := accepted[number].recv_into(buffer, DROP_BYTES, socket.MSG_TRUNC):
            counts[number] += got

    side_by_side([partial(drain, number) for number in range(len(accepted))])
    say(ended=time.monotonic(), bytes=sum(counts), cpu_s=time.process_time())
    sys.stdin.read()


def exactly(opened: socket.socket, count: int) -> bytes:
    """So many bytes."""
    got = bytearray(count)
    view = memoryview(got)
    while view:
        more = opened.recv_into(view)
        if not more:
            raise SystemExit(f"the connection ended {len(view)} bytes early")
        view = view[more:]
    return bytes(got)


def answer(host: str, port: str, file: str, page_bytes: str, request_bytes: str) -> None:
    """The source of a postcopy: a page for each request."""
    with open(file, "rb") as stream:
        content = stream.read()
    opening, page = content[: -int(page_bytes)], content[-int(page_bytes) :]
    opened = connected(host, port)
    opened.sendall(opening)
    while opened.recv(int(request_bytes), socket.MSG_WAITALL):
        opened.sendall(page)


def ask(host: str, port: str, file: str, page_bytes: str, request: str, count: str) -> None:
    """The destination of a postcopy: how long each page takes to come, in nanoseconds."""
    listener = listening(host, port)
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size, message = int(page_bytes), bytes.fromhex(request)
    exactly(accepted, os.path.getsize(file) - size)
    took_ns = []
    for _ in range(int(count)):
        began = time.perf_counter_ns()
        accepted.sendall(message)
        exactly(accepted, size)
        took_ns.append(time.perf_counter_ns() - began)
    accepted.close()
    say(took_ns=took_ns)


def knock(host: str, port: str, count: str) -> None:
    """Connect and close; the reset of one who is refused is no matter here."""
    refused = 0
    began = time.monotonic()
    for _ in range(int(count)):
        try:
            socket.create_connection((host, int(port)), timeout=ENDED_WITHIN_S).close()
        except OSError:
            refused += 1
    say(seconds=time.monotonic() - began, refused=refused)


def door(host: str, port: str) -> None:
    """Take all who come, close each when its peer has, until killed."""
    listener = listening(host, port)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                opened = key.fileobj
                assert isinstance(opened, socket.socket)
                if opened is listener:
                    selector.register(opened.accept()[0], selectors.EVENT_READ)
                    continue
                try:
                    more = opened.recv(DROP_BYTES)
                except OSError:
                    more = b""
                if not more:
                    selector.unregister(opened)
                    opened.close()


ROLES = {each.__name__: each for each in (source, sink, answer, ask, knock, door)}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
