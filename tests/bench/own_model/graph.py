"""What there is to change and to look at in a user's workflow."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from own_model.workflow import (
    EXPORT,
    Graph,
    Infos,
    WorkflowError,
    ancestors,
    consumers,
    is_link,
    links,
    name_of,
    names_of,
    outputs,
)

PATCHER, TRACE = "MotionCachePatcher", "MOTIONCACHE_TRACE"
PLACEHOLDER = "{prompt}"
SEEDS = ("seed", "noise_seed")
# a seed may come by a link from a node that only holds a number
NUMBERS = (*SEEDS, "value", "int")
# outputs that carry no model from a patcher to a sampler
NO_MODEL = {
    "BOOLEAN", "CLIP", "CONDITIONING", "FLOAT", "IMAGE", "INT", "LATENT", "MASK", "NOISE",
    "SAMPLER", "SIGMAS", "STRING", "VAE", TRACE,
}  # fmt: skip
# what rivals call their nodes; with one of them in the workflow nothing would be uncached
OTHER_CACHE = re.compile(r"(easy|lazy|tea|mag|fb|first_?block)_?cache", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What is changed and looked at in a workflow.

    Attributes:
        samplers: by patcher, the samplers that its model reaches, each after those it builds on.
        frames: the output that holds the decoded frames.
        seeds, prompts: inputs `(node, name)` to write to.
    """

    samplers: dict[str, tuple[str, ...]]
    frames: tuple[str, int]
    seeds: tuple[tuple[str, str], ...]
    prompts: tuple[tuple[str, str], ...]

    @property
    def timed(self) -> tuple[str, ...]:
        """All samplers."""
        return tuple(dict.fromkeys(s for found in self.samplers.values() for s in found))


def find(graph: Graph, infos: Infos, images: str | None = None) -> Found:
    """What there is to change and to look at.

    Args:
        images: the node whose frames are compared, where the workflow has several.

    Raises:
        WorkflowError: something is missing, or cannot be told.
    """
    unknown = sorted({node["class_type"] for node in graph.values()} - infos.keys())
    if unknown:
        raise WorkflowError(
            f"the server does not know the nodes {', '.join(unknown)}. Install the packs that "
            "they come from and restart ComfyUI, or export the workflow without them"
        )
    patchers = [key for key, node in graph.items() if node["class_type"] == PATCHER]
    if not patchers:
        raise WorkflowError(
            "the workflow has no MotionCache node. Put one between each model and its sampler: "
            f"it marks where the caches are put that are compared. {EXPORT}"
        )
    for key in patchers:
        if not is_link(graph[key]["inputs"].get("model")):
            raise WorkflowError(f"{name_of(graph, key)} has no model. Connect a loader. {EXPORT}")
    samplers = {key: _samplers(graph, infos, key) for key in patchers}
    for key, found in samplers.items():
        if not found:
            raise WorkflowError(
                f"{name_of(graph, key)} reaches no sampler: no node behind its MODEL output has a "
                f"LATENT output. Connect it. {EXPORT}"
            )
    frames = _frames(graph, infos, [s for found in samplers.values() for s in found], images)
    used = ancestors(graph, [frames[0]])
    others = sorted(k for k in used if OTHER_CACHE.search(graph[k]["class_type"]))
    if others:
        raise WorkflowError(
            f"the workflow has another cache: {names_of(graph, others)}. Its uncached runs would "
            "not be uncached. Export it without; --policies puts EasyCache and LazyCache in"
        )
    return Found(samplers, frames, _seeds(graph, used), _prompts(graph, used))


def _reached(
    graph: Graph,
    infos: Infos,
    start: Iterable[str],
    wanted: str,
    goes: Callable[[str, int, str], bool],
) -> Iterator[str]:
    """The first nodes behind these with an output of that type, on every way that goes there."""
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        source = waiting.pop()
        for key, _, slot in consumers(graph, source):
            if key in seen or not goes(source, slot, key):
                continue
            seen.add(key)
            if wanted in outputs(graph, infos, key):
                yield key
            else:
                waiting.append(key)


def _samplers(graph: Graph, infos: Infos, patcher: str) -> tuple[str, ...]:
    """The first nodes with a LATENT output on every way that the model takes."""

    def carries(source: str, slot: int, key: str) -> bool:
        return _output(graph, infos, source, slot) not in (None, *NO_MODEL)

    found = set(_reached(graph, infos, [patcher], "LATENT", carries))
    return tuple(sorted(found, key=lambda key: (len(ancestors(graph, [key]) & found), key)))


def _frames(graph: Graph, infos: Infos, samplers: list[str], images: str | None) -> tuple[str, int]:
    """The first IMAGE behind the samplers, of several the one that needs most of them."""

    def makes(source: str, slot: int, key: str) -> bool:
        # what takes a trace shows what the cache did
        return TRACE not in (_output(graph, infos, *link) for _, *link in links(graph[key]))

    found = dict.fromkeys(_reached(graph, infos, samplers, "IMAGE", makes))
    if images is not None:
        if images not in graph or "IMAGE" not in outputs(graph, infos, images):
            raise WorkflowError(
                f"--images names node {images}, which is not in the workflow or has no IMAGE "
                f"output. Nodes behind the samplers that have one: {names_of(graph, found)}"
            )
        return images, outputs(graph, infos, images).index("IMAGE")
    if not found:
        raise WorkflowError(
            "no node behind the samplers has an IMAGE output, so there are no frames to compare. "
            f"Decode the sampler's LATENT with VAE Decode. {EXPORT}"
        )
    needed = {key: len(ancestors(graph, [key]) & set(samplers)) for key in found}
    best = [key for key in found if needed[key] == max(needed.values())]
    if len(best) > 1:
        raise WorkflowError(
            f"several nodes decode frames: {names_of(graph, best)}. Say with --images ID whose "
            "frames to compare"
        )
    return best[0], outputs(graph, infos, best[0]).index("IMAGE")


def _seeds(graph: Graph, used: set[str]) -> tuple[tuple[str, str], ...]:
    places = [_number(graph, key, name) for key in sorted(used) for name in SEEDS]
    found = tuple(dict.fromkeys(place for place in places if place is not None))
    if not found:
        raise WorkflowError(
            f"no node that makes the frames has an input named {' or '.join(SEEDS)} with a number "
            "in it, so that runs of several seeds cannot be made. Type the seed into the sampler"
        )
    return found


def _number(graph: Graph, key: str, name: str) -> tuple[str, str] | None:
    """Where the number of an input is written, behind links if need be."""
    value = graph[key]["inputs"].get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return key, name
    if not is_link(value) or value[0] not in graph:
        return None
    places = (_number(graph, value[0], other) for other in NUMBERS)
    return next((place for place in places if place is not None), None)


def _prompts(graph: Graph, used: set[str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (key, name)
        for key in sorted(used)
        for name, value in graph[key]["inputs"].items()
        if isinstance(value, str) and PLACEHOLDER in value
    )


def filled(graph: Graph, found: Found, prompt: str | None, seed: int) -> Graph:
    """The workflow with this text and this seed."""
    graph = copy.deepcopy(graph)
    for key, name in found.seeds:
        graph[key]["inputs"][name] = seed
    if prompt is not None:
        for key, name in found.prompts:
            inputs = graph[key]["inputs"]
            inputs[name] = inputs[name].replace(PLACEHOLDER, prompt)
    return graph


def _output(graph: Graph, infos: Infos, key: str, slot: int) -> Any:
    given = outputs(graph, infos, key) if key in graph else []
    return given[slot] if slot < len(given) else None
