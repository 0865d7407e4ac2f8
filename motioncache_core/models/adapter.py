"""What the engine has to know of a model family: data and pure functions, no engine and no host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..common.errors import UnsupportedModelError
from ..common.protocols import DistanceSource
from ..common.reasons import Reason
from ..common.token_layout import TokenLayout
from .block_stream import BlockRun


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one model instance.

    Attributes:
        width: channels C of a token.
        blocks: transformer blocks of each of the adapter's runs.
        heads: attention heads.
        key_width: channels of a key, all heads together.
        out_channels: latent channels of the output; the first ones of the input are the same.
        patch: latent frames, rows and columns of one token.
        image_to_video: whether the model takes image conditions.
        row_work, pair_work: multiply-accumulates of a block for one token row, and for one
            query-key pair of its self-attention.
    """

    width: int
    blocks: tuple[int, ...]
    heads: int
    key_width: int
    out_channels: int
    patch: tuple[int, int, int]
    image_to_video: bool
    row_work: int
    pair_work: int


def whole(x: Tensor) -> Tensor:
    """A latent that is all video."""
    return x


def flow_clean(video: Tensor, level: Tensor, output: Tensor) -> Tensor:
    """`x0 = x - level * velocity`, `(B, C, F, H, W)` fp32: the clean video of a flow model."""
    return video.float() - level * output.float()


@dataclass(frozen=True)
class Adapter:
    """One family of diffusion transformers.

    Attributes:
        name: shown in reports and messages.
        classes: qualified names of the supported classes, matched exactly.
        module_prefix: modules of the family's other classes, which are declined.
        declined: class name to the reason why its tokens cannot be told apart.
        positional: names of the forward's positional arguments after input and timestep.
        timestep_scale: timestep at sigma 1.
        runs: the runs of blocks, in the order in which they are called.
        facts: sizes of a network.
        layout: grid of the video rows only, from the video's latent.
        distance: measure of a model, from its facts, its grid, and whether negative distances are
            read as 0.
        decline: why a call with these keyword arguments and options runs unpatched.
        video: the video's part `(B, C, F, H, W)` of the model's input or output.
        clean: predicted clean video, from video, noise level and the video's part of the output.
        shift_frames: options with the rotary positions moved by latent frames; None where the
            model takes no noise level for each frame, and so no diffusion forcing.
    """

    name: str
    classes: tuple[str, ...]
    module_prefix: str
    positional: tuple[str, ...]
    timestep_scale: float
    runs: tuple[BlockRun, ...]
    facts: Callable[[Any], ModelFacts]
    layout: Callable[[ModelFacts, Tensor], TokenLayout]
    distance: Callable[[ModelFacts, TokenLayout, bool], DistanceSource]
    decline: Callable[[Mapping[str, Any], Mapping[str, Any]], Reason | None]
    declined: Mapping[str, str] = field(default_factory=dict)
    video: Callable[[Any], Tensor] = whole
    clean: Callable[[Tensor, Tensor, Tensor], Tensor] = flow_clean
    shift_frames: Callable[[Mapping[str, Any], int], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        hooks = [run.hook for run in self.runs]
        if not hooks or len(set(hooks)) < len(hooks):
            raise ValueError(
                f"{self.name} has runs of blocks with the hooks {hooks}; give one or more, each "
                "with a hook of its own"
            )

    def blocks(self, facts: ModelFacts) -> list[tuple[BlockRun, int]]:
        """All blocks in the order in which they are called, with their number in their run."""
        runs = zip(self.runs, facts.blocks, strict=True)
        return [(run, i) for run, count in runs for i in range(count)]

    def key_sites(self, facts: ModelFacts) -> int:
        """Attention calls of one model call whose keys hold video rows."""
        return sum(len(run.keys) for run, _ in self.blocks(facts))

    def shifted(self, options: Mapping[str, Any], frames: int) -> dict[str, Any]:
        """The host's options with the rotary positions moved by so many latent frames.

        Raises:
            UnsupportedModelError: the family takes no noise level for each frame.
        """
        if self.shift_frames is None:
            raise UnsupportedModelError(
                f"{self.name} takes no noise level per frame, which diffusion forcing needs. Use "
                "an ordinary sampler for this model"
            )
        return self.shift_frames(options, frames)


def qualified_name(network: object) -> str:
    """Module and class of an object, "comfy.ldm.wan.model.WanModel" for instance."""
    return qualified_class(type(network))


def qualified_class(kind: type) -> str:
    """The same of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
