"""The solvers: diffusers' UniPC is the reference; and what must hold at the schedule's ends."""

import math

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import SettingsError
from motioncache_pack.motioncache_core.sampling.solver import make_solver
from motioncache_pack.tests.support.assert_close import assert_close, assert_same, relative_error

SHAPE = (2, 5, 3, 7, 4)
TRAJECTORY_TOLERANCE = 1e-5


def draw(seed, shape=SHAPE, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng).to(dtype)


def flow_sigmas(steps, shift, top=1.0):
    """A shifted schedule from `top` to 0, as hosts make it."""
    u = torch.linspace(top, 0.0, steps + 1, dtype=torch.float64)
    return (shift * u / (1 + (shift - 1) * u)).tolist()


class Velocity:
    """A velocity that is nonlinear in the latents and in the noise level and mixes channels."""

    def __init__(self, seed, dtype=torch.float32):
        channels = SHAPE[1]
        self.weight = draw(seed, (channels, channels), dtype) / channels**0.5
        self.target = draw(seed + 1, SHAPE, dtype)

    def __call__(self, x, sigma):
        mixed = torch.einsum("dc,bcfhw->bdfhw", self.weight, x)
        return torch.tanh(mixed + sigma) + 0.3 * torch.sin(3 * sigma * x) - 0.5 * self.target


def trajectory(name, sigmas, velocity, x, state=None):
    """Latents after each step."""
    state = state or make_solver(name, sigmas).start()
    points = []
    for k, sigma in enumerate(sigmas[:-1]):
        x = state.step(k, x, x - sigma * velocity(x, sigma))
        points.append(x)
    return points


NAMES = pytest.mark.parametrize("name", ["unipc", "euler"])


@pytest.mark.parametrize(
    ("steps", "shift"), [(50, 8.0), (30, 5.0), (8, 3.0), (4, 8.0), (3, 5.0), (2, 3.0), (1, 8.0)]
)
def test_unipc_is_diffusers_unipc(steps, shift):
    pytest.importorskip(
        "diffusers", reason="diffusers is not installed: pip install -r tests/requirements.txt"
    )
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    velocity, x = Velocity(steps), draw(100 + steps)
    sigmas = scheduler.sigmas.tolist()
    ours = trajectory("unipc", sigmas, velocity, x)
    for k, t in enumerate(scheduler.timesteps):
        x = scheduler.step(velocity(x, sigmas[k]), t, x, return_dict=False)[0]
        assert_close(f"step {k}", x, ours[k], TRAJECTORY_TOLERANCE)


@pytest.mark.parametrize(("steps", "shift"), [(1, 8.0), (2, 1.0), (9, 8.0)])
def test_euler_is_a_plain_loop(steps, shift):
    velocity, x = Velocity(steps), draw(steps)
    sigmas = flow_sigmas(steps, shift)
    ours = trajectory("euler", sigmas, velocity, x)
    for k in range(steps):
        x = x + (sigmas[k + 1] - sigmas[k]) * velocity(x, sigmas[k])
        assert_close(f"step {k}", x, ours[k])


@pytest.mark.parametrize(
    ("steps", "shift"), [(1, 1.0), (2, 5.0), (3, 8.0), (4, 1.0), (8, 5.0), (20, 8.0)]
)
def test_a_first_sigma_of_one_is_the_limit_from_below(steps, shift):
    velocity, start = Velocity(7), draw(8)
    sigmas = flow_sigmas(steps, shift)
    at_one = trajectory("unipc", sigmas, velocity, start)
    assert all(bool(torch.isfinite(x).all()) for x in at_one)
    gaps = []
    for below in (1e-3, 1e-7, 1e-15):
        near = trajectory("unipc", [1.0 - below, *sigmas[1:]], velocity, start)
        gaps.append(max(relative_error(a, b) for a, b in zip(at_one, near, strict=True)))
    # the far point's weight falls with the logarithm of its distance only
    assert gaps[1] < 0.02
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.parametrize(("row", "k"), [("predictors", 1), ("correctors", 2)])
def test_weights_at_a_first_sigma_of_one_are_limits(row, k):
    rest = [0.9, 0.7, 0.4, 0.0]
    limit = getattr(make_solver("unipc", [1.0, *rest]), row)[k]
    gaps = []
    for below in (1e-4, 1e-8, 1e-16):
        near = getattr(make_solver("unipc", [1.0 - below, *rest]), row)[k]
        gaps.append(max(abs(a - b) for a, b in zip(limit, near, strict=True)))
    # about 1 / lambda, and lambda doubles each time
    assert gaps[0] > 1.5 * gaps[1] > 2.25 * gaps[2] > 0.0


def test_close_sigmas_lose_no_digits():
    # phi_3 by recursion alone has no digit left here
    sigmas = [0.5, 0.5 - 1e-8, 0.5 - 2e-8, 0.4]
    weights = make_solver("unipc", sigmas).correctors[2]
    assert math.isclose(sum(weights), 1.0, abs_tol=1e-12)
    ratio, now, _, before = weights
    # h -> 0: 5/12 m_k + 8/12 m_(k-1) - 1/12 m_(k-2), Adams-Moulton
    assert math.isclose(now / (1 - ratio), 5 / 12, rel_tol=1e-4)
    assert math.isclose(before / (1 - ratio), -1 / 12, rel_tol=1e-4)


@NAMES
def test_arguments_may_be_written_to_after_a_step(name):
    sigmas = flow_sigmas(5, 3.0)
    velocity, x = Velocity(2), draw(3)
    expected = trajectory(name, sigmas, velocity, x)[-1]
    state = make_solver(name, sigmas).start()
    clip = x.clone()
    for k, sigma in enumerate(sigmas[:-1]):
        x0 = clip - sigma * velocity(clip, sigma)
        before = clip.clone(), x0.clone()
        x_next = state.step(k, clip, x0)
        assert_same("x", before[0], clip)
        assert_same("x0", before[1], x0)
        clip.copy_(x_next)
        x0.fill_(math.nan)
        x_next.fill_(math.nan)
    assert_same("end", expected, clip)


@NAMES
def test_a_state_holds_three_tensors_at_most_and_none_at_the_end(new_objects, name):
    # no other tensor has this shape
    steps, shape = 6, (1, 1, 1, 3, 13)

    def alive():
        return [o for o in new_objects() if type(o) is torch.Tensor and o.shape == shape]

    state = make_solver(name, flow_sigmas(steps, 5.0)).start()
    x = draw(0, shape)
    held = []
    for k in range(steps):
        x = state.step(k, x, draw(k, shape))
        held.append(len([o for o in alive() if o is not x]))
    assert held == ([2, 3, 3, 3, 3, 0] if name == "unipc" else [0] * steps)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("unipc", torch.bfloat16), ("euler", torch.float16), ("euler", torch.float64)],
)
def test_all_maths_is_fp32_whatever_the_model_returns(name, dtype):
    sigmas = flow_sigmas(4, 5.0)
    x = draw(0)
    other = x
    state, expected = (make_solver(name, sigmas).start() for _ in range(2))
    for k in range(4):
        x0 = draw(30 + k).to(dtype)
        x = state.step(k, x, x0)
        other = expected.step(k, other, x0.float())
        assert_same(f"step {k}", other, x)


def test_sigmas_may_be_a_tensor():
    sigmas = flow_sigmas(5, 8.0)
    solvers = [make_solver("unipc", s) for s in (sigmas, torch.tensor(sigmas, dtype=torch.float64))]
    assert solvers[0].correctors == solvers[1].correctors


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        ([1.0], "at least 2"),
        ([], "at least 2"),
        ([1.0, 0.5, 0.5, 0.0], r"sigmas\[1\] is 0.5"),
        ([0.5, 0.7, 0.0], r"sigmas\[1\] is 0.7"),
        ([1.0, 0.0, 0.0], r"sigmas\[2\] is 0"),
        ([14.6, 1.0, 0.0], r"sigmas\[0\] is 14.6"),
        ([1.0, 0.5, -0.1], r"sigmas\[2\] is -0.1"),
        ([1.0, math.nan, 0.0], r"sigmas\[1\] is nan"),
    ],
)
def test_sigmas_that_do_not_fall_are_refused(sigmas, words):
    for name in ("unipc", "euler"):
        with pytest.raises(SettingsError, match=words):
            make_solver(name, sigmas)


def test_an_unknown_solver_is_refused():
    with pytest.raises(SettingsError, match="'unipc', 'euler'"):
        make_solver("heun", [1.0, 0.0])
