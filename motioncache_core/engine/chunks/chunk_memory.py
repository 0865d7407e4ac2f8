"""Where the keys and values of a chunk-by-chunk run go, decided before it from bytes."""

from __future__ import annotations

import torch

from ...cache.kv_blocks.block import TierResources
from ...cache.kv_bytes import KVBytes, usable
from ...cache.kv_placement import Placement, choose_causal_placement
from ...cache.kv_tiers import KVTiers
from ...common.phrases import phrase
from ...common.protocols import TokenOps
from ...models.magi1.config import MagiConfig
from ...models.magi1.options import MagiOptions
from ...sampling.run_facts import RunFacts

_WHY = phrase("later chunks look at them")
_ADVICE = phrase("set window to 2 or 1 in the sampling node, or use a smaller video")
# keys of this many chunks are kept at the same time, whatever the window
_CHUNKS_KEPT = 5


def chunks_kept(options: MagiOptions, distilled: bool) -> int:
    """Chunks whose keys a pass keeps at the same time, of a long clip."""
    if options.kv_keep == 0:
        return _CHUNKS_KEPT
    # the base model's passes share a finished chunk's keys one step later
    return options.kv_keep + options.window + (0 if distilled else 1)


def chunk_tiers(
    config: MagiConfig,
    ops: TokenOps,
    run: RunFacts,
    kv_cache: str,
    rows: int,
    passes: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[KVTiers, Placement]:
    """Where keys and values go, and why.

    Args:
        kv_cache: as in the settings; "off" turns off what they are not needed for.
        rows: tokens that are kept at the same time.
        passes: whose keys are kept apart.
        dtype: of keys and values.

    Raises:
        SettingsError: the device cannot do what `kv_cache` asks for.
    """
    like = torch.empty((1, rows, 0), dtype=dtype, device=device)
    need = KVBytes.of(like, config.blocks, config.groups, config.key_width, passes)
    placement = choose_causal_placement(
        kv_cache, need, run.free_memory, run.free_host_memory, run.make_room, why=_WHY,
        advice=_ADVICE,
    )  # fmt: skip
    shared = TierResources(config.groups, ops)
    known = usable(device, dtype)
    told = f"MAGI-1's {_WHY}: {_ADVICE}"
    return KVTiers(shared, list(placement.tiers), True, known, need=told), placement
