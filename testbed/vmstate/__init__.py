"""Device state declared once: bytes, vmdesc and `-dump-vmstate` all come from the declaration.

This room is pure, as `testbed.wire` is, and imports nothing of ours: `wire` reads what a stream
says of itself, `vmstate` says what there is to be said. `fields` has a constructor for each kind
of field; `load` is a story that pauses where bytes are missing, `Incoming` what it reads from.
"""

from . import fields
from .declare import Element, Field, Info, Loader, Node, Saver, Source, State, Story, VmState
from .describe import device_node, old_style_node, text, vmdesc
from .dump import dump, dump_text
from .failure import DeviceCrash, VmStateFailed
from .incoming import Incoming
from .load import load
from .save import Manner, Saved, save
from .scalars import timer_get, timer_put

__all__ = [
    "DeviceCrash",
    "Element",
    "Field",
    "Incoming",
    "Info",
    "Loader",
    "Manner",
    "Node",
    "Saved",
    "Saver",
    "Source",
    "State",
    "Story",
    "VmState",
    "VmStateFailed",
    "device_node",
    "dump",
    "dump_text",
    "fields",
    "load",
    "old_style_node",
    "save",
    "text",
    "timer_get",
    "timer_put",
    "vmdesc",
]
