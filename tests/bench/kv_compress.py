"""What compressed keys and values lose, beside dropping rows at random.

    python tests/bench/kv_compress.py [--seeds N] [--json FILE]

Synthetic rows that invite compression: as many distinct keys as copies of one other, a row to keep
for every distinct key. Queries ask for single keys; `lead` is how far the asked-for key's logit
lies above those of keys at right angles to it, 0 is attention without a preference. The error is
that of the attention's output against all rows, relative.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import environment, load_pack

load_pack()

from motioncache_pack.motioncache_core.cache.kv_compress import compress_kv, kv_scores, kv_select  # noqa: E402

DISTINCT, COPIES, WIDTH = 40, 40, 64
LEADS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head over `(1, N, C)` rows."""
    return torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, dim=-1) @ v


def errors(lead: float, seed: int) -> tuple[float, float]:
    """Relative error after compression, and after keeping as many random rows."""
    rng = torch.Generator().manual_seed(seed)
    keys = torch.nn.functional.normalize(torch.randn(DISTINCT + 1, WIDTH, generator=rng), dim=-1)
    values = torch.randn(DISTINCT + 1, WIDTH, generator=rng)
    rows = torch.cat((torch.arange(DISTINCT), torch.full((COPIES,), DISTINCT)))
    rows = rows[torch.randperm(len(rows), generator=rng)]
    k, v, q = keys[rows][None], values[rows][None], lead * WIDTH**0.5 * keys[None]
    full = attend(q, k, v)
    keep = DISTINCT + 1
    kept = torch.randperm(len(rows), generator=rng)[:keep].sort().values
    found = []
    for some_k, some_v in (compress_kv(q, k, v, keep, heads=1), (k[:, kept], v[:, kept])):
        found.append(float((attend(q, some_k, some_v) - full).norm() / full.norm()))
    return found[0], found[1]


def check() -> None:
    """Refuse to measure a compression that keeps other rows than its scores say, or loses some."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, WIDTH, generator=rng) for n in (3, 30, 30))
    kept_k, kept_v = compress_kv(q, k, v, 12, heads=1)
    rows = kv_select(kv_scores(q, k, heads=1), 12)[0, 0]
    right = torch.equal(kept_k, k[:, rows]) and torch.equal(kept_v, v[:, rows])
    if not right or not torch.equal(compress_kv(q, k, v, 30, heads=1)[0], k):
        sys.exit("compress_kv does not keep the rows that its scores choose; nothing is measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    print(
        f"{'lead':>6} {'compressed':>11} {'random':>8}   relative error, mean of {args.seeds} seeds"
    )
    for lead in LEADS:
        pairs = [errors(lead, seed) for seed in range(args.seeds)]
        compressed, random = (round(statistics.fmean(x), 4) for x in zip(*pairs, strict=True))
        rows.append({"lead": lead, "compressed": compressed, "random": random})
        print(f"{lead:6.1f} {compressed:11.4f} {random:8.4f}")
    if args.json:
        data = {
            "bench": "kv_compress",
            "baseline": "all rows kept",
            "rows": {"distinct": DISTINCT, "copies of one": COPIES, "kept": DISTINCT + 1},
            "seeds": args.seeds,
            "relative_error": rows,
            "environment": environment(),
        }
        args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
