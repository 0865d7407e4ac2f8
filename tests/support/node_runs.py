"""The pack's nodes on a small Wan, in the same words on the stand-in and on the real ComfyUI.

The fixtures here are imported by the `conftest.py` of `tests/nodes` and of `tests/comfyui`, which
runs the same tests on the real host.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import importlib
import weakref
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheSettings
from motioncache_pack.motioncache_core.cache.branches import BranchTable
from motioncache_pack.motioncache_core.cache.kv_store import KVStore
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support import fake_comfy

LAYERS = 2
STEPS = 14
# all three kinds of evaluation within 14 steps of the small model
MIXED = {
    "warmup_steps": 2, "uniform_updates": 1, "reuse_threshold": 0.02, "agreement": 0.0,
    "min_update_ratio": 0.02, "motion_sensitivity": 0.8,
}  # fmt: skip


@functools.cache
def small_weights(seed=0, **channels):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = DemoWan(dim=128, ffn_dim=256, num_layers=LAYERS, **channels).state_dict()
    # a timestep that matters less changes the answer less from step to step
    weights["time_embedding.2.weight"] *= 0.1
    return weights


class Pack:
    """The nodes by id, and short ways to patch and to sample."""

    def __init__(self, host):
        self.host = host
        entry = importlib.import_module("motioncache_pack").comfy_entrypoint

        async def load():
            return await (await entry()).get_node_list()

        self.nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(load())}

    def execute(self, node_id, *args, **kwargs):
        """The node's outputs."""
        return self.nodes[node_id].execute(*args, **kwargs).result

    def wan(self, seed=0):
        """A small Wan with random weights; the same ones for the same seed."""
        return self.host.sd.load_diffusion_model_state_dict(dict(small_weights(seed)))

    def five_b(self, seed=0):
        """A small Wan 2.2 5B: its own latent space, and a timestep for each frame."""
        weights = small_weights(seed, in_dim=48, out_dim=48)
        model = self.host.sd.load_diffusion_model_state_dict(dict(weights))
        assert type(model.model).__name__ == "WAN22"
        return model

    def patch(self, model, **settings):
        """The patched model and its trace handle; `MIXED` settings unless told otherwise."""
        chosen = MotionCacheSettings(**{**MIXED, **settings})
        return self.execute("MotionCachePatcher", model, "balanced", chosen)

    def sample(self, model, steps=STEPS, **kwargs):
        """What a KSampler makes of two fixed prompts."""
        negative = kwargs.pop("negative", None) or self.host.text(2)
        return self.host.run(model, self.host.text(1), negative, steps=steps, **kwargs)

    def cached(self, **kwargs):
        """Latents and trace of a run of a freshly made, freshly patched model."""
        settings = kwargs.pop("settings", {})
        model, handle = self.patch(self.wan(), **settings)
        return self.sample(model, **kwargs), handle.latest

    def guide(self, model, noise, steps=STEPS, **kwargs):
        """A guider and what running it on this noise gives, as SamplerCustomAdvanced does."""
        guider = self.host.guider(model, self.host.text(1), self.host.text(2))
        sampler = self.host.samplers.sampler_object("euler")
        sigmas = self.host.sigmas(model, steps)
        latent = torch.zeros_like(noise)
        return guider, lambda: guider.sample(noise, latent, sampler, sigmas, seed=1, **kwargs)


def marks(trace):
    """One letter an evaluation: D dense, p partial, . reuse."""
    return "".join({"dense": "D", "partial": "p", "reuse": "."}[e.kind] for e in trace.evaluations)


def foretold(trace):
    """Why a run that was to tell tokens apart foretold whole evaluations instead, and how many it
    computed."""
    (why,) = [remark for remark in trace.remarks if code_of(remark) == "tokens_unknown"]
    assert trace.reason == "" and set(marks(trace)) == {"D", "."}
    assert {call.kind for call in trace.calls()} == {"dense", "reuse"}
    return why, marks(trace).count("D")


def decisions(trace):
    """What was decided, without the distances, which differ in the last bits."""
    return [(e.sigma, [(c.kind, c.phase, c.active) for c in e.chunks]) for e in trace.evaluations]


def options_of(model):
    """Everything a node could change on a patcher: structure by value, leaves by identity."""

    def walk(value):
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item) for item in value]
        return value if isinstance(value, (str, int, float, type(None))) else id(value)

    names = ("model_options", "wrappers", "callbacks", "object_patches", "attachments", "patches")
    return {name: walk(getattr(model, name, None)) for name in names}


def options_with_off(model):
    """The same of a model with the preset off, without its stopwatch, which has to be there."""
    found = options_of(model)
    for kind in ("outer_sample", "sampler_sample"):
        assert len(found["wrappers"][kind].pop("motioncache_stopwatch")) == 1
        if not found["wrappers"][kind]:
            del found["wrappers"][kind]
    return found


def network_of(model):
    """The diffusion transformer and everything hung on its modules."""
    network = model.model.diffusion_model
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in network.modules()]
    own = [sorted(vars(m)) for m in network.modules()]
    return own, [[list(h) for h in pair] for pair in hooks]


@pytest.fixture(scope="session")
def supported(host):
    """Skips where ComfyUI is older than `requires-comfyui` in pyproject.toml."""
    schema = importlib.import_module("comfy_api.latest").io.Schema
    if "search_aliases" not in {field.name for field in dataclasses.fields(schema)}:
        pytest.skip("this ComfyUI is older than the pack's requires-comfyui")


@pytest.fixture(scope="session")
def pack(host, supported, tmp_path_factory):
    if not host.is_standin:
        # previews go where tests may write
        paths = importlib.import_module("folder_paths")
        paths.set_temp_directory(str(tmp_path_factory.mktemp("previews")))
    previous = fake_comfy.set_network_factory(DemoWan.from_state_dict)
    yield Pack(host)
    fake_comfy.set_network_factory(previous)


@pytest.fixture
def kept(monkeypatch):
    """Weak references to all keys, values and residuals that a run stores; `kept.alive()`."""
    refs = []
    put, put_rows = KVStore.put, BranchTable.put

    def watched_put(self, block, k, v, steps=None):
        put(self, block, k, v, steps)
        refs.extend(weakref.ref(t) for t in self.entries[block].tensors)

    def watched_rows(self, rows):
        put_rows(self, rows)
        refs.append(weakref.ref(rows.residual))

    monkeypatch.setattr(KVStore, "put", watched_put)
    monkeypatch.setattr(BranchTable, "put", watched_rows)

    def alive():
        gc.collect()
        return [ref() for ref in refs if ref() is not None]

    return SimpleNamespace(refs=refs, alive=alive)
