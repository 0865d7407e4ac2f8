"""Where MAGI-1's table of special tokens lies among ComfyUI's files."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor

from ...motioncache_core import MotionCacheError
from ...motioncache_core.models.magi1.special_tokens import FILE_NAMES, WHERE, read_table


def special_token_table() -> Tensor:
    """The table `(rows, 4096)` of the file in the `text_encoders` folders, or below them.

    Raises:
        MotionCacheError: there is no such file.
        UnsupportedModelError: the file is another.
    """
    import folder_paths

    folders = [Path(folder) for folder in folder_paths.get_folder_paths("text_encoders")]
    for folder in folders:
        for name in FILE_NAMES:
            for path in sorted(folder.glob(f"**/{name}")):
                return _read(path, path.stat().st_mtime_ns)
    raise MotionCacheError(
        f"MAGI-1's table of special tokens is missing: there is no {' or '.join(FILE_NAMES)} in "
        f"{', '.join(map(str, folders))}. {WHERE}"
    )


@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> Tensor:
    return read_table(path)
