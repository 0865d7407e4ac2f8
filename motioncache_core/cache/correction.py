"""What the forecast missed, told by the tokens that are computed to those that are not (ours).

A forecast that misses at a token misses alike at tokens near it and like it. A partial evaluation
sees by how much at the tokens that it computes; for every other token the mean of that over its
neighbourhood, weighted by likeness, is added to its forecast, and kept with its residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..common.host_transfer import upload
from ..common.protocols import TokenOps
from ..common.token_layout import TokenLayout

# neighbourhood: latent frames before and after, rows above and below, columns left and right
REACH = (2, 1, 1)
# what a frame, and a row or column, of distance counts against likeness (chosen on the demo model)
PER_FRAME, PER_CELL = 0.5, 1.0
# cosine of what tells tokens apart: at what difference a token counts a third of another
LIKENESS = 0.2
# numbers a token is told apart by
FEATURES = 64
# rows in fp32 at a time
ROWS = 4096


@dataclass(frozen=True, slots=True)
class Correction:
    """Tokens of chunks that an evaluation computes in part, and who corrects them.

    Attributes:
        targets: `(m,)` int32, tokens that are not computed.
        sources: `(m, K)` int32, places of their neighbours in the list of computed rows, or -1.
        distance: `(K,)` fp32, what the neighbours' places count against them.
        inverse: `(1, L)` int32, place of a token in that list followed by the targets, or -1.
        inverse_interval: `(L,)` fp32, as in the plan, but 0 for targets, which learn no slope.
        strength: how much of what is told is believed.
    """

    targets: Tensor
    sources: Tensor
    distance: Tensor
    inverse: Tensor
    inverse_interval: Tensor
    strength: float

    def weights(self, features: Tensor, rows: Tensor) -> Tensor:
        """Weights `(B, m, K)` fp32 of the neighbours; they add up to the strength, or to 0
        where there are none.

        Args:
            features: `(B, L, D)`, what tells tokens apart.
            rows: computed rows `(n,)` int32.
        """
        alike = normalize(features - features.mean(dim=1, keepdim=True), dim=-1)
        mine, computed = (alike.index_select(1, where) for where in (self.targets, rows))
        near = self.sources.clamp_min(0).t().contiguous()
        found = mine.new_empty((len(near), *mine.shape[:2]))
        for k, source in enumerate(near):
            torch.sum(computed.index_select(1, source).mul_(mine), dim=-1, out=found[k])
        logits = found.div_(LIKENESS).permute(1, 2, 0).contiguous()
        logits -= self.distance
        missing = self.sources < 0
        logits.masked_fill_(missing, float("-inf"))
        # a softmax of nothing is no number; any other NaN is the model's, and stays
        return logits.softmax(dim=-1).masked_fill_(missing, 0.0).mul_(self.strength)


def correction(
    layout: TokenLayout,
    active: tuple[int, ...],
    inverse: Tensor,
    inverse_interval: Tensor,
    fresh: Tensor,
    strength: float,
    ops: TokenOps,
) -> Correction | None:
    """Who corrects whom; None where no chunk is computed in part.

    Args:
        active: tokens that are computed, by chunk.
        inverse: `(1, L)` int32, place of a token among them, or -1.
        inverse_interval: `(L,)` fp32.
        fresh: `(L,)` bool, tokens that were computed in their chunk's last evaluation too. What
            the others' forecast missed has added up since, and tells nothing of this evaluation.
    """
    spans = [
        (rows, n)
        for rows, n in zip(layout.chunk_rows(), active, strict=True)
        if 0 < n < rows.stop - rows.start
    ]
    if not spans:
        return None
    device = inverse.device
    resting = torch.zeros(layout.tokens, dtype=torch.bool, device=device)
    for rows, _ in spans:
        resting[rows] = inverse[0, rows] < 0
    count = sum(rows.stop - rows.start - n for rows, n in spans)
    targets, places, _ = ops.compact_rows(resting)
    targets = targets[:count]
    sources, distance = _neighbours(layout, targets, inverse[0], fresh)
    joined = torch.where(resting, places + sum(active), inverse[0])[None]
    return Correction(
        targets,
        sources,
        distance,
        joined,
        inverse_interval.masked_fill(resting, 0.0),
        strength,
    )


def features(x: Tensor) -> Tensor:
    """Rows `(..., C)` as `(..., FEATURES)` fp32, whose cosines are about those of the rows."""
    width = x.shape[-1]
    # random directions keep angles; made on the host, they are the same on every device
    drawn = torch.randn(width * FEATURES, generator=torch.Generator().manual_seed(0))
    directions = upload(drawn, x.device).view(width, FEATURES)
    # halves would overflow, and all rows in fp32 take too much memory
    return torch.cat([rows.float() @ directions for rows in x.split(ROWS, dim=-2)], dim=-2)


def _neighbours(
    layout: TokenLayout, targets: Tensor, inverse: Tensor, fresh: Tensor
) -> tuple[Tensor, Tensor]:
    """Places of the computed tokens around each target, within its chunk, and their distance."""
    device = targets.device
    sides = [2 * reach + 1 for reach in REACH]
    k = torch.arange(sides[0] * sides[1] * sides[2], device=device)
    step = (
        k // (sides[1] * sides[2]) - REACH[0],
        k // sides[2] % sides[1] - REACH[1],
        k % sides[2] - REACH[2],
    )
    row = targets.long()[:, None]
    frame, place = row // layout.spatial, row % layout.spatial
    at = (frame + step[0], place // layout.width + step[1], place % layout.width + step[2])
    chunk = torch.empty(layout.frames, dtype=torch.int64, device=device)
    for i, span in enumerate(layout.chunk_frames()):
        chunk[span] = i
    inside = (at[0] >= 0) & (at[0] < layout.frames)
    inside &= chunk[at[0].clamp(0, layout.frames - 1)] == chunk[frame]
    for position, size in zip(at[1:], (layout.height, layout.width), strict=True):
        inside &= (position >= 0) & (position < size)
    token = (at[0] * layout.height + at[1]) * layout.width + at[2]
    token = token.clamp(0, layout.tokens - 1)
    sources = torch.where(inside & fresh[token], inverse[token], -1)
    distance = PER_FRAME * step[0].abs() + PER_CELL * (step[1].abs() + step[2].abs())
    return sources.to(torch.int32), distance.float()
