"""What `-dump-vmstate FILE` writes: declarations, for QEMU's `scripts/vmstate-static-checker.py`.

Sizes are those of C types in memory, not of the stream. Source: QEMU `migration/savevm.c`,
`dump_vmstate_json_to_file`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .declare import Field, VmState


def dump(machine: str, devices: Mapping[str, VmState], *, with_num: bool = False) -> dict[str, Any]:
    """The JSON object of a machine's declarations.

    Args:
        machine: type of the machine, by its versioned name.
        devices: by name of the device's type, which need not be that of its VMSD.
        with_num: tell how many elements arrays have, as QEMU does since 8.1.
    """
    root: dict[str, Any] = {"vmschkmachine": {"Name": machine}}
    for name, vmstate in devices.items():
        root[name] = {
            "Name": name,
            "version_id": vmstate.version_id,
            "minimum_version_id": vmstate.minimum_version_id,
            "Description": _description(vmstate, with_num),
        }
    return root


def dump_text(root: Mapping[str, Any]) -> str:
    """The file's text."""
    return json.dumps(root, indent=2) + "\n"


def _description(vmstate: VmState, with_num: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": vmstate.name,
        "version_id": vmstate.version_id,
        "minimum_version_id": vmstate.minimum_version_id,
    }
    if vmstate.fields:
        described["Fields"] = [
            _field(field, with_num) for field in vmstate.fields if not field.must_exist
        ]
    if vmstate.subsections:
        described["Subsections"] = [_description(each, with_num) for each in vmstate.subsections]
    return described


def _field(field: Field, with_num: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "field": field.name,
        "version_id": field.version_id,
        "field_exists": field.exists is not None,
    }
    if with_num and field.num is not None and field.num_field is None:
        described["num"] = field.num
    described["size"] = field.size
    if field.vmstate is not None:
        described["Description"] = _description(field.vmstate, with_num)
    return described
