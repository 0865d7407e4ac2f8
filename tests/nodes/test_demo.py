"""The demo nodes with the shipped model, and what the motion map shows of a known motion."""

import functools

import numpy as np
import torch
from motioncache_pack.motioncache_core.demo import clips, codec, scenes

SCENE = "disc to the right"
FRAMES = 9


def test_model_outputs(pack):
    frames, batch = 9, 2
    model, positive, negative, latent, _ = pack.execute(
        "MotionCacheDemoModel", SCENE, frames, batch
    )
    assert latent["samples"].shape == (batch, 16, frames, 16, 16)
    assert latent["samples"].eq(0).all()
    shown = clips.clip(scenes.SCENES[SCENE], frames).conditions
    latent_format = pack.host.latent_formats.Wan21()
    for cond in (positive, negative):
        assert len(cond) == 1
        states, given = cond[0]
        assert states.shape == (1, 4, 4096)
        image = latent_format.process_in(given["concat_latent_image"])
        assert torch.allclose(image, shown[:, 4:], atol=1e-4)
        assert torch.equal(1 - given["concat_mask"], shown[:, :1])
    assert not torch.equal(positive[0][0], negative[0][0])
    assert float(model.get_model_object("model_sampling").shift) == 5.0


def test_a_take_moves_the_shapes(pack):
    first, again, other = (
        pack.execute("MotionCacheDemoModel", SCENE, 3, 1, take)[1][0][1]["concat_latent_image"]
        for take in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_scene_has_a_prompt_of_its_own(pack):
    for scene, drawn in scenes.SCENES.items():
        _, positive, *_ = pack.execute("MotionCacheDemoModel", scene, 3, 1)
        assert torch.equal(positive[0][0][0], scenes.text_states(drawn)), scene


def test_two_demo_models_are_no_shared_state(pack):
    first, second = (pack.execute("MotionCacheDemoModel", SCENE, 3, 1)[0] for _ in range(2))
    pack.patch(first)
    pack.patch(second)


def test_decode_gives_frames(pack):
    scale, batch = 3, 2
    video = clips.clip(scenes.SCENES[SCENE], 4).video
    samples = codec.encode(video.expand(batch, *video.shape))
    latent_format = pack.host.latent_formats.Wan21()
    (frames,) = pack.execute(
        "MotionCacheDemoDecode", {"samples": latent_format.process_out(samples)}, scale
    )
    assert frames.shape == (4 * batch, 64 * scale, 64 * scale, 3)
    assert 0 <= frames.min() <= frames.max() <= 1
    small = torch.nn.functional.avg_pool2d(frames.permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1)
    assert (small[-4:] - video).abs().mean() < 0.05


@functools.cache
def whole_run(pack):
    """Decoded uncached frames, motion maps and trace of the scene with the balanced preset."""
    model, positive, negative, latent, _ = pack.execute("MotionCacheDemoModel", SCENE, FRAMES, 1)
    patched, handle = pack.execute("MotionCachePatcher", model, "balanced")
    run = functools.partial(
        pack.host.run, positive=positive, negative=negative, latent=latent["samples"], steps=24,
        cfg=2.0, seed=3,
    )  # fmt: skip
    decoded = [
        pack.execute("MotionCacheDemoDecode", {"samples": run(m)}, 1)[0] for m in (model, patched)
    ]
    maps = pack.execute("MotionCacheMotionMap", handle, {}, "motion", -1, "gray", 0.6)[0]
    return (*decoded, maps[:, ::16, ::16, 0], handle.latest)


def test_the_workflow_with_the_shipped_model(pack):
    plain, cached, maps, trace = whole_run(pack)
    assert plain.shape == cached.shape == (FRAMES, 64, 64, 3)
    assert maps.shape == (FRAMES, 8, 8)
    assert trace.grid == (FRAMES, 8, 8)
    assert (trace.model, trace.distance) == ("Wan", "")
    assert [e.kind for e in trace.evaluations].count("dense") == round(0.4 * 24)
    assert not torch.equal(plain, cached)


def per_token(frames):
    """`(F, 64, 64)` to the mean over each token's 8x8 pixels."""
    return torch.nn.functional.avg_pool2d(frames.float()[:, None], 8)[:, 0]


def correlation(a, b):
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def disc(frames):
    """Where the red disc is, `(F, 64, 64)` bool."""
    return frames[..., 0] - frames[..., 1:].amax(-1) > 0.25


def centres(masks):
    """The column of the disc in each frame that has one."""
    columns = torch.arange(64.0) + 0.5
    found = [(m.float().sum(0) * columns).sum() / m.sum() for m in masks if m.sum() > 40]
    return torch.stack(found) if found else torch.zeros(0)


def test_the_disc_is_found_in_the_scene_as_drawn():
    clip = clips.clip(scenes.SCENES[SCENE], FRAMES)
    masks = disc(clip.video)
    assert (masks ^ clip.moving_mask()).float().mean() < 0.05
    steps = centres(masks).diff()
    assert torch.allclose(steps, torch.tensor(clip.take.velocities[0][0]), atol=0.2)


# thresholds for the shipped checkpoint; a new checkpoint may need new ones
CORRELATION_WITH_FRAME_DIFFERENCE = 0.5
CORRELATION_WITH_THE_DISC = 0.4
BRIGHT_OVER_DARK = 1.5


def test_the_map_is_bright_where_the_disc_moves_and_dark_where_nothing_does(pack):
    """Needs the trained checkpoint: the disc must be where the scene says, and move as told."""
    plain, _, maps, _ = whole_run(pack)
    difference = per_token((plain[1:] - plain[:-1]).abs().mean(-1))
    shown = maps[1:]

    red = disc(plain)
    found = centres(red)
    assert len(found) == FRAMES, "no red disc in every frame: the checkpoint draws another scene"
    clip = clips.clip(scenes.SCENES[SCENE], FRAMES)
    (vx, _) = clip.take.velocities[0]
    assert abs(float(found.diff().median()) - vx) < 1.5
    told = clip.moving_mask()
    assert (red & told).sum() > 0.6 * (red | told).sum()

    # the inside of a plain disc does not change: motion is where it comes and where it leaves
    moving, near = per_token(red[1:] ^ red[:-1]), per_token(red[1:] | red[:-1])
    assert correlation(shown, difference) > CORRELATION_WITH_FRAME_DIFFERENCE
    assert correlation(shown, moving) > CORRELATION_WITH_THE_DISC
    assert shown[moving > 0.2].mean() > BRIGHT_OVER_DARK * shown[near == 0].mean()


def test_only_runs_without_the_cache_are_timed_for_the_demo_model(pack):
    model, positive, negative, latent, handle = pack.execute("MotionCacheDemoModel", SCENE, 3, 1)
    run = functools.partial(
        pack.host.run, positive=positive, negative=negative, latent=latent["samples"], steps=9,
        cfg=2.0, seed=3,
    )  # fmt: skip
    cached, trace = pack.execute("MotionCachePatcher", model, "balanced")
    run(cached)
    assert handle.latest is None and trace.latest.seconds > 0
    run(model)
    assert handle.latest.seconds > 0 and handle.latest.steps == 9
    assert not handle.latest.evaluations
