"""Which keys and values of finished chunks to keep (FlowCache, arXiv 2602.10825).

A key is kept for what the queries of a chunk still being denoised ask of it (importance) and
dropped for how much it resembles all the others (redundancy), each head by its own choice:

    importance_i = max pool over rows of mean over q of softmax_i (q . k_i / sqrt(d))
    redundancy_i = softmax_i (khat_i . sum_j khat_j / n),  khat = k / |k|
    score_i      = mix * importance_i - (1 - mix) * redundancy_i

The redundancy is the mean cosine similarity to all keys. FlowCache leaves out the key itself,
which takes the same 1/n from every row and so nothing from the softmax. The sum over j is taken
first, which makes it linear in n. Where several heads of queries share one of keys, a key is asked
for by the one that wants it most. What is kept is not reweighted: the attention that a dropped
copy received is not handed to the copy that stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import CacheShapeError, SettingsError

# bytes of one fp32 temporary; one head's keys and one query's logits are allowed to exceed it
_BLOCK_BYTES = 64 * 2**20
_EPS = 1e-12


@dataclass(slots=True)
class Finished:
    """Rows of finished chunks at the front of a block's store.

    Attributes:
        rows: rows of the clip they stand for.
        kept: rows of the store they take; fewer once they are compressed.
    """

    rows: int = 0
    kept: int = 0

    @property
    def shift(self) -> int:
        """Row of the store minus row of the clip, for the rows behind."""
        return self.kept - self.rows


@torch.no_grad()
def kv_scores(q: Tensor, k: Tensor, *, heads: int, mix: float = 0.07, window: int = 7) -> Tensor:
    """How much each finished key is worth keeping (FlowCache, arXiv 2602.10825).

    Args:
        q: queries `(B, m, share * C)` of a chunk that is being denoised, after rotary,
            `C = heads * d`; `share` heads of queries in a row belong to one of keys.
        k: keys `(B, n, C)` of finished chunks in raster order, after rotary.
        heads: of the keys.
        mix: weight of importance, 0..1; redundancy has the rest.
        window: rows over which importance is max-pooled, odd; 1 turns pooling off.

    Returns:
        `(B, heads, n)` in fp32, computed in fp32 whatever the dtype of `q` and `k`.

    Raises:
        CacheShapeError: the shapes do not fit together, or there is no query or no key.
        SettingsError: `mix` or `window` is out of range.
    """
    _check_rows("queries", q, heads)
    _check_rows("keys", k, heads)
    if q.shape[0] != k.shape[0] or q.shape[2] % k.shape[2]:
        raise CacheShapeError(
            f"queries {tuple(q.shape)} and keys {tuple(k.shape)} differ in batch or width, of "
            "which the queries' may be a multiple; give both from the same block and the same "
            "evaluation"
        )
    if not 0.0 <= mix <= 1.0:
        raise SettingsError(f"mix is {mix}; it must be from 0 to 1 (published: 0.07)")
    if window < 1 or window % 2 == 0:
        raise SettingsError(f"window is {window}; it must be odd and at least 1 (published: 7)")
    m, (batch, n, width) = q.shape[1], k.shape
    d, share = width // heads, q.shape[2] // width
    keys = k.unflatten(-1, (heads, d)).transpose(1, 2)
    # (B, heads, share, m, d)
    queries = q.unflatten(-1, (heads, share, d)).permute(0, 2, 3, 1, 4)
    # all heads at once where that is small, else one head and as many of its queries as fit
    group = min(max(_BLOCK_BYTES // (4 * max(m * n, n * d, m * d)), 1), heads)
    # logits of two heads of queries live at a time where they share keys
    rows = max(_BLOCK_BYTES // (4 * group * max(n, d) * min(share, 2)), 1)
    scores = torch.empty(batch, heads, n, dtype=torch.float32, device=k.device)
    for b in range(batch):
        for first in range(0, heads, group):
            part = slice(first, first + group)
            dense = keys[b, part].contiguous().float()
            importance = _mean_attention(queries[b, part], dense, rows)
            pooled = F.max_pool1d(importance, window, stride=1, padding=window // 2)
            scores[b, part] = mix * pooled - (1.0 - mix) * _redundancy(dense)
    return scores


def kv_select(scores: Tensor, keep: int) -> Tensor:
    """Rows of the highest scores.

    Args:
        scores: `(B, heads, n)`.
        keep: rows to keep per head, 1..n.

    Returns:
        `(B, heads, keep)` int64, ascending, so that kept rows stay in raster order. Of equal
        scores the earlier row is kept.

    Raises:
        CacheShapeError: `scores` is not 3-D, or `keep` is out of range.
    """
    if scores.ndim != 3:
        raise CacheShapeError(f"scores {tuple(scores.shape)} must be (B, heads, n)")
    n = scores.shape[2]
    if not 1 <= keep <= n:
        raise CacheShapeError(f"keep is {keep}; there are {n} rows to choose from, keep 1 to {n}")
    # topk leaves the order of equal scores open
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :keep].sort(dim=-1).values


def kv_gather(x: Tensor, index: Tensor, heads: int) -> Tensor:
    """Each head's own rows.

    Args:
        x: `(B, n, C)` keys or values, `C = heads * d`.
        index: `(B, heads, keep)` int64 rows of `x`, as `kv_select` returns them.

    Returns:
        `(B, keep, C)` in the dtype of `x`, contiguous, in memory of its own: row r of head h is
        row `index[:, h, r]` of `x`.

    Raises:
        CacheShapeError: the shapes do not fit together.
    """
    _check_rows("keys or values", x, heads)
    if index.ndim != 3 or index.shape[:2] != (x.shape[0], heads):
        raise CacheShapeError(
            f"index {tuple(index.shape)} must be ({x.shape[0]}, {heads}, rows to keep) for keys "
            f"or values {tuple(x.shape)} of {heads} heads"
        )
    per_head: Tensor = x.unflatten(-1, (heads, -1))
    rows = index.transpose(1, 2).unsqueeze(-1).expand(-1, -1, -1, per_head.shape[-1])
    return per_head.gather(1, rows).flatten(2)


def compress_kv(
    q: Tensor, k: Tensor, v: Tensor, keep: int, *, heads: int, mix: float = 0.07
) -> tuple[Tensor, Tensor]:
    """Keys and values of finished chunks, cut down to `keep` rows per head.

    Args:
        q: queries `(B, m, share * C)` of a chunk that is being denoised, see `kv_scores`.
        k: keys `(B, n, C)` of finished chunks in raster order, after rotary, `C = heads * d`.
        v: their values `(B, n, C)`.
        keep: rows to keep per head, at least 1.
        mix: weight of importance against redundancy, see `kv_scores`.

    Returns:
        Two new tensors `(B, keep, C)`, whose rows are no longer the same tokens in every head;
        `k` and `v` themselves where `keep >= n`.

    Raises:
        CacheShapeError: the shapes do not fit together, or `keep` is below 1.
        SettingsError: `mix` is out of range.
    """
    _check_rows("keys", k, heads)
    if k.shape != v.shape:
        raise CacheShapeError(
            f"keys {tuple(k.shape)} and values {tuple(v.shape)} must have the same shape"
        )
    if keep < 1:
        raise CacheShapeError(f"keep is {keep}; it must be at least 1 row per head")
    if keep >= k.shape[1]:
        return k, v
    index = kv_select(kv_scores(q, k, heads=heads, mix=mix), keep)
    return kv_gather(k, index, heads), kv_gather(v, index, heads)


def _mean_attention(q: Tensor, k: Tensor, rows: int) -> Tensor:
    """Mean over queries `(H, share, m, d)` of their softmax over keys `(H, n, d)` in fp32, of the
    largest logit of those that share keys: `(H, n)`."""
    share, m, d = q.shape[1:]
    scale = d**-0.5
    total = k.new_zeros(k.shape[0], 1, k.shape[1])
    for first in range(0, m, rows):
        # in place, because this is by far the largest tensor here
        weights = (q[:, 0, first : first + rows].float() * scale) @ k.mT
        for other in range(1, share):
            more = (q[:, other, first : first + rows].float() * scale) @ k.mT
            torch.maximum(weights, more, out=weights)
            del more
        weights.sub_(weights.amax(dim=-1, keepdim=True)).exp_()
        total += weights.sum(dim=-1).reciprocal().unsqueeze(1) @ weights
        # freed before the next block is made, or two would live at a time
        del weights
    return (total / m).squeeze(1)


def _redundancy(k: Tensor) -> Tensor:
    """Softmax over rows of the mean cosine similarity to all rows: `(H, n, d) -> (H, n)`."""
    inverse = torch.linalg.vector_norm(k, dim=-1).clamp_min(_EPS).reciprocal().unsqueeze(-1)
    directions = inverse.mT @ k
    similarity: Tensor = (k @ directions.mT) * inverse
    return (similarity.squeeze(-1) / k.shape[1]).softmax(dim=-1)


def _check_rows(name: str, x: Tensor, heads: int) -> None:
    if x.ndim != 3 or 0 in x.shape:
        raise CacheShapeError(f"{name} {tuple(x.shape)} must be (B, rows, C), none of them 0")
    if heads < 1 or x.shape[2] % heads:
        raise CacheShapeError(
            f"{name} {tuple(x.shape)} of {heads} heads: the width must be a multiple of the heads"
        )
