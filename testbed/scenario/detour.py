"""The way through an external Toxiproxy server: made before a run, gone after it.

The run's connections leave its networks at the proxy, pass the server, and come back in::

    source -- the run's proxy --| Toxiproxy |-- the way back in -- destination

The server is in the command's own network, which a run cannot reach: the command connects to it
for the run (`netns/doorway.py`), and the socket that the server connects to was opened before the
run began.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from testbed.netns.doorway import Doorway
from testbed.proxy.address import TcpAddress, of_socket, parse_address

from .lacks import Lacks
from .toxiproxy import Toxic, Toxiproxy

if TYPE_CHECKING:  # the client's, whose import takes as long as ours together
    from requests import Response

WITHIN_S = 5.0
"""For each answer of the server: the client itself waits for ever."""
BACKLOG = 64
ANSWER_SHOWN_MAX = 300


class Detour:
    """One proxy of a Toxiproxy server, which leads from `doorway` to `listener`."""

    def __init__(self, listener: socket.socket, doorway: Doorway, facts: Mapping[str, Any]) -> None:
        self.listener = listener
        self.doorway = doorway
        self.facts = facts
        """For the log: server, version, name, listen, upstream, toxics."""

    @property
    def fds(self) -> tuple[int, ...]:
        """What the sandbox must keep."""
        return (self.listener.fileno(), *self.doorway.fds)


@contextmanager
def detour(wanted: Toxiproxy) -> Iterator[Detour]:
    """Have a proxy with those toxics on the server, until the block ends.

    Raises:
        Lacks: there is no client, no server, or it refused.
    """
    call = _client(wanted.server)
    version = _asked(wanted.server, call, "GET", "/version").json()["version"]
    name = f"testbed-{os.getpid()}"
    ours = _our_address(wanted.server)
    with socket.create_server((ours, 0), family=_family(ours), backlog=BACKLOG) as listener:
        upstream = str(of_socket(listener))
        listen = str(_at(wanted.server)._replace(port=0))
        proxy = {"name": name, "listen": listen, "upstream": upstream}
        made = _asked(wanted.server, call, "POST", "/proxies", proxy).json()
        try:
            for toxic in wanted.toxics:
                _asked(wanted.server, call, "POST", f"/proxies/{name}/toxics", _said(toxic))
            doorway = Doorway(_at(made["listen"]))
            facts = {**proxy, "listen": made["listen"], "server": wanted.server}
            facts |= {"version": version, "toxics": [_said(toxic) for toxic in wanted.toxics]}
            try:
                listener.setblocking(False)
                yield Detour(listener, doorway, facts)
            finally:
                doorway.close()
        finally:
            with suppress(Lacks):  # a server that is gone has no proxy left
                _asked(wanted.server, call, "DELETE", f"/proxies/{name}")


Call = Callable[..., "Response"]


def _client(server: str) -> Call:
    """toxiproxy-python's way to call an API: its objects know no time limit, and no status 500."""
    try:
        from toxiproxy.api import APIConsumer
    except ImportError:
        raise Lacks(
            "the scenario has a Toxiproxy server on its way, and its Python client is missing: "
            "install `migration-testbed[toxiproxy]`"
        ) from None
    APIConsumer.host, APIConsumer.port = server.rpartition(":")[0], _at(server).port
    methods = {"GET": APIConsumer.get, "POST": APIConsumer.post, "DELETE": APIConsumer.delete}

    def call(method: str, path: str, json: Mapping[str, Any] | None) -> Response:
        body = {} if json is None else {"json": json}
        answer: Response = methods[method](path, timeout=WITHIN_S, **body)
        return answer

    return call


def _asked(
    server: str, call: Call, method: str, path: str, json: Mapping[str, Any] | None = None
) -> Response:
    """The server's answer.

    Raises:
        Lacks: it did not answer, or refused.
    """
    from requests import RequestException
    from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

    try:
        answer = call(method, path, json)
    except RequestException as error:
        why = type(error).__name__
        raise Lacks(
            f"no Toxiproxy server answers at {server} ({why}): start one, "
            "or name another with --toxiproxy"
        ) from None
    except (InvalidToxic, NotFound, ProxyExists) as error:
        said = bytes(error.args[0]).decode(errors="replace")
        raise _refused(server, method, path, said) from None
    if not answer.ok:
        raise _refused(server, method, path, answer.text)
    return answer


def _refused(server: str, method: str, path: str, answer: str) -> Lacks:
    said = answer.strip()[:ANSWER_SHOWN_MAX]
    return Lacks(f"the Toxiproxy server at {server} refused {method} {path}: {said}")


def _said(toxic: Toxic) -> dict[str, Any]:
    """The toxic as the API takes it."""
    said = toxic.model_dump()
    return {**said, "name": toxic.name or f"{toxic.type}_{toxic.stream}"}


def _our_address(server: str) -> str:
    """The address of this machine that the server reaches us at."""
    try:
        with socket.create_connection(_at(server), WITHIN_S) as opened:
            return str(opened.getsockname()[0])
    except OSError as error:
        raise Lacks(f"no Toxiproxy server at {server}: {error.strerror or error}") from None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _at(text: str) -> TcpAddress:
    """A host and port, which the schema or the server has seen to."""
    address = parse_address(text)
    assert isinstance(address, TcpAddress), text
    return address
