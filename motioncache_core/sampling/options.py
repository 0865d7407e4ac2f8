"""Options of diffusion-forcing sampling: frozen and validated; the node shares their ranges."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..common.errors import SettingsError
from ..common.field_checks import check_field

SOLVERS = ("unipc", "euler")
ATTENTIONS = ("block_causal", "bidirectional")

FORCING_CHOICES: dict[str, tuple[str, ...]] = {"solver": SOLVERS, "attention": ATTENTIONS}
# inclusive ranges
FORCING_RANGES: dict[str, tuple[float, float]] = {
    "chunk_frames": (1, 256),
    "chunk_delay": (0, 1000),
    "condition_noise": (0.0, 0.2),
    "window_frames": (0, 4096),
    "overlap_frames": (0, 4096),
    "kv_keep": (0, 1000),
}


@dataclass(frozen=True, slots=True)
class ForcingOptions:
    """How the chunks of a clip denoise together. Frames are latent frames.

    Attributes:
        chunk_frames: frames that share a noise level and denoise as one.
        chunk_delay: denoising steps by which a chunk lags behind the one before it. 0 denoises all
            chunks alike; as many as there are steps, or more, means one chunk after the other.
        solver: "unipc" (order 2, as SkyReels-V2 samples) or "euler".
        attention: "block_causal" lets a chunk see itself and earlier chunks, and only chunks at
            work are computed; "bidirectional" lets all frames of the input see each other.
        condition_noise: noise level (sigma) that given frames are shown at.
        window_frames: frames that the model sees at once; 0 is the whole clip, else a multiple of
            `chunk_frames`.
        overlap_frames: 0 moves the window on by a chunk whenever a chunk starts. Else windows
            follow each other and share that many frames: a multiple of `chunk_frames`, less than
            `window_frames`.
        kv_keep: finished chunks' worth of keys and values kept per attention head; 0 keeps all.
            Needs block-causal attention.

    Raises:
        SettingsError: a value has the wrong type, is out of range or contradicts another.
    """

    chunk_frames: int = 5
    chunk_delay: int = 5
    solver: str = "unipc"
    attention: str = "block_causal"
    condition_noise: float = 0.0
    window_frames: int = 0
    overlap_frames: int = 0
    kv_keep: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check_field(field.name, value, str(field.type), FORCING_CHOICES, FORCING_RANGES)
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
