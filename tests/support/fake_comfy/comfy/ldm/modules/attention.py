"""Attention over heads that lie side by side in the channels."""

from __future__ import annotations

import torch.nn.functional as F


def optimized_attention(q, k, v, heads, mask=None, enable_gqa=False, **kwargs):
    width = q.shape[-1] // heads
    q, k, v = (t.unflatten(-1, (-1, width)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=enable_gqa)
    return out.transpose(1, 2).flatten(2)
