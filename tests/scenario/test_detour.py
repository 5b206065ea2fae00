"""A run that leads through a Toxiproxy server: another process, which speaks its API."""

import asyncio
import socket
import sys
from contextlib import contextmanager
from subprocess import PIPE, Popen

import pytest
from toxiproxy.api import APIConsumer

from testbed.scenario.detour import detour
from testbed.scenario.load import ScenarioError, load
from testbed.scenario.run import Lacks, Settings
from testbed.scenario.session import Options, run
from testbed.scenario.toxiproxy import Toxic, Toxiproxy

LOOPBACK = "127.0.0.1"
SERVER = """
import asyncio
from testbed.control import serve
from testbed.log import Log
from testbed.proxy.address import parse_address

async def main():
    async with serve(parse_address("127.0.0.1:0"), Log(keeps=False), seed=1) as control:
        print(control.address, flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""
SCENARIO = """\
description: On its way it passes a Toxiproxy server.
mode: precopy
guest: {memory: 16M, working_set: 1M}
toxiproxy:
  toxics: [{type: latency, stream: upstream, attributes: {latency: 5}}]
expect: {verdict: completed, memory: intact}
"""


@contextmanager
def server():
    """The address of a server's API."""
    with Popen([sys.executable, "-c", SERVER], stdout=PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address():
    with server() as at:
        yield at


def written(folder, text=SCENARIO):
    path = folder / "led_away.yaml"
    path.write_text(text)
    return path


def proxies():
    return APIConsumer.get("/proxies", timeout=10).json()


@pytest.mark.live
def test_a_run_leaves_its_networks_and_comes_back(address, tmp_path):
    result = run(load(written(tmp_path)), Options(Settings(toxiproxy=address)))
    assert result.passed, result.checks
    (told,) = result.log.find("toxiproxy")
    (opened,) = result.log.find("connection-opened")
    assert told.facts["server"] == address
    assert [toxic["name"] for toxic in told.facts["toxics"]] == ["latency_upstream"]
    assert opened.actor == "proxy", "the way back in is not told as a connection of its own"
    assert result.repeat_command.endswith(f"--toxiproxy {address}")
    assert proxies() == {}, "nothing is left on the server"


def test_the_server_has_the_toxics_while_it_lasts(address):
    toxic = Toxic(type="slicer", stream="downstream", attributes={"average_size": 7}, toxicity=0.5)
    with detour(Toxiproxy(server=address, toxics=[toxic])) as way:
        ((name, proxy),) = proxies().items()
        assert name == way.facts["name"]
        assert proxy["upstream"] == "{}:{}".format(*way.listener.getsockname())
        (has,) = proxy["toxics"]
        assert (has["name"], has["toxicity"]) == ("slicer_downstream", 0.5)
        assert has["attributes"]["average_size"] == 7
    assert proxies() == {}


async def test_what_goes_in_comes_out_at_the_listener(address):
    loop = asyncio.get_running_loop()
    with detour(Toxiproxy(server=address)) as way:
        asked = asyncio.ensure_future(way.doorway.connect())
        await asyncio.to_thread(way.doorway.answer)
        with await asked as inside:
            await loop.sock_sendall(inside, b"round we go")
            back, _ = await loop.sock_accept(way.listener)
            with back:
                assert await loop.sock_recv(back, 100) == b"round we go"


def test_a_toxic_that_the_server_does_not_know_is_told_and_nothing_left(address):
    with (
        pytest.raises(Lacks, match=r"refused POST .*: .*invalid toxic type"),
        detour(Toxiproxy(server=address, toxics=[Toxic(type="nonsense")])),
    ):
        pass
    assert proxies() == {}


def test_no_server_is_told():
    with socket.create_server((LOOPBACK, 0)) as nobody:
        at = "{}:{}".format(*nobody.getsockname())
    said = f"no Toxiproxy server answers at {at} .*: start one, or name another with --toxiproxy"
    with pytest.raises(Lacks, match=said), detour(Toxiproxy(server=at)):
        pass


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("{server: localhost}", "5:21: toxiproxy.server: expected HOST:PORT"),
        ("{server: 'a:99999'}", "5:21: toxiproxy.server: expected HOST:PORT"),
        ("{toxics: [{}]}", "5:22: toxiproxy.toxics[0]: `type` is missing"),
        ("{toxics: [{type: noop, stream: up}]}", "5:43: toxiproxy.toxics[0].stream"),
        ("{toxics: [{type: noop, toxicity: 2}]}", "5:45: toxiproxy.toxics[0].toxicity"),
        ("{toxics: [{type: latency, toxicity: 0}]}", "5:48: toxiproxy.toxics[0].toxicity"),
        ("{toxics: [{type: noop}]}", "5:29: toxiproxy.toxics[0].type: noop does nothing"),
    ],
)
def test_what_a_file_says_wrong_is_told_with_its_place(tmp_path, said, problem):
    text = f"""\
description: it
mode: precopy
expect: {{verdict: completed}}
guest: {{}}
toxiproxy: {said}
"""
    with pytest.raises(ScenarioError) as error:
        load(written(tmp_path, text))
    assert problem in str(error.value)
