"""Which machine types the two sides of a run are started with."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from testbed.endpoint.base import EndpointError
from testbed.endpoint.machine_types import NoCommonMachine, common_machine

from .lacks import Lacks
from .run import Settings
from .scenario import Scenario


def with_machines(settings: Settings, scenario: Scenario) -> Settings:
    """Return `resolved` settings, where no event loop runs yet."""
    return asyncio.run(resolved(settings, scenario))


async def resolved(settings: Settings, scenario: Scenario) -> Settings:
    """Return the settings with each alias of the scenario resolved for both of its sides.

    Both programs are asked for their machine types, each once as long as this process runs.

    Raises:
        Lacks: a side could not be asked, or they have no machine type in common.
    """
    written = scenario.model
    sides = (written.source, written.destination)
    said = {side.machine or settings.machine or written.guest.machine for side in sides}
    try:
        machines = {
            machine: await common_machine(machine, settings.source, settings.destination)
            for machine in sorted(said)
        }
    except (EndpointError, NoCommonMachine) as error:
        raise Lacks(str(error)) from error
    return replace(settings, machines=machines)
