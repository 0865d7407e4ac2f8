"""What the engine has to know of a model family: data and pure functions, no engine and no host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..common.errors import UnsupportedModelError
from ..common.protocols import DistanceSource
from ..common.reasons import Reason, because
from ..common.token_layout import TokenLayout
from .block_stream import BlockRun, SideBlocks


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
        beside: the same of what runs beside a block on all rows, whatever is computed; a mean over
            the blocks.
        side_blocks: blocks beside the stack, where rows are left out of them too.
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
    beside: tuple[int, int] = (0, 0)
    side_blocks: int = 0


@dataclass(frozen=True)
class Around:
    """What stands around the video rows in what enters the first block. It is always computed.

    Attributes:
        before, behind: rows in front of the video's and behind them; behind them None for all
            that are left of what enters the first block.
        first, last: latent frames at the video's start and end that are conditions: their rows
            are among those, and the token grid that is decided on has only the frames between.
    """

    before: int = 0
    behind: int | None = 0
    first: int = 0
    last: int = 0

    def inner(self, layout: TokenLayout) -> TokenLayout:
        """The grid without the frames that are conditions."""
        frames = layout.frames - self.first - self.last
        return TokenLayout(frames, layout.height, layout.width)


def nothing_around(facts: ModelFacts, layout: TokenLayout, arguments: Mapping[str, Any]) -> Around:
    """Of a stream that is all video."""
    return Around()


def any_instance(network: object) -> Reason | None:
    """Of a class whose instances are all alike to us."""
    return None


def always_this(
    network: Any, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> Adapter | None:
    """Of a family whose calls are all described by one adapter."""
    return None


def whole(x: Tensor) -> Tensor:
    """A latent that is all video."""
    return x


def flow_clean(video: Tensor, level: Tensor, output: Tensor) -> Tensor:
    """`x0 = x - level * velocity`, `(B, C, F, H, W)` fp32: the clean video of a flow model."""
    return video.float() - level * output.float()


def given_clean(video: Tensor, level: Tensor, output: Tensor) -> Tensor:
    """The clean video of a call of the model around the network, fp32, which is what it gives."""
    return output.float()


# where a call is taken over: of the network, or of the model around it, which is given noisy
# latents and gives clean ones
NETWORK, MODEL = "network", "model"


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
        unfit: why this network of a supported class is declined; None if it is not.
        patches: further patches of the host that would see gathered rows.
        around: what stands around the video rows, from a grid and a call's keyword arguments.
        answers_beside: whether the network answers for rows around the video's too, sound for
            instance. Where keys are kept, those are computed in calls that reuse the video, with
            one row of it.
        video: the video's part `(B, C, F, H, W)` of the model's input or output.
        clean: predicted clean video, from video, noise level and the video's part of the output.
        entry: whose calls are taken over, the network's or those of the model around it.
        one_list: whether all batch rows of a call have to compute the same rows.
        of_call: the adapter that describes a call better, from network, options and arguments;
            None where that is this one.
        side: blocks beside the stack.
        beside: arguments that bring rows beside the video's, and what they do. A noise level for
            each frame does not go together with them.
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
    unfit: Callable[[Any], Reason | None] = any_instance
    patches: tuple[str, ...] = ("attn1_patch", "attn2_patch")
    around: Callable[[ModelFacts, TokenLayout, Mapping[str, Any]], Around] = nothing_around
    answers_beside: bool = False
    video: Callable[[Any], Tensor] = whole
    clean: Callable[[Tensor, Tensor, Tensor], Tensor] = flow_clean
    beside: Mapping[str, str] = field(default_factory=dict)
    entry: str = NETWORK
    one_list: bool = False
    of_call: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Adapter | None] = always_this
    side: SideBlocks | None = None
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

    @property
    def packed(self) -> bool:
        """Whether the video is a part of what is sampled, which the host packs into one row."""
        return self.video is not whole

    def patched(self, patches: Mapping[str, Any]) -> Reason | None:
        """Why patches of other nodes are in the way; None if none of these is."""
        for name in (*(run.hook for run in self.runs), *self.patches):
            if patches.get(name):
                return because("block_patch", name=name)
        return None

    def key_sites(self, facts: ModelFacts) -> int:
        """Attention calls of one model call whose keys hold video rows."""
        return sum(len(run.keys) for run, _ in self.blocks(facts)) + facts.side_blocks

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
