"""Files that the page reads while ComfyUI runs; ComfyUI deletes them when it starts again."""

from __future__ import annotations

import secrets
from pathlib import Path

import folder_paths


def keep_for_page(data: bytes, name: str, suffix: str) -> dict[str, str]:
    """Write to ComfyUI's temp folder; returns what the page asks `/view` for.

    Args:
        name: what the file's name begins with; the rest is random, so that the page does not show
            an older file that it remembers.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    file = f"motioncache_{name}_{secrets.token_hex(8)}.{suffix}"
    (folder / file).write_bytes(data)
    return {"filename": file, "subfolder": "", "type": "temp"}
