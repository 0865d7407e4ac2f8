"""Let torchvision and torchaudio wheels built for CUDA import next to a CPU build of torch.

ComfyUI imports both. Package indexes that only carry their CUDA builds leave a test machine
without a GPU with wheels whose compiled parts cannot load; the Python parts work. This file
repairs the two places where that makes the import itself fail, and nothing else:

* torchvision registers fake kernels for ops that its compiled part would have declared, so the
  two op schemas are declared first. Calling such an op still fails with torch's own message.
* torchaudio raises when its extension does not load, so its loader is told that there is none.

Put this folder on PYTHONPATH (Python runs `sitecustomize` at start), or execute the file before
ComfyUI is imported. It does nothing until one of the two is imported, and imports no torch early.
"""

import importlib.abc
import importlib.machinery
import sys

_OPS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep = []


def _before_torchvision(module):
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPS:
        try:
            library.define(schema)
        except RuntimeError:
            # a build that fits has declared it already
            return
    # the definitions live as long as the library object
    _keep.append(library)


def _after_torchaudio(module):
    load = module._load_lib

    def load_or_false(name):
        try:
            return load(name)
        except (OSError, RuntimeError):
            return False

    module._load_lib = load_or_false


_BEFORE = {"torchvision": _before_torchvision}
_AFTER = {"torchaudio._extension.utils": _after_torchaudio}


class _Loader(importlib.abc.Loader):
    def __init__(self, inner, name):
        self.inner, self.name = inner, name

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        if self.name in _BEFORE:
            _BEFORE[self.name](module)
        self.inner.exec_module(module)
        if self.name in _AFTER:
            _AFTER[self.name](module)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in _BEFORE and name not in _AFTER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, name)
        return spec


if not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
