"""A question to an endpoint every second: QMP must answer in whatever state a migration is."""

from __future__ import annotations

import asyncio

from testbed.endpoint.base import Endpoint, EndpointError, QmpRefused

ASKS_EVERY_S = 1.0
ANSWERS_WITHIN_S = 5.0
"""QEMU answers from its main loop, which loads device state and waits for locks meanwhile: on a
loaded machine that took up to 0.4 s."""


async def ask_regularly(end: Endpoint) -> None:
    """Ask `query-status` until the endpoint's process ends.

    The QMP session writes `qmp-silent` to the log where no answer comes in time.
    """
    while end.exit_status is None:
        await asyncio.sleep(ASKS_EVERY_S)
        try:
            await end.command("query-status", within_s=ANSWERS_WITHIN_S)
        except (EndpointError, QmpRefused):
            continue  # it is in the log; an endpoint that ended ends the loop
