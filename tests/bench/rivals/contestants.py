"""Who is measured: each with the values of its knobs that are tried."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from common import ROOT, code_hash
from rivals import packs
from rivals.table import THIS_PACK

# more than any run has
_NEVER = 1000

Settings = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """A cache to measure.

    Attributes:
        pack: the folder of its pack; None for ComfyUI's own and ours.
        file: the module that defines the node.
        node: the node's id.
        fixed: settings that are the node's defaults, or have no choice here.
        off: settings with which its code runs and nothing is reused.
        tried: the knobs, and the values of each that are tried together.
        kinds: the model types that it may be told, of text to video and of image to video; None
            where it does not ask.
        scheduled: which evaluations are computed does not depend on what they give.
        by_model: which they are depends on the model, though.
        free: knobs that have no part in which evaluations these are.
        kept: settings of each count that go from the first clip to the others, the best there.
        beside: how many that were tried before and after each of these go there too, as its count
            differs from clip to clip.
    """

    name: str
    pack: str | None
    file: str
    node: str
    fixed: Settings
    off: Settings
    tried: dict[str, Sequence[Any]]
    kinds: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    scheduled: bool = True
    by_model: bool = False
    free: tuple[str, ...] = ()
    kept: int = 1
    beside: int = 0

    def load(self, folder: Path) -> packs.Loaded:
        """Its nodes.

        Raises:
            NotLoadedError: they cannot be had.
        """
        found = (
            packs.core(self.file)
            if self.pack is None
            else packs.load(folder / self.pack, self.file)
        )
        if self.node not in found.nodes:
            raise packs.NotLoadedError(f"there is no node {self.node} in it")
        return found

    def settings(self, from_image: bool) -> Iterator[Settings]:
        """All that are tried."""
        for told in self._told(from_image):
            for values in product(*self.tried.values()):
                yield told | dict(zip(self.tried, values, strict=True))

    def switched_off(self, from_image: bool) -> Settings:
        """Those with which nothing is reused."""
        first = {name: values[0] for name, values in self.tried.items()}
        return self._told(from_image)[0] | first | self.off

    def put(self, loaded: packs.Loaded, model: Any, settings: Settings) -> Any:
        """The model with the cache on it."""
        node = loaded.nodes[self.node]
        if hasattr(node, "execute"):
            return node.execute(model, **settings).result[0]
        return getattr(node(), node.FUNCTION)(model, **settings)[0]

    def _told(self, from_image: bool) -> list[Settings]:
        if self.kinds is None:
            return [self.fixed]
        return [self.fixed | {"model_type": kind} for kind in self.kinds[from_image]]


class Ours(Contestant):
    """A preset of this pack, with other budgets."""

    def load(self, folder: Path) -> packs.Loaded:
        node = importlib.import_module("motioncache_pack.nodes.patcher").MotionCachePatcher
        folders = ("motioncache_core", "kernels", "nodes")
        code = code_hash(f for folder in folders for f in (ROOT / folder).glob("**/*.py"))
        return packs.Loaded({self.node: node}, THIS_PACK, f"code {code[:12]}")

    def put(self, loaded: packs.Loaded, model: Any, settings: Settings) -> Any:
        known = importlib.import_module("motioncache_pack.motioncache_core").MotionCacheSettings
        chosen = known.preset(settings["preset"], compute_budget=settings["compute_budget"])
        return loaded.nodes[self.node].execute(model, settings["preset"], chosen).result[0]


OURS, TAYLOR = "MotionCache", "TaylorSeerLite, order 2"


def contestants(steps: int, evaluations: Sequence[int]) -> list[Contestant]:
    """All of them, for runs of so many steps of which so many evaluations are computed."""
    budgets = [n / steps for n in evaluations]
    # what a budget of tokens computes is a little less than it says
    more = sorted({min(n + extra, steps) / steps for n in evaluations for extra in (0.0, 0.5, 1.0)})
    ours = Ours(
        OURS, None, "", "MotionCachePatcher", {"preset": "balanced"},
        {"compute_budget": 1.0}, {"compute_budget": budgets},
    )  # fmt: skip
    tokens = replace(
        ours, name="preset motion (tokens)", fixed={"preset": "motion"},
        tried={"compute_budget": more}, scheduled=False,
    )  # fmt: skip
    return [ours, *_forecasting(steps), *_by_threshold(), *_core(), tokens]


def _forecasting(steps: int) -> list[Contestant]:
    taylor = Contestant(
        TAYLOR, "ComfyUI-TaylorSeer", "nodes", "TaylorSeerLite",
        {"model_type": "wanvideo", "max_order": 2},
        {"first_enhance": _NEVER},
        {
            "fresh_threshold": (3, 4, 5, 6, 7),
            "first_enhance": (1, 2, 3, 4, 5, 6),
            # from which step on all are computed: never, the last one, the last two
            "last_enhance": (50, steps, steps - 1),
        },
        kept=3,
    )  # fmt: skip
    spectrum = Contestant(
        "Spectrum", "ComfyUI-Spectrum-WAN-Proper", "nodes", "SpectrumApplyWAN",
        {
            "backend": "wan21", "transition_mode": "separate_fit", "enabled": True,
            "blend_weight": 1.0, "history_size": 16, "debug": False,
            "forecaster_cache_mode": "legacy_dense_coeff",
        },
        {"warmup_steps": _NEVER},
        {
            "warmup_steps": (2, 3, 4, 5, 6),
            "window_size": (2.0, 3.0),
            "flex_window": (0.0, 0.25, 0.5, 0.75),
            # its own: 4 and 0.1
            "degree": (3, 4),
            "ridge_lambda": (0.0, 0.1),
        },
        free=("degree", "ridge_lambda"),
        kept=4,
    )  # fmt: skip
    dit = Contestant(
        "CacheDiT", "ComfyUI-CacheDiT", "nodes_wan", "WanCacheOptimizer",
        {"enable": True, "print_summary": False},
        {"warmup_steps": _NEVER},
        {"warmup_steps": range(1, 10), "skip_interval": range(2, 11)},
        kept=2,
    )  # fmt: skip
    return [taylor, spectrum, dit]


def _by_threshold() -> list[Contestant]:
    magnitude = Contestant(
        "MagCache", "ComfyUI-MagCache", "nodes", "MagCache",
        {"start_step": 0, "end_step": -1},
        {"magcache_K": 0},
        {
            "magcache_K": (1, 2, 3, 4, 5, 6),
            "magcache_thresh": (0.06, 0.12, 0.2, 0.3),
            "retention_ratio": (0.1, 0.2, 0.3),
        },
        (
            ("wan2.1_t2v_1.3B", "wan2.1_t2v_14B"),
            ("wan2.1_i2v_480p_14B", "wan2.1_i2v_720p_14B"),
        ),
        kept=2,
    )  # fmt: skip
    from_text, from_image = (
        tuple(f"wan2.1_{of}{mode}" for of in sizes for mode in ("", "_ret_mode"))
        for sizes in (("t2v_1.3B", "t2v_14B"), ("i2v_480p_14B", "i2v_720p_14B"))
    )
    tea = Contestant(
        "TeaCache", "ComfyUI-TeaCache", "nodes", "TeaCache",
        {"cache_device": "cpu"},
        # there is no share of a run in which it is on
        {"start_percent": 1.0, "end_percent": 0.0},
        {
            # where its curves do not fit a network, thresholds make hardly any difference, and it
            # is the steps before it starts that make the wanted count
            "start_percent": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
            "end_percent": (0.95, 1.0),
            "rel_l1_thresh": _rising(0.01, 10.0, 10),
        },
        # no curve for text fits the models here, and those for images suit them better
        ((*from_text, *from_image), from_image),
        # it goes by the embedded timesteps
        by_model=True, kept=2,
    )  # fmt: skip
    return [magnitude, tea]


def _core() -> list[Contestant]:
    easy = Contestant(
        "EasyCache", None, "comfy_extras.nodes_easycache", "EasyCacheNode",
        {"verbose": False},
        {"reuse_threshold": 0.0},
        {
            # its own: 0.15 and 0.95
            "start_percent": (0.05, 0.15, 0.3),
            "end_percent": (0.95, 1.0),
            "reuse_threshold": _rising(0.05, 3.0, 14),
        },
        scheduled=False, beside=1,
    )  # fmt: skip
    return [easy, replace(easy, name="LazyCache", node="LazyCacheNode")]


def _rising(low: float, high: float, count: int) -> tuple[float, ...]:
    """Thresholds with even ratios, as the nodes' widgets round them."""
    ratio = (high / low) ** (1 / (count - 1))
    return tuple(dict.fromkeys(round(low * ratio**i, 2) for i in range(count)))
