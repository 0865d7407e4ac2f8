"""From conditioning to a guided x0: which conds run together, what each call gets to see.

The host keeps this in `comfy.samplers`.
"""

from __future__ import annotations

import math

import torch

from .comfy import patcher_extension
from .comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

# a default that nobody writes to
_EMPTY = {}


def process_conds(model, noise, conds, device, latent_image=None, denoise_mask=None, seed=None):
    """Add the model's own conditioning, and turn percents into sigmas."""
    percent_to_sigma = model.model_sampling.percent_to_sigma
    for entries in conds.values():
        for i, entry in enumerate(entries):
            entry = dict(entry)
            for edge in ("start", "end"):
                if f"{edge}_percent" in entry:
                    entry[f"timestep_{edge}"] = percent_to_sigma(entry[f"{edge}_percent"])
            extra = model.extra_conds(**{"latent_image": latent_image, **entry, "noise": noise})
            entry["model_conds"] = {**entry["model_conds"], **extra}
            entries[i] = entry
    return conds


def calc_cond_batch(model, conds, x_in, timestep, model_options):
    wrappers = get_all_wrappers(WrappersMP.CALC_COND_BATCH, model_options, is_model_options=True)
    executor = WrapperExecutor.new_executor(_calc_cond_batch, wrappers)
    return executor.execute(model, conds, x_in, timestep, model_options)


def _calc_cond_batch(model, conds, x_in, timestep, model_options):
    waiting = [
        (index, entry, _model_conds(entry, x_in.shape[0]))
        for index, entries in enumerate(conds)
        for entry in entries or ()
        if _is_active(entry, timestep)
    ]
    totals = [torch.zeros_like(x_in) for _ in conds]
    weights = [0.0] * len(conds)
    model.current_patcher.prepare_state(timestep, model_options)
    while waiting:
        batch = _next_batch(model, waiting, x_in)
        waiting = [item for item in waiting if all(item is not taken for taken in batch)]
        outputs = _run(model, batch, x_in, timestep, model_options)
        for (index, entry, _), out in zip(batch, outputs, strict=True):
            strength = entry.get("strength", 1.0)
            totals[index] += out * strength
            weights[index] += strength
    return [total / (weight or 1.0) for total, weight in zip(totals, weights, strict=True)]


def _is_active(entry, timestep):
    late = timestep[0] < entry.get("timestep_end", 0.0)
    return not late and timestep[0] <= entry.get("timestep_start", float("inf"))


def _model_conds(entry, batch_size):
    return {k: v.process_cond(batch_size=batch_size) for k, v in entry["model_conds"].items()}


def _fits_together(a, b):
    return a.keys() == b.keys() and all(a[key].can_concat(b[key]) for key in a)


def _next_batch(model, waiting, x_in):
    """The conds of the next call: all that fit the first, last first, fewer if memory is short."""
    candidates = [item for item in waiting if _fits_together(item[2], waiting[0][2])][::-1]
    free = model.current_patcher.get_free_memory(x_in.device)
    for parts in range(1, len(candidates) + 1):
        batch = candidates[: len(candidates) // parts]
        shape = [len(batch) * x_in.shape[0], *x_in.shape[1:]]
        if model.memory_required(shape) * 1.5 < free:
            return batch
    return candidates[:1]


def _run(model, batch, x_in, timestep, model_options):
    size = len(batch)
    # new dicts and lists for each call, the leaves are shared with the run
    options = patcher_extension.merge_nested_dicts({}, model_options.get("transformer_options", {}))
    options["cond_or_uncond"] = [index for index, _, _ in batch]
    options["uuids"] = [entry["uuid"] for _, entry, _ in batch]
    options["sigmas"] = timestep
    first, *others = (conds for _, _, conds in batch)
    c = {key: cond.concat([other[key] for other in others]) for key, cond in first.items()}
    c["transformer_options"] = options
    x, t = torch.cat([x_in] * size), torch.cat([timestep] * size)
    wrapper = model_options.get("model_function_wrapper")
    if wrapper is None:
        return model.apply_model(x, t, **c).chunk(size)
    call = {"input": x, "timestep": t, "c": c, "cond_or_uncond": options["cond_or_uncond"]}
    return wrapper(model.apply_model, call).chunk(size)


def cfg_function(
    model,
    cond_pred,
    uncond_pred,
    cond_scale,
    x,
    timestep,
    model_options=_EMPTY,
    cond=None,
    uncond=None,
):
    result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for fn in model_options.get("sampler_post_cfg_function", []):
        result = fn({"denoised": result, "cond_denoised": cond_pred, "uncond_denoised": uncond_pred,
                     "cond_scale": cond_scale, "sigma": timestep, "input": x, "model": model,
                     "cond": cond, "uncond": uncond, "model_options": model_options})  # fmt: skip
    return result


def sampling_function(
    model, x, timestep, uncond, cond, cond_scale, model_options=_EMPTY, seed=None
):
    """Denoised x0 after guidance; at scale 1 the unconditional call is left out."""
    guided = model_options.get("disable_cfg1_optimization") or not math.isclose(cond_scale, 1.0)
    conds = [cond, uncond if guided else None]
    batch = model_options.get("sampler_calc_cond_batch_function")
    if batch is not None:
        given = {"conds": conds, "input": x, "sigma": timestep, "model": model,
                 "model_options": model_options}  # fmt: skip
        out = batch(given)
    else:
        out = calc_cond_batch(model, conds, x, timestep, model_options)
    uncond = conds[1]
    return cfg_function(model, *out, cond_scale, x, timestep, model_options, cond, uncond)
