"""Which models are supported. Adding one: a module with an `Adapter`, and a line here."""

from __future__ import annotations

from ..common.errors import UnsupportedModelError
from ..common.reasons import Reason, because
from .adapter import Adapter, qualified_class, qualified_name
from .wan import WAN

ADAPTERS: tuple[Adapter, ...] = (WAN,)


def find_adapter(network: object) -> tuple[Adapter, Reason | None]:
    """The adapter of a network, and the reason if its class is known but declined.

    Raises:
        UnsupportedModelError: no adapter knows the class; the message lists what is supported.
    """
    return find_adapter_of_class(type(network))


def find_adapter_of_class(kind: type) -> tuple[Adapter, Reason | None]:
    """The same for the network's class.

    Raises:
        UnsupportedModelError: as above.
    """
    name, short = qualified_class(kind), kind.__name__
    for adapter in ADAPTERS:
        if name in adapter.classes:
            return adapter, None
        if name.startswith(adapter.module_prefix):
            why = adapter.declined.get(short, "this variant has not been checked")
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
