"""Bring the example workflows up to the nodes as they are now.

python tests/workflows/run.py

The files in `workflows/` are edited as they are. Only where the widgets of a node changed their
order, or one came or went, does this rewrite values.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from pack_loader import load_pack


def main() -> None:
    load_pack()
    from motioncache_pack.tests.support import fake_comfy

    fake_comfy.install()
    from motioncache_pack.tests.workflows import signatures
    from motioncache_pack.tests.workflows.refresh import refresh_all

    for name, changed in refresh_all(signatures.known()).items():
        print(f"{name}: {'changed' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
