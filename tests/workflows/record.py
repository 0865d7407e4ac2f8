"""Record the signatures of the core nodes that the examples use from a running ComfyUI.

python tests/workflows/record.py http://127.0.0.1:8188
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import urllib.request
from pathlib import Path

NODES = (
    "BasicScheduler",
    "CLIPLoader",
    "CLIPTextEncode",
    "CLIPVisionEncode",
    "CLIPVisionLoader",
    "CreateVideo",
    "EmptyHunyuanLatentVideo",
    "ImageStitch",
    "KSampler",
    "KSamplerAdvanced",
    "LoadImage",
    "ModelSamplingSD3",
    "PreviewAny",
    "PreviewImage",
    "SamplerCustom",
    "SaveAnimatedWEBP",
    "SaveVideo",
    "UNETLoader",
    "VAEDecode",
    "VAELoader",
    "Wan22ImageToVideoLatent",
    "WanImageToVideo",
)

# by path: this script needs neither torch nor the pack
_spec = importlib.util.spec_from_file_location(
    "signatures", Path(__file__).with_name("signatures.py")
)
assert _spec is not None and _spec.loader is not None
signatures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(signatures)


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
    nodes = {name: signatures.from_info(infos[name]) for name in NODES}
    rows = [
        f'  "{name}": {{"inputs": [\n'
        + ",\n".join(f"    {json.dumps(item)}" for item in node["inputs"])
        + f'\n  ], "outputs": {json.dumps(node["outputs"])}}}'
        for name, node in nodes.items()
    ]
    text = f'{{\n "comfyui": "{version}",\n "nodes": {{\n' + ",\n".join(rows) + "\n }\n}\n"
    signatures.CORE_FILE.write_text(text, "utf-8")
    print(f"{len(nodes)} nodes of ComfyUI {version}")


if __name__ == "__main__":
    main()
