"""How the reasons of models that keep keys and values of their own are reached."""

from motioncache_pack.motioncache_core.common.reasons import because
from motioncache_pack.tests.models.test_wan_causal import OwnKeys, Run, noisy


def finished_frames(*_):
    run = Run()
    run.call(noisy(1), 0.9)
    run.call(noisy(1), 0.0, because("cache_written"))
    run.session.close()
    return run.trace


def hidden_blocks(*_):
    network = OwnKeys().eval()
    vars(network)["blocks"] = list(network.blocks)
    run = Run(network=network)
    run.call(noisy(1), 0.9)
    run.session.close()
    return run.trace


CAUSAL = {"cache_written": finished_frames, "blocks_hidden": hidden_blocks}
