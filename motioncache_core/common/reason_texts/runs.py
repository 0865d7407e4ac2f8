"""The whole run, known before its first step."""

from __future__ import annotations

from collections.abc import Mapping

from .template import Template

RUNS: Mapping[str, Template] = {
    "in_vain": Template(
        "with policy {policy!r}{budget} nothing depends on {names}",
        "Leave that as it comes, or choose another policy",
    ),
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
    "frames_added": Template(
        "between MotionCache and the network, {who} makes {frames} latent frames of {of}, so that "
        "single tokens are not told apart: whole evaluations are computed or reused",
        "Leave it, or remove that node",
    ),
    "network_swapped": Template(
        "another node has put {name} in the network's place after the run began, and that is not "
        "known block by block",
        "Remove that node, or use a preset that foretells whole evaluations",
    ),
    "model_variant": Template(
        "{name} is not known block by block yet: {why}", "Use another model of its family"
    ),
    "model_unknown": Template("{name} is not known block by block", "Use a model that is"),
    "noise_rises": Template(
        "the noise rises from one evaluation to the next (unsampling), and what the blocks did at "
        "less noise is not carried to more",
        "Sample from noise to clean, or use a preset that foretells whole evaluations",
    ),
    "passes_new": Template(
        "every evaluation asks for passes that were not there before: another node makes its "
        "conditioning, its areas or its windows anew each time",
        "Use a guider or a node that keeps them for the whole run",
    ),
    "networks_alternate": Template(
        "the network is another one in every evaluation, and what one of them did says nothing of "
        "the other",
        "Use two samplers with a part of the steps each",
    ),
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
}
