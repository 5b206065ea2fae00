"""Devices registered as a recorded stream describes them."""

import json
from functools import lru_cache

from testbed.model.machines.described import NotDeclarable, Sized, blank, declared, size_of
from testbed.vmstate import Node


@lru_cache(4)
def devices(vmdesc):
    """Of each section of a vmdesc: its key, and its declaration, or its size and description."""
    found = []
    described = dict(json.loads(vmdesc, object_pairs_hook=Node))["devices"]
    for node, whole in zip(json.loads(vmdesc)["devices"], described, strict=True):
        key = node["name"], node["instance_id"]
        try:
            if "vmsd_name" not in node:
                raise NotDeclarable
            found.append((key, declared(node), None))
        except NotDeclarable:
            found.append((key, None, (size_of(node), whole)))
    return found


def register_described(registry, vmdesc, versions):
    """Register a device for each section of a vmdesc, with those versions by (idstr, instance)."""
    entries = []
    for key, vmstate, sized in devices(vmdesc):
        if vmstate is None:
            entry = registry.register_old_style(*key, versions[key], Sized(*sized))
        else:
            entry = registry.register(vmstate, blank(vmstate), key[1])
            entry.idstr, entry.version_id = key[0], versions[key]
        entries.append(entry)
    return entries
