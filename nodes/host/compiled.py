"""What the host's compile nodes have done to a model, found out before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...motioncache_core.common.reasons import Reason, because
from ...motioncache_core.engine.compiled_blocks import is_compiled

# under which key ComfyUI's helper registers its wrapper, and keeps the arguments of torch.compile
COMPILE_KEY = "torch.compile"
COMPILE_ARGUMENTS = "torch_compile_kwargs"

WHOLE = because("compiled_whole")
FULLGRAPH = because("compiled_fullgraph")
STATIC = because("compiled_static")


class _Probe:
    """Stands in for the executor of a wrapper around the model, and looks at the model."""

    def __init__(self, model: Any) -> None:
        self.class_obj, self.compiled = model, False

    def __call__(self) -> None:
        self.compiled = is_compiled(self.class_obj.diffusion_model)


def compiled_as_a_whole(patcher: Any, wrappers: Sequence[Callable[..., Any]]) -> bool:
    """Whether the network is compiled, or swapped for a compiled one while it is called.

    Args:
        wrappers: what ComfyUI's compile helper has put around the model. Which parts it swaps is
            seen only while it does.
    """
    if is_compiled(patcher.get_model_object("diffusion_model")):
        return True
    probe = _Probe(patcher.model)
    for wrapper in wrappers:
        # another pack's wrapper of the same name may want more than this
        with suppress(Exception):
            wrapper(probe)
    return probe.compiled


def compiled_reason(patcher: Any, model_options: Mapping[str, Any]) -> Reason | None:
    """Why a compiled model cannot be helped; None if it can, or is not compiled."""
    if compiled_as_a_whole(patcher, patcher.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY)):
        return WHOLE
    return FULLGRAPH if argument(model_options, "fullgraph") else None


def argument(model_options: Mapping[str, Any], name: str) -> Any:
    """An argument that the compile node has given to torch.compile; None without one."""
    return model_options.get(COMPILE_ARGUMENTS, {}).get(name)


def plain(network: Any) -> Any:
    """The network itself, where an object patch has put its compiled form in its place."""
    return getattr(network, "_orig_mod", network)
