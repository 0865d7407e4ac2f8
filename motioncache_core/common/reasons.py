"""Every state that keeps a run from reusing, in words: what happened, and what to change.

Adding one: an entry in `REASONS`, `because(code, ...)` where it happens, and a maker in
`tests/nodes/reason_makers.py` that gets it from a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """Two parts of a sentence without a full stop at its end; `{names}` are filled in.

    Attributes:
        happened: what the state is, with the numbers that led to it.
        action: what to change, beginning with a verb.
    """

    happened: str
    action: str


class Reason(str):
    """The sentence of a state. It is shown as it is; `code` names the state for programs.

    Attributes:
        happened, action: its two parts.
    """

    code: str
    happened: str
    action: str


REASONS: Mapping[str, Template] = {
    # the whole run, known before the first step
    "few_steps": Template(
        "{steps} sampling steps: with {most} or fewer, warm-up and the last step leave nothing to "
        "reuse",
        "Use more steps, or remove the node",
    ),
    "off": Template("the preset is off", "Choose another one to reuse anything"),
    "guider_unknown": Template(
        "the guider calls the model past ComfyUI's own call for an evaluation",
        "Use another guider",
    ),
    "sampler_unknown": Template(
        "the sampler cannot be followed ({why}), so its evaluations cannot be shared out",
        "Use another sampler, or the preset 'motion'",
    ),
    "tokens_unknown": Template(
        "single tokens cannot be told apart, so whole evaluations are foretold instead: {why}",
        "Leave it, or, to tell tokens apart, {action}",
    ),
    "several_ranks": Template(
        "{ranks} processes compute this run together, and which tokens move is not for one of them "
        "to say",
        "Sample in one process",
    ),
    "answers_apart": Template(
        "the sampler takes the guided and the unguided answer apart (CFG++), and small errors grow "
        "large in between: given the last answers",
        "Use the sampler of the same name without cfg_pp, which is much closer to its uncached "
        "video",
    ),
    "noise_added": Template(
        "the sampler adds noise at every step, and what the noise will do cannot be foretold: "
        "{how}",
        "Use a sampler that adds none (euler, dpmpp_2m, uni_pc, res_multistep ...), which is much "
        "closer to its uncached video",
    ),
    "threshold_zero": Template(
        "reuse_threshold is 0, which means never reuse", "Raise it, or remove the node"
    ),
    "budget_without_steps": Template(
        "compute_budget is {budget:g}, but the sampler does not tell its steps, so they cannot be "
        "shared out",
        "Set compute_budget to 0, or use another sampler",
    ),
    "budget_spent": Template(
        "compute_budget is {budget:g} of {steps} steps, and warm-up and the last step take "
        "{fixed} of them: between these only what waited too long is computed",
        "Raise compute_budget, or lower warmup_steps",
    ),
    "little_reuse": Template(
        "{steps} sampling steps: between warm-up and the last step few are left to reuse, and each "
        "stands for much, so the gain is small",
        "Use {better} steps or more",
    ),
    "network_changed": Template(
        "the network changed in mid-run: its state was dropped, and the next one warms up anew",
        "Leave it: that is how two experts share a run",
    ),
    "model_variant": Template(
        "{name} is not known block by block yet: {why}", "Use another model of its family"
    ),
    "model_unknown": Template("{name} is not known block by block", "Use a model that is"),
    "no_video": Template(
        "the latent has shape {shape}, which is no video (batch, channels, frames, height, width)",
        "Connect an empty video latent",
    ),
    "control_net": Template(
        "a control net adds to the tokens between blocks", "Remove the control net"
    ),
    "compiled_whole": Template(
        "the model is compiled as a whole, so its blocks cannot be told apart",
        "Compile the blocks instead (compile_transformer_blocks_only in KJNodes' "
        "TorchCompileModelAdvanced), or remove the compile node",
    ),
    "compiled_fullgraph": Template(
        "the blocks are compiled with fullgraph, which leaves no way to keep keys and values",
        "Switch fullgraph off in the compile node",
    ),
    "compiled_static": Template(
        "the blocks are compiled with dynamic off, so they run uncompiled for most numbers of "
        "active tokens",
        "Set dynamic to auto in the compile node",
    ),
    # single calls
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
    # the whole run, known at its end
    "not_called": Template(
        "the model was not called through its block hooks; nothing was measured",
        "Connect the patched model to the sampler, and use a sampler that calls the model itself",
    ),
    "protected": Template(
        "all {evaluations} evaluations fell into warm-up or the protected end",
        "Use more steps, or lower warmup_steps",
    ),
    "budget_whole": Template(
        "compute_budget is {budget:g}, which is enough to compute every evaluation", "Lower it"
    ),
    "threshold_reached": Template(
        "the change per step (up to {largest:.3g}) reached reuse_threshold {threshold} every time",
        "Raise it, or use another preset",
    ),
    # evaluations that computed more than was decided
    "new_pass": Template(
        "a pass that was not there at the last computed evaluation has no answers to go by",
        "Leave it: it is foretold from its next evaluation on",
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
    # keys and values, without which whole chunks are reused or computed
    "kv_policy": Template(
        "policy {policy!r} has no partial evaluations",
        "Set policy to 'motion' to reuse single tokens",
    ),
    "kv_off": Template(
        "kv_cache is off: whole chunks are reused or computed",
        "Set kv_cache to 'auto' to reuse single tokens",
    ),
    "kv_no_room": Template(
        "keys and values need {tried}: whole chunks are reused or computed",
        "Use a smaller video, or force kv_cache 'gpu_fp8' or 'cpu'",
    ),
    "kv_one_frame": Template(
        "one latent frame has no motion: it is reused or computed as a whole",
        "Use a longer video to reuse single tokens",
    ),
    "kv_forecast_lost": Template(
        "out of memory at block {block}: keys and values are not forecast from there on",
        "Set kv_forecast to 0 to start without",
    ),
    "kv_step_down": Template(
        "out of memory at block {block}: {place} from there on",
        "Set kv_cache to {place!r} to start there",
    ),
    "kv_lost": Template(
        "out of memory at block {block}: dropped, whole chunks are reused or computed",
        "Set kv_cache to 'cpu', or use a smaller video",
    ),
    # the motion map, where there is none
    "map_policy": Template("policy {policy!r} does not weigh tokens", "Choose view 'updates'"),
    "map_answers": Template(
        "fewer than two evaluations were computed, or the model has no grid of tokens",
        "Use more steps, or choose view 'updates'",
    ),
    "map_phase": Template(
        "the run never reached the motion phase",
        "Lower warmup_steps or uniform_updates, raise the number of steps, or choose view "
        "'updates'",
    ),
}


def because(code: str, **facts: object) -> Reason:
    """The sentence of a state, without a full stop.

    Args:
        code: one of `REASONS`.
        facts: what its template names.

    Raises:
        KeyError: the code or a fact is unknown: a mistake in the pack.
    """
    template = REASONS[code]
    happened, action = (s.format_map(facts) for s in (template.happened, template.action))
    return _made(code, happened, action)


def _made(code: str, happened: str, action: str) -> Reason:
    reason = Reason(f"{happened}. {action}")
    reason.code, reason.happened, reason.action = code, happened, action
    return reason


def prefixed(words: str, sentence: str) -> str:
    """The sentence with words before it; a `Reason` keeps its code."""
    if not isinstance(sentence, Reason):
        return words + sentence
    return _made(sentence.code, words + sentence.happened, sentence.action)


def code_of(sentence: str) -> str:
    """The code of a sentence; "" for one that does not come from `REASONS`."""
    return sentence.code if isinstance(sentence, Reason) else ""
