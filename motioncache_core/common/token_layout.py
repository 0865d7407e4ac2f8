"""Where a token row sits: frame, row and column of the token grid, and which chunk it is in."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import CacheShapeError


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """`frames x height x width` video tokens in frame-major order, cut into chunks of frames.

    Attributes:
        chunks: frames of each chunk; frames of a chunk share a noise level. An ordinary clip is
            one chunk.
    """

    frames: int
    height: int
    width: int
    chunks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise CacheShapeError(
                f"token grid {self.frames}x{self.height}x{self.width}; each side must be 1 or more"
            )
        if not self.chunks:
            object.__setattr__(self, "chunks", (self.frames,))
        if min(self.chunks) < 1 or sum(self.chunks) != self.frames:
            raise CacheShapeError(
                f"chunks {self.chunks} do not add up to the clip's {self.frames} latent frames"
            )

    @property
    def spatial(self) -> int:
        """Tokens of one latent frame."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        """Tokens of the clip."""
        return self.frames * self.spatial

    def chunk_frames(self) -> list[slice]:
        """The frame range of each chunk."""
        ranges, start = [], 0
        for size in self.chunks:
            ranges.append(slice(start, start + size))
            start += size
        return ranges

    def chunk_rows(self) -> list[slice]:
        """The token-row range of each chunk."""
        s = self.spatial
        return [slice(r.start * s, r.stop * s) for r in self.chunk_frames()]

    def row(self, frame: int, y: int, x: int) -> int:
        """The row of a token."""
        return (frame * self.height + y) * self.width + x

    def position(self, row: int) -> tuple[int, int, int]:
        """`(frame, y, x)` of a row."""
        frame, rest = divmod(row, self.spatial)
        return (frame, *divmod(rest, self.width))

    def as_one_chunk(self) -> TokenLayout:
        """The same clip, decided on as a whole."""
        return TokenLayout(self.frames, self.height, self.width)
