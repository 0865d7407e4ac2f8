"""Every family that is known token by token, in a small size of ComfyUI's own classes.

COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/families.py [--only NAME ...] [--part 2/5]

Networks have random weights and go through ComfyUI's loader and sampler. No number of a family is
printed unless the preset off gives what ComfyUI alone gives, bit for bit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, environment, save
from families_checks import RedGateError, checks_of_calls, checks_of_runs, module

STEPS, PRESETS = 20, ("balanced", "motion")
# cases of the tests that are a family once more, in another size or batch
_AGAIN = ("two clips", "other size", "another size", "odd sides", "texts apart", "other words")


@dataclass(frozen=True)
class Subject:
    """A family's network on the host.

    Attributes:
        model: as the loader makes it.
        sample: latents of a model in so many steps of the sampler.
        checks: makes the errors of each check.
    """

    model: Any
    sample: Callable[[Any, int], Any]
    checks: Callable[[], dict[str, float]]


def once_each(names: Any) -> list[str]:
    """Names of the tests' cases without those that show a family again."""
    return [name for name in names if not any(word in name for word in _AGAIN)]


def wan_subjects(pack: Any) -> dict[str, Callable[[], Subject]]:
    """Wan and its variants."""
    support, contract = module("support.host_wan"), module("models.test_contract")
    oracle = module("support.family").Oracle
    variants = {"wan": support.Variant("model.WanModel", support.T2V), **support.VARIANTS}

    def made(variant: Any) -> Subject:
        family = support.family(pack.host, variant)
        model = support.load(pack.host, variant)
        texts = [support.prompt(pack.host, variant, seed) for seed in (1, 2)]
        return Subject(
            model, lambda m, steps: pack.host.run(m, *texts, variant.latent, steps, cfg=3.0),
            lambda: checks_of_calls(
                family.tokens, lambda: contract.Run(family), oracle(family), family.call,
                lambda call: call.run(family.network, {}), family.video,
            ),
        )  # fmt: skip

    return {name: lambda v=v: made(v) for name, v in variants.items()}


def stream_subjects(pack: Any) -> dict[str, Callable[[], Subject]]:
    """Families with streams of text, references or sound beside the video's."""
    cases = module("comfyui.host_families").HOST_FAMILIES
    tests = module("comfyui.test_families_host")

    def made(case: Any) -> Subject:
        subject = tests.Subject(pack, case)
        return Subject(
            subject.model,
            lambda m, steps: case.sample(pack.host, m, steps),
            lambda: checks_of_runs(subject),
        )

    return {name: lambda c=cases[name]: made(c) for name in once_each(cases)}


def hidden_subjects(pack: Any) -> dict[str, Callable[[], Subject]]:
    """Families without a hook for their blocks."""
    host, contract = (
        module("comfyui.test_hidden_blocks_host"),
        module("models.test_hidden_blocks"),
    )
    oracle = module("support.hidden").Oracle

    def made(kind: Any) -> Subject:
        subject = kind(pack)

        def checks() -> dict[str, float]:
            family = subject.family()
            return checks_of_calls(
                family.tokens, lambda: contract.Run(family), oracle(family), family.call,
                contract.plain,
            )  # fmt: skip

        return Subject(subject.model, subject.sample, checks)

    return {name: lambda k=host.KINDS[name]: made(k) for name in once_each(host.KINDS)}


def measure(subject: Subject, patch: Callable[[Any, str], tuple[Any, Any]]) -> dict[str, Any]:
    """A family's part of the result file.

    Args:
        patch: a model with a preset and the handle of its traces.

    Raises:
        RedGateError: the preset off changes what is made, or it is no picture.
    """
    runs = module("support.answer_runs")
    share_of = importlib.import_module("motioncache_pack.motioncache_core.report.compute_share")
    wanted = subject.sample(subject.model, STEPS)
    if not bool(torch.isfinite(runs.flat(wanted)).all()) or float(runs.flat(wanted).std()) < 0.1:
        raise RedGateError("ComfyUI alone makes nothing that could be compared")
    off, _ = patch(subject.model, "off")
    if not runs.same(subject.sample(off, STEPS), wanted):
        raise RedGateError("with the preset off the latents are others")
    found: dict[str, Any] = {"off": True, "presets": {}}
    for preset in PRESETS:
        patched, handle = patch(subject.model, preset)
        got = subject.sample(patched, STEPS)
        trace = handle.latest
        found["model"] = trace.model or found.get("model", "")
        found["presets"][preset] = {
            "share": share_of.compute_share(trace),
            "error": runs.squared(got, wanted) ** 0.5,
            "kinds": {kind: [c.kind for c in trace.calls()].count(kind)
                      for kind in ("dense", "partial", "reuse")},
            # two prompts are two branches
            "kv_bytes": (trace.kv_bytes + trace.kv_host_bytes) // 2,
            "answer_bytes": trace.answer_bytes,
            "reason": str(trace.reason),
        }  # fmt: skip
    found["checks"] = subject.checks()
    if not runs.same(subject.sample(subject.model, STEPS), wanted):
        raise RedGateError("the model is not as it was before the runs")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="families by their name")
    parser.add_argument("--part", default="1/1", help="which part of the families, of how many")
    parser.add_argument("--add", action="store_true", help="keep the file's other families")
    parser.add_argument("--list", action="store_true", help="only say which families there are")
    parser.add_argument("--json", type=Path, default=RESULTS / "families.json")
    args = parser.parse_args()
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        sys.exit("COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout")
    harness = module("support.fake_comfy").harness
    harness.use_real_comfy(path)
    logging.disable(logging.WARNING)
    pack = module("support.node_runs").Pack(harness.Host())
    subjects = {**wan_subjects(pack), **stream_subjects(pack), **hidden_subjects(pack)}
    part, parts = (int(n) for n in args.part.split("/"))
    chosen = args.only or list(subjects)[part - 1 :: parts]
    if args.list or not set(chosen) <= set(subjects):
        print("\n".join(subjects))
        sys.exit(0 if args.list else "no such family; those above are known")
    rows: dict[str, Any] = {}
    if args.add and args.json.exists():
        rows = json.loads(args.json.read_text(encoding="utf-8"))["families"]
    data = {
        "command": "COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/families.py",
        "environment": environment(),
        "comfyui": str(importlib.import_module("comfyui_version").__version__),
        "steps": STEPS,
        "tolerance": module("support.assert_close").TOLERANCE,
    }
    patch = module("support.answer_runs").patch
    with torch.inference_mode():
        for name in chosen:
            try:
                rows[name] = measure(subjects[name](), lambda m, p: patch(pack, m, p))
            except RedGateError as error:
                sys.exit(f"No numbers for {name}: the gate is red: {error}.")
            print(f"{name}: {json.dumps(rows[name])}", flush=True)
            # a run that is stopped keeps what it has
            ordered = {key: rows[key] for key in subjects if key in rows}
            save(args.json, {**data, "families": ordered})


if __name__ == "__main__":
    main()
