"""The vmdesc of a stream: the text of descriptions, as different QEMUs write it."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii
from typing import Any

from .declare import FieldNodes, FixedNodes, Node
from .save import Manner


def device_node(idstr: str, instance_id: int, node: Node) -> Node:
    """The entry of a section among a vmdesc's `devices`; `node` is what was saved."""
    return Node([("name", idstr), ("instance_id", instance_id), *node])


def old_style_node(idstr: str, instance_id: int, size: int) -> Node:
    """The entry of a section without a VMSD, of which only the size in bytes is known."""
    data = Node([("name", "data"), ("size", size), ("type", "buffer")])
    return Node([("name", idstr), ("instance_id", instance_id), ("size", size), ("fields", [data])])


def vmdesc(
    devices: list[Node],
    *,
    page_size: int,
    configuration: Node | None = None,
    manner: Manner = Manner.QEMU_7_2,
) -> str:
    """The text of a whole vmdesc.

    Args:
        devices: `device_node`s, `old_style_node`s, in the order of the stream.
        page_size: of the target, in bytes.
        configuration: what was saved of it: 10.0 describes it too.
        manner: whose text.
    """
    root = Node()
    if configuration is not None:
        root.append(("configuration", configuration))
    root += ("page_size", page_size), ("devices", devices)
    return text(root, manner=manner)


def text(node: Node, *, manner: Manner = Manner.QEMU_7_2) -> str:
    """The JSON of a description, its keys in order and as often as they come.

    Source: QEMU `migration/qjson.c` up to 5.2, `qobject/json-writer.c` since.
    """
    return _text(node, " " if manner is Manner.QEMU_2_9 else "")


def _text(value: Any, blank: str) -> str:
    if isinstance(value, Node):
        pairs = []
        for key, each in value:  # most are these, and a machine has thousands
            if type(each) is int:
                pairs.append(f'"{key}"{blank}: {each}')
            elif type(each) is str:
                pairs.append(f'"{key}"{blank}: {encode_basestring_ascii(each)}')
            else:
                pairs.append(f'"{key}"{blank}: {_text(each, blank)}')
        return f"{{{blank}{', '.join(pairs)}{blank}}}"
    if isinstance(value, list):
        fixed = value.fixed if isinstance(value, FieldNodes) else []
        return f"[{blank}{', '.join(_texts(value, fixed, blank))}{blank}]"
    return json.dumps(value)


def _texts(values: list[Any], fixed: list[tuple[int, FixedNodes]], blank: str) -> list[str]:
    texts, at = list[str](), 0
    for begin, nodes in fixed:
        texts += [_text(each, blank) for each in values[at:begin]]
        at = begin + len(nodes)
        if nodes:
            if blank not in nodes.texts:
                nodes.texts[blank] = ", ".join([_text(each, blank) for each in nodes])
            texts.append(nodes.texts[blank])
    return texts + [_text(each, blank) for each in values[at:]]
