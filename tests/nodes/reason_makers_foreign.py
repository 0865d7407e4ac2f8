"""How the reasons are reached that tell of other nodes' code in the blocks, and of their passes."""

from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.engine.test_life_cycle import Narrow
from motioncache_pack.tests.nodes.reason_makers_calls import closed
from motioncache_pack.tests.nodes.test_foreign import sparse
from motioncache_pack.tests.support import foreign_nodes, second_passes
from motioncache_pack.tests.support.answer_runs import patch, small
from torch import ones


def by_put(put, preset="motion", order="before"):
    """The trace of a run beside another node."""

    def make(pack, _):
        return second_passes.error_of(pack, small(pack), put, preset, order)[1]

    return make


def narrow(*_):
    """A network that gives its blocks fewer tokens than its input has."""
    run = Run(Narrow())
    run.call(ones(1, 2, 3, 1, 2), 900)
    return closed(run)


def in_the_run(pack, _):
    """An override that is put in place when the run has begun."""
    scene = small(pack)
    patched, handle = patch(pack, scene.model, "motion")
    theirs = foreign_nodes.masked(pack.host, scene.model).model_options["transformer_options"]

    def wrapper(apply_model, given):
        override = theirs[foreign_nodes.OVERRIDE]
        options = {**given["c"]["transformer_options"], foreign_nodes.OVERRIDE: override}
        c = {**given["c"], "transformer_options": options}
        return apply_model(given["input"], given["timestep"], **c)

    patched.set_model_unet_function_wrapper(wrapper)
    scene.sample(patched)
    return handle.latest


FOREIGN = {
    "foreign code": {
        "tokens_lost": in_the_run,
        "partial_failed": by_put(foreign_nodes.hooked),
        "hooks_failed": narrow,
        "attention_dense": by_put(lambda host, model: sparse(host, model, [])),
        "passes_alike": by_put(second_passes.moving_tiles, "balanced"),
    }
}
# told as a part of what is done instead, before the run and in it
INSIDE_FOREIGN = {
    "attention_replaced": by_put(foreign_nodes.masked),
    "block_replaced": by_put(foreign_nodes.blocks_by_frames),
    "part_replaced": by_put(foreign_nodes.by_frames),
}
INSIDE_RUN = {"answers_compared": by_put(second_passes.sliding)}
