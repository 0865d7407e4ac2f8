"""Code of other nodes inside a network's blocks."""

from __future__ import annotations

from collections.abc import Mapping

from .template import Template

FOREIGN: Mapping[str, Template] = {
    "attention_replaced": Template(
        "another node replaces the attention ({name}) and may need all tokens in order",
        "Remove that node",
    ),
    "block_replaced": Template(
        "another node replaces blocks ({name}) and may need all tokens in order",
        "Remove that node",
    ),
    "part_replaced": Template(
        "another node runs code of its own in {name} ({by}) and may need all tokens in order",
        "Remove that node",
    ),
    "answers_compared": Template(
        "another node asks for answers that it compares (with blocks or attention changed, or of "
        "parts of the picture), in whose difference what is not computed would weigh more",
        "Remove that node",
    ),
    "tokens_lost": Template(
        "single tokens are not told apart from there on, evaluations are computed or reused as a "
        "whole: {why}",
        "Leave it, or, to tell tokens apart, {action}",
    ),
    "partial_failed": Template(
        "an evaluation of some tokens failed ({error}) and was computed anew in full; from there "
        "on evaluations are computed or reused as a whole",
        "Leave it, or, to tell tokens apart, remove the node that needs all of them",
    ),
    "hooks_failed": Template(
        "the network fails with the cache's hooks in it ({error}), and not without them: from "
        "there on it runs untouched",
        "Use the preset 'balanced', which puts no hooks into the network",
    ),
    "attention_dense": Template(
        "the sparse attention runs dense where some tokens attend to all",
        "Leave it, or use the preset 'balanced', whose evaluations are whole",
    ),
}
