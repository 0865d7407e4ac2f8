"""The presets in runs of few steps, as they are written and as they are resolved for the run.

    python tests/bench/short_runs.py [--json FILE] [--steps N ...]

Like `presets.py`: the demo model, PSNR of the decoded clip against the same sampler without cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import environment
from presets import Clips

from motioncache_pack.motioncache_core import PRESETS, settings_for_run  # isort: skip
from motioncache_pack.motioncache_core.demo import checkpoint  # isort: skip
from motioncache_pack.motioncache_core.settings import FIXED


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, rows, count = checkpoint.load(), [], 0
    for steps in args.steps:
        clips = Clips(model, steps, args.seeds)
        count = len(clips.plain)
        for name in PRESETS:
            written, resolved = PRESETS[name], settings_for_run(name, steps).settings
            if name in FIXED or written == resolved:
                continue
            for label, settings in (("written", written), ("resolved", resolved)):
                row = {
                    "steps": steps, "preset": name, "settings": label,
                    "warmup_steps": settings.warmup_steps, **clips.measure(settings),
                }  # fmt: skip
                rows.append(row)
                print(json.dumps(row), flush=True)
    if args.json:
        data = {
            "bench": "short_runs", "clips": count, "rows": rows, "environment": environment()
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
