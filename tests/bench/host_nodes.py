"""ComfyUI's own nodes that take a MODEL and give one, before and behind MotionCache.

COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/host_nodes.py [--only NODE ...] [--part 2/5]

With MotionCache off the latents have to be those without it, bit for bit. With it on nothing may
raise that the graph alone does not, and what the node changes has to stay: the distance between the
run with the node and the one without it is to be about the same cached and uncached. The network is
a small Wan with random weights, so distances say nothing of real videos.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, save
from host_nodes_table import kept

PRESETS, PLACES, STEPS = ("quality", "balanced", "motion"), ("before", "behind"), 16
# what a node has to be told to do anything to a network of two blocks and a short clip
TOLD: dict[str, dict[str, Any]] = {
    "SkipLayerGuidanceDiT": {
        "double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0,
    },
    "SkipLayerGuidanceDiTSimple": {
        "double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0,
    },
    "SkipLayerGuidanceSD3": {"layers": "1", "start_percent": 0.0, "end_percent": 1.0},
    "RescaleCFG": {"multiplier": 1.0},
    "WanContextWindowsManual": {"context_length": 5, "context_overlap": 1},
    "ContextWindowsManual": {"context_length": 2, "context_overlap": 1, "dim": 2},
    "ScaleROPE": {"scale_x": 1.5, "scale_y": 1.5},
    "ModelSamplingSD3": {"shift": 3.0},
    "ModelComputeDtype": {"dtype": "fp32"},
}  # fmt: skip
# not measured here, and why
LEFT_OUT = {
    "TorchCompileModel": "compiles for minutes; tests/comfyui/test_compile_host.py runs it",
}


def patching(infos: Mapping[str, Any]) -> list[str]:
    """The nodes whose first output is a model and which take one, of what /object_info tells."""
    found = []
    for name, info in infos.items():
        given = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        if info["output"][:1] == ["MODEL"] and any(_kind(i) == "MODEL" for i in given.values()):
            found.append(name)
    return sorted(found)


def arguments_of(
    name: str, info: Mapping[str, Any], sockets: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """What to call a node with besides its first model, and what it needs that is not there.

    Args:
        sockets: things to connect, by their type.
    """
    given: dict[str, Any] = {}
    for key, entry in info["input"].get("required", {}).items():
        kind, how = _kind(entry), entry[1] if len(entry) > 1 else {}
        if kind == "MODEL" and None not in given.values():
            given[key] = None
        elif key in TOLD.get(name, {}):
            given[key] = TOLD[name][key]
        elif isinstance(kind, str) and kind in sockets:
            given[key] = sockets[kind]
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            option = how["options"][0]
            inner, missing = arguments_of(name, {"input": option["inputs"]}, sockets)
            if missing is not None:
                return given, missing
            given[key] = {key: option["key"], **inner}
        elif isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else how.get("options", [])
            if not choices:
                return given, "a file"
            given[key] = how.get("default", choices[0])
        elif isinstance(kind, str) and kind in _NOTHING:
            given[key] = how.get("default", _NOTHING[kind])
            if kind == "FLOAT" and name.startswith("ModelMerge"):
                # of 1 the first model alone is left
                given[key] = 0.5
        else:
            return given, f"{kind}"
    return given, None


_NOTHING: dict[Any, Any] = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": ""}


def _kind(entry: Any) -> Any:
    return entry[0] if isinstance(entry, (list, tuple)) else entry


def distance(got: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative, the root of the squared one."""
    return float((got - reference).double().norm() / reference.double().norm())


class Sweep:
    """The ComfyUI that `COMFYUI_PATH` names, its nodes, and runs of a small model."""

    def __init__(self, path: str) -> None:
        support = importlib.import_module("motioncache_pack.tests.support.fake_comfy")
        support.harness.use_real_comfy(path)
        logging.disable(logging.WARNING)
        runs = importlib.import_module("motioncache_pack.tests.support.node_runs")
        self.host = support.harness.Host()
        self.pack = runs.Pack(self.host)
        self.version = str(importlib.import_module("comfyui_version").__version__)
        registry = importlib.import_module("nodes")
        with contextlib.redirect_stdout(io.StringIO()):
            asyncio.run(registry.init_builtin_extra_nodes())
        self._classes: dict[str, Any] = dict(registry.NODE_CLASS_MAPPINGS)
        self._texts = self.host.text(1), self.host.text(2)
        self._plain: dict[str, torch.Tensor] = {}

    def infos(self) -> dict[str, Any]:
        """As the server tells them at /object_info."""
        found = {}
        for name, node in self._classes.items():
            with contextlib.suppress(Exception):
                found[name] = {"input": node.INPUT_TYPES(), "output": list(node.RETURN_TYPES)}
        return found

    def sockets(self) -> dict[str, Any]:
        """What can be connected."""
        latent = {"samples": self.host.latent()}
        return {
            "MODEL": self.pack.wan(1),
            "CONDITIONING": self._texts[0],
            "LATENT": latent,
            "LATENT_OPERATION": lambda latent, **_: 1.05 * latent,
        }

    def put(self, name: str, arguments: Mapping[str, Any], model: Any) -> Any:
        """The model behind a node."""
        node = self._classes[name]
        given = {key: model if value is None else value for key, value in arguments.items()}
        modern = hasattr(node, "define_schema")
        out = node.execute(**given) if modern else getattr(node(), node.FUNCTION)(**given)
        return (out.result if hasattr(out, "result") else out)[0]

    def cached(self, model: Any, preset: str) -> Any:
        return self.pack.execute("MotionCachePatcher", model, preset)[0]

    def sample(self, model: Any) -> torch.Tensor:
        positive, negative = self._texts
        out: torch.Tensor = self.host.run(
            model, positive, negative, self.host.latent(), steps=STEPS, cfg=2.0, seed=3
        )
        return out

    def plain(self, preset: str) -> torch.Tensor:
        """Without any node."""
        if preset not in self._plain:
            model = self.pack.wan()
            patched = model if preset == "none" else self.cached(model, preset)
            self._plain[preset] = self.sample(patched)
        return self._plain[preset]

    def both(self, name: str, arguments: Mapping[str, Any], preset: str, place: str) -> Any:
        """A fresh model with the node before or behind MotionCache."""
        model = self.pack.wan()
        if place == "before":
            return self.cached(self.put(name, arguments, model), preset)
        return self.put(name, arguments, self.cached(model, preset))

    def measure(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A node's part of the result file."""
        try:
            wanted = self.sample(self.put(name, arguments, self.pack.wan()))
        except Exception as error:
            return {"skipped": f"does not run on a Wan by itself: {_brief(error)}"}
        if not bool(torch.isfinite(wanted).all()):
            return {"skipped": "makes no finite latents of a Wan by itself"}
        effect = distance(wanted, self.plain("none"))
        off = {}
        for place in PLACES:
            try:
                off[place] = torch.equal(
                    self.sample(self.both(name, arguments, "off", place)), wanted
                )
            except Exception as error:
                off[place] = _brief(error)
        told: dict[str, Any] = {"effect": effect, "off": off, "presets": {}}
        for preset in PRESETS:
            cells = told["presets"][preset] = {}
            for place in PLACES:
                try:
                    got = self.sample(self.both(name, arguments, preset, place))
                except Exception as error:
                    cells[place] = {"raised": _brief(error)}
                    continue
                cells[place] = {
                    "effect": distance(got, self.plain(preset)),
                    "error": distance(got, wanted),
                }
        return told


def _brief(error: Exception) -> str:
    line = next(iter(f"{type(error).__name__}: {error}".splitlines()), "")
    return line[:160]


def swept(
    sweep: Sweep, names: Iterable[str], infos: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was found of these nodes, one by one."""
    sockets = sweep.sockets()
    for name in names:
        arguments, missing = arguments_of(name, infos[name], sockets)
        if name in LEFT_OUT:
            found: dict[str, Any] = {"skipped": LEFT_OUT[name]}
        elif missing is not None:
            found = {"skipped": f"needs {missing}"}
        else:
            found = sweep.measure(name, arguments)
        print(f"{name}: {found.get('skipped') or ('kept' if kept(found) else found)}", flush=True)
        yield name, found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="nodes by their id")
    parser.add_argument("--part", default="1/1", help="which part of the nodes, of how many")
    parser.add_argument("--add", action="store_true", help="keep the file's other nodes")
    parser.add_argument("--list", action="store_true", help="only say which nodes there are")
    parser.add_argument("--json", type=Path, default=RESULTS / "host_nodes.json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        sys.exit("COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout")
    sweep = Sweep(path)
    infos = sweep.infos()
    names = patching(infos)
    part, parts = (int(n) for n in args.part.split("/"))
    chosen = [n for n in args.only or names[part - 1 :: parts] if n in infos]
    if args.list:
        print("\n".join(names))
        return
    nodes = {}
    if args.add and args.json.exists():
        nodes = json.loads(args.json.read_text(encoding="utf-8"))["nodes"]
    with torch.inference_mode():
        data = {
            "command": "COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/host_nodes.py",
            "environment": environment(),
            "comfyui": sweep.version,
            "steps": STEPS,
            "plain": {p: distance(sweep.plain(p), sweep.plain("none")) for p in PRESETS},
        }
        for name, found in swept(sweep, chosen, infos):
            nodes[name] = found
            # a run that is stopped keeps what it has
            save(args.json, {**data, "nodes": dict(sorted(nodes.items()))})


if __name__ == "__main__":
    main()
