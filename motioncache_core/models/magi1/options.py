"""Options of sampling with MAGI-1: frozen and validated; the node is made from them."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.errors import SettingsError
from ...common.field_checks import check_fields, option

# noise levels: chunks at work cross so many stages, whatever the window
STAGES = 4
CHUNK_FRAMES = 6
EARLY, LATE = "early", "late"


@dataclass(frozen=True, slots=True)
class MagiOptions:
    """How the chunks of a clip denoise together. Every field says what it does; beyond that:

    Attributes:
        twelve_steps: "early" is the published 8,16,16 and "late" 16,16,8.
        text_scale, previous_scale: of the published guidance with three branches, in all but the
            last stage.
        kv_keep: counted per head of keys; above 0 the published key ranges are left (FlowCache,
            arXiv 2602.10825).

    Raises:
        SettingsError: a value has the wrong type, is out of range or contradicts another.
    """

    # saved workflows know widgets by this order: new ones go to the end
    steps: int = option(
        64,
        "Denoising steps of a chunk, a multiple of 4. The distilled model was made for 64, 32, 16, "
        "12 and 8, the base model for 64 (24B: 32).",
        limits=(4, 256),
        advanced=False,
    )
    window: int = option(
        4,
        "Chunks that denoise together, each a quarter of the steps behind the one before it. 4 is "
        "the published way; 2 and 1 need less memory and differ slightly.",
        limits=(1, 4),
        advanced=False,
    )
    near_clean: bool = option(
        True,
        "In the last quarter of its steps, the distilled model sees the oldest chunk a second "
        "time on its own, and the two answers are mixed. As published; off saves an eighth of the "
        "work and changes the video. The base model has no such step.",
        advanced=None,
    )
    clean_pass: bool = option(
        True,
        "Show the model each finished chunk once more without noise, so that later chunks see it "
        "clean. As published; off is what the published cache does, and changes the video.",
        advanced=None,
    )
    twelve_steps: str = option(
        EARLY,
        "Only with 12 steps: which of them are larger. early takes its large step first.",
        choices=(EARLY, LATE),
    )
    text_scale: float = option(
        7.5,
        "Base model only: strength of the text.",
        limits=(0.0, 30.0),
        step=0.1,
    )
    previous_scale: float = option(
        1.5,
        "Base model only: strength of the chunks before.",
        limits=(0.0, 30.0),
        step=0.1,
    )
    kv_keep: int = option(
        0,
        "0 is the published way: a chunk sees the few chunks before it. Above 0 it sees all of "
        "them, and the keys and values of finished chunks are cut down to the room of this many "
        "(FlowCache's compression). Changes the video.",
        limits=(0, 1000),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps % STAGES:
            below = self.steps - self.steps % STAGES
            raise SettingsError(
                f"steps is {self.steps}; MAGI-1 takes its steps in {STAGES} equal stages: use "
                f"{below} or {below + STAGES}"
            )
        if self.window not in (1, 2, 4):
            raise SettingsError(f"window is {self.window}; allowed are 1, 2 and 4 chunks")
