"""ComfyUI's own caches on a clip, sampled by ComfyUI that `COMFYUI_PATH` names."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from typing import Any

import torch
from quality.cases import Case, files
from quality.metrics import compare, psnr, quicker, timed
from torch import Tensor


def peers_wanted() -> bool:
    """Whether there is a ComfyUI to measure."""
    return bool(os.environ.get("COMFYUI_PATH"))


@functools.cache
def _comfy(path: str) -> Any:
    support = importlib.import_module("motioncache_pack.tests.support.fake_comfy")
    support.harness.use_real_comfy(path)
    logging.getLogger().setLevel(logging.WARNING)
    return support.harness.Host()


@functools.cache
def _model(shift: float) -> Any:
    checkpoint = importlib.import_module("motioncache_pack.motioncache_core.demo.checkpoint")
    weights = checkpoint.state_dict(files()[0])
    return importlib.import_module("motioncache_pack.nodes.host.loaders").load_demo_model(
        weights, None, shift
    )


class HostCase:
    """A clip in ComfyUI: the same noise, start, text and noise levels.

    Args:
        video: our own uncached one.
    """

    # PSNR of the host's uncached video to ours from which on they are one: arithmetic differs
    SAME = 50.0

    def __init__(self, clip: Case, video: Tensor) -> None:
        if clip.inputs is None:
            raise ValueError(f"clips of mode {clip.mode!r} cannot be sampled by ComfyUI's nodes")
        self._clip, self._inputs = clip, clip.inputs
        self._host = _comfy(os.environ["COMFYUI_PATH"])
        self._pack = importlib.import_module("motioncache_pack.nodes.host.loaders")
        self._calls = 0
        self._video, self._seconds = quicker(lambda: self._sample(self._guarded()))
        self._uncached_calls = self._calls
        self._same = psnr(video, self._video)

    def run(self, kind: str, threshold: float) -> dict[str, Any]:
        """Figures of a run with EasyCache or LazyCache, against the host's own uncached video."""
        module = importlib.import_module("comfy_extras.nodes_easycache")
        node = getattr(module, f"{kind}Node")
        # the node's defaults but for the threshold
        model = node.execute(self._guarded(), threshold, 0.15, 0.95, False).result[0]
        video, seconds = timed(lambda: self._sample(model))
        share = self._calls / self._uncached_calls
        return {
            "threshold": threshold,
            "compute_share": share,
            "flops_share": share,
            **seconds,
            **{f"uncached_{name}": taken for name, taken in self._seconds.items()},
            "host_psnr": self._same,
            **compare(self._video, video),
        }

    def _guarded(self) -> Any:
        """The model, and outside of everything else a wrapper that gives what follows a copy of
        its input: EasyCache writes into it."""
        model = _model(self._inputs.shift).clone()
        kind = self._host.patcher_extension.WrappersMP.DIFFUSION_MODEL

        def private(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            return executor(x.clone(), *args, **kwargs)

        model.add_wrapper_with_key(kind, "private copy", private)
        return model

    def _sample(self, model: Any) -> Tensor:
        """The decoded video; counts the calls that reach the network."""
        inputs, self._calls = self._inputs, 0
        kind = self._host.patcher_extension.WrappersMP.DIFFUSION_MODEL

        def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            return executor(*args, **kwargs)

        # the wrapper that is added last is the innermost
        model = model.clone()
        model.add_wrapper_with_key(kind, "count", count)
        mask, first = inputs.conditions.split((4, inputs.noise.shape[1]), dim=1)
        shown = {
            "concat_latent_image": self._pack.from_model_space(first),
            "concat_mask": 1 - mask[:, :1],
        }
        out = self._host.sample.sample_custom(
            model,
            inputs.noise,
            inputs.cfg,
            self._host.samplers.sampler_object("euler"),
            torch.tensor(inputs.sigmas),
            [[inputs.positive, dict(shown)]],
            [[inputs.negative, dict(shown)]],
            torch.zeros_like(inputs.noise),
            disable_pbar=True,
            seed=self._clip.seed,
        )
        return self._clip.decode(self._pack.to_model_space(out))
