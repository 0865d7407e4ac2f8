"""Nodes that need all tokens inside a block, on the stand-in and on the real host.

Each takes a host and a model and gives a clone.
"""

from __future__ import annotations

import einops
import torch
import torch.nn.functional as F

OVERRIDE = "optimized_attention_override"
# of the latents that these are for
FRAMES, TOKENS = 3, 48


def with_override(model, override):
    """A clone whose attention goes through `override(func, q, k, v, *args, **kwargs)`."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    clone.model_options["transformer_options"] = {**options, OVERRIDE: override}
    return clone


def _attention(host, model, block, make):
    """A clone with another method for a block's self-attention, `make(module, method)`."""
    clone, name = model.clone(), "self_attention" if host.is_standin else "forward"
    path = f"diffusion_model.blocks.{block}.self_attn"
    module = model.get_model_object(path)
    clone.add_object_patch(f"{path}.{name}", make(module, getattr(module, name)))
    return clone


def _replaced(host, model, change):
    clone = model.clone()

    def replace(args, extra):
        out = extra["original_block"](args)
        return {**out, "img": change(out["img"])}

    clone.set_model_patch_replace(replace, "dit", "double_block", 1)
    return clone


def by_frames(host, model):
    """Self-attention whose answer is weighed frame by frame, as to enhance a video."""

    def make(module, method):
        def forward(*args, **kwargs):
            out = method(*args, **kwargs)
            frames = einops.rearrange(out, "b (f s) c -> b f s c", f=FRAMES, s=TOKENS // FRAMES)
            mixed = frames + 0.1 * frames.mean(dim=1, keepdim=True)
            return einops.rearrange(mixed, "b f s c -> b (f s) c")

        return forward

    return _attention(host, model, 0, make)


def blocks_by_frames(host, model):
    """A block whose answer is weighed frame by frame."""

    def change(x):
        frames = x.reshape(len(x), FRAMES, TOKENS // FRAMES, -1)
        return (frames + 0.1 * frames.mean(dim=1, keepdim=True)).reshape(x.shape)

    return _replaced(host, model, change)


def blocks_by_mean(host, model):
    """A block whose answer is shifted by the mean of all tokens: any number of rows fits."""
    return _replaced(host, model, lambda x: x + 0.2 * x.mean(dim=1, keepdim=True))


def masked(host, model):
    """Attention with a mask as large as the tokens."""
    bias = torch.zeros(TOKENS, TOKENS)
    bias[: TOKENS // 2, TOKENS // 2 :] = -2.0

    def override(func, q, k, v, *args, **kwargs):
        if k.shape[1] != TOKENS:
            return func(q, k, v, *args, **kwargs)
        return func(q, k, v, *args, **{**kwargs, "mask": bias})

    return with_override(model, override)


def tiled(host, model):
    """Self-attention inside of three parts of the tokens; three times any number of rows fits."""

    def override(func, q, k, v, *args, **kwargs):
        if q.shape[1] != k.shape[1]:
            return func(q, k, v, *args, **kwargs)
        q, k, v = (einops.rearrange(t, "b (p s) c -> (b p) s c", p=3) for t in (q, k, v))
        return einops.rearrange(func(q, k, v, *args, **kwargs), "(b p) s c -> b (p s) c", p=3)

    return with_override(model, override)


def deaf(host, model, hearing=0):
    """Self-attention that asks for no override, from its call `hearing` on."""
    left = [hearing]

    def make(module, method):
        def forward(x, table, *args, **kwargs):
            left[0] -= 1
            if left[0] >= 0:
                return method(x, table, *args, **kwargs)
            q, k, v = module.norm_q(module.q(x)), module.norm_k(module.k(x)), module.v(x)
            return module.o(F.scaled_dot_product_attention(q, k, v))

        return forward

    return _attention(host, model, 0, make)


def deaf_later(host, model):
    """The same from a later step on."""
    return deaf(host, model, hearing=8)


def hooked(host, model):
    """What no option and no patch tells: a hook that the network has while it is sampled."""

    def by_frame(module, args, x):
        frames = x.view(len(x), FRAMES, TOKENS // FRAMES, -1)
        return (frames + 0.1 * frames.mean(dim=1, keepdim=True)).reshape(x.shape)

    def outer(executor, *args, **kwargs):
        network = executor.class_obj.model_patcher.model.diffusion_model
        block = getattr(network, "network", network).blocks[1]
        hook = block.register_forward_hook(by_frame)
        try:
            return executor(*args, **kwargs)
        finally:
            hook.remove()

    clone = model.clone()
    clone.add_wrapper_with_key(host.patcher_extension.WrappersMP.OUTER_SAMPLE, "hooked", outer)
    return clone


# what is told of them before the run, or in it
FOREIGN = {
    by_frames: "part_replaced", blocks_by_frames: "block_replaced",
    blocks_by_mean: "block_replaced", masked: "attention_replaced", tiled: "attention_replaced",
    deaf: "part_replaced", deaf_later: "part_replaced", hooked: "partial_failed",
}  # fmt: skip
