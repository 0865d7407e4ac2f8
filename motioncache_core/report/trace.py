"""What happened in a run: numbers on the CPU, no tensors."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.phrases import together
from ..common.reasons import Reason
from ..common.token_layout import TokenLayout
from ..sampling.run_facts import ContextWindow, SchedulePart
from ..sampling.schedule import DONE, UNSTARTED

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """What was decided for one chunk in one evaluation."""

    kind: str
    phase: str
    active: int
    tokens: int
    distance: float | None

    @property
    def idle(self) -> bool:
        """Whether a diffusion-forcing chunk had nothing to do, rather than being reused."""
        return self.kind == "reuse" and self.phase in (UNSTARTED, DONE)


@dataclass(slots=True)
class CallRecord:
    """One call of the network.

    Attributes:
        kind: what was executed: "dense", "partial", "reuse" or "declined".
        branches: conditioning branches in the call.
        rows: batch rows in the call.
        computed: token rows that went through the blocks, per batch row.
        blocks: how often an original block was called.
        seconds: of the host on a CPU, of the device on CUDA; 0 where they are not known. Known
            when the run is over.
        note: why this differs from the decision, where it does.
        needed: token rows the call computes when nothing is reused; 0 stands for the whole clip.
        pairs, needed_pairs: query-key pairs of a block's self-attention, alike.
        window: token rows of the model's input; 0 stands for the whole clip.
        around: rows besides those of the video, text and sound for instance, which go through the
            blocks whenever a block runs.
        window_pairs: query-key pairs of these rows when nothing is left out; 0 stands for each of
            them with each.
    """

    kind: str
    branches: int
    rows: int
    computed: int
    blocks: int = 0
    seconds: float = 0.0
    note: str = ""
    needed: int = 0
    pairs: int = 0
    needed_pairs: int = 0
    window: int = 0
    around: int = 0
    window_pairs: int = 0


@dataclass(slots=True)
class EvaluationRecord:
    """One model evaluation: a decision and the calls that carried it out.

    Attributes:
        sigma: noise level, 1 (noise) to 0 (clean).
        weight: motion weights `(L,)` scaled to 0..255, where the decision used some.
        active: rows that were decided to be computed, `(L,)` bool packed to bits.
        window, first_frame, first_chunk: where the model's input lies in a longer clip, in latent
            frames and in chunks.
        position: number of the host's context window that this is an evaluation of.
    """

    index: int
    sigma: float
    scope: str
    chunks: tuple[ChunkRecord, ...]
    calls: list[CallRecord] = field(default_factory=list)
    weight: Bytes | None = None
    active: Bytes | None = None
    window: int = 0
    first_frame: int = 0
    first_chunk: int = 0
    position: int = 0

    @property
    def kind(self) -> str:
        """ "dense", "partial" or "reuse" over all chunks that had something to do."""
        kinds = {c.kind for c in self.chunks if not c.idle} or {"reuse"}
        return kinds.pop() if len(kinds) == 1 else "partial"

    @property
    def active_share(self) -> float:
        """Rows decided to be computed, as a share of the rows that had something to do."""
        busy = sum(c.tokens for c in self.chunks if not c.idle)
        return sum(c.active for c in self.chunks) / max(1, busy)

    @property
    def tokens(self) -> int:
        """Rows of the model's input."""
        return sum(c.tokens for c in self.chunks)

    def each_row(self, of_chunks: Iterable[bool]) -> npt.NDArray[np.bool_]:
        """What is so of every chunk as what is so of every row, `(L,)`."""
        return np.repeat(np.fromiter(of_chunks, np.bool_), [c.tokens for c in self.chunks])


@dataclass(frozen=True, slots=True)
class PlannedKeys:
    """What keys and values are going to take, known before the first block is computed.

    Attributes:
        nbytes, host_bytes: kept on the model's device, and in the host's memory.
        prompts: conditionings that have keys and values of their own.
    """

    nbytes: int
    host_bytes: int
    prompts: int


@dataclass(slots=True)
class Trace:
    """One sampling run.

    Attributes:
        grid: token grid (frames, height, width); None before the first call.
        reason: why nothing could be reused, where that is so.
        seconds: wall-clock time from the first evaluation to the end of the sampler, and of what
            the pack does before; of the whole sampler where it was left alone.
        own_seconds: the part of it that the pack took beside the model's calls, where known.
        steps, expected: of the sampler, and evaluations that these make; 0 where not known.
        residual_bytes, residual_host_bytes, kv_bytes, kv_host_bytes, deciding_bytes: the most
            memory held by residuals (and slopes) and by keys and values, on the model's device and
            in the host's memory, and by the per-token arrays that decisions are made from.
        kv_planned: what keys and values were going to take; None where none are kept.
        answer_bytes: the most memory held by the model's answers.
        residual_reason: where residuals were kept, and why.
        kv_reason: where keys and values were kept, and why.
        kv_reasons: what of it kept single tokens from being reused, or was changed in mid-run.
        remarks: what else the user may want to change.
        row_work, pair_work: multiply-accumulates of a block for one token row, and for one
            query-key pair.
        beside: the same of what runs beside a block on all rows, whatever is computed.
        part: what the run sampled of the model's noise schedule, where known.
        windows: context windows that the host cut the clip into.
        preset: its name; None where the settings were given one by one.
        why: sentences on what was chosen for this run.
        resets: evaluations that could not go on with what was stored, by the code of the reason.
        number: of the run among those of its model, from 1.
        mark: by which the latents that it made are known again, see `shown_run.mark_of`.
        first: the first of its kind since the process started, which takes longer.
    """

    settings: dict[str, Any]
    model: str = ""
    distance: str = ""
    grid: tuple[int, int, int] | None = None
    chunks: tuple[int, ...] = ()
    blocks: int = 0
    row_work: int = 0
    pair_work: int = 0
    beside: tuple[int, int] = (0, 0)
    preset: str | None = None
    why: list[str] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0
    own_seconds: float = 0.0
    steps: int = 0
    expected: int = 0
    residual_bytes: int = 0
    residual_host_bytes: int = 0
    kv_bytes: int = 0
    kv_host_bytes: int = 0
    kv_planned: PlannedKeys | None = None
    deciding_bytes: int = 0
    answer_bytes: int = 0
    residual_reason: str = ""
    kv_reason: str = ""
    kv_reasons: list[Reason] = field(default_factory=list)
    remarks: list[Reason] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    declined_calls: list[CallRecord] = field(default_factory=list)
    part: SchedulePart | None = None
    windows: tuple[ContextWindow, ...] = ()
    resets: Counter[str] = field(default_factory=Counter)
    finished: bool = False
    number: int = 1
    mark: tuple[float, ...] = ()
    first: bool = False

    def show(self, layout: TokenLayout) -> None:
        """Describe the clip, or the window of it that the model sees from now on."""
        self.grid = (layout.frames, layout.height, layout.width)
        self.chunks = layout.chunks

    @property
    def unit(self) -> str:
        """What an evaluation is called: a step where the sampler makes one for each."""
        count = max(self.expected, len(self.evaluations))
        return "step" if self.steps and count <= self.steps else "evaluation"

    @property
    def tokens(self) -> int:
        """Token rows of the clip."""
        return 0 if self.grid is None else self.grid[0] * self.grid[1] * self.grid[2]

    def calls(self) -> list[CallRecord]:
        """All calls, in no particular order for declined ones."""
        return [c for e in self.evaluations for c in e.calls] + self.declined_calls

    def decline(self, reason: str) -> None:
        """Remember the first reason why calls went through untouched."""
        self.reason = self.reason or reason

    def remark(self, reason: Reason) -> None:
        """Remember something that did not stop the run from reusing; once."""
        if reason not in self.remarks:
            self.remarks.append(reason)

    def keep_kv_reasons(self, sentences: Sequence[str]) -> None:
        """Remember where keys and values are kept, and what was changed in mid-run."""
        self.kv_reason = together("; ", sentences)
        self.kv_reasons = [s for s in sentences if isinstance(s, Reason)]

    @property
    def clip_frames(self) -> int:
        """Latent frames of the clip that context windows were cut out of; 0 where it was not."""
        return max((max(w.frames) + 1 for w in self.windows), default=0)

    def advise(self, sentence: str | None) -> None:
        """Add to `why`, once."""
        if sentence and sentence not in self.why:
            self.why.append(sentence)

    def active_mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Rows computed in evaluation `index`, `(L,)` bool, of the clip or its window then."""
        record = self.evaluations[index]
        if record.active is None:
            return record.each_row(c.kind == "dense" for c in record.chunks)
        return np.unpackbits(record.active, count=record.tokens).astype(np.bool_)


@dataclass(slots=True, eq=False)
class TraceHandle:
    """The wire between the patcher and the nodes behind the sampler: the last runs' traces, and the
    node that made them."""

    runs: deque[Trace] = field(default_factory=lambda: deque(maxlen=8))
    node_id: str | None = None

    def add(self, trace: Trace) -> None:
        """A run has ended."""
        trace.number = self.runs[-1].number + 1 if self.runs else 1
        self.runs.append(trace)

    @property
    def latest(self) -> Trace | None:
        """The newest finished run."""
        return next((t for t in reversed(self.runs) if t.finished), None)
