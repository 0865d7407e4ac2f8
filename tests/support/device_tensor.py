"""Tensors that say they are on a GPU, on a machine that has none. Used inside `sync_guard`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

DEVICE = torch.device("cuda", 0)


class DeviceTensor(Tensor):
    """A CPU tensor that says it is on the device. To C++ it is on "meta", the one device other than
    the CPU that every build of torch can guard."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, device="meta",
        )  # fmt: skip
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise RuntimeError(f"{func} on a tensor of on_device outside of SyncGuard; move it inside")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({list(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    def __setitem__(self, index: Any, value: Any) -> None:
        # as on CUDA: a number becomes a tensor of the host, which only some ways to assign take
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=self.dtype)
        super().__setitem__(index, value)


def on_device(x: Tensor) -> DeviceTensor:
    """A copy of a CPU tensor, on the device."""
    return DeviceTensor(x.detach().clone())


def module_on_device(module: nn.Module) -> nn.Module:
    """A copy of a module with its weights on the device."""
    made = copy.deepcopy(module)
    for part in made.modules():
        for kind in (part._parameters, part._buffers):
            for name, weight in list(kind.items()):
                if weight is not None:
                    # a plain attribute: only a real parameter may be registered as one
                    del kind[name]
                    setattr(part, name, on_device(weight))
    return made


def on_host(x: Tensor) -> Tensor:
    """The numbers of a tensor, wherever it is; for the test's own use."""
    return x.host if isinstance(x, DeviceTensor) else x
