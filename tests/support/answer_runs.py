"""Graphs whose evaluations are foretold, on the stand-in and on the real ComfyUI: what is computed
of them, how close they come, and what they leave behind."""

from __future__ import annotations

import functools
import gc
import importlib
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from motioncache_pack.motioncache_core import PRESETS, MotionCacheSettings
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.demo import checkpoint, scenes
from motioncache_pack.motioncache_core.engine.answers.pass_state import PassState
from motioncache_pack.motioncache_core.policy.answer_plan import AnswerPlan
from motioncache_pack.tests.bench.quality import cell_tracks
from motioncache_pack.tests.support.node_runs import Pack, marks, options_of, options_with_off

STEPS, PRESET = 16, "balanced"
SHARE = PRESETS[PRESET].compute_budget


@dataclass(frozen=True, eq=False)
class Scene:
    """A model with its prompts and the latents to begin with."""

    pack: Pack
    model: Any
    positive: list
    negative: list
    latent: Any
    cfg: float = 2.0
    steps: int = STEPS

    @property
    def host(self):
        return self.pack.host

    def sample(self, model, **how):
        """What a KSampler makes of it; what is given by name is changed."""
        how = {"positive": self.positive, "negative": self.negative, "latent": self.latent,
               "cfg": self.cfg, "steps": self.steps, "seed": 3, **how}  # fmt: skip
        return self.host.run(model, **how)

    def through(self, model, sampler="euler", sigmas=None, latent=None, guider=None, noise=None):
        """The same through a guider, as SamplerCustomAdvanced does."""
        if guider is None:
            guider = self.host.guider(model, self.positive, self.negative, self.cfg)
        sampler = (
            self.host.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        )
        latent = self.latent if latent is None else latent
        noise = self.host.sample.prepare_noise(latent, 3) if noise is None else noise
        sigmas = self.sigmas(model) if sigmas is None else sigmas
        return guider.sample(noise, latent, sampler, sigmas, seed=3)

    def sigmas(self, model=None):
        return self.host.sigmas(self.model if model is None else model, self.steps)


@functools.cache
def trained(pack):
    """The model that settings were chosen on: what it makes can be close or not."""
    loaders = importlib.import_module("motioncache_pack.nodes.host.loaders")
    weights = cell_tracks.WEIGHTS
    profile = checkpoint.profile(weights.with_suffix(".profile.json"))
    model = loaders.load_demo_model(checkpoint.state_dict(weights), profile, checkpoint.SHIFT)
    clip = cell_tracks.clip(scenes.SCENES["disc to the right"], 3, take=0)
    noise = clip.noise(0)
    mask, first = clip.conditions.split((4, noise.shape[1]), dim=1)
    shown = {"concat_latent_image": loaders.from_model_space(first), "concat_mask": 1 - mask[:, :1]}
    texts = ([[text, dict(shown)]] for text in clip.text)
    return Scene(pack, model, *texts, torch.zeros_like(noise))


@functools.cache
def small(pack, seed=0):
    """A small Wan with random weights, for what is called and when."""
    return Scene(pack, pack.wan(seed), pack.host.text(1), pack.host.text(2), pack.host.latent())


class Seen:
    """What reaches a model: for every evaluation the passes that its network computes, each as the
    number of its kind of prompt and the shape of its latents."""

    def __init__(self, where="diffusion_model"):
        self.evaluations, self.where = [], where

    def put(self, model):
        """A clone of the model that is watched; every run of it counts."""
        model = model.clone()

        def begin(executor, *args, **kwargs):
            self.evaluations.append(Counter())
            return executor(*args, **kwargs)

        def call(executor, x, *args, **kwargs):
            options = next(
                o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "uuids" in o
            )
            first = x[0] if isinstance(x, list) else x
            for index in options["cond_or_uncond"]:
                self.evaluations[-1][(index, *first.shape[1:])] += 1
            return executor(x, *args, **kwargs)

        model.add_wrapper_with_key("predict_noise", "seen", begin)
        model.add_wrapper_with_key(self.where, "seen", call)
        return model

    @property
    def computed(self):
        return sum(map(bool, self.evaluations))


@dataclass
class Told:
    """A graph run without and with the answers foretold."""

    wanted: Any
    got: Any
    trace: Any
    bare: Seen
    seen: Seen

    @property
    def error(self):
        """Relative squared error."""
        return squared(self.got, self.wanted)

    @property
    def evaluations(self):
        return len(self.bare.evaluations)

    def check(self, extra=0):
        """The share is computed, and what is computed is computed for all passes of its evaluation.

        Args:
            extra: evaluations that are computed besides.
        """
        assert not self.trace.reason
        assert len(self.seen.evaluations) == self.evaluations > 8
        assert self.seen.computed == round(SHARE * self.evaluations) + extra
        for full, found in zip(self.bare.evaluations, self.seen.evaluations, strict=True):
            assert found in (full, Counter())
        told = [bool(found) for found in self.seen.evaluations]
        asked = [mark == "D" for mark in marks(self.trace)]
        assert sum(told) - sum(asked) == extra
        assert all(was or not mark for was, mark in zip(told, asked, strict=True))


def flat(latents):
    parts = getattr(latents, "tensors", [latents])
    return torch.cat([part.detach().double().flatten() for part in parts])


def squared(got, wanted):
    got, wanted = flat(got), flat(wanted)
    return float((got - wanted).square().sum() / wanted.square().sum())


def same(got, wanted):
    return torch.equal(flat(got), flat(wanted))


@pytest.fixture
def nothing_left(monkeypatch):
    """Holds at the end of a test that answers were kept, and that none of them still is."""
    refs, make = [], PassState.__init__

    def watched(self, *args, **kwargs):
        make(self, *args, **kwargs)
        refs.extend((weakref.ref(self), weakref.ref(self._answers)))

    monkeypatch.setattr(PassState, "__init__", watched)
    yield refs
    gc.collect()
    assert refs and not [ref for ref in refs if ref() is not None]


def watch(
    pack, model, run: Callable[[Any], Any], preset=PRESET, where="diffusion_model", **settings
):
    """Runs `run(model)` without and with answers foretold, both watched behind all other nodes."""
    bare, seen, before = Seen(where), Seen(where), options_of(model)
    wanted = run(bare.put(model))
    patched, handle = patch(pack, model, preset, **settings)
    kept = options_of(patched)
    got = run(seen.put(patched))
    assert options_of(model) == before and options_of(patched) == kept
    return Told(wanted, got, handle.latest, bare, seen)


def as_planned():
    """While this lasts evaluations stay where the schedule puts them. To move them makes another,
    mostly smaller error, which is nothing to measure other graphs by."""
    return mock.patch.object(AnswerPlan, "watching", lambda plan: plan)


@functools.cache
def plain_error(scene):
    """How far a plain run of it, as planned, is from the uncached one."""
    with as_planned():
        found = watch(scene.pack, scene.model, scene.sample)
    found.check()
    assert 0 < found.error < 1e-3
    return found.error


def patch(pack, model, preset=PRESET, **settings):
    """The model with the preset, some of its settings changed, and the trace handle."""
    chosen = MotionCacheSettings.preset(preset, **settings) if settings else None
    return pack.execute("MotionCachePatcher", model, preset, chosen)


def unchanged(pack, model, run):
    """That a threshold of 0, the preset off and no node at all are one to the bit."""
    patched, handle = patch(pack, model, reuse_threshold=0.0)
    assert same(run(patched), run(model))
    assert code_of(handle.latest.reason) == "threshold_zero"
    off, _ = pack.execute("MotionCachePatcher", model, "off")
    assert options_with_off(off) == options_of(model) and same(run(off), run(model))
