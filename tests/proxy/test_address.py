"""Addresses as people write them."""

import os
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.proxy.address import (
    Address,
    AddressError,
    Sockaddr,
    TcpAddress,
    UnixAddress,
    leads_to,
    parse_address,
    resolve,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4444", TcpAddress("127.0.0.1", 4444)),
        ("host.example:0", TcpAddress("host.example", 0)),
        ("[::1]:4444", TcpAddress("::1", 4444)),
        (":4444", TcpAddress("", 4444)),
        ("unix:/run/a:b.sock", UnixAddress("/run/a:b.sock")),
    ],
)
def test_an_address_is_read_and_written_back(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4444", "HOST:PORT"),
        ("::1:4444", "brackets"),
        ("host:", "a port of 0 to 65535"),
        ("host:65536", "a port of 0 to 65535"),
        ("host:http", "a port of 0 to 65535"),
        ("host:-1", "a port of 0 to 65535"),
        ("host:\u0664", "a port of 0 to 65535"),
        ("host:000080", "a port of 0 to 65535"),
        ("a\0b:1", "printable characters"),
        ("[fe80::1%\0]:1", "printable characters"),
        ("h\udcff:1", "printable characters"),
        ("unix:/a\0b", "without NUL"),
        ("unix:\0abstract", "without NUL"),
        ("unix:/\ud800", "a path of 1 to 107 bytes"),
        ("unix:", "a path of 1 to 107 bytes"),
        ("unix:/" + "a" * 107, "a path of 1 to 107 bytes"),
    ],
)
def test_what_is_no_address_is_told_with_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(AddressError, match=expected) as error:
        parse_address(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("port", ["0" * 5000, "9" * 5000])
def test_a_long_text_is_not_told_whole(port: str) -> None:
    for text in (f"host:{port}", f"{port}:1", f"unix:/{port}"):
        with pytest.raises(AddressError) as error:
            parse_address(text)
        assert len(str(error.value)) < 300


def test_a_path_need_not_be_text() -> None:
    address = parse_address("unix:/run/\udcff.sock")  # as an argument of a command has the byte ff
    assert address == UnixAddress("/run/\udcff.sock")
    assert str(address) == r"unix:/run/\xff.sock"


@given(st.text() | st.text(alphabet="a:[]%0\0\udcff.").map("unix:{}".format))
def test_whatever_is_an_address_can_be_handed_to_the_system(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    str(address).encode()
    if isinstance(address, UnixAddress):
        with suppress(OSError):
            os.stat(address.path)
    else:
        with suppress(OSError):
            socket.inet_pton(socket.AF_INET6, address.host)


async def test_numbers_and_paths_are_resolved_by_nobody() -> None:
    assert await resolve(TcpAddress("10.0.0.1", 1)) == [(socket.AF_INET, ("10.0.0.1", 1))]
    assert await resolve(TcpAddress("::1", 2)) == [(socket.AF_INET6, ("::1", 2))]
    assert await resolve(UnixAddress("/a")) == [(socket.AF_UNIX, "/a")]


async def test_a_name_is_resolved_to_all_that_it_stands_for() -> None:
    found = await resolve(TcpAddress("localhost", 7))
    assert (socket.AF_INET, ("127.0.0.1", 7)) in found
    assert all(family in (socket.AF_INET, socket.AF_INET6) for family, _ in found)


async def test_an_empty_host_is_the_loopback_one_to_connect_to() -> None:
    hosts = {place[0] for _, place in await resolve(TcpAddress("", 7))}
    assert hosts <= {"127.0.0.1", "::1"}
    assert hosts


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid"])
async def test_what_names_no_host_is_an_oserror(host: str) -> None:
    with pytest.raises(OSError, match=r"not known|resolution|No address|cannot be a host name"):
        await resolve(TcpAddress(host, 7))


@pytest.mark.parametrize(
    ("place", "listening", "leads"),
    [
        (("127.0.0.1", 1), TcpAddress("127.0.0.1", 1), True),
        (("127.0.0.1", 2), TcpAddress("127.0.0.1", 1), False),
        (("127.0.0.2", 1), TcpAddress("127.0.0.1", 1), False),
        (("127.0.0.2", 1), TcpAddress("0.0.0.0", 1), True),
        (("127.0.0.2", 1), TcpAddress("::", 1), True),
        (("::1", 1, 0, 0), TcpAddress("::", 1), True),
        (("::1", 1, 0, 0), TcpAddress("0.0.0.0", 1), False),
        (("192.0.2.1", 1), TcpAddress("0.0.0.0", 1), False),  # of no machine: RFC 5737
        ("/tmp/../tmp/a", UnixAddress("/tmp/a"), True),
        ("/tmp/b", UnixAddress("/tmp/a"), False),
        ("/tmp/a", TcpAddress("127.0.0.1", 1), False),
    ],
)
def test_what_leads_back_to_a_listener(place: Sockaddr, listening: Address, leads: bool) -> None:
    assert leads_to(place, listening) is leads
