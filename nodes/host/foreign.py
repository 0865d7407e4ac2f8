"""Code of other nodes inside a network's blocks, as far as it can be seen before it runs.

Few active rows do not stand beside each other as all tokens do. Code that regroups tokens, or masks
them, then fails or, where the number of rows happens to fit, gives a wrong answer without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from ...motioncache_core.common.reasons import Reason, because
from ...motioncache_core.engine.compiled_blocks import is_compiled
from ...motioncache_core.models.adapter import Adapter
from .passes import OVERRIDE

# packages whose code in a network is the network's own
_OWN = ("comfy", "torch")
# where the host registers its attention back ends, and its node for sparse attention, which runs
# dense where queries are not as many as keys
_BACK_ENDS = "comfy.ldm.modules.attention"
_SPARSE = "comfy_extras.nodes_sparse_attention"
# what attention back ends are called, and what shows that a function is more than one
_PER_ROW = re.compile(r"sage|flash|xformers|pytorch|sdpa|sub_?quad|split")
_MORE = re.compile(
    r"spa?rs|sparg|spas_|radial|window|tile|mask|top_?k|vsa|(?<![a-z])nag|guid|perturb|enhanc"
)


def foreign_code(adapter: Adapter, network: object, options: Mapping[str, Any]) -> Reason | None:
    """Why single tokens cannot be told apart in a call: another node's code runs in the blocks
    that is not known to treat rows one by one.

    Args:
        options: the host's transformer options.
    """
    return _foreign_options(adapter, options) or foreign_part(network)


def foreign_attention(override: object) -> Reason | None:
    """Why an attention override may need all tokens; None for plain back ends, and for none."""
    if override is None or _per_row(override):
        return None
    return because("attention_replaced", name=_name(override))


def note_of_partial(options: Mapping[str, Any]) -> str:
    """What is said of calls that compute some tokens, where anything is."""
    override = options.get(OVERRIDE)
    sparse = override is not None and _home(override) == _SPARSE
    return because("attention_dense") if sparse else ""


def behind(options: Mapping[str, Any], kind: str, key: str) -> tuple[str, ...]:
    """What wrappers of a kind are called that stand between ours and what they wrap.

    Args:
        options: the host's transformer options.
        key: that ours is registered under.
    """
    listed = options.get("wrappers", {}).get(kind, {})
    keys = list(listed)
    inner = keys[keys.index(key) + 1 :] if key in keys else []
    return tuple(_name(function) for k in inner for function in listed[k])


def foreign_before(patcher: Any, adapter: Adapter, options: Mapping[str, Any]) -> Reason | None:
    """Why single tokens cannot be told apart in a run, as far as it is known before it starts.

    Args:
        patcher: of the model that will run.
        options: its transformer options.
    """
    why = _foreign_options(adapter, options)
    return why or foreign_patches(getattr(patcher, "object_patches", {}))


def foreign_patches(patches: Mapping[str, Any]) -> Reason | None:
    """Why object patches on a network's blocks may need all tokens; None where there are none."""
    for name, patch in patches.items():
        path = name.split(".")
        inside = path[0] == "diffusion_model" and any(part.isdigit() for part in path)
        if not inside or not callable(patch):
            continue
        code = foreign_module(patch) if isinstance(patch, nn.Module) else patch
        if code is not None and not _within(_home(code), _OWN):
            return because("part_replaced", name=".".join(path[1:]), by=_name(code))
    return None


def _foreign_options(adapter: Adapter, options: Mapping[str, Any]) -> Reason | None:
    why = foreign_attention(options.get(OVERRIDE))
    if why is not None:
        return why
    replaced = options.get("patches_replace", {}).get("dit", {})
    hooks = {run.hook for run in adapter.runs}
    names = [key for key in replaced if isinstance(key, tuple) and key[0] in hooks]
    return because("block_replaced", name=f"{names[0][0]} {names[0][1]}") if names else None


def foreign_part(network: object) -> Reason | None:
    """Why the parts of a network's blocks may need all tokens; None where they are its own."""
    if not isinstance(network, nn.Module):
        return None
    kind = type(network)
    own = (*_OWN, _package(kind.__module__), _package(_home(kind.forward)))
    for name, module in _parts(network):
        code = foreign_module(module, own)
        if code is not None:
            return because("part_replaced", name=name, by=_name(code))
    return None


def foreign_module(module: nn.Module, own: tuple[str, ...] = _OWN) -> object | None:
    """The code in a module that is another node's; None where there is none.

    Args:
        own: packages whose code is the network's.
    """
    # a product of rows and weights is one of rows, whatever computes it
    if isinstance(module, nn.Linear) or is_compiled(module):
        return None
    patched = vars(module).get("forward")
    if patched is not None and not _within(_home(patched), own):
        return patched
    kind = type(module)
    if not _within(kind.__module__, own) and next(module.children(), None) is not None:
        return kind
    owner = next((c for c in kind.__mro__ if "forward" in vars(c)), nn.Module)
    method = vars(owner).get("forward")
    if method is not None and not _within(_home(method), (*own, owner.__module__)):
        return method
    return None


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules in the network's lists, which is where blocks are."""
    for child, blocks in network.named_children():
        if isinstance(blocks, nn.ModuleList):
            yield from ((f"{child}.{name}", m) for name, m in blocks.named_modules() if name)


def _per_row(override: Any) -> bool:
    home = _home(override)
    if home == _SPARSE:
        return all(_per_row(f) for f in _closed_over(override))
    if _within(home, (_BACK_ENDS,)):
        return True
    if _within(home, ("comfy",)):
        # it hands on to one that was chosen by name
        inner = _closed_over(override)
        return bool(inner) and all(_per_row(f) for f in inner)
    words = _name(override).lower()
    return bool(_PER_ROW.search(words)) and not _MORE.search(words)


def _closed_over(function: Any) -> list[Callable[..., Any]]:
    found = []
    for cell in getattr(_plain(function), "__closure__", None) or ():
        try:
            held = cell.cell_contents
        except ValueError:
            continue
        if callable(held):
            found.append(held)
    return found


def _plain(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__func__", function)


def _home(function: Any) -> str:
    """The module that a function, or the class of a callable object, is from."""
    function = _plain(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(getattr(named, "__module__", None) or "")


def _name(function: Any) -> str:
    function = _plain(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(named.__qualname__).replace(".<locals>", "")


def _package(module: str) -> str:
    return module.rpartition(".")[0]


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages if p)
