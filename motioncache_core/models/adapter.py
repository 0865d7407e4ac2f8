"""What the engine has to know of a model family, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..common.protocols import DistanceSource
from ..common.reasons import Reason
from ..common.token_layout import TokenLayout


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one model instance.

    Attributes:
        width: channels C of a token.
        ffn_width: hidden channels of the feed-forward layer.
        blocks: transformer blocks.
        heads: attention heads.
        out_channels: latent channels of the output; the first ones of the input are the same.
        patch: latent frames, rows and columns of one token.
        image_to_video: whether the model takes image conditions.
    """

    width: int
    ffn_width: int
    blocks: int
    heads: int
    out_channels: int
    patch: tuple[int, int, int]
    image_to_video: bool


@dataclass(frozen=True)
class Adapter:
    """One family of diffusion transformers.

    Attributes:
        name: shown in reports and messages.
        classes: qualified names of the supported classes, matched exactly.
        module_prefix: modules of the family's other classes, which are declined.
        declined: class name to the reason why it runs unpatched.
        block_type: first half of the block replacement's key.
        attention_call: which attention call of a block is the self-attention, from 1.
        timestep_scale: timestep at sigma 1.
        positional: names of the forward's positional arguments after input and timestep.
        decline_call: reason why a call with these keyword arguments and options runs unpatched.
    """

    name: str
    classes: tuple[str, ...]
    module_prefix: str
    block_type: str
    attention_call: int
    timestep_scale: float
    positional: tuple[str, ...]
    facts: Callable[[Any], ModelFacts]
    layout: Callable[[ModelFacts, Tensor], TokenLayout]
    distance: Callable[[ModelFacts, TokenLayout, bool], DistanceSource]
    decline_call: Callable[[Mapping[str, Any], Mapping[str, Any]], Reason | None]
    declined: Mapping[str, str] = field(default_factory=dict)


def qualified_name(network: object) -> str:
    """Module and class of an object, "comfy.ldm.wan.model.WanModel" for instance."""
    kind = type(network)
    return f"{kind.__module__}.{kind.__qualname__}"
