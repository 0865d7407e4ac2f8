"""The small Wan's forward pass with some of its rows, and ways to the other rows' keys.

All blocks up to a cut run on all rows; above it the chosen rows run alone, and attend to keys and
values of all rows, which are

* `STORED`: as they were when each row was last computed;
* `FORETOLD`: the same with half of their last change carried on, as the product's `kv_forecast`;
* `FRESH`: made anew in every block, from what now enters the network and what the blocks below are
  foretold to add to it, as answers are. A row that is not computed then costs its keys and values;
* `EXACT`: as if all rows ran, at no cost: what the three above are to be held against.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from motioncache_pack.motioncache_core.demo.attention import (
    Attention,
    rotary_table,
    rotate,
    scaled_dot_product,
    timestep_features,
)
from motioncache_pack.motioncache_core.demo.wan import Block
from tokens.clips import TokenClip
from tokens.memory import RowMemory
from torch import Tensor

STORED, FORETOLD, FRESH, EXACT = "stored", "foretold", "fresh", "exact"
# rows to compute, ascending; asked at the cut
Choose = Callable[[], Tensor]


class RowNetwork:
    """The network of one run; both prompts as one batch.

    Args:
        keys: one of the four kinds.
        cut: blocks that run on all rows.
        depth: rows that only run below the cut count as in a network of so many blocks; 0 counts
            them as they are.

    Attributes:
        work: rows that ran, by block, in evaluations of all rows.
        added: what the blocks below the cut added last, `(2, L, C)`.
    """

    def __init__(self, clip: TokenClip, keys: str, cut: int = 0, depth: int = 0) -> None:
        self._clip, self._keys, self._cut, self._depth = clip, keys, cut, depth
        model = self._model = clip.model
        self.tokens = clip.grid[0] * clip.grid[1] * clip.grid[2]
        self._text = model.text_embedding(torch.cat((clip.negative, clip.positive)))
        device = clip.noise.device
        self._table = rotary_table(clip.grid, model.dim // model.num_heads, device)
        # by block: keys and values side by side, or what the blocks below have added
        self._known: dict[int, RowMemory] = {}
        self.added = torch.empty(0)
        self.work = 0.0

    def __call__(self, x: Tensor, step: int, choose: Choose | None) -> tuple[Tensor, Tensor | None]:
        """Answers `(2, L, 64)`, right in the computed rows, and which rows these are.

        Args:
            x: latents `(1, 16, F, H, W)`.
            choose: None computes all rows.
        """
        model, clip, sigma = self._model, self._clip, self._clip.sigmas[step]
        shown = x if clip.conditions is None else torch.cat((x, clip.conditions), dim=1)
        entering = model.patch_embedding(torch.cat((shown, shown))).flatten(2).transpose(1, 2)
        levels = timestep_features(torch.full((2,), 1000 * sigma), model.freq_dim)
        e = model.time_embedding(levels).reshape(2, 1, model.dim)
        e0 = model.time_projection(e).unflatten(2, (6, model.dim))
        tokens, rows = entering, None
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            if index == self._cut:
                self.added = tokens - entering
            if index == self._cut and choose is not None:
                rows = choose()
                tokens = tokens if self._keys == EXACT else tokens[:, rows]
            running = None if self._keys == EXACT else rows
            self._count(block, rows)
            around = self._hidden(index, tokens, entering, running, step)
            tokens = self._block(index, block, tokens, around, e0, running, step)
        if rows is not None and self._depth:
            beside = self._cut * (1 - len(rows) / self.tokens)
            self.work += beside / self._depth - beside / len(model.blocks)
        out = model.head(tokens, e)
        # the head's patches are laid out place by place, latents channel by channel
        answers = out.reshape(2, -1, 4, 16).transpose(2, 3).reshape(2, -1, 64)
        if rows is None or self._keys == EXACT:
            return answers, rows
        full = answers.new_zeros(2, self.tokens, 64)
        full[:, rows] = answers
        return full, rows

    def left_out(self) -> float:
        """What a row costs that is not chosen, as a share of one that is."""
        below = self._cut / (self._depth or len(self._model.blocks))
        return below + (key_share(self._model.blocks[0]) if self._keys == FRESH else 0.0)

    def _count(self, block: Block, rows: Tensor | None) -> None:
        share = 1.0 if rows is None else len(rows) / self.tokens
        if self._keys == FRESH:
            share += (1 - share) * key_share(block)
        self.work += share / len(self._model.blocks)

    def _hidden(
        self, index: int, tokens: Tensor, entering: Tensor, rows: Tensor | None, step: int
    ) -> Tensor | None:
        """What enters a block in all rows, as far as it is known."""
        if self._keys != FRESH:
            return None
        known = self._known.setdefault(index, RowMemory())
        if rows is None:
            known.store(step, tokens - entering, None)
            return None
        hidden = entering + known.foretold(step)
        hidden[:, rows] = tokens
        known.store(step, hidden - entering, rows)
        return hidden

    def _block(
        self,
        index: int,
        block: Block,
        x: Tensor,
        hidden: Tensor | None,
        e0: Tensor,
        rows: Tensor | None,
        step: int,
    ) -> Tensor:
        m = (block.modulation.unsqueeze(0) + e0).unbind(2)

        def modulated(of: Tensor) -> Tensor:
            return torch.addcmul(m[0], block.norm1(of), 1 + m[1])

        attention, table = block.self_attn, self._table
        inside = modulated(x)
        q = _placed(attention, "q", inside, table if rows is None else table[:, rows])
        if hidden is not None:
            whole = modulated(hidden)
            k, v = _placed(attention, "k", whole, table), attention.v(whole)
        else:
            k = _placed(attention, "k", inside, table if rows is None else table[:, rows])
            k, v = self._all_rows(index, k, attention.v(inside), rows, step)
        y = attention.o(scaled_dot_product(q, k, v, heads=attention.heads))
        x = torch.addcmul(x, y, m[2])
        x = x + block.cross_attn.cross_attention(block.norm3(x), self._text, 0, {})
        return torch.addcmul(x, block.ffn(torch.addcmul(m[3], block.norm2(x), 1 + m[4])), m[5])

    def _all_rows(
        self, index: int, k: Tensor, v: Tensor, rows: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all rows from those that were made."""
        if self._keys not in (STORED, FORETOLD):
            return k, v
        known = self._known.setdefault(index, RowMemory(2))
        made = torch.cat((k, v), dim=2)
        if rows is None:
            known.store(step, made, None)
            return k, v
        full = known.carried(step, 0.5 if self._keys == FORETOLD else 0.0)
        full[:, rows] = made
        known.store(step, full, rows)
        return full.tensor_split(2, dim=2)[0], full.tensor_split(2, dim=2)[1]


def key_share(block: object) -> float:
    """Multiply-accumulates of a row's keys and values, as a share of all that it has in a block."""
    assert isinstance(block, Block)
    dim, inner = block.self_attn.q.in_features, block.ffn[0].out_features
    # four projections, two more for the text, and the feed-forward part
    return 2 * dim / (6 * dim + 2 * inner)


def _placed(attention: Attention, name: str, x: Tensor, table: Tensor) -> Tensor:
    project, norm = getattr(attention, name), getattr(attention, f"norm_{name}")
    return rotate(norm(project(x)).unflatten(2, (attention.heads, -1)), table).flatten(2)
