"""Quality over compute: what each way of reusing costs the video, on the small models.

    python tests/bench/quality/run.py --out out/quality [--quick] [--model NAME] [--publish]

Policies: whole-step reuse (TeaCache) in ordinary sampling, whole-chunk reuse (FlowCache) in
diffusion forcing, each also with our forecast; motion as published and as the pack's presets set
it; as many random tokens as that; and, where `COMFYUI_PATH` names a ComfyUI, its own EasyCache and
LazyCache. Each is swept over budgets or thresholds on the same clips. No figure is printed when
the gate is red. A bench that was stopped goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import RESULTS
from quality.analysis import analysis
from quality.bench import make, parsed, parser, result_name, sweeps, write
from quality.cases import ORDINARY
from quality.host import peers_wanted
from quality.policies import comparisons, grid
from quality.report import PANELS, grid_of_panels, markdown

# claims are made on the second one
SEEDS = {"tracks": 12, "confirmation": 24}


def main() -> None:
    args = parsed(parser((__doc__ or "").splitlines()[0], SEEDS))
    name = result_name("quality", args)
    peers = peers_wanted()
    grids, store, checked = make(args, args.modes, lambda clip: grid(clip, args.quick, peers))
    figures: dict[str, Any] = {}
    tables, drawn = [], []
    for mode in args.modes:
        hosted = peers and mode == ORDINARY
        figures[mode] = analysis(sweeps(grids, store, mode), comparisons(mode, hosted))
        tables.append(markdown(mode, figures[mode]))
        place = args.out / f"{name}_{mode.replace(', ', '_')}.png"
        panels = {label: (figures[mode]["policies"], name) for name, label in PANELS.items()}
        grid_of_panels(f"{mode}, {args.seeds} clips, {args.steps} steps", place, panels)
        drawn.append(place)
    write(name, "Quality over compute", args, figures, "\n\n".join(tables), checked)
    if args.publish:
        for file in drawn:
            shutil.copy(file, RESULTS)


if __name__ == "__main__":
    main()
