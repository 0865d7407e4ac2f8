"""How the reasons are reached of calls with a noise level for each frame, and of models that keep
keys and values of their own."""

import torch
from motioncache_pack.motioncache_core.common.reasons import because
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.models import test_wan_causal as causal


def closed(run):
    """The trace of a run that is over."""
    run.session.close()
    return run.trace


def beside_the_video(*_):
    network, run = small_wan(), Run(small_wan())
    options = ForcingOptions(chunk_frames=1, attention="bidirectional")
    iteration, *_ = forcing_schedule(3, 10, options)
    x, t = torch.randn(1, 16, 3, 4, 4), torch.full((1, 3), 900.0)
    text = torch.randn(1, TEXT_TOKENS, TEXT_DIM)
    run.session.evaluate(
        ModelCall(
            network,
            lambda given: network(x, t, text, transformer_options=given),
            x,
            t,
            ("cond",),
            {},
            {"reference_latent": torch.zeros(1)},
            ForcingCall(iteration, (0.9,) * 3, options),
        )
    )
    return closed(run)


def finished_frames(*_):
    run = causal.Run()
    run.call(causal.noisy(1), 0.9)
    run.call(causal.noisy(1), 0.0, because("cache_written"))
    return closed(run)


def hidden_blocks(*_):
    network = causal.OwnKeys().eval()
    vars(network)["blocks"] = list(network.blocks)
    run = causal.Run(network=network)
    run.call(causal.noisy(1), 0.9)
    return closed(run)


CALLS = {
    "extra_tokens": beside_the_video,
    "cache_written": finished_frames,
    "blocks_hidden": hidden_blocks,
}
