"""Sentences that do not come from a run's model: of a node that is bypassed, and of settings."""

from motioncache_pack.tests.nodes.reason_makers import by_node

BESIDE = {
    "no_trace": lambda pack, _: pack.execute("MotionCacheReport", samples={})[0],
    "in_vain": lambda pack, _: by_node(pack, policy="answer", compute_budget=0.4, agreement=0.1),
}
