"""Run every bench and keep its result.

python tests/bench/run.py --out out/bench
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHES = {"engine": "engine.py", "kernels": "kernels.py", "diffusion_forcing": "forcing/run.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run every bench.")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    args = parser.parse_args()
    failed = []
    for name, script in BENCHES.items():
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / script), "--json"]
        if subprocess.run([*command, str(args.out / f"{name}.json")]).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
