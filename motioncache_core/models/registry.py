"""Which models are supported. Adding one: a module with an `Adapter`, and a line here."""

from __future__ import annotations

from ..common.errors import UnsupportedModelError
from ..common.phrases import phrase
from ..common.reasons import Reason, because
from .adapter import Adapter, qualified_class, qualified_name
from .cogvideo import COGVIDEO
from .cosmos import COSMOS
from .hunyuan_video import HUNYUAN_VIDEO
from .kandinsky import KANDINSKY
from .ltx2 import LTX2
from .ltxv import LTXV
from .minimax import MINIMAX_H3
from .mochi import MOCHI
from .wan import WAN
from .wan_causal import WAN_CAUSAL
from .wan_humo import WAN_HUMO
from .wan_vace import WAN_VACE
from .wan_variants import WAN_ANIMATE, WAN_CAMERA, WAN_DANCER, WAN_S2V, WAN_SCAIL

ADAPTERS: tuple[Adapter, ...] = (
    WAN, WAN_CAMERA, WAN_SCAIL, WAN_VACE, WAN_S2V, WAN_ANIMATE, WAN_HUMO, WAN_DANCER, WAN_CAUSAL,
    HUNYUAN_VIDEO, KANDINSKY, MINIMAX_H3, LTXV, LTX2, COSMOS, COGVIDEO, MOCHI,
)  # fmt: skip


def find_adapter(network: object) -> tuple[Adapter, Reason | None]:
    """The adapter of a network, and the reason if it is known but declined.

    Raises:
        UnsupportedModelError: no adapter knows the class; the message lists what is supported.
    """
    adapter, why = find_adapter_of_class(type(network))
    return adapter, why or adapter.unfit(network)


def find_adapter_of_class(kind: type) -> tuple[Adapter, Reason | None]:
    """The same for the network's class, of which some may still be unfit.

    Raises:
        UnsupportedModelError: as above.
    """
    name, short = qualified_class(kind), kind.__name__
    known = next((adapter for adapter in ADAPTERS if name in adapter.classes), None)
    if known is not None:
        return known, None
    for adapter in ADAPTERS:
        if name.startswith(adapter.module_prefix):
            why = adapter.declined.get(short) or phrase("this variant has not been checked")
            return adapter, because("model_variant", name=short, why=why)
    raise UnsupportedModelError(
        f"MotionCache does not know the model {name}. Supported: {supported()}. "
        "Remove the node for this model."
    )


def supported() -> str:
    """The families and classes that are known, for messages."""
    return ", ".join(
        f"{a.name} ({', '.join(c.rpartition('.')[2] for c in a.classes)})" for a in ADAPTERS
    )


def takes_frame_levels(network: object) -> Adapter:
    """The adapter of a network that takes a noise level per frame, for diffusion forcing.

    Raises:
        UnsupportedModelError: it does not, or is not known to.
    """
    name = qualified_name(network)
    for adapter in ADAPTERS:
        if name in adapter.classes and adapter.shift_frames is not None:
            return adapter
    raise UnsupportedModelError(
        "diffusion forcing needs a model that takes a noise level per frame; that is not known of "
        f"{name}. Supported: {supported()}. Use an ordinary sampler for this model"
    )
