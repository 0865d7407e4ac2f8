"""The first demo through a running ComfyUI: what its nodes estimate, and what they measure."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import DEMOS, read

# seconds that a prompt may take
PATIENCE = 600


@dataclass(frozen=True)
class Told:
    """What the nodes of a prompt tell.

    Attributes:
        seconds: of the run with MotionCache.
        estimated: its own estimate of the seconds without; None where it has none.
        measured: of the run without.
        shown: the line over the pictures.
    """

    seconds: float
    estimated: float | None
    measured: float
    shown: str


class Page:
    """The first demo on a running server, with reports of its two runs."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        undo = fake_comfy.install()
        self._graph = signatures.to_api(read(DEMOS[0]))
        undo()
        nodes = {node["class_type"]: key for key, node in self._graph.items()}
        self._patcher, self._compare = nodes["MotionCachePatcher"], nodes["MotionCacheCompare"]
        self._samplers = [k for k, n in self._graph.items() if n["class_type"] == "KSampler"]
        compared = self._graph[self._compare]["inputs"]
        for key, trace in (("with", "trace"), ("without", "reference_trace")):
            (samples,) = (
                [k, 0]
                for k in self._samplers
                if (self._graph[k]["inputs"]["model"][0] == self._patcher) == (key == "with")
            )
            self._add(key, "MotionCacheReport", trace=compared[trace], samples=samples)
            self._add(f"{key} as JSON", "PreviewAny", source=[key, 2])

    def _add(self, key: str, kind: str, **inputs: Any) -> None:
        self._graph[key] = {"class_type": kind, "inputs": inputs}

    def run(self, preset: str, seed: int, steps: int) -> Told:
        """What one prompt was told to take, and took."""
        self._graph[self._patcher]["inputs"]["preset"] = preset
        for key in self._samplers:
            self._graph[key]["inputs"].update(seed=seed, steps=steps)
        outputs = self._run()
        cached, plain = (
            json.loads(outputs[f"{key} as JSON"]["text"][0])["totals"]
            for key in ("with", "without")
        )
        saved = cached["seconds_saved"]
        return Told(
            cached["seconds"],
            None if saved is None else cached["seconds"] + saved,
            plain["seconds"],
            outputs[self._compare]["text"][0].split("\n")[0],
        )

    def _run(self) -> dict[str, Any]:
        key = self._ask("/prompt", {"prompt": self._graph})["prompt_id"]
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ended = self._ask(f"/history/{key}").get(key)
            if ended is not None:
                if ended["status"]["status_str"] != "success":
                    raise RuntimeError(f"the server did not run it: {ended['status']}")
                outputs: dict[str, Any] = ended["outputs"]
                return outputs
            time.sleep(0.5)
        raise RuntimeError(f"the server has not ended it after {PATIENCE} s")

    def _ask(self, path: str, given: Any = None) -> Any:
        body = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(self._url + path, body)
        # a proxy of the environment must not be asked for this machine
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)
