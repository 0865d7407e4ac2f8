"""Compile parts of a model, in force while the model is called."""

from __future__ import annotations

import torch

from ..comfy.patcher_extension import WrappersMP
from ..comfy.utils import set_attr

COMPILE_KEY = "torch.compile"


def set_torch_compile_wrapper(
    model, backend, options=None, mode=None, fullgraph=False, dynamic=None,
    keys=("diffusion_model",),
):  # fmt: skip
    arguments = {
        "backend": backend, "options": options, "mode": mode, "fullgraph": fullgraph,
        "dynamic": dynamic,
    }  # fmt: skip
    parts = {key: torch.compile(model.get_model_object(key), **arguments) for key in keys}

    def compiled(executor, *args, **kwargs):
        plain = {key: set_attr(executor.class_obj, key, part) for key, part in parts.items()}
        try:
            return executor(*args, **kwargs)
        finally:
            for key, part in plain.items():
                set_attr(executor.class_obj, key, part)

    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, compiled)
    model.model_options["torch_compile_kwargs"] = arguments
