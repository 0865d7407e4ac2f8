"""Cosmos-Predict2, CogVideoX and Mochi in the real ComfyUI, with random weights: the contract on
the calls that its sampler makes, and whole graphs."""

import functools
import importlib

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.comfyui.test_answer_models_host import MOCHI, by_config
from motioncache_pack.tests.core.runs import dictate, left_over, living_tensors
from motioncache_pack.tests.models.test_hidden_blocks import (  # noqa: F401
    test_a_subset_on_changed_input_is_the_oracles,
    test_a_subset_on_unchanged_input_is_dense,
    test_an_exception_leaves_nothing,
    test_dense_is_bit_identical_and_all_rows_active_and_a_reuse_are_dense,
    test_off_is_bit_identical,
    test_prompts_never_mix,
)
from motioncache_pack.tests.support.answer_runs import patch, same, squared, unchanged
from motioncache_pack.tests.support.hidden import Calls, Hidden, notes
from motioncache_pack.tests.support.host_wan import random_weights
from motioncache_pack.tests.support.node_runs import network_of, options_of

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("no_gradients")]

PREDICT2 = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 256,
    "num_blocks": 3, "num_heads": 16, "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "use_adaln_lora": True,
    "adaln_lora_dim": 256,
}  # fmt: skip
COG = {
    "num_attention_heads": 2, "attention_head_dim": 64, "in_channels": 16, "time_embed_dim": 64,
    "text_embed_dim": 64, "num_layers": 3, "use_rotary_positional_embeddings": True,
}  # fmt: skip
STEPS = 10


class Kind:
    """A model, and how it is sampled.

    Args:
        words: of the second prompt; another number of them makes two calls of an evaluation.
        masked: the first frame is given, and the others are sampled.
    """

    def __init__(self, pack, words=16, batch=1, masked=False, side=8):
        self.pack, self.batch, self.masked = pack, batch, masked
        self.model = self.load()
        self.texts = [self.text(1, 16), self.text(2, words)]
        frames = self.frames
        self.latent = torch.zeros(batch, self.channels, frames, side, side)
        self.more = {}
        if masked:
            mask = torch.ones(1, 1, frames, side, side)
            mask[:, :, 0] = 0
            self.latent = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(2))
            self.more = {"noise_mask": mask}

    channels, frames, width, grid_frames, classes, words_in_front = 16, 3, 64, 3, "", False

    @property
    def network(self):
        return self.model.model.diffusion_model

    @property
    def tokens(self):
        return self.grid_frames * (self.latent.shape[3] // 2) * (self.latent.shape[4] // 2)

    def text(self, seed, words):
        return [[self.pack.host.text(seed, tokens=words, dim=self.width)[0][0], {}]]

    def loaded(self, module, name, sizes):
        host = self.pack.host
        made = getattr(importlib.import_module(module), name)(
            device="cpu", dtype=torch.float32, operations=host.ops.manual_cast, **sizes
        )
        return host.sd.load_diffusion_model_state_dict(random_weights(made, ()))

    def sample(self, model, steps=STEPS, cfg=3.0):
        return self.pack.host.run(model, *self.texts, self.latent, steps, cfg=cfg, **self.more)

    def family(self):
        """The calls of the model around the network that the sampler makes, of two prompts."""
        found = [[], []]

        def has_options(value):
            return isinstance(value, dict) and "uuids" in value

        def watch(calls, executor, x, t, *args, **kwargs):
            kept = x.clone()

            def run(given):
                held = [given if has_options(a) else a for a in args]
                named = {k: given if has_options(a) else a for k, a in kwargs.items()}
                with torch.no_grad():
                    return executor.original(kept.clone(), t, *held, **named)

            options = dict(next(o for o in (*args, *kwargs.values()) if has_options(o)))
            del options["wrappers"], options["callbacks"]
            calls.append(Calls(kept, t.clone(), run, options))
            return executor(x, t, *args, **kwargs)

        for calls, text in zip(found, self.texts, strict=True):
            watched = self.model.clone()
            watched.add_wrapper_with_key("apply_model", "test", functools.partial(watch, calls))
            self.pack.host.run(watched, text, text, self.latent, STEPS, cfg=1.0, **self.more)
        return Hidden(
            self.network,
            self.tokens,
            lambda step, prompt: found[prompt][step],
            self.rows,
            self.keys,
        )

    def rows(self, given, named):
        return given[0]

    def keys(self, keys):
        return keys


class Predict2(Kind):
    width = 1024

    def load(self):
        return self.loaded("comfy.ldm.cosmos.predict2", "MiniTrainDIT", PREDICT2)

    def rows(self, given, named):
        x = given[0] if isinstance(given, tuple) else given
        return x.view(x.shape[0], self.tokens, -1)

    def keys(self, keys):
        return keys.transpose(1, 2)


class CogVideo(Kind):
    sizes = COG

    def load(self):
        return self.loaded("comfy.ldm.cogvideo.model", "CogVideoXTransformer3DModel", self.sizes)

    def rows(self, given, named):
        return named["hidden_states"] if named else given[0]

    def keys(self, keys):
        return keys[:, keys.shape[1] - self.tokens :]


class CogVideo15(CogVideo):
    sizes, frames, grid_frames = {**COG, "patch_size_t": 2}, 4, 2


class Mochi(Kind):
    channels = 12

    def load(self):
        return by_config(self.pack, "GenmoMochi", {**MOCHI, "depth": 3}, ())

    def text(self, seed, words):
        mask = torch.ones(1, 16, dtype=torch.long)
        mask[:, words:] = 0
        (text, _), *_ = self.pack.host.text(seed, dim=64)
        return [[text, {"attention_mask": mask}]]

    def keys(self, keys):
        return keys[:, :, : self.tokens].transpose(1, 2)


KINDS = {
    "predict2": Predict2,
    "predict2, first frame given": functools.partial(Predict2, masked=True),
    "predict2, two clips": functools.partial(Predict2, batch=2),
    "predict2, other words": functools.partial(Predict2, words=9),
    "predict2, another size": functools.partial(Predict2, side=12),
    "cogvideox": CogVideo,
    "cogvideox, other words": functools.partial(CogVideo, words=9),
    "cogvideox 1.5": CogVideo15,
    "cogvideox 1.5, another size": functools.partial(CogVideo15, side=12),
    "mochi": Mochi,
    "mochi, other words": functools.partial(Mochi, words=9),
}


@pytest.fixture(params=KINDS)
def kind(request, pack):
    return KINDS[request.param](pack)


# in the contract a prompt changes in mid-run; one of another length would start afresh
@pytest.fixture(params=[name for name in KINDS if "words" not in name])
def hidden(request, pack):
    return KINDS[request.param](pack).family()


def test_all_tokens_active_are_the_plain_run(kind, monkeypatch):
    wanted = kind.sample(kind.model)
    dictate(monkeypatch, "dense", *[range(kind.tokens)] * (STEPS - 1))
    patched, handle = patch(kind.pack, kind.model, "motion")
    assert squared(kind.sample(patched), wanted) < 1e-8
    kinds = [[call.kind for call in e.calls] for e in handle.latest.evaluations]
    assert set(kinds[0]) == {"dense"} and {k for e in kinds[1:] for k in e} == {"partial"}


@pytest.mark.parametrize("preset", ["motion", "paper"])
def test_single_tokens_are_computed(kind, preset):
    wanted = kind.sample(kind.model, 16)
    kept, parts = options_of(kind.model), network_of(kind.model)
    patched, handle = patch(kind.pack, kind.model, preset)
    got, trace = kind.sample(patched, 16), handle.latest
    assert trace.reason == "" and not trace.declined_calls
    assert "tokens_unknown" not in map(code_of, trace.remarks)
    assert torch.isfinite(got).all()
    if preset == "motion":
        assert {"partial", "dense"} <= {call.kind for call in trace.calls()}
        assert 0 < squared(got, wanted) < 0.3
    assert options_of(kind.model) == kept
    # the network's own note of its last call is all that differs
    assert len(network_of(kind.model)[0]) == len(parts[0])
    assert "blocks" not in vars(kind.network)
    assert same(kind.sample(kind.model, 16), wanted)


def test_without_reuse_nothing_changes(kind):
    unchanged(kind.pack, kind.model, kind.sample)


def test_an_interrupted_run_leaves_nothing(kind, monkeypatch):
    wanted = kind.sample(kind.model)
    dictate(monkeypatch, "dense", *[range(0, kind.tokens, 3)] * STEPS)
    patched, _ = patch(kind.pack, kind.model, "motion")
    calls = []

    def broken(*_):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    hook, before = kind.network.blocks[-1].register_forward_pre_hook(broken), living_tensors()
    try:
        with pytest.raises(KeyboardInterrupt):
            kind.sample(patched)
    finally:
        hook.remove()
    assert "blocks" not in vars(kind.network)
    assert sorted(left_over(before)) == sorted(notes(kind.network, before))
    assert same(kind.sample(kind.model), wanted)


def test_cosmos_with_positions_in_every_block_is_declined(pack):
    kind = Predict2(pack)
    kind.network.extra_per_block_abs_pos_emb = True
    from motioncache_pack.motioncache_core.models.registry import find_adapter

    _, reason = find_adapter(kind.network)
    assert code_of(reason) == "model_variant" and "added in every block" in reason
