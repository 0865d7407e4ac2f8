"""The sentence that is told where a MotionCache node is bypassed."""

BYPASSED = {"no_trace": lambda pack, _: pack.execute("MotionCacheReport", samples={})[0]}
