"""Holds a rebuilding to its word: the same runs in two checkouts, compared bit for bit.

    python tests/bench/same.py record --root CHECKOUT --out FILE [--quick]
    python tests/bench/same.py compare FILE FILE

Latents, report JSON and text without seconds, motion weights and masks, the timeline, every call
of a kernel with its shapes, and every read of the device have to be the same.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

KV = ("gpu", "gpu_fp8", "cpu", "off")
PRESETS = ("quality", "balanced", "fast", "paper")
FRAMES = 6


def load(root: Path) -> None:
    """The checkout's pack as `motioncache_pack`."""
    spec = importlib.util.spec_from_file_location(
        "motioncache_pack", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["motioncache_pack"] = module
    spec.loader.exec_module(module)


def core(*names: str) -> Any:
    """The first module of these that the checkout has."""
    for name in names:
        try:
            return importlib.import_module(f"motioncache_pack.motioncache_core.{name}")
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(" or ".join(names))


class Ops:
    """The kernels, with a list of what was called."""

    def __init__(self) -> None:
        self._kernels = importlib.import_module("motioncache_pack.kernels")
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._kernels, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *(kwargs[k] for k in sorted(kwargs))]
            shapes = [tuple(a.shape) for a in given if isinstance(a, torch.Tensor)]
            self.calls.append(f"{name} {shapes}")
            return op(*args, **kwargs)

        return called


class Reads:
    """Counts how often the host waits for a tensor's numbers."""

    def __enter__(self) -> Reads:
        self.sizes: list[int] = []
        self._before = torch.Tensor.tolist
        before, sizes = self._before, self.sizes

        def tolist(x: torch.Tensor) -> Any:
            sizes.append(x.numel())
            return before(x)

        torch.Tensor.tolist = tolist
        return self

    def __exit__(self, *_: object) -> None:
        torch.Tensor.tolist = self._before


def without_seconds(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: without_seconds(v) for k, v in data.items() if not k.startswith("seconds")}
    return [without_seconds(v) for v in data] if isinstance(data, list) else data


def told(trace: Any) -> dict[str, Any]:
    """A trace as data."""
    text = core("report.report_text", "report")
    data = core("report.report_json", "report").as_json(trace)
    # seconds are in one line of the text
    lines = [x for x in text.text(trace).splitlines() if not x.startswith("Time: ")]
    progress = re.sub(r", about .* saved", "", text.progress(trace))
    return {
        "json": without_seconds(json.loads(data)),
        "text": [*lines, text.line(trace), progress],
        "timeline": core("report.timeline", "timeline").timeline(trace),
        "weights": [e.weight for e in trace.evaluations],
        "active": [e.active for e in trace.evaluations],
    }


@torch.no_grad()
def windowed(model: Any, clip: Any, noise: Any, options: Any, settings: Any, ops: Ops) -> Any:
    """Euler over two overlapping context windows, each with states of its own."""
    calls = core("sampling.model_call", "call")
    facts = core("sampling.run_facts", "call")
    top = importlib.import_module("motioncache_pack.motioncache_core")
    half = FRAMES // 2 + 1
    windows = (
        facts.ContextWindow(tuple(range(half))),
        facts.ContextWindow(tuple(range(FRAMES - half, FRAMES))),
    )
    trace = top.Trace(settings.as_dict())
    run = facts.RunFacts(sigmas=options.sigmas(), windows=windows)
    session = top.Session(settings, ops, run, trace)
    context = torch.cat((clip.text[1], clip.text[0]))
    x = options.sigmas()[0] * noise
    for sigma, following in itertools.pairwise(options.sigmas()):
        total, count = torch.zeros_like(x), torch.zeros(1, 1, FRAMES, 1, 1)
        for window in windows:
            at = list(window.frames)
            shown = torch.cat((x, clip.conditions), 1)[:, :, at].repeat(2, 1, 1, 1, 1)
            t = torch.full((2,), 1000 * sigma)

            def network(given: dict[str, Any], shown: Any = shown, t: Any = t) -> Any:
                return model(shown, t, context, transformer_options=given)

            out = session.evaluate(
                calls.ModelCall(network=model, run=network, x=shown, timestep=t,
                                branches=("uncond", "cond"), options={}, window=window)
            )  # fmt: skip
            uncond, cond = out.chunk(2)
            total[:, :, at] += uncond + options.cfg * (cond - uncond)
            count[:, :, at] += 1
        x = x + (following - sigma) * total / count
    session.close()
    return x, trace


def runs(quick: bool) -> Any:
    """Names and makers of all runs."""
    top = importlib.import_module("motioncache_pack.motioncache_core")
    checkpoint, clips = core("demo.checkpoint"), core("demo.clips")
    sampler, forcing, scenes = core("demo.sampler"), core("demo.forcing"), core("demo.scenes")
    model = checkpoint.load()
    clip = clips.clip(next(iter(scenes.SCENES.values())), FRAMES, take=3)
    noise = clip.noise(3)
    settings = {
        (p, kv): top.MotionCacheSettings.preset(p, kv_cache=kv)
        for p, kv in itertools.product(PRESETS, KV)
    }
    for policy in ("chunk", "step", "random"):
        settings[policy, "gpu"] = top.MotionCacheSettings(
            policy=policy, warmup_steps=2, uniform_updates=1, reuse_threshold=0.3
        )
        settings[policy, "shares"] = top.MotionCacheSettings(
            policy=policy, warmup_steps=2, uniform_updates=0, reuse_threshold=0.3,
            update_share=0.5, motion_source="residual", forecast=1.0, correction=0.5,
        )  # fmt: skip
    # the published policy reaches its motion phase late
    settings["early", "gpu"] = top.MotionCacheSettings.preset(
        "paper", uniform_updates=1, warmup_steps=2
    )
    settings["off", "gpu"] = top.MotionCacheSettings(reuse_threshold=0.0)
    if quick:
        settings = {k: v for k, v in settings.items() if k[1] in ("gpu", "shares")}

    def ordinary(s: Any, ops: Ops, steps: int, split: bool, samples: int = 1) -> Any:
        options = sampler.SampleOptions(steps=steps, split=split, shift=checkpoint.SHIFT)
        many = [torch.cat([t] * samples) for t in (*clip.text, noise, clip.conditions)]
        if samples > 1:
            many[2] = torch.cat([clip.noise(i) for i in range(samples)])
        facts = top.RunFacts(sigmas=options.sigmas(), profile=checkpoint.profile())
        return sampler.cached_sample(model, *many[:3], options, s, ops, facts, conditions=many[3])

    def forced(s: Any, ops: Ops, attention: str, **changes: Any) -> Any:
        options = top.ForcingOptions(attention=attention, chunk_frames=2, **changes)
        sigmas = sampler.flow_sigmas(12, checkpoint.SHIFT)
        return forcing.cached_forcing_sample(
            model, *clip.text, noise, sigmas, options, s, ops,
            top.RunFacts(sigmas=sigmas, profile=checkpoint.profile()),
            conditions=clip.conditions, start=None, prefix=0,
        )  # fmt: skip

    for (name, kv), s in settings.items():
        steps = 22 if name == "paper" else 14
        label = f"{name} {kv}"
        yield f"{label} joined", lambda o, s=s, n=steps: ordinary(s, o, n, False)
        yield f"{label} split", lambda o, s=s, n=steps: ordinary(s, o, n, True)
        if kv == "gpu":
            yield f"{label} two samples", lambda o, s=s, n=steps: ordinary(s, o, n, False, 2)
        options = sampler.SampleOptions(steps=14, shift=checkpoint.SHIFT)
        yield f"{label} windows", lambda o, s=s, p=options: windowed(model, clip, noise, p, s, o)
        if name == "step":
            continue
        for attention in ("block_causal", "bidirectional"):
            yield f"{label} {attention}", lambda o, s=s, a=attention: forced(s, o, a)
        yield (
            f"{label} rolling",
            lambda o, s=s: forced(s, o, "block_causal", window_frames=4, kv_keep=1, chunk_delay=8),
        )


def record(quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    found = {}
    for name, make in runs(quick):
        ops = Ops()
        with Reads() as reads:
            try:
                latents, trace = make(ops)
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
                continue
        found[name] = {"latents": latents, "ops": ops.calls, "reads": reads.sizes, **told(trace)}
    return found


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two recordings differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [f"{at}: tensors differ"]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{at}/{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{at}/{i}")]
    if hasattr(a, "tobytes") and hasattr(b, "tobytes"):
        return [] if a.tobytes() == b.tobytes() else [f"{at}: arrays differ"]
    return [] if a == b else [f"{at}: {str(a)[:200]!r} != {str(b)[:200]!r}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("--root", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--quick", action="store_true")
    two = commands.add_parser("compare")
    two.add_argument("files", type=Path, nargs=2)
    args = parser.parse_args()
    if args.command == "record":
        load(args.root.resolve())
        torch.save(record(args.quick), args.out)
        return
    a, b = (torch.load(f, weights_only=False) for f in args.files)
    common = [n for n in a if n in b]
    found = [d for n in common for d in differences(a[n], b[n], n)]
    print("\n".join(found[:40]))
    errors = [n for n in common if "error" in a[n]]
    print(f"{len(common)} runs, {len(found)} differences, {len(errors)} end in an error")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
