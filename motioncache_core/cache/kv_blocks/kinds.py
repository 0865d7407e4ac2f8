"""Keys and values of one block in each of the places where they can be kept."""

from .block import BlockKV
from .offloaded import Offloaded
from .quantized import Quantized
from .resident import Resident

# best first: out of memory, a block goes to the next
TIERS: dict[str, type[BlockKV]] = {kind.tier: kind for kind in (Resident, Quantized, Offloaded)}

# where slopes can be kept besides
FORECASTING = ("gpu", "gpu_fp8")
