"""Draw every committed picture: those of the help pages, and the workflows' thumbnails.

python tests/pictures/run.py            # all; samples with the shipped model
python tests/pictures/run.py Report     # those whose name contains a word
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELP, WORKFLOWS = ROOT / "nodes" / "web" / "docs", ROOT / "workflows"


sys.path.insert(0, str(ROOT / "tests" / "support"))

from pack_loader import load_pack  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only pictures whose name contains one of these")
    words = parser.parse_args().words
    load_pack()
    from motioncache_pack.motioncache_core.demo.wan import DemoWan
    from motioncache_pack.tests.support import fake_comfy

    fake_comfy.install()
    fake_comfy.set_network_factory(DemoWan.from_state_dict)
    from motioncache_pack.tests.pictures import help as helped
    from motioncache_pack.tests.pictures import thumbnails

    def wanted(name: str) -> bool:
        return not words or any(word.lower() in name.lower() for word in words)

    runs = helped.Runs()
    for name in filter(wanted, runs.nodes):
        path = HELP / f"{name}.jpg"
        helped.draw(name, runs).save(path, "JPEG", quality=85, optimize=True)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    for name in filter(wanted, thumbnails.NAMES):
        size = thumbnails.draw(name, WORKFLOWS / f"{name}.jpg")
        print(f"workflows/{name}.jpg: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
