"""A diffusion-forcing run that breaks off leaves nothing, and no run reaches the next one."""

import functools

import pytest
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.causal_runs import NETWORK, Film, ForcingRun, apart
from motioncache_pack.tests.core.runs import Steady, living_tensors
from motioncache_pack.tests.support.assert_close import assert_same

SETTINGS = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, min_update_ratio=0.0, agreement=0.0,
    motion_sensitivity=0.7, forecast=0.5,
)  # fmt: skip
FILMS = {
    "whole clip": Film((7, 4, 4), steps=9, prefix=1, options=ForcingOptions(2, 3)),
    "kept keys": Film((8, 4, 4), steps=9, options=ForcingOptions(2, 3, kv_keep=1)),
    "rolling": Film((8, 4, 4), steps=9, options=ForcingOptions(2, 4, window_frames=6)),
    "windows": Film(
        (7, 4, 4), steps=9, grouping=apart,
        options=ForcingOptions(2, 4, window_frames=4, overlap_frames=2),
    ),
    "bidirectional": Film(
        (7, 4, 4), steps=9, options=ForcingOptions(2, 3, attention="bidirectional")
    ),
}  # fmt: skip


class Interrupt(BaseException):
    """Like a KeyboardInterrupt: no handler of ordinary exceptions sees it."""


class Breaks:
    """A block replacer that raises in one call."""

    def __init__(self, at, error):
        self.left, self.error = at, error

    def __call__(self, args, extra):
        self.left -= 1
        if self.left < 0:
            raise self.error("stop")
        return extra["original_block"](args)


def run_of(film, host=None, look=None):
    """The latents of a run in a session of its own."""
    run = ForcingRun(NETWORK, SETTINGS, sigmas=film.sigmas, profile=Steady(0.06))
    run.host = host or {}
    try:
        latents = film.sample(run.answer)
    finally:
        if look is not None:
            look(run.session)
        run.session.close()
    return latents, run.trace


@functools.cache
def undisturbed(name):
    """The latents of one of the films."""
    return run_of(FILMS[name])[0]


def left_over(before):
    """Shapes of tensors that were not there before; a trace's masks are views of uint8 ones."""
    new = (t for key, t in living_tensors().items() if key not in before)
    return [tuple(t.shape) for t in new if not str(t.dtype).endswith("int8")]


@pytest.mark.parametrize(
    "film, block, at, error",
    [
        ("whole clip", 1, 0, RuntimeError),
        ("kept keys", 0, 11, Interrupt),
        ("rolling", 1, 11, RuntimeError),
        ("windows", 0, 12, RuntimeError),
        ("bidirectional", 0, 3, Interrupt),
    ],
)
def test_a_broken_run_leaves_no_tensor_and_the_next_one_is_as_if_alone(film, block, at, error):
    wanted, film = undisturbed(film), FILMS[film]
    before, closed, held = living_tensors(), [], []

    def look(session):
        held.extend(left_over(before))
        # kept alive, so that it is `close` that has to drop them
        closed.append(session)

    breaks = {"patches_replace": {"dit": {("double_block", block): Breaks(at, error)}}}
    with pytest.raises(error):
        run_of(film, breaks, look)
    assert held
    assert left_over(before) == []
    again, _ = run_of(film)
    assert_same("latents", wanted, again)


@pytest.mark.parametrize("film", FILMS)
def test_a_finished_run_leaves_no_tensor_but_its_result(film):
    first, film = undisturbed(film), FILMS[film]
    before, closed = living_tensors(), []
    result, trace = run_of(film, look=closed.append)
    assert left_over(before) == [(1, 16, *film.size)]
    assert_same("latents", first, result)
    assert trace.finished
    assert {"dense", "partial", "reuse"} <= {c.kind for e in trace.evaluations for c in e.chunks}
    weights = [e.weight for e in trace.evaluations if e.weight is not None]
    assert weights


@pytest.mark.parametrize("film", FILMS)
def test_masks_in_the_trace_have_the_size_of_their_window(film):
    film = FILMS[film]
    _, trace = run_of(film)
    sizes = set()
    for i, evaluation in enumerate(trace.evaluations):
        tokens = sum(c.tokens for c in evaluation.chunks)
        mask = trace.active_mask(i)
        assert len(mask) == tokens
        assert int(mask.sum()) == sum(c.active for c in evaluation.chunks)
        sizes.add(tokens)
    assert len(sizes) == (2 if film.grouping is apart else 1)
