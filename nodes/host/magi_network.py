"""MAGI-1's network as ComfyUI calls it: the whole clip at once, one conditioning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...motioncache_core import ForcingCall, UnsupportedModelError
from ...motioncache_core.engine.chunks.chunk_session import ChunkSession
from ...motioncache_core.models.magi1.blocks import Attend
from ...motioncache_core.models.magi1.chunk_call import ChunkCall
from ...motioncache_core.models.magi1.config import MagiConfig
from ...motioncache_core.models.magi1.network import MagiNetwork
from ...motioncache_core.models.magi1.options import MagiOptions

# where a run's session is found, and what the sampler knows of a call
CHUNK_SESSION = "motioncache_chunk_session"
CHUNKS = "motioncache_chunks"


@dataclass(frozen=True)
class ChunkIteration:
    """What the sampler says of one call of the network."""

    session: ChunkSession
    forcing: ForcingCall
    options: MagiOptions


class MagiHostNetwork(MagiNetwork):
    """The network in ComfyUI.

    Args:
        config: of the checkpoint.
        distilled: whether it is the distilled model, which its tensors do not tell.
        published: see `MagiNetwork`.
        operations: the host's layers.
    """

    def __init__(
        self,
        config: MagiConfig,
        distilled: bool,
        published: bool,
        compute_dtype: torch.dtype,
        dtype: torch.dtype,
        operations: Any,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(config, operations, dtype, device, published, compute_dtype)
        self.distilled = distilled
        # what the report's maps are in
        self.patch_size = (1, 2, 2)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """From clean to noise, `(1, C, F, H, W)`, times the noise level of every frame; 0 for
        frames that are not denoised.

        Raises:
            UnsupportedModelError: the sampler is not MAGI-1's.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        out: Tensor = executor.execute(x, timestep, context, transformer_options=options, **kwargs)
        return out

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        durations: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = transformer_options or {}
        iteration: ChunkIteration | None = options.get(CHUNKS)
        if iteration is None or context is None:
            raise UnsupportedModelError(
                "MAGI-1 denoises chunk by chunk, which ComfyUI's own samplers do not. Connect "
                "GUIDER, SAMPLER and SIGMAS of MotionCache Magi Sampling to SamplerCustomAdvanced"
            )
        chunks = len(iteration.forcing.iteration.chunks)
        call = ChunkCall(
            self,
            host_attention(self.config, options),
            x.float(),
            iteration.forcing,
            iteration.options,
            self.distilled,
            lambda chunk: chunk_text(self.config, context, durations, chunks - chunk - 1),
            comfy.model_management.throw_exception_if_processing_interrupted,
        )
        return -iteration.session.evaluate(call)


def chunk_text(config: MagiConfig, context: Tensor, durations: Tensor | None, left: int) -> Tensor:
    """Rows of text of a chunk `(1, n, text_width)`, cut to what the model takes.

    Args:
        context: rows of the caption.
        durations: rows that say how many chunks are left, from none; None puts none in front.
        left: chunks of the clip behind this one.
    """
    rows = context[:1]
    if durations is not None:
        row = durations[min(left, len(durations) - 1)].to(rows)
        rows = torch.cat((row[None, None], rows), dim=1)
    return rows[:, : config.text_rows]


def host_attention(config: MagiConfig, options: Mapping[str, Any]) -> Attend:
    """The host's attention, or what another node has put in its place."""
    from comfy.ldm.modules.attention import optimized_attention

    # what stands in its place may not know of groups
    grouped = _knows_groups() and "optimized_attention_override" not in options
    more = {"enable_gqa": True} if grouped else {}
    share = config.heads // config.groups

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not grouped and share > 1:
            k, v = (_repeated(t, config.groups, share) for t in (k, v))
        out: Tensor = optimized_attention(
            q, k, v, heads=config.heads, transformer_options=dict(options), **more
        )
        return out

    return attend


def _repeated(x: Tensor, groups: int, share: int) -> Tensor:
    """Keys or values `(B, N, groups * D)` for each query head."""
    out: Tensor = x.unflatten(-1, (groups, -1)).repeat_interleave(share, dim=2).flatten(2)
    return out


@cache
def _knows_groups() -> bool:
    """Whether the host's attention takes fewer heads of keys than of queries: older ones take the
    argument and ignore it."""
    import comfy.ldm.modules.attention

    known: Callable[[Any], str] = inspect.getsource
    try:
        return "enable_gqa" in known(comfy.ldm.modules.attention)
    except OSError:
        return False
