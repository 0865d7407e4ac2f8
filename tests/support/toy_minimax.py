"""A small network with the hooks of MiniMax H3: text, conditions, sound and video in one sequence
`(S, C)` without a batch, blocks that write into it, and modulation by segments of it. Its answer is
video and sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.tests.support.toy_hunyuan import attention, rotated, table
from torch import Tensor, nn

# heads together are wider than a token, as in the host's
HEADS, HEAD, WIDTH, CHANNELS, SOUND, TEXT = 2, 12, 16, 4, 3, 12

Segments = Sequence[tuple[int, int, Any]]


class Block(nn.Module):
    """Scaled by segment, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * HEADS * HEAD), nn.Linear(HEADS * HEAD, WIDTH)
        self.attn = SimpleNamespace(heads=HEADS, head_dim=HEAD)
        self.mlp = SimpleNamespace(fc2=nn.Linear(2 * WIDTH, WIDTH))

    def forward(
        self,
        x: Tensor,
        t_emb: Tensor,
        segments: Segments,
        freqs: Tensor,
        options: Mapping[str, Any],
    ) -> Tensor:
        h = x.clone()
        for start, stop, row in segments:
            h[start:stop] *= 1 + t_emb[row]
        q, k, v = (
            part.unflatten(1, (HEADS, HEAD)).transpose(0, 1)[None]
            for part in self.qkv(h).split(HEADS * HEAD, dim=-1)
        )
        turned = freqs.movedim(2, 1)
        q, k = rotated(q, turned), rotated(k, turned)
        override = options.get("optimized_attention_override")
        if override is None:
            out = attention(q, k, v, HEADS, mask=None)
        else:
            out = override(attention, q, k, v, HEADS, mask=None)
        other = self.out(out[0]).tanh()
        for start, stop, row in segments:
            x[start:stop].addcmul_(other[start:stop], 1 + t_emb[row])
        return x


class MiniMaxH3Model(nn.Module):
    """Patches of 1 x 2 x 2. The host's class, by its name."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.hidden_size, self.latents_dim, self.patch_size = WIDTH, CHANNELS, (1, 2, 2)
        self.video_in = nn.Conv3d(CHANNELS, WIDTH, (1, 2, 2), (1, 2, 2))
        self.audio_in, self.text_in = nn.Linear(SOUND, WIDTH), nn.Linear(TEXT, WIDTH)
        self.time_in = nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.video_out, self.audio_out = nn.Linear(WIDTH, CHANNELS * 4), nn.Linear(WIDTH, SOUND)
        self.eval()

    @torch.no_grad()
    def forward(
        self,
        x: Sequence[Tensor],
        timestep: Tensor,
        context: Tensor,
        condition: Tensor | None = None,
        levels: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> list[Tensor]:
        """`x` is a video `(1, 4, F, H, W)` and sound `(1, A, 3)`, `context` `(1, T, 12)`;
        `condition` a video of its own, `levels` whole numbers of 0 and 1, one a video row."""
        options = dict(transformer_options or {})
        video, grid = self._rows(x[0])
        sound = self.audio_in(x[1][0])
        given = self._rows(condition)[0] if condition is not None else video[:0]
        h = torch.cat((self.text_in(context[0]), given, sound, video))
        times = torch.stack((timestep[0], timestep[0] * 0.4, torch.zeros(())))[:, None] / 1000
        rows = [len(context[0]), len(given), len(sound), len(video)]
        which = [0, 2, 1, 0 if levels is None else levels]
        segments, start = [], 0
        for n, row in zip(rows, which, strict=True):
            if n:
                segments.append((start, start + n, row))
            start += n
        places = torch.arange(start).float()[None, :, None]
        shared = {
            "t_emb": self.time_in(times),
            "mod_segments": segments,
            "rope_freqs": table(places, HEAD).movedim(1, 2),
            "transformer_options": options,
        }
        patches = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.blocks):

            def wrapped(args: dict[str, Any], block: nn.Module = block) -> dict[str, Tensor]:
                names = ("img", "t_emb", "mod_segments", "rope_freqs", "transformer_options")
                return {"img": block(*(args[name] for name in names))}

            args = {"img": h, **shared}
            patch = patches.get(("double_block", i))
            h = (wrapped(args) if patch is None else patch(args, {"original_block": wrapped}))[
                "img"
            ]
        first = start - len(video)
        out = self.video_out(h[first:])[None].unflatten(1, grid).unflatten(4, (CHANNELS, 2, 2))
        answer = torch.einsum("bfhwcpq->bcfhpwq", out).reshape(x[0].shape)
        return [answer, self.audio_out(h[first - len(sound) : first])[None]]

    def _rows(self, latent: Tensor) -> tuple[Tensor, Sequence[int]]:
        out = self.video_in(latent)
        return out.flatten(2)[0].T, out.shape[2:]


MiniMaxH3Model.__module__ = "comfy.ldm.minimax.model"
