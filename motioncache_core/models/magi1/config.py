"""Sizes of a MAGI-1 network, read from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...common.errors import UnsupportedModelError

# only MAGI-1 has it: queries of the cross-attention beside those of the self-attention
MARKER = "videodit_blocks.layers.0.self_attention.linear_qkv.qx.weight"
_LAYER = re.compile(r"videodit_blocks\.layers\.(\d+)\.")
# the 24B network is given its 16 latent channels twice
_DOUBLED_CHANNELS = 32


@dataclass(frozen=True, slots=True)
class MagiConfig:
    """Sizes of a network (MAGI-1, arXiv 2505.13211).

    Attributes:
        blocks: transformer blocks.
        width: channels C of a token.
        heads: heads of the queries.
        groups: heads of keys and values; `heads / groups` query heads share one.
        head_width: channels of a head.
        ffn_width: channels inside the feed-forward part.
        text_width: channels of a row of text.
        text_rows: rows of the null caption, which are as many as a caption may have.
        gated: SwiGLU in the feed-forward part, else GELU.
        doubled: latents are given twice and at a tenth of their size, as to the 24B network.
        channels: latent channels.
        norm_eps: of all norms.
    """

    blocks: int
    width: int
    heads: int
    groups: int
    head_width: int
    ffn_width: int
    text_width: int
    text_rows: int = 800
    gated: bool = False
    doubled: bool = False
    channels: int = 16
    norm_eps: float = 1e-6

    @property
    def condition_width(self) -> int:
        """Channels of the vector that tells the blocks the noise level."""
        return self.width // 4

    @property
    def query_width(self) -> int:
        """Channels of all queries of a token."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Channels of all keys of a token; its values have as many."""
        return self.groups * self.head_width

    @property
    def latent_scale(self) -> float:
        """What latents are multiplied by in front of the network, and divided by behind it."""
        return 0.1 if self.doubled else 1.0

    @property
    def work(self) -> tuple[int, int]:
        """Multiply-accumulates of a block for a token row, text left out, and for a query-key
        pair."""
        attention = self.width * (4 * self.query_width + 2 * self.key_width)
        inside = self.width * self.ffn_width * (3 if self.gated else 2)
        return attention + inside, 2 * self.query_width

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> MagiConfig:
        """The sizes of a state dict with MAGI-1's own names.

        Weights in 8 bits may have a leading dimension of 1.

        Raises:
            UnsupportedModelError: it is not MAGI-1, or not all of it.
        """
        if MARKER not in tensors:
            raise UnsupportedModelError(
                f"this is no MAGI-1 model: it has no tensor {MARKER}. Take model.safetensors, or "
                "the first of its shards, from the folder ckpt/magi of sand-ai/MAGI-1"
            )

        def shape(name: str) -> tuple[int, ...]:
            found = tensors.get(name)
            if found is None:
                raise UnsupportedModelError(
                    f"this MAGI-1 model is incomplete: {name} is missing. Put all shards of the "
                    "model into one folder and load the first, or download the file again"
                )
            return tuple(found.shape)

        first = "videodit_blocks.layers.0."
        width, channels = shape("x_embedder.weight")[:2]
        head_width = shape(first + "self_attention.q_layernorm.weight")[0]
        queries = shape(first + "self_attention.linear_qkv.q.weight")[-2]
        keys = shape(first + "self_attention.linear_qkv.k.weight")[-2]
        ffn_in = shape(first + "mlp.linear_fc1.weight")[-2]
        ffn_width = shape(first + "mlp.linear_fc2.weight")[-1]
        text_rows, text_width = shape("y_embedder.null_caption_embedding")
        found = {int(m[1]) for m in map(_LAYER.match, tensors) if m is not None}
        blocks = max(found) + 1
        for missing in sorted(set(range(blocks)) - found):
            shape(f"videodit_blocks.layers.{missing}.mlp.linear_fc1.weight")
        doubled = channels == _DOUBLED_CHANNELS
        return cls(
            blocks=blocks,
            width=width,
            heads=queries // head_width,
            groups=keys // head_width,
            head_width=head_width,
            ffn_width=ffn_width,
            text_width=text_width,
            text_rows=text_rows,
            gated=ffn_in == 2 * ffn_width,
            doubled=doubled,
            channels=channels // 2 if doubled else channels,
        )
