"""Write the example workflows and their thumbnails.

python tests/workflows/run.py                 # the .json files
python tests/workflows/run.py --thumbnails    # the .jpg files too; samples with the demo model
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"


sys.path.insert(0, str(ROOT / "tests" / "support"))

from pack_loader import load_pack  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--thumbnails", action="store_true", help="draw the .jpg files too")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    load_pack()
    from motioncache_pack.tests.support import fake_comfy

    fake_comfy.install()
    from motioncache_pack.tests.workflows.examples import EXAMPLES

    args.out.mkdir(parents=True, exist_ok=True)
    for name, describe in EXAMPLES.items():
        graph = describe()
        (args.out / f"{name}.json").write_text(graph.as_json(), "utf-8", newline="\n")
        print(f"{name}.json: {len(graph.nodes)} nodes, {len(graph.links)} links")
    if args.thumbnails:
        from motioncache_pack.tests.workflows import thumbnails

        for name in EXAMPLES:
            size = thumbnails.draw(name, args.out / f"{name}.jpg")
            print(f"{name}.jpg: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
