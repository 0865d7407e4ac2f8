"""Motion weights: how much a token's neighbourhood in time differs, per frame in [floor, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_maps(maps: Sequence[Tensor]) -> Tensor:
    """Inter-frame differences `(F, S)` of all branches' `(b, F, S)` maps.

    Branches are averaged; of the samples of a batch the most moving one counts, since they share
    one decision (ours; the published code averages over everything).
    """
    return torch.stack(tuple(maps)).mean(dim=0).amax(dim=0)


def motion_weights(difference: Tensor, sensitivity: float) -> Tensor:
    """Weights `(F, S)` fp32 in `[1 - sensitivity, 1]` from differences `(F, S)`.

    Min-max per frame, as published (equations 9 to 11 of arXiv 2605.01725, mode "max_rescale").
    """
    low = difference.amin(dim=1, keepdim=True)
    high = difference.amax(dim=1, keepdim=True)
    scaled = (difference - low) / (high - low + 1e-8)
    return (1.0 - sensitivity) + sensitivity * scaled


def change_weights(change: Tensor, sensitivity: float) -> Tensor:
    """Weights `(F, S)` fp32 in [0, 1] from how fast residuals change `(F, S)` (ours).

    `(change / max) ** sensitivity` over the chunk. The error of a forecast grows with the square of
    the time since a token was computed. At a fixed number of tokens an evaluation, the sum of
    squared errors is smallest where tokens are computed at rates that go as `change ** (2 / 5)`.
    """
    weights: Tensor = (change / change.amax().clamp_min(1e-30)).pow(sensitivity)
    return weights


def rate_of_change(slope: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean size of a token's residual slope: `(B, L, C)` to `(B, F, S)` fp32, grid F and S."""
    size = torch.linalg.vector_norm(slope, ord=1, dim=-1, dtype=torch.float32) / slope.shape[-1]
    shown: Tensor = size.view(-1, *grid)
    return shown


def token_patches(latents: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Latents `(B, C, F, H, W)` as one feature row a token, `(B, F', h*w, C*p)`.

    F, H and W are padded by repetition where the patch does not fit, as the models do.
    """
    b, c, f, h, w = latents.shape
    pf, ph, pw = patch
    pad_f, pad_h, pad_w = -f % pf, -h % ph, -w % pw
    if pad_f or pad_h or pad_w:
        around = (0, pad_w, 0, pad_h, 0, pad_f)
        latents = torch.nn.functional.pad(latents, around, mode="circular")
        f, h, w = f + pad_f, h + pad_h, w + pad_w
    x = latents.reshape(b, c, f // pf, pf, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, f // pf, (h // ph) * (w // pw), -1)
