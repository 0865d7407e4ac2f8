"""What is wrong with a workflow file, in words; ComfyUI is not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from motioncache_pack.motioncache_core.models.magi1.checkpoint import shard_names
from motioncache_pack.tests.workflows import signatures
from PIL import Image

# the page draws the title above a node's position
TITLE = 30
# characters of a note, which is read beside the graph; bytes of a thumbnail
LONGEST, LARGEST = 1400, 80_000
# of a graph, at which the page opens it so that its words are drawn on a small screen
WIDEST, TALLEST = 2000, 1130
WATCHERS = ("MotionCacheReport", "MotionCacheMotionMap")
# `**name**`, then perhaps a value to set: `*choice*` or a number
SETTING = re.compile(r"\*\*([a-z]\w*)\*\*(?: (?:\*(\w+)\*|(\d+(?:\.\d+)?)))?")
OUR_NODE = re.compile(r"\*(MotionCache[^*\n]*)\*")

Workflow = dict[str, Any]


def complaints(workflow: Workflow) -> list[str]:
    """What is wrong with a workflow: nothing, or all that one kind of check finds."""
    found: list[str] = []
    for looks in ((_nodes,), (_slots,), (_links, _widgets), (_places, _notes, _models, _traces)):
        # what comes later relies on what came before
        found = found or [words for look in looks for words in look(workflow)]
    return found


def thumbnail(file: Path) -> str | None:
    """Why a file is no thumbnail."""
    if not file.is_file():
        return f"{file.name} is missing: run `make pictures`"
    with Image.open(file) as picture:
        found = picture.format, picture.size, file.stat().st_size < LARGEST
    if found == ("JPEG", (640, 360), True):
        return None
    return f"{file.name} is no JPEG of 640 x 360 pixels below {LARGEST} bytes"


def _name(node: dict[str, Any]) -> str:
    return f"{node['type']} {node['id']}"


def _nodes(workflow: Workflow) -> Iterator[str]:
    ids = [node["id"] for node in workflow["nodes"]]
    if len(set(ids)) < len(ids) or max(ids) > workflow["last_node_id"]:
        yield f"ids of nodes are not unique or above last_node_id: {ids}"
    for node in workflow["nodes"]:
        if node["type"] not in signatures.known():
            yield f"{_name(node)} is neither ours nor in core_nodes.json"


def _slots(workflow: Workflow) -> Iterator[str]:
    for node in workflow["nodes"]:
        signature = signatures.known()[node["type"]]
        takes = [(s["name"], s["type"], "optional" in s) for s in signatures.sockets(signature)]
        has = [(s["name"], s["type"], s.get("shape") == 7) for s in node["inputs"]]
        gives = [(i, s["name"], s["type"]) for i, s in enumerate(signature["outputs"])]
        if takes != has:
            yield f"{_name(node)} has the inputs {has}, its signature says {takes}"
        if gives != [(s["slot_index"], s["name"], s["type"]) for s in node["outputs"]]:
            yield f"{_name(node)} does not have the outputs {gives}"
        for slot in node["inputs"]:
            if slot["link"] is None and slot.get("shape") != 7:
                yield f"{slot['name']} of {_name(node)} is not connected"
        # from these the page finds the pack of a node that it lacks
        owner = "motioncache" if node["type"] in signatures.ours() else "comfy-core"
        wanted = {"cnr_id": owner, "Node name for S&R": node["type"]}
        if (
            node["type"] not in signatures.NOTES
            and not wanted.items() <= node["properties"].items()
        ):
            yield f"properties of {_name(node)} lack {wanted}"


def _links(workflow: Workflow) -> Iterator[str]:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, out, target, into, kind in workflow["links"]:
        try:
            output, entry = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        except (KeyError, IndexError):
            yield f"link {number} has an end at no slot"
            continue
        if number not in (output["links"] or ()) or entry["link"] != number:
            yield f"link {number} is not in the slots at its ends"
        if output["type"] != kind or not {kind, "*"} & {*entry["type"].split(",")}:
            yield f"link {number} is a {kind}, from {output['type']} to {entry['type']}"
        (ax, ay), (bx, by) = nodes[source]["pos"], nodes[target]["pos"]
        if not (bx > ax or (bx == ax and by > ay)):
            yield f"link {number} leads neither to the right nor down"
    numbers = sorted(link[0] for link in workflow["links"])
    if len(set(numbers)) < len(numbers) or max(numbers) > workflow["last_link_id"]:
        yield f"numbers of links are not unique or above last_link_id: {numbers}"
    ends = [s["link"] for node in nodes.values() for s in node["inputs"] if s["link"]]
    starts = [n for node in nodes.values() for s in node["outputs"] for n in s["links"] or ()]
    if not sorted(ends) == sorted(starts) == numbers:
        yield f"slots name the links {sorted(starts)} and {sorted(ends)}, there are {numbers}"


def _widgets(workflow: Workflow) -> Iterator[str]:
    for node in workflow["nodes"]:
        widgets = signatures.widgets(signatures.known()[node["type"]])
        if len(widgets) != len(node["widgets_values"]):
            yield f"{_name(node)} needs a value for each of {[w['name'] for w in widgets]}"
        for value, widget in zip(node["widgets_values"], widgets, strict=False):
            wrong = signatures.complaint(value, widget)
            if wrong:
                yield f"{_name(node)}: {wrong}"


def _places(workflow: Workflow) -> Iterator[str]:
    boxes = {}
    for node in workflow["nodes"]:
        (x, y), (w, h) = node["pos"], node["size"]
        boxes[_name(node)] = x, y - TITLE, x + w, y + h
    groups = {}
    for group in workflow["groups"]:
        x, y, w, h = group["bounding"]
        groups[f"group {group['title']}"] = x, y, x + w, y + h
    edges = [*boxes.values(), *groups.values()]
    low, high = ([f(e[i] for e in edges) for i in (a, a + 1)] for f, a in ((min, 0), (max, 2)))
    size = [b - a for a, b in zip(low, high, strict=True)]
    if size[0] > WIDEST or size[1] > TALLEST:
        yield f"it is {size[0]} x {size[1]} large, more than {WIDEST} x {TALLEST}"
    pairs = chain(combinations(boxes.items(), 2), combinations(groups.items(), 2))
    for (one, a), (other, b) in pairs:
        if _overlap(a, b):
            yield f"{one} and {other} overlap"
    for title, frame in groups.items():
        for name, box in boxes.items():
            around = frame[0] <= box[0] and frame[1] <= box[1]
            around = around and box[2] <= frame[2] and box[3] <= frame[3]
            if _overlap(frame, box) and not around:
                yield f"{title} is neither around {name} nor apart from it"


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return not (a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1])


def _notes(workflow: Workflow) -> Iterator[str]:
    """Notes are short, and name what is there."""
    inputs: dict[str, list[dict[str, Any]]] = {}
    files, titles, notes = [], set(), []
    for node in workflow["nodes"]:
        signature = signatures.known()[node["type"]]
        if node["type"] in signatures.NOTES:
            notes.append(node["widgets_values"][0])
            continue
        titles.add(signature.get("title"))
        for item in signature["inputs"]:
            inputs.setdefault(item["name"], []).append(item)
        for value, widget in zip(
            node["widgets_values"], signatures.widgets(signature), strict=False
        ):
            files += [value] if widget.get("files") else []
    yield from (f"the note does not name {file}" for file in files if file not in "".join(notes))
    for note in notes:
        if len(note) > LONGEST:
            yield f"a note has {len(note)} characters, more than {LONGEST}"
        for name, choice, number in SETTING.findall(note):
            if name not in inputs:
                yield f"a note speaks of {name}, which no node here has"
                continue
            value = choice or (json.loads(number) if number else None)
            widgets = [item for item in inputs[name] if item["type"] in signatures.WIDGETS]
            wrong = [signatures.complaint(value, widget) for widget in widgets]
            if value is not None and all(wrong):
                yield f"a note sets {name} to {value}, which it does not take"
        for title in OUR_NODE.findall(note):
            if title not in titles:
                yield f"a note speaks of a node {title}, which is not here"


def _models(workflow: Workflow) -> Iterator[str]:
    """`properties.models`, from which the page offers to download what is missing."""
    for node in workflow["nodes"]:
        files = [n for v in node["widgets_values"] if isinstance(v, str) for n in shard_names(v)]
        for model in node["properties"].get("models", ()):
            whole = {"name", "url", "directory"} <= model.keys() and all(model.values())
            fits = whole and model["name"] in files
            address = whole and re.fullmatch(r"https://\S+", model["url"])
            if not (fits and address and model["name"] == model["url"].rpartition("/")[2]):
                yield f"{_name(node)} has a model that is not well formed: {model}"


def _traces(workflow: Workflow) -> Iterator[str]:
    """A trace is read behind the sampler that fills it."""
    api = signatures.to_api(workflow)
    watchers = [node for node in api.values() if node["class_type"] in WATCHERS]
    if not watchers:
        yield f"a workflow has one of {WATCHERS}"
    for node in watchers:
        patcher, sampler = node["inputs"]["trace"][0], node["inputs"]["samples"][0]
        # a sampler is given its model, or a guider that is
        given = api[sampler]["inputs"]
        given = given if "guider" not in given else api[given["guider"][0]]["inputs"]
        if given.get("model") != [patcher, 0]:
            yield f"{node['class_type']} shows another sampler than its trace is of"
