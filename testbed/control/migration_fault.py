"""`migration_fault`: a fault of the scenario language as a toxic.

Its attributes are what stands in a scenario's list of faults (`docs/scenarios.md`): `at`, `do`,
`when` and so on. It lasts until it is taken away, so it strikes in every migration unless
`attempt` says which one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.fault.plan import Fault
from testbed.scenario.faults_file import parse_fault

from . import errors


def fault_of(name: str, attributes: Mapping[str, Any], path: str = "attributes") -> Fault:
    """The fault of a toxic.

    Args:
        name: of the toxic; the fault has the same.
        attributes: as they came.
        path: where they stand in the body, for messages.

    Raises:
        ApiError: 400, with the path of everything that is wrong.
    """
    if "name" in attributes:
        raise errors.bad_body(f"{path}.name: a fault here has the name of its toxic")
    try:
        return parse_fault({"attempt": "every", **attributes}, name)
    except ValueError as error:
        wrong = "; ".join(f"{path}.{line}" for line in str(error).splitlines())
        raise errors.bad_body(wrong) from error
