"""How the reasons of calls with a noise level for each frame are reached."""

import torch
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan


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
    run.session.close()
    return run.trace


FORCING = {"extra_tokens": beside_the_video}
