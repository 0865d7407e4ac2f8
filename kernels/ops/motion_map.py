from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..library import FLOATS, define, run_op


@define(
    "(Tensor features) -> Tensor",
    fake=lambda features: features.new_empty(features.shape[:3], dtype=torch.float32),
    kernel_dtypes={"features": FLOATS},
)
def motion_map(features: Tensor) -> Tensor:
    """Relative L1 distance of each token to the token at its place one frame before.

    `D[b,f,s] = sum_c |y[f] - y[f-1]| / (sum_c |y[f-1]| + C * 1e-8)`, in fp32 (MotionCache's motion
    score; TeaCache's distance per token). No frame is before the first: `D[0] = D[1]`, and a single
    frame has no motion: zeros.

    Args:
        features: [B, F, S, C] float, S tokens a frame.

    Returns:
        [B, F, S] float32.
    """
    op = "motion_map"
    checks.shape(op, "features", features, "[B, F, S, C]", -1, -1, -1, -1)
    checks.floating(op, "features", features)
    checks.contiguous(op, "features", features)
    result: Tensor = run_op(op, features)
    return result
