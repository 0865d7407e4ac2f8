"""Where keys and values go, decided before the run from bytes and free memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..common.errors import SettingsError
from ..common.phrases import phrase, together
from ..common.reasons import Reason, because
from ..report.trace import PlannedKeys
from ..settings import POLICIES
from .kv_blocks.kinds import FORECASTING
from .kv_bytes import CPU, GPU, GPU_FP8, KVBytes, mib

log = logging.getLogger(__name__)

# share of the device's free memory that may be taken; the host keeps the rest for its estimates
_MEMORY_SHARE = 0.8
_HALF = phrase(", half of it for their forecast")
_NOT_THERE = phrase("; they are not forecast, as they have to be on the model's device for that")
# of the host's: locked memory cannot be swapped out
_HOST_SHARE = 0.6

FreeMemory = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where keys and values go, how many bytes that takes, and why.

    Attributes:
        tiers: tier of each block; empty where nothing is kept.
        nbytes: kept in all tiers.
        forecast: whether slopes are kept besides.
        host_bytes: of `nbytes`, those in the host's memory.
    """

    tiers: tuple[str, ...]
    nbytes: int
    reason: str
    forecast: bool = False
    host_bytes: int = 0

    @property
    def store(self) -> bool:
        """Whether anything is kept."""
        return bool(self.tiers)

    def planned(self, prompts: int) -> PlannedKeys:
        """What is told of it before the run."""
        return PlannedKeys(self.nbytes - self.host_bytes, self.host_bytes, prompts)


def nothing(reason: Reason) -> Placement:
    """No keys and values."""
    return Placement((), 0, reason)


def choose_placement(
    kv_cache: str,
    need: KVBytes,
    policy: str,
    free_memory: FreeMemory | None,
    free_host_memory: FreeMemory | None = None,
    make_room: Callable[[int], None] | None = None,
    *,
    chunks: int = 1,
) -> Placement:
    """Choose before the run.

    Args:
        kv_cache: "gpu", "gpu_fp8", "cpu", "off" or "auto".
        free_memory: free bytes on the model's device; None where the host cannot tell.
        free_host_memory: free bytes of the host; where it cannot tell, "auto" leaves it alone.
        make_room: asks the host for so many free bytes on the device.
        chunks: chunks of the clip; one may be reused while another is computed.

    Raises:
        SettingsError: the device cannot do what `kv_cache` asks for.
    """
    traits = POLICIES[policy]
    if not traits.per_token and (traits.one_chunk or chunks == 1):
        return nothing(because("kv_policy", policy=policy))
    if kv_cache == "off":
        return nothing(because("kv_off"))
    if kv_cache != "auto":
        return _forced(kv_cache, need)
    found, tried = _fitting(need, free_memory, free_host_memory, make_room)
    if found is not None:
        return found
    return nothing(because("kv_no_room", tried=tried))


def choose_causal_placement(
    kv_cache: str,
    need: KVBytes,
    free_memory: FreeMemory | None,
    free_host_memory: FreeMemory | None = None,
    make_room: Callable[[int], None] | None = None,
    *,
    why: str = phrase("block-causal attention needs them"),
    advice: str = phrase("set window_frames or kv_keep if memory runs out"),
) -> Placement:
    """Block-causal attention always keeps keys and values; says so where they may not fit.

    Args:
        kv_cache: as in `choose_placement`; "off" turns off what they are not needed for.
        need: once every chunk has started.
        why, advice: who needs them, and what to do where they do not fit.

    Raises:
        SettingsError: the device cannot do what `kv_cache` asks for.
    """
    if kv_cache not in ("auto", "off"):
        forced = _forced(kv_cache, need)
        reason = phrase("{reason} at most; {why}", reason=forced.reason, why=why)
        return replace(forced, reason=reason)
    found, tried = _fitting(need, free_memory, free_host_memory, make_room)
    if found is not None:
        reason = phrase("{reason}, at most; {why}", reason=found.reason, why=why)
        placement = replace(found, reason=reason)
        if set(found.tiers) != {GPU}:
            log.warning("MotionCache - keys and values: %s.", placement.reason)
        return placement
    last = GPU_FP8 if GPU_FP8 in need.tiers else GPU
    reason = phrase("{tried}; {why}: {advice}", tried=tried, why=why, advice=advice)
    log.warning("MotionCache - keys and values: %s.", reason)
    bare = replace(need, forecast=False)
    return Placement((last,) * need.blocks, bare.kept(last), reason)


def _forced(kv_cache: str, need: KVBytes) -> Placement:
    if kv_cache not in need.tiers:
        raise SettingsError(
            f"kv_cache is {kv_cache!r}, which the model's device or dtype does not have; it has "
            f"{', '.join(map(repr, need.tiers))}. Use one of these, 'auto' or 'off'"
        )
    size, forecast = mib(need.kept(kv_cache)), need.forecast and kv_cache in FORECASTING
    where = {
        GPU: phrase("{size} on the model's device", size=size),
        GPU_FP8: phrase("{size} on the model's device in 8 bits", size=size),
        CPU: phrase("{size} in the host's memory", size=size),
    }
    reason = where[kv_cache]
    if need.forecast:
        reason = together("", [reason, _HALF if forecast else _NOT_THERE])
    kept = need.kept(kv_cache)
    on_host = kept if kv_cache == CPU else 0
    return Placement((kv_cache,) * need.blocks, kept, reason, forecast, on_host)


def _forecasting(need: KVBytes, free_memory: FreeMemory, tried: list[str]) -> Placement | None:
    """All blocks with their slopes on the device: in 8 bits too, as these round off far less than
    the forecast mends (ours; `test_kv_forecast.py` holds it)."""
    free = free_memory()
    for tier in (p for p in FORECASTING if p in need.tiers):
        nbytes = need.kept(tier)
        if need.forecasting(tier) <= _MEMORY_SHARE * free:
            kept = _of_free(nbytes, free, tier == GPU_FP8)
            return Placement((tier,) * need.blocks, nbytes, together("", [kept, _HALF]), True)
        tried.append(mib(need.forecasting(tier)))
    return None


def _fitting(
    need: KVBytes,
    free_memory: FreeMemory | None,
    free_host_memory: FreeMemory | None,
    make_room: Callable[[int], None] | None,
) -> tuple[Placement | None, str]:
    """The first that fits, and in words what was tried."""
    if free_memory is None:
        return _forced(GPU, need), ""
    if need.forecast:
        wanted, asked = need.forecasting(GPU), list[str]()
        if make_room is not None and wanted > _MEMORY_SHARE * free_memory():
            make_room(int(wanted / _MEMORY_SHARE) + 1)
        found = _forecasting(need, free_memory, asked)
        if found is not None:
            return found, ""
        bare = replace(need, forecast=False)
        found, tried = _fitting(bare, free_memory, free_host_memory, make_room)
        if found is None:
            return None, tried
        note = phrase(
            "{reason}; no forecast of them, which takes {size}",
            reason=found.reason,
            size=together(" or ", asked),
        )
        return replace(found, reason=note), ""
    blocks, full = need.blocks, need.kept(GPU)
    if make_room is not None and full > _MEMORY_SHARE * free_memory():
        make_room(int(full / _MEMORY_SHARE) + 1)
    free = free_memory()
    room = _MEMORY_SHARE * free
    if full <= room:
        return Placement((GPU,) * blocks, full, _of_free(full, free)), ""
    tried = phrase("{need}, {free} are free", need=mib(full), free=mib(free))
    if GPU_FP8 in need.tiers and need.on_device(blocks) <= room:
        kept = need.kept(GPU_FP8)
        reason = phrase(
            "{kept}; exact, {tried}", kept=_of_free(kept, free, in_8_bits=True), tried=tried
        )
        return Placement((GPU_FP8,) * blocks, kept, reason), ""
    if CPU not in need.tiers or free_host_memory is None:
        return None, tried
    host = free_host_memory()
    quantized = 0
    if GPU_FP8 in need.tiers:
        quantized = max((n for n in range(blocks) if need.on_device(n) <= room), default=0)
    offloaded = (blocks - quantized) * need.full
    tried = phrase("{tried}, {host} in the host's memory", tried=tried, host=mib(host))
    if need.on_device(quantized) > room or offloaded > _HOST_SHARE * host:
        return None, tried
    reason = phrase(
        "{size} of {free} free in the host's memory", size=mib(offloaded), free=mib(host)
    )
    if quantized:
        reason = phrase(
            "{n} of {blocks} blocks in 8 bits, {kept}; the others {reason}",
            n=quantized,
            blocks=blocks,
            kept=_of_free(quantized * need.quantized, free),
            reason=reason,
        )
    kept = quantized * need.quantized + offloaded
    return Placement(_spread(blocks, quantized), kept, reason, host_bytes=offloaded), ""


def _of_free(kept: int, free: int, in_8_bits: bool = False) -> str:
    if in_8_bits:
        return phrase("{size} in 8 bits of {free} free", size=mib(kept), free=mib(free))
    return phrase("{size} of {free} free", size=mib(kept), free=mib(free))


def _spread(blocks: int, quantized: int) -> tuple[str, ...]:
    """Blocks of both kinds in turn, so that each copy has as much work as possible beside it."""
    return tuple(
        GPU_FP8 if (i + 1) * quantized // blocks > i * quantized // blocks else CPU
        for i in range(blocks)
    )
