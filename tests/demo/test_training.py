"""What the demo model is trained on, and that training can be interrupted."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from motioncache_pack.motioncache_core.demo import attention, codec, conditions, scenes
from motioncache_pack.motioncache_core.demo.attention import rotate, scaled_dot_product
from motioncache_pack.motioncache_core.demo.training import batches, half, train


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_and_take(seed: int, frames: int) -> tuple[scenes.Scene, scenes.Take]:
    rng = generator(seed)
    scene = scenes.sample_scene(frames, rng)
    return scene, scenes.draw_take(scene, rng)


def test_a_take_keeps_to_its_classes() -> None:
    for scene, take in (scene_and_take(seed, 9) for seed in range(6)):
        for shape, (x, y), velocity in zip(scene.shapes, take.starts, take.velocities, strict=True):
            assert abs(x - shape.start()[0]) <= 3 and abs(y - shape.start()[1]) <= 3
            nominal, drawn = (torch.tensor(v) for v in (shape.velocity(), velocity))
            if shape.speed == 0:
                assert drawn.norm() == 0
            else:
                assert torch.cosine_similarity(nominal, drawn, dim=0) > 0.96
                assert 0.7 < drawn.norm() / nominal.norm() < 1.3
        assert (take.pan != 0) == (scene.pan != 0)
        assert len({s.colour for s in scene.shapes}) == len(scene.shapes)


def test_only_what_moves_changes() -> None:
    for scene, take in (scene_and_take(seed, 6) for seed in range(4)):
        still = scenes.Scene(scene.shapes, scene.texture, scene.palette, 0)
        take = scenes.Take(take.starts, take.velocities, 0.0, take.phase)
        video = scenes.render(still, take, 6)
        change = (video[1:] - video[:-1]).abs().amax(-1)
        # antialiased edges reach a few pixels beyond the half-covered line
        mask = scenes.moving_mask(still, take, 6)[:, None].float()
        near = torch.nn.functional.max_pool2d(mask, 11, 1, 5)[:, 0] > 0
        assert change[~(near[1:] | near[:-1])].max() < 0.02


def test_all_text_fits_the_axes() -> None:
    scene, _ = scene_and_take(3, 6)
    states = scenes.text_states(scene)
    assert states[:, scenes.TEXT_AXES :].eq(0).all()
    last = scenes.Shape(2, 5, 1, 15, 7, 2)
    assert scenes.text_states(scenes.Scene((last,) * 3))[3, scenes.TEXT_AXES - 1] > 0


def test_condition_shows_the_first_frame_and_the_control_video() -> None:
    scene, take = scene_and_take(1, 6)
    latents = codec.encode(scenes.render(scene, take, 6)[None])[0]
    given = conditions.condition(latents[:, 0], 6)
    assert torch.equal(given[4:, 0], latents[:, 0]) and given[:4, 0].eq(1).all()
    assert given[:, 1:].eq(0).all()
    conditions.add_control(
        given, scene, take, torch.tensor([True, True, False, True, False, False])
    )
    assert torch.equal(given[4:, 0], latents[:, 0]) and given[:4, 1:].eq(0).all()
    written = given[4:].abs().amax((0, 2, 3))[1:] > 0
    assert written.tolist() == [True, False, True, False, False]
    # flat shapes where the video has them, grey elsewhere
    shown, video = codec.decode(given[None, 4:])[0, 3], codec.decode(latents[None])[0, 3]
    every = [scenes.coverage(scene, take, i, 6)[3] for i in range(len(scene.shapes))]
    covered = torch.stack(every).amax(0)
    assert (shown - video)[_whole_blocks(covered > 0.999)].abs().max() < 1e-3
    assert (shown - codec.GREY)[_whole_blocks(covered < 1e-4)].abs().max() < 1e-3


def _whole_blocks(pixels: torch.Tensor) -> torch.Tensor:
    """The pixels of the codec's blocks that lie within `pixels`, `(64, 64)` bool."""
    n = codec.BLOCK
    inside = pixels.unfold(0, n, n).unfold(1, n, n).all(-1).all(-1)
    return inside.repeat_interleave(n, 0).repeat_interleave(n, 1)


def test_noise_levels_cover_every_kind() -> None:
    sigma = batches.noise_levels(400, 12, generator(0))
    assert sigma.shape == (400, 12) and sigma.min() >= 0 and sigma.max() <= 1
    chunks = sigma[:, ::3]
    assert torch.equal(sigma, chunks.repeat_interleave(3, 1))
    same = (chunks == chunks[:, :1]).all(1)
    rising = (chunks[:, 1:] >= chunks[:, :-1]).all(1)
    assert 0.45 < same.float().mean() < 0.65
    assert (rising & ~same).float().mean() > 0.2
    assert (~rising).float().mean() > 0.08
    assert ((chunks[:, 0] == 0) & (chunks[:, -1] > 0)).float().mean() > 0.04


def test_block_causal_attention_is_the_masked_one() -> None:
    for frames in (3, 5, 9):
        q, k, v = torch.randn(3, 2, frames * 4, 8, generator=generator(1)).unbind(0)
        attend = batches.block_causal_options(frames, 4)["optimized_attention_override"]
        chunk = torch.arange(frames * 4) // 4 // batches.CHUNK
        expected = scaled_dot_product(q, k, v, 2, mask=chunk[:, None] >= chunk)
        assert callable(attend)
        assert torch.allclose(attend(scaled_dot_product, q, k, v, heads=2), expected, atol=1e-6)
        assert attend(scaled_dot_product, q, k[:, :3], v[:, :3], heads=2).shape == q.shape


def test_the_shortcuts_of_training_compute_the_same() -> None:
    for heads in (1, 2):
        q, k, v = torch.randn(3, 2, 24, 160, generator=generator(2)).unbind(0)
        expected = scaled_dot_product(q, k, v, heads)
        torch.testing.assert_close(half.multiplied(None, q, k, v, heads), expected)
        table = attention.rotary_table((2, 3, 4), 160 // heads, q.device)
        x = q.unflatten(2, (heads, -1))
        assert torch.equal(half.rotate(x, table), rotate(x, table))


def test_losses_are_sorted_by_noise_level() -> None:
    losses = batches.BinnedLoss()
    losses.add(torch.tensor([[0.0, 0.1, 0.19, 0.99]]), torch.tensor([[9.0, 1.0, 2.0, 5.0]]))
    assert losses.line().split() == [
        "<0.2:1.5000", "<0.4:0.0000", "<0.6:0.0000", "<0.8:0.0000", "<0.9:0.0000", "<0.97:0.0000",
        "<1:5.0000",
    ]  # fmt: skip
    assert losses.count.sum() == 0


def arguments(folder: Path, **changes: object) -> Namespace:
    given = {
        "run": str(folder), "steps": 0, "cooldown": 0, "frames": 6, "dim": 128, "ffn_dim": 64,
        "layers": 1, "lr": 0.02, "ema": 0.9, "seed": 3, "device": "cpu", "save_every": 1e9,
        "start": None,
    }  # fmt: skip
    return Namespace(**(given | changes))


@torch.enable_grad()
def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    train.train(arguments(tmp_path / "once", steps=4))
    train.train(arguments(tmp_path / "twice", steps=2))
    train.train(arguments(tmp_path / "twice", steps=4))
    a, b = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("once", "twice")
    )
    for part in ("model", "ema"):
        for key in a[part]:
            assert torch.equal(a[part][key], b[part][key]), f"{part} {key}"
    assert a["step"] == b["step"] == 4


@torch.enable_grad()
def test_a_cooldown_writes_weights_and_leaves_the_state(tmp_path: Path) -> None:
    train.train(arguments(tmp_path, steps=1))
    before = (tmp_path / "state.pt").read_bytes()
    train.train(arguments(tmp_path, cooldown=2))
    assert (tmp_path / "demo_wan.safetensors").exists()
    assert (tmp_path / "state.pt").read_bytes() == before


def test_training_starts_near_the_noisy_input() -> None:
    run = train.Run(arguments(Path("none")))
    given = batches.draw(2, 6, generator(0))
    noise = torch.randn(given.latents.shape, generator=generator(1))
    with torch.no_grad():
        v = run.model(torch.cat((noise, given.given), 1), torch.full((2,), 999.0), given.text)
    assert torch.cosine_similarity(v.flatten(), noise.flatten(), dim=0) > 0.7
