"""Who is calling: what ComfyUI and other nodes say of a call of the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...motioncache_core import AnswerSession, DeviceSessions
from ...motioncache_core.common.host_transfer import read
from ...motioncache_core.sampling.passes import Pass
from .own_cache import BlockCalls

# under which a model carries our wrappers and settings; then what its options bring to calls of it
KEY = "motioncache"
PROFILE = "motioncache_profile"
FORCING = "motioncache_forcing"
SESSION = "motioncache_session"
ANSWERS = "motioncache_answers"
BLOCK_CALLS = "motioncache_block_calls"
OVERRIDE = "optimized_attention_override"

# parts of the transformer options that other nodes fill for passes of their own
_REPLACED = ("patches_replace", "patches")
# what the host itself or its networks write there
_HOSTS = frozenset((
    *_REPLACED, OVERRIDE, "cond_or_uncond", "uuids", "sigmas", "sample_sigmas", "wrappers",
    "callbacks", "block", "block_index", "block_type", "total_blocks", "transformer_index",
    "grid_sizes", "img_slice", "original_shape", "activations_shape", "rope_options",
    "reference_image_num_tokens", "context_window", "multigpu_thread_device",
    "prefetch_dynamic_vbars", "running_net_type", "model_patch_data", "x_ref_attn_map",
))  # fmt: skip
_PACK = Path(__file__).resolve().parents[2]
# frames of these are the same for all
_COMMON = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(comfy.patcher_extension.__file__).parent,
        Path(torch.__file__).parent,
        *(_PACK / room for room in ("nodes", "motioncache_core", "kernels")),
    )
)
_FRAMES = 200


def begin(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None,
          *args: Any, **kwargs: Any) -> Tensor:  # fmt: skip
    """PREDICT_NOISE: the sampler asks for one evaluation, whatever calls that takes."""
    options = (model_options or {}).get("transformer_options", {})
    answers: AnswerSession | None = options.get(ANSWERS)
    if answers is not None:
        answers.begin(read(timestep.reshape(-1)[:1])[0])
    tokens: DeviceSessions | None = options.get(SESSION)
    if tokens is not None:
        tokens.begin()
    blocks: BlockCalls | None = options.get(BLOCK_CALLS)
    if blocks is not None:
        blocks.begin(options)
    out: Tensor = executor(x, timestep, model_options or {}, *args, **kwargs)
    return out


def passes_of(options: Mapping[str, Any], rows: int) -> tuple[Hashable, ...]:
    """What each part of a call is computed for: its conditioning, the window of the clip, and what
    other nodes have changed for it. Nothing where another node calls the model and does not say.

    Args:
        rows: batch rows of the call.
    """
    indices, uuids = options.get("cond_or_uncond", ()), options.get("uuids", ())
    if len(indices) != len(uuids):
        return ()
    window = options.get("context_window")
    frames = getattr(window, "index_list", None)
    place = None if frames is None else (getattr(window, "dim", None), tuple(map(int, frames)))
    prompts: tuple[Hashable, ...] = tuple(zip(indices, uuids, strict=True))
    if prompts and rows % len(prompts):
        # another node makes a call for each part and leaves the options as they were: its calls
        # are told apart by their order
        prompts = (prompts,)
    changed = (*_changed(options), *_caller())
    return tuple(Pass(prompt, place, changed) for prompt in prompts)


def _changed(options: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """What of the options is another node's. Functions go by their code: many nodes make them anew
    in every evaluation."""
    parts: list[Hashable] = [
        (name, str(part), tuple(_kinds(found)))
        for name in _REPLACED
        for part, found in sorted(options.get(name, {}).items(), key=lambda item: str(item[0]))
        if found
    ]
    if options.get(OVERRIDE) is not None:
        parts.append((OVERRIDE, _kind(options[OVERRIDE])))
    told = {str(key): _plain(value) for key, value in options.items() if key not in _HOSTS}
    return (*parts, *sorted(told.items(), key=lambda item: item[0]))


def _kinds(found: Any) -> list[Hashable]:
    if isinstance(found, Mapping):
        return sorted(((str(key), _kind(patch)) for key, patch in found.items()), key=str)
    return [_kind(patch) for patch in (found if isinstance(found, (list, tuple)) else (found,))]


def _kind(function: Any) -> Hashable:
    function = getattr(function, "func", function)
    code = getattr(function, "__code__", None)
    if code is None:
        kind = function if isinstance(function, type) else type(function)
        return (kind.__module__, kind.__qualname__)
    return _code(code)


def _code(code: CodeType) -> Hashable:
    return (code.co_filename, code.co_firstlineno, code.co_name)


def _plain(value: Any) -> Hashable:
    """What of an option's value is not likely to be another one in every evaluation."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, (bool, str, int)) for v in value):
        return tuple(value)
    return None


def _caller() -> tuple[Hashable, ...]:
    """The places in other nodes' code that the call comes from, in the evaluation going on."""
    frame, found = sys._getframe(1), list[Hashable]()
    for _ in range(_FRAMES):
        if frame is None or frame.f_code is begin.__code__:
            break
        code = frame.f_code
        if not _is_common(code.co_filename):
            found.append((*_code(code), frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


@cache
def _is_common(filename: str) -> bool:
    return filename.startswith(("<frozen", *_COMMON))
