"""What other nodes ask a model for besides the two prompts, on the stand-in and on the real host.

Each takes a host and a model and gives a clone that asks for more passes in every evaluation.
"""

from __future__ import annotations

import torch
from motioncache_pack.tests.support.answer_runs import as_planned, patch, small, squared

FACTOR = 0.5


def _guided(host, model, weak):
    """A clone whose guided answer is pushed away from another one.

    Args:
        weak: the other answer, from what the host gives a function behind the guidance.
    """

    def guide(args):
        return args["denoised"] + FACTOR * (args["cond_denoised"] - weak(args))

    clone = model.clone()
    clone.model_options["sampler_post_cfg_function"] = [
        *model.model_options.get("sampler_post_cfg_function", ()),
        guide,
    ]
    return clone


def _again(host, args, x=None, options=None):
    """The positive prompt once more."""
    (out,) = host.samplers.calc_cond_batch(
        args["model"],
        [args["cond"]],
        args["input"] if x is None else x,
        args["sigma"],
        options or args["model_options"],
    )
    return out


def _with_options(args, **changed):
    options = dict(args["model_options"])
    options["transformer_options"] = {**options["transformer_options"], **changed}
    return options


def skip_layer(host, model, block=1):
    """With a block left out, as the host's SkipLayerGuidanceDiT asks for it."""

    def skip(args, extra):
        return args

    def weak(args):
        before = args["model_options"]["transformer_options"].get("patches_replace", {})
        blocks = {**before.get("dit", {}), ("double_block", block): skip}
        replaced = {**before, "dit": blocks}
        return _again(host, args, options=_with_options(args, patches_replace=replaced))

    return _guided(host, model, weak)


def perturbed(host, model):
    """With values for answers in every self-attention, by the host's hook of attention."""

    def override(func, q, k, v, *args, **kwargs):
        return v if q.shape[1] == k.shape[1] else func(q, k, v, *args, **kwargs)

    def weak(args):
        changed = _with_options(args, optimized_attention_override=override)
        return _again(host, args, options=changed)

    return _guided(host, model, weak)


def left_out_unmarked(host, model, block=1):
    """With a block left out by another method of the live network, of which no option tells, and
    before the pass that it is compared with."""
    clone, batch = model.clone(), host.samplers.calc_cond_batch

    def both(args):
        part = args["model"].diffusion_model
        part = getattr(part, "network", part).blocks[block]
        rest = args["input"], args["sigma"], args["model_options"]
        part.forward = lambda x, *_, **__: x
        try:
            (weak,) = batch(args["model"], [args["conds"][0]], *rest)
        finally:
            del part.forward
        strong, other = batch(args["model"], args["conds"], *rest)
        return [strong + FACTOR * (strong - weak), other]

    clone.model_options["sampler_calc_cond_batch_function"] = both
    return clone


def sliding(host, model):
    """Guidance by windows that slide over the picture, a call each."""

    def weak(args):
        x = args["input"]
        size = x.shape[-1] // 2
        told, count = torch.zeros_like(x), torch.zeros_like(x)
        for start in (0, size // 2, size):
            part = slice(start, start + size)
            told[..., part] += _again(host, args, x[..., part])
            count[..., part] += 1
        return told / count

    return _guided(host, model, weak)


def _wrapped(model, run):
    """A clone whose calls go through `run(x, call)`, where `call(cut)` is a call for a part of x,
    or of anything beside it."""
    clone = model.clone()

    def wrapper(apply_model, given):
        x, c = given["input"], given["c"]

        def call(cut):
            images = c.get("c_concat")
            own = c if images is None else {**c, "c_concat": cut(images)}
            return apply_model(cut(x), given["timestep"], **own)

        return run(x, call)

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def tiles(host, model):
    """Tiles of the picture, with an overlap, the last one narrower than the others."""

    def run(x, call):
        width = x.shape[-1]
        size, step = width // 2, width // 2 - 1
        told, count = torch.zeros_like(x), torch.zeros_like(x)
        for start in range(0, width - 1, step):
            part = slice(start, start + size)
            told[..., part] += call(lambda x, part=part: x[..., part])
            count[..., part] += 1
        return told / count

    return _wrapped(model, run)


def frame_runs(host, model):
    """Runs of frames, each with one that the run before had, too."""

    def run(x, call):
        told, count = torch.zeros_like(x), torch.zeros_like(x)
        for start in range(x.shape[2] - 1):
            part = slice(start, start + 2)
            told[:, :, part] += call(lambda x, part=part: x[:, :, part])
            count[:, :, part] += 1
        return told / count

    return _wrapped(model, run)


def mirrored(host, model):
    """The mean of the answer and of that for the mirrored picture."""

    def run(x, call):
        return (call(lambda x: x) + call(lambda x: x.flip(-1)).flip(-1)) / 2

    return _wrapped(model, run)


def moving_tiles(host, model):
    """Two tiles of one size whose border is somewhere else in every evaluation."""
    moved = []

    def run(x, call):
        width, shift = x.shape[-1], 3 * len(moved)
        moved.append(shift)
        told = torch.zeros_like(x)
        for start in (0, width // 2):
            columns = (torch.arange(width // 2) + start + shift) % width
            told[..., columns] = call(lambda x, columns=columns: x[..., columns])
        return told

    return _wrapped(model, run)


def one_by_one(host, model):
    """Every row of a batch in a call of its own, with the options of all of them."""
    clone = model.clone()

    def wrapper(apply_model, given):
        x, c = given["input"], given["c"]
        parts = []
        for row in range(len(x)):
            own = {
                key: value[row : row + 1] if isinstance(value, torch.Tensor) else value
                for key, value in c.items()
            }
            parts.append(apply_model(x[row : row + 1], given["timestep"][row : row + 1], **own))
        return torch.cat(parts)

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


SECOND_PASSES = [
    skip_layer, perturbed, left_out_unmarked, sliding, tiles, frame_runs, mirrored, one_by_one,
]  # fmt: skip
PRESETS = ("quality", "balanced", "motion")


def error_of(pack, scene, put, preset, order="before"):
    """Relative squared error against the uncached run of the same graph, and the trace."""
    wanted = scene.sample(put(pack.host, scene.model))
    if order == "before":
        model, handle = patch(pack, put(pack.host, scene.model), preset)
    else:
        model, handle = patch(pack, scene.model, preset)
        model = put(pack.host, model)
    return squared(scene.sample(model), wanted), handle.latest


def plain_errors(pack):
    """The error of a run of the two prompts alone, as planned, by preset."""
    with as_planned():
        return {
            preset: error_of(pack, small(pack), lambda host, model: model, preset)[0]
            for preset in PRESETS
        }
