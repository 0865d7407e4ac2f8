"""Layers in plain torch whose weights follow their input, as the host's own do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _cast(weight: Tensor, x: Tensor) -> Tensor:
    return weight.to(device=x.device, dtype=x.dtype)


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else _cast(self.bias, input)
        return F.linear(input, _cast(self.weight, input), bias)


class Conv3d(nn.Conv3d):
    """A convolution that computes in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else _cast(self.bias, input)
        return F.conv3d(input, _cast(self.weight, input), bias, self.stride)


class LayerNorm(nn.LayerNorm):
    """A norm that computes in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = _cast(self.weight, input), _cast(self.bias, input)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class CenteredNorm(nn.Module):
    """A layer norm whose gain is stored less one.

    Both its tensors are raw parameters: a host that loads a model in parts finds them by name.
    """

    def __init__(
        self,
        width: int,
        eps: float,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.zeros(width, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x `(..., width)`, in whose dtype it is computed."""
        weight, bias = _cast(self.weight, x), _cast(self.bias, x)
        return F.layer_norm(x, weight.shape, weight + 1, bias, self.eps)
