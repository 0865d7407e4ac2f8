"""A user's workflow as data: where its model, its samplers, its frames and its seeds are.

Workflows are in the API format: node ids to `{"class_type": ..., "inputs": {...}}`, where an input
is a value or a link `[node id, output slot]`. `infos` is what a server tells under `/object_info`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
Infos = dict[str, dict[str, Any]]

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
EXPORT = (
    "Open the workflow in ComfyUI and save it with Workflow > Export (API); nodes that are "
    "bypassed or muted are not in that file"
)


class WorkflowError(ValueError):
    """The workflow cannot be measured; says why and what to do."""


class ServerError(RuntimeError):
    """The server is not there, or does not answer as ComfyUI does; says what to do."""


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


def read(path: Path) -> Graph:
    """A workflow file.

    Raises:
        WorkflowError: it is not there, not JSON, or not in the API format.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise WorkflowError(f"the workflow {path} cannot be read: {error}. {EXPORT}") from error
    except ValueError as error:
        raise WorkflowError(f"{path} is no JSON: {error}. {EXPORT}") from error
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        raise WorkflowError(
            f"{path} is in the format that the page saves, which a server does not take. {EXPORT}"
        )
    # some tools wrap it as it is posted
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    nodes = data.values() if isinstance(data, dict) else ()
    if not nodes or not all(
        isinstance(n, dict) and "class_type" in n and isinstance(n.get("inputs"), dict)
        for n in nodes
    ):
        raise WorkflowError(
            f"{path} is no workflow in the API format, in which every node has class_type and "
            f"inputs. {EXPORT}"
        )
    return {str(key): node for key, node in data.items()}


def is_link(value: Any) -> bool:
    """Whether an input comes from another node."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


def links(node: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Linked inputs as name, source node, source slot."""
    for name, value in node["inputs"].items():
        if is_link(value):
            yield name, value[0], value[1]


def consumers(graph: Graph, source: str) -> Iterator[tuple[str, str, int]]:
    """Inputs that an output of `source` goes to: node, input, slot of the source."""
    for key, node in graph.items():
        for name, other, slot in links(node):
            if other == source:
                yield key, name, slot


def ancestors(graph: Graph, keys: Iterable[str]) -> set[str]:
    """These nodes and all that they need."""
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [source for _, source, _ in links(graph[key]) if source in graph]
    return found


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
    samplers = {key: _samplers(graph, infos, key) for key in patchers}
    for key, found in samplers.items():
        if not found:
            raise WorkflowError(
                f"{name_of(graph, key)} reaches no sampler: no node behind its MODEL output has a "
                f"LATENT output. Connect it. {EXPORT}"
            )
    frames = _frames(graph, infos, [s for found in samplers.values() for s in found], images)
    used = ancestors(graph, [frames[0]])
    return Found(samplers, frames, _seeds(graph, used), _prompts(graph, used))


def _samplers(graph: Graph, infos: Infos, patcher: str) -> tuple[str, ...]:
    """The first nodes with a LATENT output on every way that the model takes."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [key for key, _, slot in consumers(graph, patcher) if slot == 0]
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        outputs = _outputs(graph, infos, key)
        if "LATENT" in outputs:
            found.add(key)
            continue
        waiting += [
            after
            for after, _, slot in consumers(graph, key)
            if slot < len(outputs) and outputs[slot] not in NO_MODEL
        ]
    return tuple(sorted(found, key=lambda key: (len(ancestors(graph, [key]) & found), key)))


def _frames(graph: Graph, infos: Infos, samplers: list[str], images: str | None) -> tuple[str, int]:
    """The first IMAGE behind the samplers, of several the one that needs most of them."""
    found = dict.fromkeys(_decoders(graph, infos, samplers))
    if images is not None:
        if images not in graph or "IMAGE" not in _outputs(graph, infos, images):
            raise WorkflowError(
                f"--images names node {images}, which is not in the workflow or has no IMAGE "
                f"output. Nodes behind the samplers that have one: {_told(graph, found)}"
            )
        return images, _outputs(graph, infos, images).index("IMAGE")
    if not found:
        raise WorkflowError(
            "no node behind the samplers has an IMAGE output, so there are no frames to compare. "
            f"Decode the sampler's LATENT with VAE Decode. {EXPORT}"
        )
    needed = {key: len(ancestors(graph, [key]) & set(samplers)) for key in found}
    best = [key for key in found if needed[key] == max(needed.values())]
    if len(best) > 1:
        raise WorkflowError(
            f"several nodes decode frames: {_told(graph, best)}. Say with --images ID which ones "
            "to compare"
        )
    return best[0], _outputs(graph, infos, best[0]).index("IMAGE")


def _decoders(graph: Graph, infos: Infos, samplers: list[str]) -> Iterator[str]:
    """Nodes that make frames of latents, not of other frames."""
    seen: set[str] = set()
    waiting = list(samplers)
    while waiting:
        for key, _, _ in consumers(graph, waiting.pop()):
            if key in seen:
                continue
            seen.add(key)
            sources = [_output(graph, infos, source, slot) for _, source, slot in links(graph[key])]
            if TRACE in sources:
                # shows what the cache did
                continue
            if "IMAGE" in _outputs(graph, infos, key):
                yield key
            else:
                waiting.append(key)


def _seeds(graph: Graph, used: set[str]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for key in sorted(used):
        for name in SEEDS:
            place = _number(graph, key, name)
            if place is not None:
                found.append(place)
    if not found:
        raise WorkflowError(
            f"no node that makes the frames has an input named {' or '.join(SEEDS)} with a number "
            "in it, so that runs of several seeds cannot be made. Type the seed into the sampler"
        )
    return tuple(dict.fromkeys(found))


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


def name_of(graph: Graph, key: str) -> str:
    """A node for people: its title, its kind, its id."""
    node = graph[key]
    title = node.get("_meta", {}).get("title")
    kind = node["class_type"]
    return f"{title} ({kind}, node {key})" if title and title != kind else f"{kind} (node {key})"


def _told(graph: Graph, keys: Iterable[str]) -> str:
    return ", ".join(name_of(graph, key) for key in keys) or "none"


def _outputs(graph: Graph, infos: Infos, key: str) -> list[Any]:
    return list(infos[graph[key]["class_type"]]["output"])


def _output(graph: Graph, infos: Infos, key: str, slot: int) -> Any:
    outputs = _outputs(graph, infos, key) if key in graph else []
    return outputs[slot] if slot < len(outputs) else None
