"""Inputs and outputs of every node, which saved workflows depend on."""

from motioncache_pack.motioncache_core import PRESETS

MODEL, TRACE = ("MODEL", {}), ("MOTIONCACHE_TRACE", {})
LATENT, IMAGE = ("LATENT", {}), ("IMAGE", {})


def combo(default, *options, **more):
    return "COMBO", {**({} if default is None else {"default": default}),
                     "options": list(options), **more}  # fmt: skip


def number(kind, default, low, high, step=None, **more):
    found = {"default": default, "min": low, "max": high, **more}
    return kind, found if step is None else {**found, "step": step}


def whole(*args, **more):
    return number("INT", *args, **more)


def real(*args, **more):
    return number("FLOAT", *args, **more)


MORE = {"advanced": True}
PLAIN = {"advanced": False}
PICTURE = ("IMAGE", "IMAGE")

NAMES = ("off", "quality", "balanced", "fast", "motion", "paper")
# id: display name, required inputs, optional inputs, outputs (type, name)
CONTRACT = {
    "MotionCachePatcher": (
        "MotionCache",
        {"model": MODEL, "preset": combo("balanced", *NAMES)},
        {"settings": ("MOTIONCACHE_SETTINGS", {})},
        [("MODEL", "MODEL"), ("MOTIONCACHE_TRACE", "trace")],
    ),
    "MotionCacheRay": (
        "MotionCache (Ray)",
        {
            "ray_actors": ("RAY_ACTORS", {}),
            "preset": combo("balanced", *PRESETS),
        },
        {"settings": ("MOTIONCACHE_SETTINGS", {})},
        [("RAY_ACTORS", "ray_actors"), ("MOTIONCACHE_TRACE", "trace")],
    ),
    "MotionCacheSettings": (
        "MotionCache Settings",
        {
            "compute_budget": real(0.4, 0.0, 1.0, 0.01, **PLAIN),
            "policy": combo("answer", "answer", "motion", "chunk", "step", "random", **PLAIN),
            "warmup_steps": whole(1, 1, 100, **PLAIN),
            "forecast": real(1.0, 0.0, 1.0, 0.01, **MORE),
            "hindsight": ("BOOLEAN", {"default": True, **MORE}),
            "end_percent": real(1.0, 0.0, 1.0, 0.01, **MORE),
            "verbose": ("BOOLEAN", {"default": False, **MORE}),
            "motion_sensitivity": real(0.4, 0.0, 1.0, 0.01, **MORE),
            "motion_source": combo("residual", "predicted_x0", "features", "residual", **MORE),
            "update_share": real(0.0, 0.0, 1.0, 0.01, **MORE),
            "max_stale_steps": whole(16, 0, 1000, **MORE),
            "correction": real(1.0, 0.0, 1.0, 0.01, **MORE),
            "kv_cache": combo("auto", "auto", "gpu", "gpu_fp8", "cpu", "off", **MORE),
            "kv_forecast": real(0.5, 0.0, 1.0, 0.01, **MORE),
            "cfg_mask": combo("shared", "shared", "separate", **MORE),
            "reuse_threshold": real(0.1, 0.0, 10.0, 0.005, **MORE),
            "uniform_updates": whole(0, 0, 1000, **MORE),
            "agreement": real(0.5, 0.0, 0.99, 0.01, **MORE),
            "min_update_ratio": real(0.4, 0.0, 1.0, 0.01, **MORE),
        },
        {},
        [("MOTIONCACHE_SETTINGS", "settings")],
    ),
    "MotionCacheMotionMap": (
        "MotionCache Motion Map",
        {
            "samples": LATENT,
            "view": combo("motion", "motion", "updates", "staleness", "active"),
            "step": whole(-1, -1, 10000),
            "colormap": combo("magma", "magma", "viridis", "gray"),
            "opacity": real(0.6, 0.0, 1.0, 0.05),
        },
        {
            "images": IMAGE,
            "trace": TRACE,
            "layout": combo("frames", "frames", "steps"),
            "legend": ("BOOLEAN", {"default": False}),
            "upscale": combo("nearest", "nearest", "smooth", **MORE),
        },
        [PICTURE],
    ),
    "MotionCacheReport": (
        "MotionCache Report",
        {"samples": LATENT}, {"trace": TRACE},
        [("STRING", "text"), ("IMAGE", "timeline"), ("STRING", "json")],
    ),
    "MotionCacheCompare": (
        "MotionCache Compare",
        {
            "reference": IMAGE,
            "candidate": IMAGE,
            "mode": combo("side by side", "side by side", "wipe", "difference"),
            "gain": real(0.0, 0.0, 255.0, 0.5),
        },
        {"position": real(0.5, 0.0, 1.0, 0.01), "reference_trace": TRACE, "trace": TRACE},
        [PICTURE, ("STRING", "text")],
    ),
    "MotionCacheCalibrate": ("MotionCache Calibrate", {"model": MODEL}, {}, [("MODEL", "MODEL")]),
    "MotionCacheDiffusionForcing": (
        "MotionCache Diffusion Forcing",
        {
            "chunk_frames": whole(5, 1, 256, **PLAIN),
            "chunk_delay": whole(5, 0, 1000, **PLAIN),
            "solver": combo("unipc", "unipc", "euler"),
            "attention": combo("block_causal", "block_causal", "bidirectional"),
            "condition_noise": real(0.0, 0.0, 0.2, 0.005),
            "window_frames": whole(0, 0, 4096, **MORE),
            "overlap_frames": whole(0, 0, 4096, **MORE),
            "kv_keep": whole(0, 0, 1000, **MORE),
        },
        {},
        [("SAMPLER", "SAMPLER")],
    ),
    "MotionCacheExtendVideo": (
        "MotionCache Extend Video",
        {"samples": LATENT, "frames": whole(20, 1, 4096)}, {}, [("LATENT", "LATENT")],
    ),
    "MotionCacheLoadSkyReels": (
        "MotionCache Load SkyReels",
        {
            "model_name": ("COMBO", {}),
            "fps": combo("24", "24", "16"),
            "weight_dtype": combo(
                "default", "default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2", **MORE
            ),
        },
        {},
        [("MODEL", "MODEL"), ("STRING", "text")],
    ),
    "MotionCacheDemoModel": (
        "MotionCache Demo Model",
        {
            "scene": combo(
                None, "disc to the right", "square falling", "triangle rising, disc still",
                "two discs crossing", "fast and slow",
            ),
            "frames": whole(9, 3, 12),
            "batch_size": whole(1, 1, 16),
        },
        {"take": whole(0, 0, 0xFFFFFFFF, **MORE)},
        [("MODEL", "MODEL"), ("CONDITIONING", "positive"), ("CONDITIONING", "negative"),
         ("LATENT", "LATENT"), ("MOTIONCACHE_TRACE", "trace")],
    ),
    "MotionCacheDemoDecode": (
        "MotionCache Demo Decode",
        {"samples": LATENT, "scale": whole(4, 1, 16)}, {}, [PICTURE],
    ),
    "MotionCacheLoadMagi": (
        "MotionCache Load Magi",
        {
            "model_name": ("COMBO", {}),
            "kind": combo("auto", "auto", "base", "distill"),
            "weight_dtype": combo("default", "default", "fp8_e4m3fn", "fp8_e5m2", **MORE),
            "precision": combo("fast", "fast", "published", **MORE),
        },
        {},
        [("MODEL", "MODEL"), ("STRING", "text")],
    ),
    "MotionCacheMagiText": (
        "MotionCache Magi Text",
        {
            "clip": ("CLIP", {}),
            "text": ("STRING", {"multiline": True, "dynamicPrompts": True}),
            "clean_text": ("BOOLEAN", {"default": True}),
            "style": combo("none", "none", "2d", "3d"),
            "motion": combo("none", "none", "static", "dynamic"),
            "high_quality": ("BOOLEAN", {"default": True, **MORE}),
        },
        {},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "MotionCacheMagiLatent": (
        "MotionCache Magi Latent",
        {
            "width": whole(720, 32, 4096, 16),
            "height": whole(720, 32, 4096, 16),
            "frames": whole(96, 4, 4800, 4),
        },
        {"start": LATENT},
        [("LATENT", "LATENT")],
    ),
    "MotionCacheMagiSampling": (
        "MotionCache Magi Sampling",
        {
            "model": MODEL,
            "positive": ("CONDITIONING", {}),
            "steps": whole(64, 4, 256, **PLAIN),
            "window": whole(4, 1, 4, **PLAIN),
            "near_clean": ("BOOLEAN", {"default": True}),
            "clean_pass": ("BOOLEAN", {"default": True}),
            "twelve_steps": combo("early", "early", "late", **MORE),
            "text_scale": real(7.5, 0.0, 30.0, 0.1, **MORE),
            "previous_scale": real(1.5, 0.0, 30.0, 0.1, **MORE),
            "kv_keep": whole(0, 0, 1000, **MORE),
        },
        {},
        [("GUIDER", "GUIDER"), ("SAMPLER", "SAMPLER"), ("SIGMAS", "SIGMAS")],
    ),
    "MotionCacheLoadMagiVAE": (
        "MotionCache Load Magi VAE", {"vae_name": ("COMBO", {})}, {}, [("VAE", "VAE")],
    ),
    "MotionCacheMagiTiny": (
        "MotionCache Magi Tiny",
        {"kind": combo("distill", "distill", "base"), "take": whole(0, 0, 0xFFFFFFFF, **MORE)},
        {},
        [("MODEL", "MODEL"), ("CONDITIONING", "CONDITIONING"), ("VAE", "VAE")],
    ),
}  # fmt: skip
