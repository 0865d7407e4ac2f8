"""Keys and values, without which whole chunks are reused or computed."""

from __future__ import annotations

from collections.abc import Mapping

from .template import Template

MEMORY: Mapping[str, Template] = {
    "kv_policy": Template(
        "policy {policy!r} has no partial evaluations",
        "Set policy to 'motion' to reuse single tokens",
    ),
    "kv_off": Template(
        "kv_cache is off: whole chunks are reused or computed",
        "Set kv_cache to 'auto' to reuse single tokens",
    ),
    "kv_no_room": Template(
        "keys and values need {tried}: whole chunks are reused or computed",
        "Use a smaller video, or force kv_cache 'gpu_fp8' or 'cpu'",
    ),
    "kv_one_frame": Template(
        "one latent frame has no motion: it is reused or computed as a whole",
        "Use a longer video to reuse single tokens",
    ),
    "kv_forecast_lost": Template(
        "out of memory at block {block}: keys and values are not forecast from there on",
        "Set kv_forecast to 0 to start without",
    ),
    "kv_step_down": Template(
        "out of memory at block {block}: {place} from there on",
        "Set kv_cache to {place!r} to start there",
    ),
    "kv_lost": Template(
        "out of memory at block {block}: dropped, whole chunks are reused or computed",
        "Set kv_cache to 'cpu', or use a smaller video",
    ),
}
