"""The nodes, as ComfyUI loads them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .calibrate import MotionCacheCalibrate
from .compare import MotionCacheCompare
from .demo import MotionCacheDemoDecode, MotionCacheDemoModel
from .forcing import MotionCacheDiffusionForcing, MotionCacheExtendVideo
from .load_magi import MotionCacheLoadMagi
from .load_magi_vae import MotionCacheLoadMagiVAE
from .load_skyreels import MotionCacheLoadSkyReels
from .magi_latent import MotionCacheMagiLatent
from .magi_sampling import MotionCacheMagiSampling
from .magi_text import MotionCacheMagiText
from .magi_tiny import MotionCacheMagiTiny
from .motion_map import MotionCacheMotionMap
from .patcher import MotionCachePatcher
from .ranks import MotionCacheRay
from .report import MotionCacheReport
from .settings import MotionCacheSettingsNode

NODES: tuple[type[io.ComfyNode], ...] = (
    MotionCachePatcher,
    MotionCacheRay,
    MotionCacheSettingsNode,
    MotionCacheMotionMap,
    MotionCacheReport,
    MotionCacheCompare,
    MotionCacheCalibrate,
    MotionCacheDiffusionForcing,
    MotionCacheExtendVideo,
    MotionCacheLoadSkyReels,
    MotionCacheLoadMagi,
    MotionCacheMagiText,
    MotionCacheMagiLatent,
    MotionCacheMagiSampling,
    MotionCacheLoadMagiVAE,
    MotionCacheDemoModel,
    MotionCacheDemoDecode,
    MotionCacheMagiTiny,
)


class MotionCacheExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
