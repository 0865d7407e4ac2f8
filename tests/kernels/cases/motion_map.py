from __future__ import annotations

from dataclasses import replace

import torch

from . import Case, Sizes, floats

# predicted video: 16 latent channels in patches of 2 x 2
LATENT = 64


def features(sizes: Sizes) -> Case:
    x = floats(sizes, sizes.batch, sizes.frames, sizes.tokens, sizes.channels)
    moved = sizes.nbytes(sizes.length) + 4 * sizes.batch * sizes.length
    return Case("motion_map", lambda: (x,), moved)


def predicted_video(sizes: Sizes) -> Case:
    return features(replace(sizes, channels=LATENT, dtype=torch.float32))


CASES = {"": features, "video": predicted_video}
