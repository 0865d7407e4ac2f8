"""MAGI-1's video autoencoder: two vision transformers (arXiv 2505.13211, 2.1).

A tile of `4 * T` frames becomes `(B, 16, T, H / 8, W / 8)` latents and back. Whole videos are
worked on in tiles, which `vae_tiles` cuts and joins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.errors import UnsupportedModelError

LATENT_CHANNELS = 16
# frames and pixels a latent stands for
FRAMES, PIXELS = 4, 8
# what the diffusion model works in is the mean times this
SCALE = 0.18215
_HEAD = 64
_GRID_FRAMES = 4
_EPS = 1e-5
_PATCH = (FRAMES, PIXELS, PIXELS)
_REQUIRED = (
    "encoder.patch_embed.proj.weight",
    "encoder.pos_embed",
    "encoder.blocks.0.attn.qkv.weight",
    "encoder.last_layer.weight",
    "decoder.proj_in.weight",
    "decoder.pos_embed",
    "decoder.last_layer.weight",
)
_WHERE = "Take ckpt/vae/diffusion_pytorch_model.safetensors of sand-ai/MAGI-1 on Hugging Face"


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the autoencoder, both halves alike.

    Attributes:
        width: channels C of a row.
        blocks: transformer blocks of each half.
        heads: attention heads.
        grid: latent frames, rows and columns that the stored positions are of.
    """

    width: int = 1024
    blocks: int = 24
    heads: int = 16
    grid: tuple[int, int, int] = (4, 32, 32)


def vae_config(sd: Mapping[str, Tensor]) -> VaeConfig:
    """Sizes from the tensors of a file.

    Raises:
        UnsupportedModelError: it is not MAGI-1's autoencoder, or not all of it.
    """
    missing = [name for name in _REQUIRED if name not in sd]
    if missing:
        shown = ", ".join(sorted(sd)[:3]) or "no tensors"
        raise UnsupportedModelError(
            f"this file is not the VAE of MAGI-1: expected {', '.join(missing[:3])}, found "
            f"{shown}. {_WHERE}; a VAE of another model goes into ComfyUI's 'Load VAE'"
        )
    width = sd["encoder.patch_embed.proj.weight"].shape[0]
    places = sd["encoder.pos_embed"].shape[1] - 1
    side = round((places / _GRID_FRAMES) ** 0.5)
    channels = sd["decoder.proj_in.weight"].shape[1]
    if channels != LATENT_CHANNELS or side * side * _GRID_FRAMES != places or width % 256:
        raise UnsupportedModelError(
            f"this file has {channels} latent channels, {places} positions and width {width}; "
            f"MAGI-1's VAE has {LATENT_CHANNELS} channels, 4 x n x n positions and a width that "
            f"256 divides. {_WHERE}"
        )
    blocks = {int(name.split(".")[2]) for name in sd if name.startswith("encoder.blocks.")}
    return VaeConfig(width, len(blocks), width // _HEAD, (_GRID_FRAMES, side, side))


def build_vae(sd: Mapping[str, Tensor]) -> MagiVAE:
    """The autoencoder of a file; it shares the file's tensors.

    Raises:
        UnsupportedModelError: the tensors are not those of MAGI-1's autoencoder.
    """
    config = vae_config(sd)
    with torch.device("meta"):
        vae = MagiVAE(config)
    wanted = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
    given = {name: tuple(sd[name].shape) for name in wanted if name in sd}
    wrong = [name for name, shape in wanted.items() if given.get(name) != shape]
    if wrong:
        name = wrong[0]
        raise UnsupportedModelError(
            f"{len(wrong)} tensors of MAGI-1's VAE are missing or of another shape, the first is "
            f"{name}: {given.get(name, 'missing')}, expected {wanted[name]}. {_WHERE}"
        )
    vae.load_state_dict({name: sd[name] for name in wanted}, assign=True)
    return vae.eval().requires_grad_(False)


class _Attention(nn.Module):
    """Attention over all rows; queries, keys and values are standardised over each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        # (B, N, C) to (B, N, 3, heads, D)
        parts: Tensor = self.qkv(rows).unflatten(-1, (3, self.heads, -1))
        centred = parts - parts.mean(-1, keepdim=True)
        # the published network adds to the deviation, not to the variance
        parts = centred / (parts.std(-1, keepdim=True, unbiased=False) + _EPS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(mixed)
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(rows)))
        return out


class _Block(nn.Module):
    """A transformer block with no norm before its attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _Mlp(width)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.attn(rows)
        out: Tensor = rows + self.mlp(self.norm2(rows))
        return out


class _Trunk(nn.Module):
    """What both halves share: a class row, positions, blocks and the last norm."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.grid = config.grid
        frames, rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + frames * rows * columns, config.width))
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width, eps=_EPS)

    def through(self, rows: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """`(B, N, C)` rows of a grid through all blocks, without the class row."""
        with_class = torch.cat((self.cls_token.expand(len(rows), -1, -1), rows), dim=1)
        rows = with_class + self._positions(grid)
        for block in self.blocks:
            rows = block(rows)
        out: Tensor = self.norm(rows)
        return out

    def _positions(self, grid: tuple[int, int, int]) -> Tensor:
        """`(1, 1 + N, C)`; those of another grid than the stored one are interpolated."""
        if grid == self.grid:
            return self.pos_embed
        stored = self.pos_embed[:, 1:].transpose(1, 2).unflatten(-1, self.grid)
        sized = F.interpolate(stored, size=grid, mode="trilinear", align_corners=False)
        return torch.cat((self.pos_embed[:, :1], sized.flatten(2).transpose(1, 2)), dim=1)


class _Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, _PATCH, _PATCH)


class _Encoder(_Trunk):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.patch_embed = _Patches(config.width)
        # mean and log-variance
        self.last_layer = nn.Linear(config.width, 2 * LATENT_CHANNELS)

    def forward(self, video: Tensor) -> Tensor:
        cells = self.patch_embed.proj(video)
        grid = (cells.shape[2], cells.shape[3], cells.shape[4])
        rows = self.last_layer(self.through(cells.flatten(2).transpose(1, 2), grid))[:, 1:]
        mean: Tensor = rows[..., :LATENT_CHANNELS].transpose(1, 2).unflatten(-1, grid)
        return mean


class _Decoder(_Trunk):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        channels = config.width // (FRAMES * PIXELS * PIXELS)
        self.proj_in = nn.Linear(LATENT_CHANNELS, config.width)
        self.last_layer = nn.Conv3d(channels, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        t, h, w = latents.shape[2:]
        rows = self.through(self.proj_in(latents.flatten(2).transpose(1, 2)), (t, h, w))[:, 1:]
        # a row holds (frames, rows, columns, channels) of its cell
        cells = rows.unflatten(-1, (*_PATCH, -1)).unflatten(1, (t, h, w))
        pixels = cells.permute(0, 7, 1, 4, 2, 5, 3, 6)
        batch, channels = pixels.shape[:2]
        pixels = pixels.reshape(batch, channels, FRAMES * t, PIXELS * h, PIXELS * w)
        out: Tensor = self.last_layer(pixels)
        return out


class MagiVAE(nn.Module):
    """Encoder and decoder of one tile."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    def encode_tile(self, video: Tensor) -> Tensor:
        """`(B, 3, F, H, W)` in [-1, 1] to the mean, `(B, 16, F / 4, H / 8, W / 8)`.

        A single frame is shown four times and stays one latent.
        """
        if video.shape[2] == 1:
            video = video.expand(-1, -1, FRAMES, -1, -1)
        latents: Tensor = self.encoder(video)
        return latents

    def decode_tile(self, latents: Tensor) -> Tensor:
        """`(B, 16, T, H, W)` to `(B, 3, 4 * T, 8 * H, 8 * W)` near [-1, 1].

        A single latent is a picture: the first of its four frames.
        """
        video: Tensor = self.decoder(latents)
        return video[:, :, :1] if latents.shape[2] == 1 else video
