"""Whole evaluations foretold where a thread for each device computes some of the passes."""

import logging
import threading
from collections import Counter

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core import AnswerCall, RunFacts, Trace, answer_session
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.sampling.sampler_response import euler
from motioncache_pack.motioncache_core.settings import PRESETS
from motioncache_pack.tests.core.runs import living_tensors

STEPS = 20
SIGMAS = tuple(flow_sigmas(STEPS, 5.0))
COMPUTED = round(PRESETS["balanced"].compute_budget * STEPS)
PASSES = ("first", "second", "third")


class Roomless:
    """The ops on a device that has no room for what is kept, from the n-th use on."""

    def __init__(self, after):
        self.left, self.refused = after, 0

    def _use(self):
        self.left -= 1
        # the second use in a row is that in the host's memory
        if self.left < 0 and not self.refused:
            self.refused += 1
            raise torch.OutOfMemoryError("simulated")

    def store_answer(self, *args):
        self._use()
        return ops.store_answer(*args)

    def reuse_answer(self, *args):
        self._use()
        return ops.reuse_answer(*args)


class Clip:
    """Latents of several passes that are computed at once, as guidance does it."""

    def __init__(self, kernels=ops, passes=PASSES):
        self.trace, self.passes = Trace(PRESETS["balanced"].as_dict()), passes
        facts = RunFacts(sigmas=list(SIGMAS))
        self.session = answer_session(
            PRESETS["balanced"], kernels, facts, self.trace, euler(SIGMAS)
        )
        self.networks = {name: object() for name in passes}
        self.computed = Counter()
        self.x = torch.randn(1, 4, 3, 6, 6, generator=torch.Generator().manual_seed(3))

    def ask(self, name, x, sigma, wait=None):
        """One pass of one evaluation, which follows a curve of its own."""

        def run():
            self.computed[name] += 1
            if wait is not None:
                wait()
            return torch.tanh(x * (1 + len(name))) * (1 - 0.3 * sigma)

        call = AnswerCall(self.networks[name], run, x, (name,), (4, 3, 6, 6), (1, 2, 2), "toy")
        return self.session.evaluate(call)

    def step(self, i, together):
        """Euler's step number i, guided by the mean of all passes."""
        sigma, following = SIGMAS[i], SIGMAS[i + 1]
        self.session.begin(sigma)
        answers = together(lambda name: self.ask(name, self.x, sigma))
        clean = sum(answers[name] for name in self.passes) / len(self.passes)
        self.x = self.x + (following - sigma) * (self.x - clean) / sigma

    def sample(self, together):
        for i in range(len(SIGMAS) - 1):
            self.step(i, together)
        self.session.close()
        return self.x


def one_after_the_other(ask):
    return {name: ask(name) for name in PASSES}


def at_once(ask):
    """A thread for each pass; all of them start together."""
    start, found, errors = threading.Barrier(len(PASSES)), {}, []

    def work(name):
        try:
            start.wait(30)
            found[name] = ask(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in PASSES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]
    return found


def told(trace):
    """What a report says, without times and the order of threads."""
    return [
        (e.kind, e.sigma, sorted((c.kind, c.computed, c.note) for c in e.calls),
         None if e.weight is None else e.weight.tolist())
        for e in trace.evaluations
    ]  # fmt: skip


def test_threads_make_what_one_thread_makes():
    alone, shared = Clip(), Clip()
    wanted = alone.sample(one_after_the_other)
    for _ in range(3):
        shared = Clip()
        assert torch.equal(shared.sample(at_once), wanted)
        assert told(shared.trace) == told(alone.trace)
        assert shared.computed == alone.computed == dict.fromkeys(PASSES, COMPUTED)
        assert shared.trace.answer_bytes == alone.trace.answer_bytes > 0
    assert sum(weight is not None for *_, weight in told(alone.trace)) == COMPUTED - 1


@pytest.mark.parametrize("after", [0, 4, 9], ids=["first", "reuse", "late"])
def test_a_device_without_room_goes_on_as_planned(after, caplog):
    alone, scarce = Clip(), Roomless(after)
    wanted, short = alone.sample(one_after_the_other), Clip(scarce)
    with caplog.at_level(logging.WARNING):
        got = short.sample(one_after_the_other)
    assert scarce.refused == 1
    assert torch.equal(got, wanted)
    assert short.computed == dict.fromkeys(PASSES, COMPUTED)
    assert [e.kind for e in short.trace.evaluations] == [e.kind for e in alone.trace.evaluations]
    new = [code_of(r) for r in short.trace.remarks if r not in alone.trace.remarks]
    assert new == ["out_of_memory_answers"]
    assert len([r for r in caplog.records if "host's memory" in r.message]) == 1


def test_no_room_for_a_passs_first_answer_is_the_hosts_too(monkeypatch):
    wanted, empty, refused = Clip().sample(one_after_the_other), torch.empty, []

    def make(*size, **kwargs):
        if not refused and isinstance(size[0], tuple) and len(size[0]) == 6:
            refused.append(size)
            raise torch.OutOfMemoryError("simulated")
        return empty(*size, **kwargs)

    short = Clip()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", make)
        got = short.sample(one_after_the_other)
    assert refused
    assert torch.equal(got, wanted)
    assert "out_of_memory_answers" in [code_of(r) for r in short.trace.remarks]


def test_an_error_of_one_thread_leaves_the_others_be():
    clip, error = Clip(), RuntimeError("stop")
    for i in range(2):
        clip.step(i, at_once)

    def ask(name):
        if name == "second":
            raise error
        return clip.ask(name, clip.x, SIGMAS[2])

    clip.session.begin(SIGMAS[2])
    with pytest.raises(RuntimeError, match="stop"):
        at_once(ask)
    clip.session.close()
    assert clip.session._passes == {}
    assert clip.trace.finished


@pytest.mark.parametrize("name", ["first", "late"])
def test_a_call_that_outlasts_the_run_leaves_nothing(name):
    clip = Clip()
    at = min(clip.session._plan.computed - {0})
    for i in range(at):
        clip.step(i, one_after_the_other)
    clip.networks["late"] = object()
    entered, closed, shapes = threading.Event(), threading.Event(), []

    def wait():
        entered.set()
        assert closed.wait(30)

    def work():
        shapes.append(clip.ask(name, clip.x, SIGMAS[at], wait).shape)

    clip.session.begin(SIGMAS[at])
    worker = threading.Thread(target=work)
    worker.start()
    assert entered.wait(30)
    clip.session.close()
    before, calls = living_tensors(), len(clip.trace.calls())
    closed.set()
    worker.join(30)
    # one that begins only now
    shapes.append(clip.ask("second", clip.x, SIGMAS[at]).shape)
    assert shapes == [clip.x.shape] * 2
    assert len(clip.trace.calls()) == calls
    assert [t.shape for key, t in living_tensors().items() if key not in before] == []
