"""Workflows that sample without MotionCache too, so that its gain is measured and not estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPARE = "MotionCacheCompare"


def is_measured(prompt: Mapping[str, Any] | None, node_id: str | None) -> bool:
    """Whether a Compare node is told the times of this node's runs and of those without it.

    Args:
        prompt: the workflow as it is run; None where the host does not tell.
        node_id: whose trace output is meant.
    """
    compares = (n for n in (prompt or {}).values() if n.get("class_type") == COMPARE)
    return any(
        isinstance(inputs.get("reference_trace"), list) and source(inputs) == node_id
        for inputs in (n.get("inputs", {}) for n in compares)
    )


def source(inputs: Mapping[str, Any]) -> str | None:
    """The node that a node's trace comes from."""
    link = inputs.get("trace")
    return str(link[0]) if isinstance(link, list) else None
