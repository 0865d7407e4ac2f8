"""A fixed linear codec between small RGB videos and 16 latent channels.

Each 4x4 pixel block becomes its lowest DCT-II coefficients: ten of luma, three of each chroma
plane. Nothing is learned, so decoding is exact to float precision and easy to reason about. One
latent frame is one video frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 4
CHANNELS = 16

# (plane, vertical frequency, horizontal frequency); plane 0 is luma, 1 and 2 are chroma
_KEPT = tuple((0, u, v) for s in range(4) for u in range(s + 1) for v in (s - u,)) + tuple(
    (p, u, v) for p in (1, 2) for u, v in ((0, 0), (0, 1), (1, 0))
)
# the grey whose latents are zero
GREY = 0.39
# standard deviations over the demo scenes come out near 1.2, 0.6, 0.3, 0.15 by order of frequency:
# full whitening would make the model spend most of its loss on detail that nobody sees
_LUMA_GAIN = (11.5, 28.0, 56.0, 88.0)
_CHROMA_GAIN = (16.0, 50.0)


def _rgb_to_ycc() -> Tensor:
    """Luma and two chroma planes of BT.601 as a 3x3 matrix, chroma scaled to luma's range."""
    return torch.tensor(
        [
            [0.299, 0.587, 0.114],
            [-0.168736, -0.331264, 0.5],
            [0.5, -0.418688, -0.081312],
        ]
    )


def _dct(n: int) -> Tensor:
    """Orthonormal DCT-II matrix `(n, n)`, divided by sqrt(n) so that DC is the block's mean."""
    k = torch.arange(n)[:, None]
    i = torch.arange(n)[None, :]
    m = torch.cos(math.pi * (2 * i + 1) * k / (2 * n)) * math.sqrt(2 / n)
    m[0] /= math.sqrt(2)
    return m / math.sqrt(n)


def _basis() -> tuple[Tensor, Tensor]:
    """Analysis matrix `(16, 3 * 16)` and its right inverse for synthesis."""
    dct, ycc = _dct(BLOCK), _rgb_to_ycc()
    inverse_ycc = torch.linalg.inv(ycc)
    analysis, synthesis = [], []
    for plane, u, v in _KEPT:
        patch = torch.outer(dct[u], dct[v])
        gain = (_CHROMA_GAIN if plane else _LUMA_GAIN)[u + v]
        analysis.append((ycc[plane][:, None, None] * patch * gain).flatten())
        synthesis.append(
            (inverse_ycc[:, plane][:, None, None] * patch * (BLOCK**2 / gain)).flatten()
        )
    return torch.stack(analysis), torch.stack(synthesis)


_ANALYSIS, _SYNTHESIS = _basis()


def encode(video: Tensor) -> Tensor:
    """RGB `(B, F, H, W, 3)` in 0..1 to latents `(B, 16, F, H/4, W/4)`, about unit variance."""
    b, f, h, w, _ = video.shape
    if h % BLOCK or w % BLOCK:
        raise ValueError(f"frames are {w}x{h}; both sides must be multiples of {BLOCK}")
    x = (video - GREY).reshape(b, f, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3)
    x = x.permute(0, 1, 2, 4, 6, 3, 5).flatten(4)
    return (x @ _ANALYSIS.to(x).T).permute(0, 4, 1, 2, 3).contiguous()


def decode(latents: Tensor) -> Tensor:
    """Latents `(B, 16, F, h, w)` to RGB `(B, F, 4h, 4w, 3)` clamped to 0..1."""
    if latents.ndim != 5 or latents.shape[1] != CHANNELS:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}; the demo codec takes (B, 16, F, h, w)"
        )
    b, _, f, h, w = latents.shape
    x = latents.float().permute(0, 2, 3, 4, 1) @ _SYNTHESIS.to(latents.device)
    x = x.reshape(b, f, h, w, 3, BLOCK, BLOCK).permute(0, 1, 2, 5, 3, 6, 4)
    return (x.reshape(b, f, h * BLOCK, w * BLOCK, 3) + GREY).clamp(0, 1)
