"""Runs that several processes compute together, as raylight does with one for each GPU."""

from __future__ import annotations

import torch.distributed

from ...motioncache_core.common.reasons import Reason, because


def several_ranks() -> Reason | None:
    """Why single tokens are left alone here; None in a process on its own.

    Every call of the network is a meeting of all ranks, which have to decide alike. That is so of
    what follows from the schedule, not of what each finds in its own part of the tokens.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    ranks = torch.distributed.get_world_size()
    return because("several_ranks", ranks=ranks) if ranks > 1 else None
