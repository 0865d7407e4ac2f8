"""How the reasons are reached that tell of states which never fit: passes, networks, noise levels
that are others in every evaluation."""

import torch
from motioncache_pack.tests.core.runs import Run, Steady
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.nodes.reason_makers import by_node, by_preset
from motioncache_pack.tests.nodes.reason_makers_calls import closed
from motioncache_pack.tests.nodes.test_answer_graphs import rising
from motioncache_pack.tests.nodes.test_states import swapped, unlike, with_frames
from motioncache_pack.tests.support.answer_runs import patch, small


def in_scene(sample):
    """A run of a small scene, sampled in a way of its own."""

    def make(pack, _):
        scene = small(pack)
        patched, handle = patch(pack, scene.model, "motion")
        sample(scene, patched)
        return handle.latest

    return make


def in_turns(*_):
    """Two networks that take turns, as the one of a pass."""
    networks = small_wan(1), small_wan(2)
    run = Run(networks[0], profile=Steady(0.1))
    for step in range(6):
        run.network = networks[step % 2]
        x, text = torch.randn(1, 16, 3, 4, 4), torch.randn(1, TEXT_TOKENS, TEXT_DIM)
        run.call(x, 900 - 90 * step, text, ("cond",))
    return closed(run)


def with_a_swapped_class(pack, patch_):
    model = pack.wan()
    network = model.model.diffusion_model
    own, other = type(network), swapped(network)

    def swap(step, *_):
        network.__class__ = other if step == 4 else own

    try:
        return by_preset(pack, "motion", model, callback=swap)
    finally:
        network.__class__ = own


STATES = {
    "states that never fit": {
        "passes_new": in_scene(unlike),
        "networks_alternate": in_turns,
        "network_swapped": with_a_swapped_class,
        "frames_added": in_scene(lambda scene, model: with_frames(scene, model, 1)),
    }
}
INSIDE_STATES = {"noise_rises": in_scene(rising)}
# sentences that do not come from a run's model: of a node that is bypassed, and of settings
BESIDE = {
    "no_trace": lambda pack, _: pack.execute("MotionCacheReport", samples={})[0],
    "in_vain": lambda pack, _: by_node(pack, policy="answer", compute_budget=0.4, agreement=0.1),
}
