"""Diffusion forcing through the host: the same as the core's own loop, and as the host's euler."""

import pytest
import torch
from motioncache_pack.motioncache_core import ForcingOptions, forcing_schedule
from motioncache_pack.tests.support.forcing_runs import (
    FRAMES,
    STEPS,
    by_core,
    by_host,
    clip,
    error,
    extended,
    sampler,
    wan,
    watch,
)

# fp32 rounding of two implementations of one network, grown by the steps
CLOSE = 1e-5
SEQUENTIAL = {"window_frames": 4, "overlap_frames": 2}
ROLLING = {"window_frames": 4, "chunk_delay": 3}
# each mode of attention, and each option and property of a clip in one run or another
RUNS = {
    "plain": {"attention": "block_causal"},
    "euler, cfg 1": {"solver": "euler", "cfg": 1.0, "attention": "bidirectional"},
    "one after the other, odd size": {
        "chunk_delay": STEPS, "chunk_frames": 3, "height": 5, "width": 7,
        "attention": "block_causal",
    },
    "given part of a chunk": {"given": 3, "attention": "block_causal"},
    "batch, noise on given frames": {
        "batch": 2, "given": 2, "condition_noise": 0.1, "attention": "bidirectional",
    },
    "windows, given, cfg 1": {
        **SEQUENTIAL, "given": 1, "condition_noise": 0.05, "cfg": 1.0, "attention": "block_causal",
    },
    "rolling, given": {
        **ROLLING, "given": 3, "condition_noise": 0.05, "solver": "euler",
        "attention": "bidirectional",
    },
    "rolling past finished chunks": {
        "window_frames": 6, "chunk_delay": STEPS, "attention": "block_causal",
    },
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_host_samples_what_the_core_samples(pack, run):
    options = dict(run)
    given, cfg = options.pop("given", 0), options.pop("cfg", 3.0)
    shape = {k: options.pop(k) for k in ("batch", "height", "width") if k in options}
    model, noise = wan(pack), clip(**shape)
    start = mask = None
    if given:
        start, mask = extended(pack, clip(given, **shape), FRAMES - given)
    got = by_host(pack, model, noise, options, start=start, denoise_mask=mask, cfg=cfg)
    wanted, _ = by_core(pack, model, noise, options, start=start, prefix=given, cfg=cfg)
    assert error(got, wanted) < CLOSE


def test_kept_keys_are_compressed_as_the_core_compresses_them(pack):
    model, noise = wan(pack), clip(9)
    options = {"kv_keep": 1, **ROLLING}
    got = by_host(pack, model, noise, options)
    wanted, _ = by_core(pack, model, noise, options)
    assert error(got, wanted) < CLOSE
    assert error(got, by_host(pack, model, noise, ROLLING)) > 1e-3


@pytest.mark.parametrize(
    ("solver", "attention"), [("unipc", "block_causal"), ("euler", "bidirectional")]
)
def test_a_start_below_full_noise_goes_on_from_the_latent(pack, solver, attention):
    model, noise, start = wan(pack), clip(), clip()
    options = {"solver": solver, "attention": attention}
    kwargs = {"start": start, "sigmas": pack.host.sigmas(model, 12)[4:]}
    assert kwargs["sigmas"][0] < 0.97
    got = by_host(pack, model, noise, options, **kwargs)
    assert error(got, by_core(pack, model, noise, options, **kwargs)[0]) < CLOSE
    other = by_host(pack, model, noise, options, **{**kwargs, "start": clip()})
    assert error(got, other) > 1e-2


def test_both_ways_to_sample_are_one(pack):
    model, noise = wan(pack), clip()
    start, mask = extended(pack, clip(2), FRAMES - 2)
    runs = [
        by_host(
            pack, model, noise, {"condition_noise": 0.1}, start=start, denoise_mask=mask, how=how
        )
        for how in ("SamplerCustom", "SamplerCustomAdvanced")
    ]  # fmt: skip
    assert torch.equal(*runs)


def test_the_seed_draws_the_noise_on_given_frames(pack):
    model, noise = wan(pack), clip()
    start, mask = extended(pack, clip(2), FRAMES - 2)
    how = {"start": start, "denoise_mask": mask}
    for condition_noise, alike in ((0.1, False), (0.0, True)):
        options = {"condition_noise": condition_noise}
        one, again, two = (by_host(pack, model, noise, options, seed=s, **how) for s in (4, 4, 5))
        assert torch.equal(one, again)
        assert torch.equal(one, two) == alike


@pytest.mark.parametrize(
    ("cfg", "part"), [(1.0, slice(None)), (4.0, slice(3, None)), (4.0, slice(0, 5))], ids=str
)
def test_without_a_delay_euler_is_the_hosts_euler(pack, cfg, part):
    model, noise = wan(pack), clip()
    sigmas = pack.host.sigmas(model, 9)[part]
    kwargs = {"start": clip() if part.start else None, "sigmas": sigmas, "cfg": cfg}
    options = {"attention": "bidirectional", "chunk_delay": 0, "solver": "euler"}
    got = by_host(pack, model, noise, options, **kwargs)
    euler = pack.host.samplers.sampler_object("euler")
    assert error(got, by_host(pack, model, noise, euler, **kwargs)) < CLOSE


def test_two_samplers_that_share_the_steps_are_one(pack):
    model, noise = wan(pack), clip()
    options = {"attention": "bidirectional", "chunk_delay": 0, "solver": "euler"}
    sigmas = pack.host.sigmas(model, 9)
    first, mask = extended(pack, clip(2), FRAMES - 2)
    whole = by_host(pack, model, noise, options, start=first, denoise_mask=mask, sigmas=sigmas)
    half = by_host(pack, model, noise, options, start=first, denoise_mask=mask, sigmas=sigmas[:5])
    got = by_host(
        pack, model, torch.zeros_like(noise), options, start=half, denoise_mask=mask,
        sigmas=sigmas[4:],
    )  # fmt: skip
    assert error(got, whole) < CLOSE


@pytest.mark.parametrize(("attention", "end"), [("block_causal", 0.0), ("bidirectional", 0.3)])
def test_given_frames_come_back_as_they_were(pack, attention, end):
    model, noise, seen = wan(pack), clip(batch=2), []
    start, mask = extended(pack, clip(3, batch=2), FRAMES - 3)
    watch(pack, model, "SAMPLER_SAMPLE", lambda *args: seen.append(args[5].clone()))
    made = sampler(pack, attention=attention, condition_noise=0.1)
    answers, sample = [], made.sample
    made.sample = lambda *args: answers.append(sample(*args)) or answers[-1]
    sigmas = torch.tensor([1.0, 0.8, 0.5, end])
    got = by_host(pack, model, noise, made, start=start, denoise_mask=mask, sigmas=sigmas)
    # where the sampler works they are the same bits; the host's way there and back rounds
    assert torch.equal(answers[0][:, :, :3], seen[0][:, :, :3])
    there_and_back = model.model.process_latent_out(model.model.process_latent_in(start))
    assert torch.equal(got[:, :, :3], there_and_back[:, :, :3])
    assert error(got[:, :, :3], start[:, :, :3]) < 1e-6


def as_nodes_make_it(mask):
    """One picture per latent frame, as mask nodes and SetLatentNoiseMask hand it over."""
    return mask[0, 0, :, None, :3, :5]


@pytest.mark.parametrize("make", [as_nodes_make_it, lambda mask: mask[:, :, :, :1, :1]],
                         ids=["pictures", "small"])  # fmt: skip
def test_a_noise_mask_of_another_form_means_the_same(pack, make):
    model, noise = wan(pack), clip(batch=2)
    start, mask = extended(pack, clip(3, batch=2), FRAMES - 3)
    wanted = by_host(pack, model, noise, {}, start=start, denoise_mask=mask)
    got = by_host(pack, model, noise, {}, start=start, denoise_mask=make(mask))
    assert torch.equal(got, wanted)
    everything = torch.ones_like(mask)
    assert torch.equal(
        by_host(pack, model, noise, {}, denoise_mask=everything), by_host(pack, model, noise, {})
    )


def test_extending_a_video(pack):
    batch, frames, more = 2, 5, 3
    given = clip(frames, batch, 3, 5).double()
    latent = {"samples": given, "noise_mask": torch.zeros(1), "batch_index": [4]}
    (got,) = pack.execute("MotionCacheExtendVideo", latent, more)
    assert got["samples"].shape == (batch, 16, frames + more, 3, 5)
    assert got["samples"].dtype == given.dtype
    assert torch.equal(got["samples"][:, :, :frames], given)
    assert not got["samples"][:, :, frames:].any()
    kept = got["noise_mask"].expand(batch, 1, -1, -1, -1)
    assert kept.shape == (batch, 1, frames + more, 3, 5)
    assert not kept[:, :, :frames].any()
    assert (kept[:, :, frames:] == 1).all()
    assert got["batch_index"] == [4]
    assert latent["samples"] is given


def levels(sigmas, options, given=0):
    """Noise level of the noisiest chunk at work in every iteration."""
    run = forcing_schedule(FRAMES, len(sigmas) - 1, ForcingOptions(**options), given)
    return [max(sigmas[s.step] for s in it.steps if s.step >= 0) for it in run]


@pytest.mark.parametrize(
    ("delay", "count", "attention"),
    [
        (0, STEPS, "block_causal"),
        (2, STEPS + 6, "bidirectional"),
        (STEPS, 4 * STEPS, "block_causal"),
    ],
    ids=str,
)
def test_the_guider_is_called_with_the_highest_level_at_work(pack, delay, count, attention):
    model, seen = wan(pack), []
    watch(pack, model, "PREDICT_NOISE", lambda x, t, *_: seen.append((tuple(x.shape), t.tolist())))
    options = {"chunk_frames": 2, "chunk_delay": delay}
    by_host(pack, model, clip(batch=2), {**options, "attention": attention})
    sigmas = pack.host.sigmas(model, STEPS).tolist()
    wanted = levels(sigmas, options)
    assert len(wanted) == count
    # chunk 1 joins while chunk 0 is behind by `delay` steps, and so on
    assert {0: sigmas[:-1], STEPS: sigmas[:-1] * 4}.get(delay, wanted) == wanted
    shape = (2, 16, FRAMES, 6, 8)
    assert seen == [(shape, [level, level]) for level in wanted]


@pytest.mark.parametrize(
    ("delay", "attention"), [(0, "bidirectional"), (2, "block_causal"), (STEPS, "bidirectional")]
)
def test_prompts_with_a_start_and_an_end_change_at_that_level(pack, delay, attention):
    model, seen = wan(pack), []

    def look(x, timestep, context, *args):
        options = next(a for a in args if isinstance(a, dict) and "sigmas" in a)
        seen.append((options["sigmas"][0].item(), context[:, 0, 0].tolist()))

    watch(pack, model, "DIFFUSION_MODEL", look)
    (early, _), (late, _) = (pack.host.text(i)[0] for i in (1, 3))
    change = 0.5
    positive = [[early, {"end_percent": change}], [late, {"start_percent": change}]]
    options = {"chunk_frames": 2, "chunk_delay": delay}
    by_host(
        pack, model, clip(), {**options, "attention": attention}, cfg=1.0,
        prompts=(positive, pack.host.text(2)),
    )  # fmt: skip
    end = float(model.get_model_object("model_sampling").percent_to_sigma(change))
    wanted = levels(pack.host.sigmas(model, STEPS).tolist(), options)
    assert min(wanted) < end < max(wanted)
    assert seen == [(s, [(early if s > end else late)[0, 0, 0].item()]) for s in wanted]


def put_mask(model, tokens):
    """Lets chunks of so many tokens attend to themselves and to those before them."""

    def override(attention, q, k, v, *args, **kwargs):
        if q.shape[1] == k.shape[1]:
            chunk = torch.arange(q.shape[1]) // tokens
            kwargs["mask"] = torch.where(chunk[:, None] >= chunk, 0.0, -torch.inf)
        return attention(q, k, v, *args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override


@pytest.mark.parametrize(
    ("options", "changing"),
    [({"chunk_delay": 2}, True), ({"chunk_delay": STEPS}, False), (SEQUENTIAL, True)],
    ids=["later, prompts that change", "apart", "windows, prompts that change"],
)
def test_block_causal_is_the_whole_clip_under_a_mask(pack, options, changing):
    (early, _), (late, _) = (pack.host.text(i)[0] for i in (1, 3))
    positive = [[early, {"end_percent": 0.5}], [late, {"start_percent": 0.5}]]
    kwargs = {"steps": 6}
    if changing:
        kwargs["prompts"] = positive, pack.host.text(2)
    model, noise, masked = wan(pack), clip(), wan(pack)
    put_mask(masked, 2 * 3 * 4)
    got = by_host(pack, model, noise, options, **kwargs)
    wanted = by_host(pack, masked, noise, {**options, "attention": "bidirectional"}, **kwargs)
    assert error(got, wanted) < CLOSE
