"""Small networks with the hooks of LTX-Video and LTX-2: blocks that write into their tokens, a
rotary table that comes with a flag, timesteps of single rows or frames, guides behind the video
whose mask splits the queries of an attention; in LTX-2 a second stream of sound, and an attention
of each to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from motioncache_pack.tests.support.toy_hunyuan import rotated, table
from torch import Tensor, nn

HEADS, WIDTH, SOUND_WIDTH, CHANNELS, SOUND, TEXT = 2, 16, 8, 4, 3, 12


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Of `(B, S, C)` tensors."""
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class GuideMask:
    """Bias between video and guides, apart for the queries of each."""

    __slots__ = ("guide_start", "noisy", "tracked")

    def __init__(self, total: int, start: int, bias: float) -> None:
        self.guide_start = start
        self.noisy = torch.zeros(1, 1, 1, total)
        self.noisy[..., start:] = bias
        self.tracked = torch.zeros(1, 1, total - start, total)
        self.tracked[..., :start] = bias


class CompressedTimestep:
    """A row for each token, or for each frame."""

    __slots__ = ("data", "patches_per_frame")

    def __init__(self, tensor: Tensor, patches_per_frame: int | None) -> None:
        self.data, self.patches_per_frame = tensor, patches_per_frame or 1

    def expand(self) -> Tensor:
        return self.data.repeat_interleave(self.patches_per_frame, dim=1)


class Attention(nn.Module):
    """Queries of one stream, keys of the same or another."""

    def __init__(self, width: int, other: int, inner: int) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.k, self.v = nn.Linear(other, inner), nn.Linear(other, inner)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        options: Mapping[str, Any],
        pe: Any = None,
        k_pe: Any = None,
        mask: Any = None,
    ) -> Tensor:
        q, k, v = self.q(x), self.k(source), self.v(source)
        if pe is not None:
            q, k = turned(q, pe), turned(k, k_pe or pe)
        if not isinstance(mask, GuideMask):
            return self.out(attend(q, k, v, options, mask)).tanh()
        start = mask.guide_start
        parts = ((q[:, :start], mask.noisy), (q[:, start:], mask.tracked))
        return self.out(torch.cat([attend(part, k, v, options, m) for part, m in parts], 1)).tanh()


def turned(x: Tensor, pe: tuple[Tensor, bool]) -> Tensor:
    matrix = pe[0].movedim(2, 1)
    return rotated(x.unflatten(2, (HEADS, -1)).transpose(1, 2), matrix).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], mask: Any) -> Tensor:
    override = options.get("optimized_attention_override")
    given = {} if mask is None else {"mask": mask}
    if override is None:
        return attention(q, k, v, HEADS, **given)
    return override(attention, q, k, v, HEADS, **given)


class Block(nn.Module):
    """Self-attention, and attention to text."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(WIDTH, WIDTH, WIDTH), Attention(WIDTH, WIDTH, WIDTH)

    def forward(self, args: Mapping[str, Any]) -> dict[str, Tensor]:
        x, vec, options = args["img"], args["vec"], args["transformer_options"]
        h = x * (1 + vec)
        mask = args["self_attention_mask"]
        x += self.attn1(h, h, options, args["pe"], mask=mask) * vec
        x += self.attn2(x, args["txt"], options)
        return {"img": x}


class SoundBlock(nn.Module):
    """Six attentions, in the host's order."""

    def __init__(self) -> None:
        super().__init__()
        v, a = WIDTH, SOUND_WIDTH
        self.attn1, self.attn2 = Attention(v, v, v), Attention(v, v, v)
        self.audio_attn1, self.audio_attn2 = Attention(a, a, a), Attention(a, v, a)
        self.to_video, self.to_audio = Attention(v, a, a), Attention(a, v, a)

    def forward(self, args: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        (vx, ax), options = args["img"], args["transformer_options"]
        vec, cross = args["v_timestep"].expand(), args["v_cross_scale_shift_timestep"].expand()
        gate, mask = args["v_cross_gate_timestep"].expand(), args["self_attention_mask"]
        h = vx * (1 + vec)
        vx += self.attn1(h, h, options, args["v_pe"], mask=mask) * vec
        vx += self.attn2(vx, args["v_context"], options)
        ax += self.audio_attn1(ax, ax, options, args["a_pe"]) * args["a_timestep"]
        ax += self.audio_attn2(ax, args["a_context"], options)
        sound, scaled = ax.clone(), vx * (1 + cross)
        vx += gate * self.to_video(scaled, sound, options, args["v_cross_pe"], args["a_cross_pe"])
        scaled = vx * (1 - cross)
        ax += self.to_audio(sound, scaled, options, args["a_cross_pe"], args["v_cross_pe"])
        return {"img": (vx, ax)}


class LTXVModel(nn.Module):
    """Patches of one. The host's class, by its name."""

    block: type[nn.Module] = Block

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.inner_dim, self.num_attention_heads, self.out_channels = WIDTH, HEADS, CHANNELS
        self.audio_inner_dim = SOUND_WIDTH
        self.video_in, self.sound_in = nn.Linear(CHANNELS, WIDTH), nn.Linear(SOUND, SOUND_WIDTH)
        self.txt_in, self.time_in = nn.Linear(TEXT, WIDTH), nn.Linear(1, WIDTH)
        self.sound_time_in = nn.Linear(1, SOUND_WIDTH)
        self.transformer_blocks = nn.ModuleList(self.block() for _ in range(blocks))
        self.video_out, self.sound_out = nn.Linear(WIDTH, CHANNELS), nn.Linear(SOUND_WIDTH, SOUND)
        self.eval()

    @torch.no_grad()
    def forward(
        self,
        x: Any,
        timestep: Tensor,
        context: Tensor,
        keyframe_idxs: Tensor | None = None,
        left_out: Sequence[int] = (),
        bias: float = 0.0,
        levels: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Any:
        """`x` `(B, 4, F, H, W)`, in LTX-2 a list of it and sound; `context` `(B, T, 12)`.

        Args:
            keyframe_idxs: places `(B, 3, G, 2)` of the last rows, which are guides.
            left_out: rows of guides that are not there.
            bias: of the attention between video and guides.
            levels: share of the timestep, `(B, L, 1)` or `(B, F, 1)`.
        """
        options = dict(transformer_options or {})
        video = x if isinstance(x, Tensor) else x[0]
        places = torch.arange(video[0, 0].numel())
        kept = torch.tensor([i for i in places.tolist() if i not in left_out])
        places, rows = places[kept].float(), video.flatten(2).transpose(1, 2)[:, kept]
        mask = None
        if keyframe_idxs is not None:
            guides = keyframe_idxs.shape[2] - len(left_out)
            places[-guides:] = keyframe_idxs[0, 0, : len(places), 0][-guides:]
            if bias:
                mask = GuideMask(len(places), len(places) - guides, bias)
        times = timestep[:, None, None].expand(video.shape[0], 1, 1)
        if levels is not None:
            times = times * (levels if levels.shape[1] == video.shape[2] else levels[:, kept])
        given = {
            "transformer_options": options,
            "self_attention_mask": mask,
            "times": times,
            "places": places[None, :, None],
            "txt": self.txt_in(context),
            "patches": options.get("patches_replace", {}).get("dit", {}),
        }
        y, *more = self._blocks(self.video_in(rows), x, given)
        out = torch.zeros_like(video.flatten(2).transpose(1, 2))
        out[:, kept] = self.video_out(y)
        answer = out.transpose(1, 2).reshape(video.shape)
        return [answer, self.sound_out(more[0])] if more else answer

    def _blocks(self, rows: Tensor, x: Any, given: dict[str, Any]) -> Sequence[Tensor]:
        vec = self.time_in(given["times"])
        if 1 < vec.shape[1] < rows.shape[1]:
            vec = vec.repeat_interleave(rows.shape[1] // vec.shape[1], dim=1)
        shared = {
            "txt": given["txt"],
            "vec": vec,
            "pe": (table(given["places"], WIDTH // HEADS).movedim(1, 2), False),
            "transformer_options": given["transformer_options"],
            "self_attention_mask": given["self_attention_mask"],
        }
        return [self._run(rows, shared, given["patches"])]

    def _run(self, img: Any, shared: dict[str, Any], patches: Mapping[Any, Any]) -> Any:
        for i, block in enumerate(self.transformer_blocks):
            args, patch = {"img": img, **shared}, patches.get(("double_block", i))
            out = block(args) if patch is None else patch(args, {"original_block": block})
            img = out["img"]
        return img


class LTXAVModel(LTXVModel):
    """The same with sound."""

    block = SoundBlock

    def _blocks(self, rows: Tensor, x: Any, given: dict[str, Any]) -> Sequence[Tensor]:
        sound, times, places = self.sound_in(x[1]), given["times"], given["places"]
        frames = times.shape[1]
        per_frame = rows.shape[1] // frames if frames == x[0].shape[2] else None
        steps = [CompressedTimestep(self.time_in(times * n), per_frame) for n in (1.0, 0.7, 0.5)]
        sounds = torch.arange(sound.shape[1]).float()[None, :, None]
        wide, small = WIDTH // HEADS, SOUND_WIDTH // HEADS
        shared = {
            "v_context": given["txt"],
            "a_context": given["txt"],
            "v_timestep": steps[0],
            "v_cross_scale_shift_timestep": steps[1],
            "v_cross_gate_timestep": steps[2],
            "a_timestep": self.sound_time_in(times[:, :1]),
            "v_pe": (table(places, wide).movedim(1, 2), False),
            "a_pe": (table(sounds, small).movedim(1, 2), False),
            "v_cross_pe": (table(places, small).movedim(1, 2), False),
            "a_cross_pe": (table(sounds, small).movedim(1, 2), False),
            "transformer_options": given["transformer_options"],
            "self_attention_mask": given["self_attention_mask"],
        }
        return self._run((rows, sound), shared, given["patches"])


LTXVModel.__module__ = "comfy.ldm.lightricks.model"
LTXAVModel.__module__ = "comfy.ldm.lightricks.av_model"
