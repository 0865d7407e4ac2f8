"""A run whose evaluations are computed or foretold, on a model that is a formula."""

import itertools
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    PRESETS,
    AnswerCall,
    RunFacts,
    Trace,
    answer_session,
)
from motioncache_pack.motioncache_core.common.reasons import because, code_of
from motioncache_pack.motioncache_core.sampling.sampler_response import euler

STEPS = 20
SIGMAS = tuple((1 - k / STEPS) for k in range(STEPS + 1))
SHAPE = (1, 4, 3, 5, 7)
OURS = PRESETS["balanced"]


class Model:
    """A flow model with a smooth answer; counts its calls."""

    def __init__(self, shape=SHAPE, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.picture = torch.randn(shape, generator=rng)
        self.calls = 0

    def answer(self, x, sigma, key=0):
        self.calls += 1
        return x - sigma * (0.4 * x - (0.6 + 0.3 * key) * self.picture * (1 + sigma**2))


class Host:
    """Euler's method over a session, with the passes of every evaluation as calls."""

    def __init__(self, settings=OURS, sigmas=SIGMAS, response=None, **facts):
        self.trace = Trace(settings.as_dict())
        self.session = answer_session(
            settings,
            kernels,
            RunFacts(sigmas=sigmas, **facts),
            self.trace,
            response or euler(sigmas),
        )
        self.sigmas, self.evaluation = sigmas, 0

    def call(self, model, x, keys=("a",), network="net", scale=None):
        sigma = self.sigmas[self.evaluation] if scale is None else scale

        def run():
            parts = x.split(len(x) // len(keys))
            return torch.cat(
                [model.answer(p, sigma, len(str(k)) - 1) for p, k in zip(parts, keys, strict=True)]
            )

        return self.session.evaluate(AnswerCall(network, run, x, keys, SHAPE[1:], name="formula"))

    def sample(self, model, calls=((("a",)),), x=None, each=None):
        """Calls of each evaluation, given as tuples of keys; the last of them is guidance."""
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9)) if x is None else x
        try:
            for k, (sigma, low) in enumerate(zip(self.sigmas, self.sigmas[1:], strict=False)):
                self.evaluation = k
                self.session.begin(sigma)
                if each is not None:
                    each(k)
                out = {}
                for keys in calls:
                    told = self.call(model, torch.cat([x] * len(keys)), keys)
                    out.update(zip(keys, told.split(len(x)), strict=True))
                clean = sum(out.values()) / len(out)
                x = x + (low - sigma) * (x - clean) / sigma
        finally:
            self.session.close()
        return x


def plain(model, keys=("a",)):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    for sigma, low in itertools.pairwise(SIGMAS):
        clean = sum(model.answer(x, sigma, len(k) - 1) for k in keys) / len(keys)
        x = x + (low - sigma) * (x - clean) / sigma
    return x


def marks(trace):
    return "".join("D" if e.kind == "dense" else "." for e in trace.evaluations)


def test_a_share_is_computed_and_the_rest_comes_close():
    model = Model()
    host = Host()
    out = host.sample(model)
    assert model.calls == 8
    assert marks(host.trace).count("D") == 8
    reference = plain(Model())
    assert (out - reference).norm() / reference.norm() < 1e-3
    held = Host(replace(OURS, forecast=0.0, hindsight=False)).sample(Model())
    without = Host(replace(OURS, hindsight=False)).sample(Model())
    errors = [float((v - reference).norm()) for v in (out, without, held)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("swing", [0.0, 60.0])
def test_what_is_computed_follows_from_the_start(swing):
    class Swinging(Model):
        """Its answers turn about at the start of the run, or hardly change at all."""

        def answer(self, x, sigma, key=0):
            self.calls += 1
            return (
                x - sigma * (0.1 * sigma + 1 + key + swing * max(0.0, sigma - 0.8)) * self.picture
            )

    host = Host()
    host.sample(Swinging(), calls=(("a", "bb"),))
    shared = Host(shared=True)
    planned = shared.session._plan.computed
    computed = {k for k, mark in enumerate(marks(host.trace)) if mark == "D"}
    assert len(computed) == len(planned) == 8
    why = " ".join(host.trace.why)
    later = sum(computed) - sum(planned)
    assert ("towards the end" in why, "at the start" in why) == (later > 0, later < 0)
    assert (later < 0) if swing else (later > 0)
    shared.sample(Swinging(), calls=(("a", "bb"),))
    assert planned == {k for k, mark in enumerate(marks(shared.trace)) if mark == "D"}
    tiles = Host()
    tiles.sample(Swinging(), calls=(("a",), ("a",)))
    assert tiles.session._plan.start_weight == 1


@pytest.mark.parametrize(
    "settings",
    [replace(OURS, reuse_threshold=0.0), replace(OURS, compute_budget=1.0)],
)
def test_what_is_computed_is_given_to_the_bit(settings):
    assert torch.equal(Host(settings).sample(Model()), plain(Model()))


def test_joined_and_split_passes_are_alike():
    joined = Host().sample(Model(), calls=(("a", "bb"),))
    split = Host().sample(Model(), calls=(("a",), ("bb",)))
    torch.testing.assert_close(joined, split, rtol=1e-6, atol=1e-6)
    reference = plain(Model(), ("a", "bb"))
    assert (joined - reference).norm() / reference.norm() < 1e-3


def test_two_passes_of_one_prompt_do_not_share_a_state():
    class Second(Model):
        """The second pass of an evaluation answers otherwise, as with skipped layers."""

        def answer(self, x, sigma, key=0):
            odd = self.calls % 2
            return super().answer(x, sigma, 4.0 * odd)

    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))

    def run(host, model):
        state = x
        for k, (sigma, low) in enumerate(itertools.pairwise(SIGMAS)):
            host.evaluation = k
            host.session.begin(sigma)
            first = host.call(model, state)
            second = host.call(model, state)
            state = state + (low - sigma) * (state - (1.5 * first - 0.5 * second)) / sigma
        host.session.close()
        return state

    exact = run(Host(replace(OURS, reuse_threshold=0.0)), Second())
    cached = run(Host(), Second())
    assert (cached - exact).norm() / exact.norm() < 1e-3


def test_a_pass_that_comes_late_is_computed_first():
    model, host = Model(), Host()
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    late = next(k for k in range(3, STEPS) if k not in host.session._plan.computed)
    for k in range(STEPS):
        host.evaluation = k
        host.session.begin(SIGMAS[k])
        host.call(model, x, ("a",) if k < late else ("bb",))
    host.session.close()
    first = host.trace.evaluations[late].calls[0]
    assert first.kind == "dense"
    assert code_of(first.note) == "new_pass"
    assert marks(host.trace)[late] == "."


def test_a_pass_that_missed_the_last_computed_evaluation_is_computed():
    host, model, x = Host(shared=True), Model(), torch.randn(SHAPE)
    missed = sorted(host.session._plan.computed)[1]
    assert missed + 1 not in host.session._plan.computed
    for k in range(missed + 2):
        host.evaluation = k
        host.session.begin(SIGMAS[k])
        if k != missed:
            host.call(model, x, ("a",))
        host.call(model, x, ("bb",))
    host.session.close()
    kinds = [c.kind for c in host.trace.evaluations[missed + 1].calls]
    assert kinds == ["dense", "reuse"]


@pytest.mark.parametrize("what", ["shape", "network", "batch"])
def test_another_size_or_network_in_mid_run_is_computed(what):
    host, model = Host(), Model()
    x = torch.randn(SHAPE)
    gap = next(k for k in range(1, STEPS) if k not in host.session._plan.computed)
    for k in range(gap):
        host.evaluation = k
        host.session.begin(SIGMAS[k])
        host.call(model, x)
    host.evaluation = gap
    host.session.begin(SIGMAS[gap])
    if what == "shape":
        model.picture = model.picture[..., :4]
        out = host.call(model, x[..., :4])
        assert out.shape == x[..., :4].shape
    elif what == "batch":
        assert host.call(model, torch.cat([x, x])).shape[0] == 2
    else:
        host.call(model, x, network="other")
    assert host.trace.evaluations[gap].calls[0].kind == "dense"
    host.session.close()


def test_other_steps_than_rehearsed_compute_everything_from_there_on():
    host, model = Host(), Model()
    x = torch.randn(SHAPE)
    for k in range(STEPS):
        host.evaluation = k
        host.session.begin(SIGMAS[k] * (0.9 if k == 7 else 1.0))
        host.call(model, x)
    host.session.close()
    assert "." not in marks(host.trace)[7:]
    assert "." in marks(host.trace)[:7]
    assert [code_of(r) for r in host.trace.remarks] == ["steps_differ"]


def test_more_evaluations_than_rehearsed():
    host, model = Host(), Model()
    x = torch.randn(SHAPE)
    for k in range(STEPS + 3):
        host.evaluation = min(k, STEPS - 1)
        host.session.begin(SIGMAS[host.evaluation])
        host.call(model, x)
    host.session.close()
    assert marks(host.trace).endswith("DDDD")


def test_a_batch_that_does_not_divide_is_computed():
    host, model = Host(), Model()
    x = torch.randn(3, *SHAPE[1:])
    host.session.begin(1.0)
    clean = torch.randn_like(x)
    call = AnswerCall("net", lambda: clean, x, ("a", "b"), SHAPE[1:])
    assert host.session.evaluate(call) is clean
    host.session.close()
    assert model.calls == 0


def test_three_latents_a_pass_and_nothing_afterwards():
    host = Host()
    host.sample(Model(), calls=(("a", "bb"),))
    one = 4
    for n in SHAPE:
        one *= n
    assert host.trace.answer_bytes == 2 * 3 * one
    assert not host.session._passes


def test_a_sampler_that_cannot_be_followed_computes_everything():
    reason = because("sampler_unknown", why="no reason")
    host = Host(response=reason)
    assert torch.equal(host.sample(Model()), plain(Model()))
    assert host.trace.reason == reason


def test_a_guider_that_does_not_say_where_an_evaluation_begins():
    host, model = Host(), Model()
    x = torch.randn(SHAPE)
    assert torch.equal(host.call(model, x), Model().answer(x, SIGMAS[0]))
    host.session.close()
    assert code_of(host.trace.reason) == "guider_unknown"
    assert not host.session._passes


def test_ended_passes_are_let_go():
    host, model = Host(), Model()
    x = torch.randn(SHAPE)
    most = 0
    for k in range(STEPS):
        host.evaluation = k
        host.session.begin(SIGMAS[k])
        host.call(model, x, (f"prompt {k // 2}",))
        most = max(most, len(host.session._passes))
    host.session.close()
    assert most <= 5


def test_the_motion_map_is_where_answers_change():
    class Moves(Model):
        def answer(self, x, sigma, key=0):
            clean = super().answer(x, sigma, key)
            clean[:, :, 1, 2, 3] += 3 * sigma * (1 - sigma)
            return clean

    host = Host()
    host.sample(Moves())
    maps = [e.weight for e in host.trace.evaluations if e.weight is not None]
    assert len(maps) == marks(host.trace).count("D") - 1
    _frames, rows, columns = SHAPE[2:]
    where = (1 * rows + 2) * columns + 3
    assert sum(int(m.argmax()) == where for m in maps) > len(maps) / 2
