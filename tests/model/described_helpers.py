"""Devices registered as a recorded stream describes them."""

import json

from testbed.model.machines.described import NotDeclarable, Sized, blank, declared, size_of
from testbed.vmstate import Node


def register_described(registry, vmdesc, versions):
    """Register a device for each section of a vmdesc, with those versions by (idstr, instance)."""
    entries = []
    described = dict(json.loads(vmdesc, object_pairs_hook=Node))["devices"]
    for node, whole in zip(json.loads(vmdesc)["devices"], described, strict=True):
        key = node["name"], node["instance_id"]
        try:
            if "vmsd_name" not in node:
                raise NotDeclarable
            vmstate = declared(node)
        except NotDeclarable:
            sized = Sized(size_of(node), whole)
            entry = registry.register_old_style(*key, versions[key], sized)
        else:
            entry = registry.register(vmstate, blank(vmstate), key[1])
            entry.idstr, entry.version_id = key[0], versions[key]
        entries.append(entry)
    return entries
