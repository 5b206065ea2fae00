"""Having a machine save itself once more, over a pipe, to look at what it holds."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

from .base import Endpoint, EndpointError, QmpRefused
from .qmp import QmpEnded, QmpSession

CHUNK_WITHIN_S = 20.0
"""Until the next bytes come; a stopped machine writes without a break."""

CHUNK_BYTES_MAX = 1 << 18

PIPE_BYTES = 1 << 20
"""As large as anybody may have it (`/proc/sys/fs/pipe-max-size`): both sides take fewer turns."""

BANDWIDTH_BYTES_PER_S = 1 << 40
"""No limit: the default is 32 MiB/s before 5.2 and 128 MiB/s since."""

NAME = "saved-again"


async def save(endpoint: Endpoint, qmp: QmpSession) -> AsyncIterator[bytes]:
    """Stop the guest, and read the stream of a migration to a pipe; see `Endpoint.save_again`.

    MIGRATION events are logged as `saving-status` from then on: they are no attempt of the run.

    Raises:
        QmpRefused: the machine's state does not allow it.
        EndpointError: it fell silent, ended, or did not save the machine to its end.
    """
    await endpoint.command("stop")
    await _clear_capabilities(endpoint)
    await endpoint.command("migrate-set-parameters", {"max-bandwidth": BANDWIDTH_BYTES_PER_S})
    await endpoint.let_go()
    with ExitStack() as stack:
        read_end, write_end = os.pipe()
        with suppress(OSError):  # a user's pipes may have less, and all of it is only slower
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        pipe = stack.enter_context(io.FileIO(read_end, "r"))
        try:
            with suppress(QmpEnded):  # `getfd` says what has become of it
                qmp.send_descriptor(write_end)
            await endpoint.command("getfd", {"fdname": NAME})
        finally:
            os.close(write_end)
        attempt_kind, qmp.status_kind = qmp.status_kind, "saving-status"
        try:
            await endpoint.migrate(f"fd:{NAME}")
        except QmpRefused:
            qmp.status_kind = attempt_kind
            with suppress(QmpRefused):  # it may have taken the descriptor before it refused
                await endpoint.command("closefd", {"fdname": NAME})
            raise
        reader = asyncio.StreamReader(CHUNK_BYTES_MAX)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        stack.callback(transport.close)
        while chunk := await _read(reader, endpoint):
            yield chunk
    status = await endpoint.migration_status()
    if status.status != "completed":
        raise EndpointError(
            f"{endpoint.side}: saving it again ended {status.status}: {status.error_desc}"
        )


async def _read(reader: asyncio.StreamReader, endpoint: Endpoint) -> bytes:
    try:
        async with asyncio.timeout(CHUNK_WITHIN_S):
            return await reader.read(CHUNK_BYTES_MAX)
    except TimeoutError as error:
        raise EndpointError(
            f"{endpoint.side}: saving it again stood still for {CHUNK_WITHIN_S:g} s"
        ) from error


async def _clear_capabilities(endpoint: Endpoint) -> None:
    """Switch off all but `events`: a pipe has no return path, nobody reads further channels."""
    states = [
        {"capability": entry["capability"], "state": False}
        for entry in await endpoint.command("query-migrate-capabilities")
        if entry["state"] and entry["capability"] != "events"
    ]
    if states:
        await endpoint.command("migrate-set-capabilities", {"capabilities": states})
