"""MAGI-1's files among ComfyUI's: checkpoints with their shards, and the special tokens."""

from __future__ import annotations

import functools
from pathlib import Path

import comfy.utils
from torch import Tensor

from ...motioncache_core import MotionCacheError
from ...motioncache_core.models.magi1.checkpoint import check_shards, own_names, shard_names
from ...motioncache_core.models.magi1.special_tokens import FILE_NAMES, WHERE, read_table


def read_checkpoint(name: str) -> dict[str, Tensor]:
    """The tensors of a file of the `diffusion_models` folders and of its other shards.

    Raises:
        UnsupportedModelError: a shard is missing or packed.
    """
    import folder_paths

    path = Path(folder_paths.get_full_path_or_raise("diffusion_models", name))
    shards = shard_names(path.name)
    check_shards(shards, [file.name for file in path.parent.iterdir()])
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= comfy.utils.load_torch_file(str(path.parent / shard))
    return own_names(tensors)


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
