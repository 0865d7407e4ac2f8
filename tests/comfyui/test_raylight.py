"""Real processes of Ray, each with a model as raylight's workers have it: patched there by the
node, sampled there, and the trace fetched from there. On the CPU, so without raylight itself, which
needs a GPU for each."""

import importlib
import os
import sys

import pytest
import torch
from motioncache_pack.motioncache_core import ConflictError
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.node_runs import marks, small_weights

pytestmark = pytest.mark.comfy

STEPS, RANKS = 20, 2


class Worker:
    """The methods of raylight's RayWorker that a model goes through, word for word."""

    def __init__(self, rank, place, weights):
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        import comfy.sd
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{place}", rank=rank, world_size=RANKS)
        self.model = comfy.sd.load_diffusion_model_state_dict(weights)

    def model_function_runner(self, fn, *args, **kwargs):
        self.model = fn(self.model, *args, **kwargs)

    def model_function_runner_get_values(self, fn, *args, **kwargs):
        return fn(self.model, *args, **kwargs)

    def common_ksampler(self, seed, steps, cfg, positive, negative, latent):
        import comfy.sample
        import torch.distributed as dist

        calls = []

        # a meeting of all ranks, as every call of a network that is shared out is one
        def meet(*_):
            calls.append(1)
            here = torch.tensor([float(len(calls))])
            seen = [torch.empty(1) for _ in range(RANKS)]
            dist.all_gather(seen, here)
            assert all(torch.equal(one, here) for one in seen)

        hook = self.model.model.diffusion_model.register_forward_pre_hook(meet)
        noise = comfy.sample.prepare_noise(latent, seed)
        with torch.no_grad():
            samples = comfy.sample.sample(
                self.model, noise, steps, cfg, "euler", "simple", positive, negative, latent,
                disable_pbar=True, seed=seed,
            )  # fmt: skip
        hook.remove()
        return samples, len(calls)


@pytest.fixture(scope="module")
def actors(root, tmp_path_factory):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    place = str(tmp_path_factory.mktemp("ray") / "meeting")
    # as raylight does it: its processes can import ComfyUI, and not the pack
    found = (root / "tests" / "support" / "torch_shims", os.environ["COMFYUI_PATH"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, found)))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # else they get what other processes leave
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=RANKS, include_dashboard=False, log_to_driver=False)
    # this file has no name there either
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    remote, weights = ray.remote(Worker), dict(small_weights())
    yield {
        "workers": [
            remote.options(num_cpus=1).remote(rank, place, weights) for rank in range(RANKS)
        ]
    }
    ray.shutdown()


def sample(pack, actors):
    ray = importlib.import_module("ray")
    text, latent = pack.host.text, pack.host.latent()
    found = ray.get(
        [
            worker.common_ksampler.remote(7, STEPS, 5.0, text(1), text(2), latent)
            for worker in actors["workers"]
        ],
        timeout=300,
    )
    (first, calls), *others = found
    for samples, number in others:
        assert torch.equal(samples, first)
        assert number == calls
    return first, calls


def test_the_models_of_all_processes_are_cached_alike(pack, actors):
    plain, calls = sample(pack, actors)
    assert calls == STEPS
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    wanted = pack.sample(model, STEPS)
    computed, marked = round(0.4 * STEPS), marks(handle.latest)

    # more than once, as a node that is changed is run again
    for preset in ("fast", "balanced"):
        handed, handle = pack.execute("MotionCacheRay", actors, preset)
    assert handed is actors
    assert handle.latest is None
    got, calls = sample(pack, actors)
    assert calls == computed
    assert torch.equal(got, wanted)
    trace = handle.latest
    assert marks(trace) == marked
    text, _, report = pack.execute("MotionCacheReport", handle, {})
    assert "balanced" in text and report

    # single tokens are no rank's own matter
    _, handle = pack.execute("MotionCacheRay", actors, "paper")
    _, calls = sample(pack, actors)
    assert calls < STEPS
    assert "several_ranks" in str([code_of(r) for r in handle.latest.remarks]) or any(
        "processes compute this run" in r for r in handle.latest.remarks
    )

    _, handle = pack.execute("MotionCacheRay", actors, "off")
    assert torch.equal(sample(pack, actors)[0], plain)
    assert code_of(handle.latest.reason) == "off"


def test_another_cache_is_told_of(pack, actors):
    ray = importlib.import_module("ray")

    def cached(model):
        clone = model.clone()
        clone.model_options["transformer_options"]["teacache"] = object()
        return clone

    def bare(model):
        clone = model.clone()
        del clone.model_options["transformer_options"]["teacache"]
        return clone

    ray.get([worker.model_function_runner.remote(cached) for worker in actors["workers"]])
    with pytest.raises(ConflictError, match="TeaCache"):
        pack.execute("MotionCacheRay", actors, "balanced")
    ray.get([worker.model_function_runner.remote(bare) for worker in actors["workers"]])
