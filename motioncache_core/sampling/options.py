"""Options of diffusion-forcing sampling: frozen and validated; the node is made from them."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.errors import SettingsError
from ..common.field_checks import check_fields, option

SOLVERS = ("unipc", "euler")


@dataclass(frozen=True, slots=True)
class ForcingOptions:
    """How the chunks of a clip denoise together. Every field says what it does; beyond that:

    Attributes:
        solver: "unipc" is of order 2.
        condition_noise: a noise level (sigma).
        overlap_frames: at 0 a window moves on whenever a chunk starts. Else windows follow each
            other; less than `window_frames`.
        kv_keep: counted per attention head.

    Raises:
        SettingsError: a value has the wrong type, is out of range or contradicts another.
    """

    # saved workflows know widgets by this order: new ones go to the end
    chunk_frames: int = option(
        5,
        "Latent frames that share a noise level. SkyReels-V2 uses 5.",
        limits=(1, 256),
        advanced=False,
    )
    chunk_delay: int = option(
        5,
        "Steps by which a chunk lags behind the one before it (ar_step). 0 denoises all chunks "
        "alike; as many as there are steps, or more, makes one chunk after the other.",
        limits=(0, 1000),
        advanced=False,
    )
    solver: str = option(
        "unipc",
        "unipc is what SkyReels-V2 samples with; euler is simpler.",
        choices=SOLVERS,
        advanced=None,
    )
    attention: str = option(
        "block_causal",
        "block_causal: a chunk sees itself and earlier chunks, and only chunks at work are "
        "computed. About twice as fast, but not what a bidirectional model computes. "
        "bidirectional: all frames see each other, as the model was published.",
        choices=("block_causal", "bidirectional"),
        advanced=None,
    )
    condition_noise: float = option(
        0.0,
        "Noise put on given frames in the model's input. 0.02 smooths the joints of long videos; "
        "above 0.05 they come apart.",
        limits=(0.0, 0.2),
        step=0.005,
        advanced=None,
    )
    window_frames: int = option(
        0,
        "Latent frames the model sees at once; 0 is the whole clip. SkyReels-V2: 25 (97 frames). "
        "A multiple of chunk_frames.",
        limits=(0, 4096),
    )
    overlap_frames: int = option(
        0,
        "Latent frames that windows share. 0 lets one window roll on by a chunk at a time. A "
        "multiple of chunk_frames.",
        limits=(0, 4096),
    )
    kv_keep: int = option(
        0,
        "Keys and values of finished chunks to keep, in chunks; 0 keeps all. Bounds the memory of "
        "a long video (FlowCache's compression). Block-causal only.",
        limits=(0, 1000),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("window_frames", "overlap_frames"):
            value = getattr(self, name)
            if value % self.chunk_frames:
                below = value - value % self.chunk_frames
                raise SettingsError(
                    f"{name} is {value} with chunk_frames {self.chunk_frames}; it must be a "
                    f"multiple of chunk_frames: take {below} or {below + self.chunk_frames}"
                )
        if self.overlap_frames and not self.window_frames:
            raise SettingsError(
                f"overlap_frames is {self.overlap_frames} but window_frames is 0 (the whole clip "
                "at once); set window_frames, or overlap_frames to 0"
            )
        if self.overlap_frames and self.overlap_frames >= self.window_frames:
            raise SettingsError(
                f"overlap_frames is {self.overlap_frames} with window_frames "
                f"{self.window_frames}; it must be smaller, or no window samples anything new"
            )
        if self.kv_keep and self.attention != "block_causal":
            raise SettingsError(
                f"kv_keep is {self.kv_keep} with {self.attention} attention, which stores no keys "
                "and values of finished chunks; set attention to block_causal, or kv_keep to 0"
            )
