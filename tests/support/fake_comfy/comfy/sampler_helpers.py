from __future__ import annotations

from uuid import uuid4

from . import model_management
from .patcher_extension import (
    WrapperExecutor,
    WrappersMP,
    get_all_wrappers,
    merge_nested_dicts,
)
from .utils import reshape_mask


def convert_cond(cond):
    """`[[text, {...}], ...]` to dicts, each with an id of its own for this guider."""
    out = []
    for text, extras in cond:
        entry = {**extras, "model_conds": extras.get("model_conds", {}), "uuid": uuid4()}
        if text is not None:
            entry["cross_attn"] = text
        out.append(entry)
    return out


def prepare_mask(noise_mask, shape, device):
    return reshape_mask(noise_mask, shape).to(device)


def prepare_model_patcher(model, conds, model_options):
    """Put the patcher's wrappers and callbacks into the run's options, after those in there."""
    options = model_options["transformer_options"]
    for kind in ("wrappers", "callbacks"):
        merge_nested_dicts(options.setdefault(kind, {}), getattr(model, kind), copy_dict1=False)


def prepare_sampling(
    model, noise_shape, conds, model_options=None, force_full_load=False, force_offload=False
):
    wrappers = get_all_wrappers(WrappersMP.PREPARE_SAMPLING, model_options, is_model_options=True)
    return WrapperExecutor.new_executor(_prepare_sampling, wrappers).execute(
        model, noise_shape, conds, model_options=model_options,
        force_full_load=force_full_load, force_offload=force_offload,
    )  # fmt: skip


def _prepare_sampling(
    model, noise_shape, conds, model_options=None, force_full_load=False, force_offload=False
):
    needed = model.memory_required([noise_shape[0] * 2, *noise_shape[1:]])
    model_management.load_models_gpu([model], memory_required=needed)
    return model.model, conds, []
