"""Record the signatures of the core nodes that the examples use from a running ComfyUI.

python tests/workflows/record.py http://127.0.0.1:8188
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from pathlib import Path

# by path: this script needs neither torch nor the pack
sys.path.insert(0, str(Path(__file__).parent))

import examples
import signatures


def get(url: str) -> dict:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", nargs="?", default="http://127.0.0.1:8188")
    server = parser.parse_args().server.rstrip("/")
    infos = get(f"{server}/object_info")
    version = get(f"{server}/system_stats")["system"]["comfyui_version"]
    used = {node["type"] for name in examples.EXAMPLES for node in examples.read(name)["nodes"]}
    core = sorted(kind for kind in used - {*signatures.NOTES} if not kind.startswith("MotionCache"))
    recorded = {"comfyui": version, "nodes": {k: signatures.from_info(infos[k]) for k in core}}
    signatures.CORE_FILE.write_text(examples.as_text(recorded), "utf-8", newline="\n")
    print(f"{len(core)} nodes of ComfyUI {version}")


if __name__ == "__main__":
    main()
