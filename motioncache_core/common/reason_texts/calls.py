"""Single calls and evaluations that computed more than was decided."""

from __future__ import annotations

from collections.abc import Mapping

from .template import Template

CALLS: Mapping[str, Template] = {
    "windows_unknown": Template(
        "context windows of a kind that is not known are in use ({kind})",
        "Use ComfyUI's own context windows over the video's frames, or remove MotionCache",
    ),
    "windows_dimension": Template(
        "the context windows cut dimension {dim} of the latent, not its frames (dimension "
        "{frames})",
        "Use Wan Context Windows, or set dim to {frames}",
    ),
    "windows_move": Template(
        "the context windows of schedule {schedule!r} move from step to step, so that nothing that "
        "is stored fits the next one",
        "Choose 'standard_static' or 'batched' in the context windows node",
    ),
    "windows_other": Template(
        "a context window was not among those of the first step, so nothing that is stored fits it",
        "Choose 'standard_static' or 'batched' in the context windows node",
    ),
    "windows_no_room": Template(
        "the residuals of {windows} context windows do not fit into the free memory",
        "Use fewer or shorter windows, or a smaller video",
    ),
    "block_patch": Template(
        "another node patches every block ({name}) and needs all tokens in order",
        "Remove that node",
    ),
    "uneven_batch": Template(
        "{rows} batch rows cannot be shared by {branches} branches",
        "Remove the node that changes the batch, or remove MotionCache",
    ),
    "extra_tokens": Template("{why} ({name})", "Use the model without it, or remove MotionCache"),
    "autoregressive": Template(
        "the autoregressive sampler bypasses the block hooks",
        "Use the MotionCache Diffusion Forcing sampler instead, or remove MotionCache",
    ),
    "cache_written": Template(
        "the call that writes finished frames into the model's own keys and values is computed",
        "Leave it: the frames that follow attend to them",
    ),
    "blocks_hidden": Template(
        "another node has put something in the place of the network's {name}", "Remove that node"
    ),
    "new_pass": Template(
        "a pass that was not there at the last computed evaluation has no answers to go by",
        "Leave it: it is foretold from its next evaluation on",
    ),
    "passes_alike": Template(
        "another node asks for passes that nothing tells apart but their order, and what they look "
        "at changes from one evaluation to the next (tiles that move, for instance), so these are "
        "computed",
        "Use tiles that stay where they are, or remove that node",
    ),
    "steps_differ": Template(
        "evaluation {evaluation} came at noise level {sigma:.4g}, which is not what the sampler "
        "does on this schedule: from there on everything is computed",
        "Remove the node that changes the sampler's steps, or use another sampler",
    ),
    "out_of_memory_answers": Template(
        "out of memory beside the answers that are kept: from there on they are kept in the host's "
        "memory",
        "Use a smaller video",
    ),
    "new_branch": Template(
        "a new branch has nothing to reuse yet",
        "Leave it: the branch is reused from its next evaluation on",
    ),
    "kv_incomplete": Template(
        "keys and values are incomplete",
        "Leave it: this evaluation stores them all; if it is noted often, set kv_cache to 'cpu'",
    ),
    "attention_bypassed": Template(
        "the blocks' self-attention does not call the attention hook "
        "(optimized_attention_override), so keys and values cannot be kept",
        "Remove the node that replaces the attention; if the blocks are compiled, compile them "
        "without a guard filter, or restart",
    ),
    "out_of_memory": Template(
        "out of memory beside the cache: what was stored is dropped, the call is computed in full, "
        "and keys and values are kept no more",
        "Use a smaller video, or set kv_cache to 'cpu' or 'off'",
    ),
}
