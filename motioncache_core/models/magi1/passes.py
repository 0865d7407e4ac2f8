"""One chunk's velocity: the passes of the distilled and of the base model, and their guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .chunk_call import ChunkCall
from .chunk_keys import ChunkKeys, Cut
from .network import BlockKeys, attend_alone
from .options import CHUNK_FRAMES, STAGES
from .steps import CLEAN_TIME, ChunkSteps

_LAST = STAGES - 1
# share of the answer in which the oldest chunk sees only itself
_NEAR_CLEAN = 0.3


@dataclass(frozen=True)
class ChunkEvaluation:
    """A chunk in one step.

    Attributes:
        chunk: its number in the clip.
        x: its latents `(1, C, f, H, W)` fp32.
        step: number of its step.
        oldest, newest: whether no chunk at work is older, or newer.
        rows: tokens `(n,)` int64 to compute; None computes all.
        sees: the first and the last chunk that it attends to; None goes by its step.
    """

    chunk: int
    x: Tensor
    step: int
    oldest: bool
    newest: bool
    rows: Tensor | None = None
    sees: tuple[int, int] | None = None


class ChunkPasses:
    """The network's evaluations in one run.

    Args:
        distilled: one pass with text; else three, with text, without it, and alone without it.
        rows: tokens of a chunk.
        keys: makes an empty store for a pass.
    """

    def __init__(
        self, steps: ChunkSteps, distilled: bool, rows: int, keys: Callable[[], ChunkKeys]
    ) -> None:
        self._steps, self._distilled, self._rows = steps, distilled, rows
        # the pass whose keys of finished chunks stay; of the base model the one without text
        self._keys = keys()
        self._with_text = self._keys if distilled else keys()
        # chunks whose keys the pass with text has made itself, for one step
        self._borrowed: list[int] = []
        # oldest chunk at work
        self._oldest = 0
        self._call: ChunkCall | None = None

    @property
    def _stores(self) -> tuple[ChunkKeys, ...]:
        return (self._keys,) if self._distilled else (self._keys, self._with_text)

    def nbytes(self) -> tuple[int, int]:
        """Bytes of keys and values on the model's device, and in the host's memory besides."""
        sizes = [keys.nbytes() for keys in self._stores]
        return sum(s[0] for s in sizes), sum(s[1] for s in sizes)

    def make_room(self) -> bool:
        """Move all keys and values one tier down; whether there is more room now."""
        moved = [keys.make_room() for keys in self._stores]
        return any(moved)

    def drop(self) -> None:
        """Keep nothing."""
        for keys in self._stores:
            keys.drop()

    def begin(self, active: dict[int, int], call: ChunkCall) -> None:
        """The next step of all chunks at work.

        Args:
            active: step of each of them, by its number.
        """
        self._call, self._oldest = call, min(active)
        for chunk in self._borrowed:
            self._with_text.copy(chunk, self._keys)
        self._borrowed.clear()
        needed = self._steps.oldest_needed(active)
        for keys in self._stores:
            keys.forget_before(needed)

    def show_clean(self, chunk: int, x: Tensor, given: bool) -> None:
        """Keep a finished chunk's keys, seen without noise, without text and on its own.

        Args:
            x: its latents `(1, C, f, H, W)` fp32.
            given: the chunk was not sampled.
        """
        self._clean(chunk, x, self._keys, with_text=self._distilled)
        if self._distilled:
            return
        if given:
            self._with_text.copy(chunk, self._keys)
        else:
            # in this one step the pass with text goes by keys of its own, as published
            self._clean(chunk, x, self._with_text, with_text=True)
            self._borrowed.append(chunk)

    def keep_noisy(self, chunk: int) -> None:
        """Leave a finished chunk's keys as its last step made them."""
        if not self._distilled:
            self._with_text.copy(chunk, self._keys)

    def velocity(self, e: ChunkEvaluation) -> Tensor:
        """From noise to clean, `(1, C, f, H, W)` fp32; rows that are not computed mean nothing."""
        return self._velocity_distilled(e) if self._distilled else self._velocity_base(e)

    def work(self, e: ChunkEvaluation) -> list[tuple[int, int]]:
        """Rows, and the chunks whose keys they attend to, of each evaluation of the network that
        `velocity` makes."""
        rows = self._rows if e.rows is None else len(e.rows)
        first_seen, last_seen = self._sees(e)
        seen = last_seen + 1 - first_seen - self._left_out(e)
        last = self._steps.stage(e.step) == _LAST
        if self._distilled:
            return [(rows, seen)] + [(rows, 1)] * (last and self._mixes(e))
        if last:
            return [(rows, seen)] * (1 if e.newest else 2)
        return [(rows, seen), (rows, seen), (rows, 1)]

    def clean_work(self, given: bool) -> list[tuple[int, int]]:
        """The same of `show_clean`."""
        return [(self._rows, 1)] * (1 if self._distilled or given else 2)

    def _velocity_distilled(self, e: ChunkEvaluation) -> Tensor:
        seen = self._evaluate(e, self._with_text, with_text=True)
        if self._steps.stage(e.step) < _LAST or not self._mixes(e):
            return seen
        alone = self._evaluate(e, None, with_text=True)
        return (1 - _NEAR_CLEAN) * seen + _NEAR_CLEAN * alone

    def _mixes(self, e: ChunkEvaluation) -> bool:
        return e.oldest and self._steps.options.near_clean

    def _velocity_base(self, e: ChunkEvaluation) -> Tensor:
        options = self._steps.options
        if self._steps.stage(e.step) == _LAST:
            # nothing is added for the text or taken off for the chunks before; newer chunks look
            # at the keys of the pass with text all the same
            if not e.newest:
                self._evaluate(e, self._with_text, with_text=True)
            return self._evaluate(e, self._keys, with_text=False)
        text = self._evaluate(e, self._with_text, with_text=True)
        without = self._evaluate(e, self._keys, with_text=False)
        alone = self._evaluate(e, None, with_text=False, own_clip=True)
        before, words = options.previous_scale, options.text_scale
        return (1 - before) * alone + (before - words) * without + words * text

    def _evaluate(
        self, e: ChunkEvaluation, keys: ChunkKeys | None, with_text: bool, own_clip: bool = False
    ) -> Tensor:
        """One pass of a chunk.

        Args:
            keys: None shows the chunk itself only, and keeps nothing.
            own_clip: the chunk stands at the start of the video.
        """
        call, time = self._known, float(self._steps.times[e.step])
        text = call.text(e.chunk) if with_text else call.network.null_text()
        place = 0 if own_clip else e.chunk * CHUNK_FRAMES
        sees: BlockKeys = attend_alone
        if keys is not None:
            sees = keys.reach(e.chunk, *self._sees(e), e.rows, self._cut(e))
        return self._run(e.x, self._condition(time, with_text, e.step), text, place, sees, e.rows)

    @property
    def _finished(self) -> int:
        """Chunks whose keys no pass writes again."""
        return self._oldest - len(self._borrowed)

    def _cut(self, e: ChunkEvaluation) -> Cut | None:
        """Finished chunks make room for the newest one, whose queries choose, as published."""
        keep = self._steps.options.kv_keep
        if not keep or not e.newest:
            return None
        return Cut(self._finished, keep, self._known.network.config.groups)

    def _left_out(self, e: ChunkEvaluation) -> int:
        """Chunks' worth of keys that are no longer there when the chunk is evaluated."""
        if e.newest and self._steps.options.kv_keep:
            return max(0, self._finished - self._steps.options.kv_keep)
        return self._keys.left_out()

    def _sees(self, e: ChunkEvaluation) -> tuple[int, int]:
        return e.sees or (self._steps.first_seen(e.chunk, e.step), e.chunk)

    def _clean(self, chunk: int, x: Tensor, keys: ChunkKeys, with_text: bool) -> None:
        # chunks finish at the first step of a stage
        condition, text = self._condition(CLEAN_TIME, with_text, 0), self._known.network.null_text()
        self._run(x, condition, text, chunk * CHUNK_FRAMES, keys.reach(chunk, chunk, chunk))

    def _condition(self, time: float, with_text: bool, step: int) -> Tensor:
        call = self._known
        size = self._steps.step_size(step) if self._distilled else None
        return call.network.condition(time, with_text, size, call.x.device)

    def _run(
        self,
        x: Tensor,
        condition: Tensor,
        text: Tensor,
        place: int,
        keys: BlockKeys,
        rows: Tensor | None = None,
    ) -> Tensor:
        call = self._known
        call.before()
        seen = call.network.text(text.to(x.device))
        return call.network.chunk(x, condition, seen, place, keys, call.attend, rows)

    @property
    def _known(self) -> ChunkCall:
        assert self._call is not None
        return self._call
