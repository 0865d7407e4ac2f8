"""Attention over heads that lie side by side in the channels."""

from __future__ import annotations

import torch.nn.functional as F


def optimized_attention(query, key, value, heads, mask=None, attn_precision=None,
                        skip_reshape=False, skip_output_reshape=False, **kwargs):  # fmt: skip
    assert not skip_reshape and not skip_output_reshape
    width = query.shape[-1] // heads
    q, k, v = (t.unflatten(-1, (-1, width)).transpose(1, 2) for t in (query, key, value))
    gqa = kwargs.get("enable_gqa", False)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)
    return out.transpose(1, 2).flatten(2)
