"""What a node takes and gives, in the few facts that a workflow file depends on.

A signature is `{"inputs": [...], "outputs": [...]}`. An input has `name` and `type`; one that is a
widget also what its values may be: `options`, `min`, `max`, `step`, `default`, `files` (a list that
depends on the machine), `control` (the page adds a widget that says what happens to a seed after a
run), or `forced` (none is shown: its value comes through a link).
One of our nodes has its `title` as well.
"""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

CORE_FILE = Path(__file__).with_name("core_nodes.json")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
# inputs whose options are the files of one machine
FILES = (
    "unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "model_name", "ckpt_name",
    "lora_name", "text_encoder", "audio_encoder_name", "image", "file", "audio",
)  # fmt: skip
ENDINGS = (".safetensors", ".png", ".mp4", ".wav")
CONTROL = ("fixed", "increment", "decrement", "randomize")
# nodes that exist in the page only
NOTES = {
    name: {"inputs": [{"name": "text", "type": "STRING", "default": ""}], "outputs": []}
    for name in ("Note", "MarkdownNote")
}

Signature = dict[str, Any]


def from_info(info: dict[str, Any]) -> Signature:
    """The signature of one entry of `/object_info`."""
    inputs = []
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            inputs += _inputs(name, spec, group == "optional")
    outputs = [
        {"name": name, "type": kind}
        for name, kind in zip(info["output_name"], info["output"], strict=True)
    ]
    return {"inputs": inputs, "outputs": outputs}


def _inputs(name: str, spec: Any, optional: bool) -> list[dict[str, Any]]:
    kind, said = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    # a number that may also be given as another kind of number
    kind = said.get("widgetType", kind)
    if isinstance(kind, list):
        kind, said["options"] = "COMBO", kind
    entry: dict[str, Any] = {"name": name, "type": kind}
    if optional:
        entry["optional"] = True
    if kind == DYNAMIC:
        # the inputs of the first choice stand for all of them
        if said.get("hidden"):
            return []
        entry |= {"type": "COMBO", "options": [o["key"] for o in said["options"]]}
        nested = said["options"][0]["inputs"].get("required", {})
        more = [_inputs(f"{name}.{inner}", s, optional) for inner, s in nested.items()]
        return [entry, *(item for items in more for item in items)]
    if said.get("forceInput"):
        entry["forced"] = True
    elif kind in WIDGETS:
        entry |= {k: said[k] for k in ("default", "min", "max", "step", "options") if k in said}
        if kind == "COMBO" and name in FILES:
            entry["options"], entry["files"] = [], True
        if said.get("control_after_generate"):
            entry["control"] = True
    return [entry]


@functools.cache
def core() -> dict[str, Signature]:
    """Recorded from a running ComfyUI by `run.py --host`."""
    recorded: dict[str, Signature] = json.loads(CORE_FILE.read_text("utf-8"))["nodes"]
    return recorded


@functools.cache
def ours() -> dict[str, Signature]:
    """This pack's nodes, read off their schemas; needs `comfy_api` or its stand-in."""
    nodes = importlib.import_module("motioncache_pack.nodes").NODES
    infos = [node.GET_NODE_INFO_V1() for node in nodes]
    return {info["name"]: {**from_info(info), "title": info["display_name"]} for info in infos}


def known() -> dict[str, Signature]:
    """All nodes that an example may use."""
    return {**core(), **ours(), **NOTES}


def widgets(signature: Signature) -> list[dict[str, Any]]:
    """The widgets in the order of `widgets_values`."""
    found = []
    for item in signature["inputs"]:
        if _is_widget(item):
            found.append(item)
            if item.get("control"):
                found.append(
                    {"name": "control_after_generate", "type": "COMBO", "options": list(CONTROL)}
                )
    return found


def sockets(signature: Signature) -> list[dict[str, Any]]:
    """The inputs that are no widgets."""
    return [item for item in signature["inputs"] if not _is_widget(item)]


def _is_widget(item: dict[str, Any]) -> bool:
    return item["type"] in WIDGETS and not item.get("forced")


def default(widget: dict[str, Any]) -> Any:
    """What a widget shows before anyone touches it."""
    return widget.get("default", next(iter(widget.get("options", ())), None))


def complaint(value: Any, widget: dict[str, Any]) -> str | None:
    """Why the widget does not take the value."""
    kind = widget["type"]
    said = f"{widget['name']} is {value!r}"
    if widget.get("files"):
        return None if str(value).endswith(ENDINGS) else f"{said}, which is no model or picture"
    if kind == "COMBO":
        return None if value in widget["options"] else f"{said}, allowed are {widget['options']}"
    allowed: dict[str, Any] = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if not isinstance(value, allowed[kind]) or (kind != "BOOLEAN" and isinstance(value, bool)):
        return f"{said}, which is no {kind}"
    if kind in ("INT", "FLOAT") and not (
        widget.get("min", value) <= value <= widget.get("max", value)
    ):
        return f"{said}, outside of {widget.get('min')} to {widget.get('max')}"
    if kind == "INT" and (value - widget.get("min", 0)) % widget.get("step", 1):
        return f"{said}, which is no step of {widget['step']} from {widget.get('min', 0)}"
    return None


def to_api(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The form that the server takes, as the page makes it of a workflow."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        named = zip(widgets(known()[node["type"]]), node["widgets_values"], strict=True)
        inputs = {w["name"]: v for w, v in named if w["name"] != "control_after_generate"}
        inputs |= {i["name"]: sources[i["link"]] for i in node["inputs"] if i["link"]}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
