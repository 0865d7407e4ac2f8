"""Workflows as users export them, and what a server would tell of their nodes, for the tests of
`tests/bench/own_model/run.py`."""

from motioncache_pack.motioncache_core import PRESETS

# not a widget of the settings node
HIDDEN = ("dense_last", "clamp_distance")


def infos():
    """`/object_info` of the nodes below, as far as it is looked at."""
    outputs = {
        "Loader": ["MODEL", "CLIP", "VAE"],
        "CLIPTextEncode": ["CONDITIONING"],
        "EmptyLatent": ["LATENT"],
        "MotionCachePatcher": ["MODEL", "MOTIONCACHE_TRACE"],
        "MotionCacheSettings": ["MOTIONCACHE_SETTINGS"],
        "MotionCacheReport": ["STRING", "IMAGE", "STRING"],
        "MotionCacheMotionMap": ["IMAGE"],
        "ModelSampling": ["MODEL"],
        "KSampler": ["LATENT"],
        "CFGGuider": ["GUIDER"],
        "BasicScheduler": ["SIGMAS"],
        "SamplerCustomAdvanced": ["LATENT", "LATENT"],
        "PrimitiveInt": ["INT"],
        "VAEDecode": ["IMAGE"],
        "SaveVideo": [],
        "PreviewImage": [],
        "PreviewAny": ["STRING"],
        "EasyCache": ["MODEL"],
        "LazyCache": ["MODEL"],
    }
    found = {name: {"input": {"required": {}}, "output": out} for name, out in outputs.items()}
    names = [name for name in PRESETS["balanced"].as_dict() if name not in HIDDEN]
    found["MotionCacheSettings"]["input"]["required"] = {name: ["X", {}] for name in names}
    for name in ("EasyCache", "LazyCache"):
        found[name]["input"]["required"] = {
            "model": ["MODEL", {"tooltip": "m"}],
            "reuse_threshold": ["FLOAT", {"default": 0.2}],
            "verbose": ["BOOLEAN", {"default": False}],
        }
    return found


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def one_model():
    """Text to video: loader, text, cache, sampler, decoder, and what watches them."""
    return {
        "1": node("Loader", name="wan.safetensors"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="{prompt}, film grain"),
        "3": node("EmptyLatent", width=64),
        "4": node("MotionCachePatcher", model=["1", 0], preset="fast"),
        "5": node("ModelSampling", model=["4", 0], shift=8.0),
        "6": node("KSampler", model=["5", 0], positive=["2", 0], latent_image=["3", 0], seed=77),
        "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": node("SaveVideo", images=["7", 0], filename_prefix="{prompt}"),
        "9": node("MotionCacheReport", trace=["4", 1], samples=["6", 0]),
        "10": node("MotionCacheMotionMap", trace=["4", 1], samples=["6", 0], images=["7", 0]),
        "11": node("PreviewImage", images=["10", 0]),
    }


def two_experts():
    """Two models, each with a cache and a sampler, one seed for both, both samplers' latents shown,
    and a schedule made of one model for both."""
    both = {"noise": ["20", 0], "sigmas": ["21", 0], "noise_seed": ["20", 0]}
    return {
        "1": node("Loader", name="high"),
        "2": node("Loader", name="low"),
        "3": node("EmptyLatent", width=64),
        "10": node("MotionCachePatcher", model=["1", 0], preset="fast"),
        "11": node("MotionCachePatcher", model=["2", 0], preset="fast", settings=["30", 0]),
        "30": node("MotionCacheSettings", policy="motion"),
        "20": node("PrimitiveInt", value=5),
        "21": node("BasicScheduler", model=["10", 0]),
        "40": node("CFGGuider", model=["10", 0]),
        "41": node("CFGGuider", model=["11", 0]),
        "50": node("SamplerCustomAdvanced", guider=["40", 0], latent_image=["3", 0], **both),
        "51": node("SamplerCustomAdvanced", guider=["41", 0], latent_image=["50", 0], **both),
        "60": node("VAEDecode", samples=["50", 1], vae=["1", 2]),
        "61": node("VAEDecode", samples=["51", 0], vae=["1", 2]),
        "70": node("PreviewImage", images=["60", 0]),
        "71": node("PreviewImage", images=["61", 0]),
    }
