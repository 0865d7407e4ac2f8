"""The pack's small Wan in the stand-in against the same weights in ComfyUI's WanModel."""

import functools

import pytest
import torch

pytestmark = pytest.mark.comfy


def close(mine, theirs):
    return (mine - theirs).norm() / theirs.norm() < 1e-4


def test_latents_agree(standin, host, tiny, run):
    mine, theirs = (run(h, tiny(h), steps=6) for h in (standin, host))
    assert close(mine, theirs)
    assert not close(mine, run(host, tiny(host), steps=6, seed=8))


def test_latents_of_an_odd_size_agree(standin, host, tiny, run):
    latent = host.latent(frames=2, height=7, width=5)
    mine, theirs = (run(h, tiny(h), steps=2, latent=latent) for h in (standin, host))
    assert mine.shape == latent.shape
    assert close(mine, theirs)


def test_one_timestep_per_frame_agrees(standin, host, tiny):
    x = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([[0.0, 400.0, 900.0]])

    def velocity(host, timestep):
        network = tiny(host).model.diffusion_model
        with torch.no_grad():
            return network(x, timestep, context=host.text(1)[0][0], transformer_options={})

    mine, theirs = velocity(standin, timestep), velocity(host, timestep)
    assert close(mine, theirs)
    assert not close(mine, velocity(host, timestep[:, 0]))


def shapes(values):
    return {
        k: tuple(v.shape) if torch.is_tensor(v) else type(v).__name__ for k, v in values.items()
    }


def test_block_replacements_get_and_give_the_same(same, tiny, run):
    def facts(host):
        patcher, seen = tiny(host), []

        def replace(args, extra, i):
            out = extra["original_block"](args)
            seen.append((i, shapes(args), sorted(extra), shapes(out)))
            return out

        for i in range(2):
            patch = functools.partial(replace, i=i)
            patcher.set_model_patch_replace(patch, "dit", "double_block", i)
        run(host, patcher, steps=1)
        return seen

    seen = same(facts)
    assert [place for place, *_ in seen] == [0, 1]
    assert seen[0][1]["img"] == (2, 48, 128)
    assert seen[0][1]["vec"] == (2, 1, 6, 128)
    assert seen[0][1]["pe"] == (1, 48, 1, 64, 2, 2)


def test_attention_override_gets_the_same(same, tiny, run, comfy_version):
    def facts(host):
        patcher, seen, blocks = tiny(host), [], []

        def override(attention, q, k, v, *args, **kwargs):
            options = kwargs["transformer_options"]
            heads = args[0] if args else kwargs["heads"]
            seen.append((tuple(q.shape), tuple(k.shape), tuple(v.shape), heads))
            blocks.append(options.get("block_index"))
            return attention(q, k, v, *args, **kwargs)

        patcher.model_options["transformer_options"]["optimized_attention_override"] = override
        run(host, patcher, steps=1)
        return seen, blocks if comfy_version >= (0, 5) else None

    tokens, text = (2, 48, 128), (2, 16, 128)
    calls, blocks = same(facts)
    assert calls == [(tokens, kv, kv, 1) for kv in (tokens, text)] * 2
    assert blocks in (None, [0, 0, 1, 1])


def test_a_replacement_and_an_override_change_the_result_alike(standin, host, tiny, run):
    def latent(host):
        patcher = tiny(host)

        def replace(args, extra):
            out = extra["original_block"](
                {**args, "img": args["img"][:, ::2], "pe": args["pe"][:, ::2]}
            )
            img = args["img"].clone()
            img[:, ::2] = out["img"]
            return {"img": img}

        def override(attention, q, k, v, *args, **kwargs):
            return attention(q, 1.5 * k, v, *args, **kwargs)

        patcher.set_model_patch_replace(replace, "dit", "double_block", 1)
        patcher.model_options["transformer_options"]["optimized_attention_override"] = override
        return run(host, patcher, steps=3)

    assert close(latent(standin), latent(host))
    assert not close(latent(host), run(host, tiny(host), steps=3))
