"""Builds workflow files as the ComfyUI page saves them (UI format, version 0.4)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from motioncache_pack.tests.workflows import layout, signatures

# the page draws the title above a node's position
TITLE = 30
GAP = 40
PACK_ID = "motioncache"
CORE_ID = "comfy-core"


@dataclass
class Node:
    """A node of a graph; `node["MODEL"]` is the output to connect to another node's input."""

    id: int
    type: str
    pos: tuple[int, int]
    size: tuple[int, int]
    values: list[Any]
    title: str | None = None
    colours: tuple[str, str] | None = None
    inputs: dict[str, int] = field(default_factory=dict)
    links: dict[int, list[int]] = field(default_factory=dict)

    def __getitem__(self, output: str) -> Output:
        outputs = signatures.known()[self.type]["outputs"]
        names = [o["name"] for o in outputs]
        return Output(self, names.index(output), outputs[names.index(output)]["type"])

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, with the title."""
        (x, y), (w, h) = self.pos, self.size
        return x, y - TITLE, x + w, y + h


@dataclass(frozen=True)
class Output:
    node: Node
    slot: int
    type: str


class Column:
    """Places nodes below each other."""

    def __init__(self, graph: Graph, x: int, width: int, y: int = 0) -> None:
        self.graph, self.x, self.width, self.y = graph, x, width, y

    def add(self, kind: str, height: int, /, **given: Any) -> Node:
        """A node at the column's next free place; see `Graph.add`."""
        node = self.graph.add(kind, (self.x, self.y + TITLE), (self.width, height), **given)
        self.y = node.box[3] + GAP
        return node


class Graph:
    """Nodes, links and groups of one workflow."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []

    def column(self, x: int, width: int, y: int = 0) -> Column:
        return Column(self, x, width, y)

    def add(
        self,
        kind: str,
        pos: tuple[int, int],
        size: tuple[int, int],
        /,
        *,
        title: str | None = None,
        colours: tuple[str, str] | None = None,
        **given: Any,
    ) -> Node:
        """Add a node.

        Args:
            given: an `Output` for each input to connect, a value for each widget that shall not
                keep its default; for `save.codec` write `save__codec`.
        """
        signature = signatures.known()[kind]
        given = {name.replace("__", "."): value for name, value in given.items()}
        values = []
        for widget in signatures.widgets(signature):
            options = widget.get("options") or [None]
            default = widget.get("default", options[0])
            values.append(given.pop(widget["name"], default))
        node = Node(len(self.nodes) + 1, kind, pos, size, values, title, colours)
        for slot, item in enumerate(signatures.sockets(signature)):
            source = given.pop(item["name"], None)
            if source is not None:
                self._link(source, node, slot, item)
        if given:
            raise ValueError(f"{kind} has no input {', '.join(map(repr, given))}")
        self.nodes.append(node)
        return node

    def _link(self, source: Output, node: Node, slot: int, item: dict[str, Any]) -> None:
        if item["type"] not in (source.type, "*"):
            raise ValueError(
                f"{item['name']} of {node.type} is a {item['type']}, not {source.type}"
            )
        number = len(self.links) + 1
        self.links.append([number, source.node.id, source.slot, node.id, slot, source.type])
        source.node.links.setdefault(source.slot, []).append(number)
        node.inputs[item["name"]] = number

    def group(self, title: str, *members: Node, colour: str = "#3f789e") -> None:
        """A frame around nodes."""
        boxes = [node.box for node in members]
        left, top = min(b[0] for b in boxes) - 15, min(b[1] for b in boxes) - 45
        right, bottom = max(b[2] for b in boxes) + 15, max(b[3] for b in boxes) + 15
        self.groups.append({
            "id": len(self.groups) + 1,
            "title": title,
            "bounding": [left, top, right - left, bottom - top],
            "color": colour,
            "font_size": 24,
            "flags": {},
        })  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"motioncache/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": [self._node(node) for node in self.nodes],
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.65, "offset": [120, 130]}},
            "version": 0.4,
        }

    def as_json(self) -> str:
        return layout.as_text(self.as_dict())

    def _node(self, node: Node) -> dict[str, Any]:
        signature = signatures.known()[node.type]
        inputs = []
        for item in signatures.sockets(signature):
            entry = {"name": item["name"], "type": item["type"]}
            if item.get("optional"):
                # a hollow dot
                entry["shape"] = 7
            inputs.append({**entry, "link": node.inputs.get(item["name"])})
        outputs = [
            {"name": o["name"], "type": o["type"], "slot_index": i, "links": node.links.get(i)}
            for i, o in enumerate(signature["outputs"])
        ]
        properties = {}
        if node.type not in signatures.NOTES:
            owner = PACK_ID if node.type in signatures.ours() else CORE_ID
            properties = {"cnr_id": owner, "Node name for S&R": node.type}
        data: dict[str, Any] = {
            "id": node.id,
            "type": node.type,
            "pos": list(node.pos),
            "size": list(node.size),
            "flags": {},
            "order": node.id - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": node.values,
        }
        if node.title:
            data["title"] = node.title
        if node.colours:
            data["color"], data["bgcolor"] = node.colours
        return data
