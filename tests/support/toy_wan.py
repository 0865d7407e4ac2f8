"""Small networks of the shapes of Wan's family: rows in front of the video's and behind them, one
modulation more than there are frames, and what the host adds to all tokens between the blocks.

The blocks and the head are the shipped model's; each network carries the qualified name of the
ComfyUI class whose shape it has.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.motioncache_core.demo.attention import Attention, rotary_table
from motioncache_pack.motioncache_core.demo.wan import Block, DemoWan
from motioncache_pack.tests.core.small_wan import TEXT_DIM
from torch import Tensor, nn

PACKAGE = "comfy.ldm.wan."
LAYERS = 3


class RowsAround(DemoWan):
    """`reference_latent` `(B, 16, h, w)` or `(B, 16, R, h, w)` becomes rows in front of the
    video's, `context_latents` (a list of `(B, 16, R, h, w)`) and `pose_latents` rows behind them.

    Args:
        behind: the reference's rows come behind the video's.
        flat_modulation: hand over the modulation as `(B, 6, C)`.
        timed: give the rows behind the video's a timestep of their own.
    """

    def __init__(
        self, flat_modulation: bool = False, timed: bool = False, behind: bool = False
    ) -> None:
        torch.manual_seed(11)
        super().__init__(256, 192, LAYERS, text_dim=TEXT_DIM, freq_dim=64)
        self.flat_modulation, self.timed, self.behind = flat_modulation, timed, behind
        self.given: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.ref_conv: nn.Module | None = nn.Conv2d(16, 256, 2, 2)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, **given: Any) -> Tensor:
        """As the shipped model's."""
        options = given.pop("transformer_options", None)
        self.given = given
        try:
            return super().forward(x, timestep, context, transformer_options=options)
        finally:
            self.given, self.state = {}, {}

    def run_blocks(
        self,
        x: Tensor,
        e: Tensor,
        table: Tensor,
        context: Tensor,
        image_tokens: int | None,
        options: dict[str, Any],
    ) -> Tensor:
        """The blocks on all rows; returns the video's."""
        first, last = self.reference(), [self.embed(c) for c in self.latents_behind()]
        if self.behind:
            first, last = (), [*first, *last]
        before, video = sum(p.shape[1] for p in first), x.shape[1]
        x = torch.cat((*first, x, *last), 1) if first or last else x
        rows = x.shape[1] - video
        if rows:
            more = rotary_table((rows, 1, 1), table.shape[3] * 2, x.device, 50.0)
            table = torch.cat((more[:, :before], table, more[:, before:]), dim=1)
        if self.timed:
            # all frames, and one for as many rows behind them
            frames = self.given["frames"]
            e = torch.cat((e.expand(-1, frames, -1, -1), 0.5 * e), dim=1)
        if self.flat_modulation:
            e = e[:, 0]
        x = self.stack(x, e, table, context, options, video)
        return x[:, before : before + video]

    def stack(
        self,
        x: Tensor,
        e: Tensor,
        table: Tensor,
        context: Tensor,
        options: dict[str, Any],
        video: int,
    ) -> Tensor:
        """Each block through its replacement when there is one, and `between` behind it."""
        replace = options.get("patches_replace", {}).get("dit", {})
        self.started(x, e, table, context, options)
        for i, block in enumerate(self.blocks):
            options["block_index"] = i

            def original(args: dict[str, Any], block: nn.Module = block) -> dict[str, Tensor]:
                vec = args["vec"] if args["vec"].ndim == 4 else args["vec"][:, None]
                return {"img": self.block(block, args["img"], vec, args)}

            call = {"img": x, "txt": context, "vec": e, "pe": table, "transformer_options": options}
            patch = replace.get(("double_block", i))
            out = original(call) if patch is None else patch(call, {"original_block": original})
            x = self.between(i, out["img"], video)
        return x

    def block(self, block: nn.Module, x: Tensor, vec: Tensor, args: dict[str, Any]) -> Tensor:
        """One block on whatever rows it is given."""
        out: Tensor = block(
            x, e=vec, freqs=args["pe"], context=args["txt"],
            transformer_options=args["transformer_options"],
        )  # fmt: skip
        return out

    def embed(self, latent: Tensor) -> Tensor:
        """`(B, 16, R, h, w)` as rows."""
        out: Tensor = self.patch_embedding(latent).flatten(2).transpose(1, 2)
        return out

    def latents_behind(self) -> list[Tensor]:
        """What becomes rows behind the video's."""
        poses = self.given.get("pose_latents")
        return [*self.given.get("context_latents", ()), *(() if poses is None else (poses,))]

    def reference(self) -> Sequence[Tensor]:
        """Rows of the reference."""
        latent = self.given.get("reference_latent")
        if latent is None:
            return ()
        if latent.ndim == 5:
            return (self.embed(latent),)
        assert self.ref_conv is not None
        return (self.ref_conv(latent).flatten(2).transpose(1, 2),)

    def started(
        self, x: Tensor, e: Tensor, table: Tensor, context: Tensor, options: dict[str, Any]
    ) -> None:
        """The blocks are about to run."""

    def between(self, index: int, x: Tensor, video: int) -> Tensor:
        """What the host makes of all tokens behind a block."""
        return x


class SideBlock(Block):
    """A block whose answer is a hint, and what the next one goes on from."""

    def __init__(self, first: bool) -> None:
        super().__init__(256, 192, 2, False)
        self.first, self.after = first, nn.Linear(256, 256)

    def forward(self, c: Tensor, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The first one sees what entered the stack, too."""
        c = super().forward(c + x if self.first else c, **kwargs)
        return self.after(c), c


class Hints(RowsAround):
    """Blocks of a second kind beside the main ones, and what they say is written into the tokens
    between those."""

    def __init__(self, hinted: Sequence[int] = (0, 1)) -> None:
        super().__init__(flat_modulation=True)
        self.vace_layers_mapping = {layer: n for n, layer in enumerate(hinted)}
        self.vace_blocks = nn.ModuleList(SideBlock(n == 0) for n in range(len(hinted)))

    def started(
        self, x: Tensor, e: Tensor, table: Tensor, context: Tensor, options: dict[str, Any]
    ) -> None:
        """The tokens as they are when the first block runs are read again behind it."""
        controls = [self.embed(c) for c in self.given["vace_context"].unbind(1)]
        shared = {"x": x, "e": e[:, None], "freqs": table, "context": context}
        self.state = {"c": controls, "shared": {**shared, "transformer_options": options}}

    def between(self, index: int, x: Tensor, video: int) -> Tensor:
        """In place."""
        place = self.vace_layers_mapping.get(index)
        if place is None:
            return x
        for i, c in enumerate(self.state["c"]):
            hint, self.state["c"][i] = self.vace_blocks[place](c, **self.state["shared"])
            x += 0.8 * hint
        return x


class Speech(RowsAround):
    """Each frame's tokens attend to that frame's own words between blocks, in place."""

    def __init__(self, injected: Sequence[int] = (0, 2), **how: bool) -> None:
        super().__init__(**how)
        self.injected = tuple(injected)
        self.injector = Attention(256, 2)
        # where the three of them have their attentions
        held = SimpleNamespace(injector=[self.injector], fuser_blocks=[self.injector])
        self.audio_injector = self.music_injector = self.face_adapter = held

    def between(self, index: int, x: Tensor, video: int) -> Tensor:
        """The frames are told apart by how many rows there are."""
        if index not in self.injected:
            return x
        words = self.given["words"]
        frames = words.shape[1]
        tokens = x[:, :video]
        split = tokens.reshape(-1, tokens.shape[1] // frames, x.shape[2])
        said = self.injector.cross_attention(split, words.flatten(0, 1), 0, {})
        x[:, :video] = tokens + said.reshape(tokens.shape)
        return x


class Faces(Speech):
    """The same as a new tensor."""

    def between(self, index: int, x: Tensor, video: int) -> Tensor:
        """Behind all blocks."""
        self.injected = (index,)
        return super().between(index, x.clone(), video)


class Singing(RowsAround):
    """Each frame's tokens attend to that frame's own words inside of every block."""

    def __init__(self, **how: bool) -> None:
        super().__init__(**how)
        self.singer = Attention(256, 2)

    def block(self, block: nn.Module, x: Tensor, vec: Tensor, args: dict[str, Any]) -> Tensor:
        """As many groups of rows as frames, the reference's included, whatever the rows."""
        x = super().block(block, x, vec, args)
        words = self.given["words"]
        frames, (batch, rows, width) = words.shape[1], x.shape
        q = self.singer.norm_q(self.singer.q(x))
        said = words.reshape(batch * frames, -1, width)
        k, v = self.singer.norm_k(self.singer.k(said)), self.singer.v(said)
        q, k, v = (t.reshape(batch * frames, -1, 2, width // 2).transpose(1, 2) for t in (q, k, v))
        override = args["transformer_options"].get("optimized_attention_override")
        out = grouped(q, k, v) if override is None else override(grouped, q, k, v)
        return x + self.singer.o(out.transpose(1, 2).reshape(batch, rows, width))


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of `(B, H, S, D)` tensors in that form."""
    return nn.functional.scaled_dot_product_attention(q, k, v)


@functools.cache
def network(kind: type[RowsAround], module: str, name: str, **how: Any) -> RowsAround:
    """A network of this shape under a ComfyUI class's qualified name, with random weights."""
    named = type(name, (kind,), {"__module__": PACKAGE + module, "__qualname__": name})
    made: RowsAround = named(**how)
    rng = torch.Generator().manual_seed(12)
    for key, weight in made.named_parameters():
        if weight.ndim == 1 or "modulation" in key:
            weight.data += 0.2 * torch.randn(weight.shape, generator=rng)
    return made.eval()
