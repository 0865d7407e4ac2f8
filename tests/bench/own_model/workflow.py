"""A user's workflow as data: read it, and go along its links.

Workflows are in the API format: node ids to `{"class_type": ..., "inputs": {...}}`, where an input
is a value or a link `[node id, output slot]`. `infos` is what a server tells under `/object_info`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
Infos = dict[str, dict[str, Any]]

EXPORT = (
    "Open the workflow in ComfyUI and save it with Workflow > Export (API); nodes that are "
    "bypassed or muted are not in that file"
)


class WorkflowError(ValueError):
    """The workflow cannot be measured; says why and what to do."""


class ServerError(RuntimeError):
    """The server is not there, or does not answer as ComfyUI does; says what to do."""


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


def name_of(graph: Graph, key: str) -> str:
    """A node for people: its title, its kind, its id."""
    node = graph[key]
    title = node.get("_meta", {}).get("title")
    kind = node["class_type"]
    return f"{title} ({kind}, node {key})" if title and title != kind else f"{kind} (node {key})"


def names_of(graph: Graph, keys: Iterable[str]) -> str:
    """Several nodes for people."""
    return ", ".join(name_of(graph, key) for key in keys) or "none"


def outputs(graph: Graph, infos: Infos, key: str) -> list[Any]:
    """Types of a node's outputs."""
    return list(infos[graph[key]["class_type"]]["output"])
