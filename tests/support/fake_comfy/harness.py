"""Build and run small models, in the same words on the stand-in and on the real ComfyUI."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

_SHIM = Path(__file__).resolve().parent.parent / "torch_shims" / "sitecustomize.py"


def use_real_comfy(path):
    """Make the ComfyUI checkout at `path` importable, on the CPU; before comfy is imported."""
    root = Path(path)
    if not (root / "comfy" / "model_patcher.py").is_file():
        raise FileNotFoundError(f"COMFYUI_PATH is {path!r}, which holds no ComfyUI checkout")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
        runpy.run_path(str(_SHIM))
    torch.set_num_threads(1)
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = True


class Host:
    """A ComfyUI by the name of its package: `Host()` is whatever `import comfy` gives.

    Attributes are its modules, so `host.samplers` is `comfy.samplers`.
    """

    def __init__(self, package="comfy"):
        self.package = package
        self.is_standin = hasattr(self.sd, "set_network_factory")

    def __getattr__(self, name):
        return importlib.import_module(f"{self.package}.{name}")

    def patcher(self, network, shift=8.0):
        """A ModelPatcher of a WAN21 model whose diffusion model is `network`."""
        device = torch.device("cpu")
        model = (
            self.model_base.WAN21(network, shift) if self.is_standin else self._real(network, shift)
        )
        return self.model_patcher.ModelPatcher(model, device, device)

    def _real(self, network, shift):
        config = self.supported_models.WAN21_T2V(
            {"image_model": "wan2.1", "model_type": "t2v", "disable_unet_model_creation": True}
        )
        config.sampling_settings = {**config.sampling_settings, "shift": shift}
        config.set_inference_dtype(torch.float32, None)
        model = self.model_base.WAN21(config, device=torch.device("cpu"))
        runs_wrappers = getattr(network, "runs_wrappers", False)
        model.diffusion_model = network if runs_wrappers else _Wrapped(network, self)
        return model

    def latent(self, frames=3, height=8, width=8, channels=16):
        return torch.zeros(1, channels, frames, height, width)

    def text(self, seed, tokens=16, dim=4096):
        generator = torch.Generator().manual_seed(seed)
        return [[torch.randn(1, tokens, dim, generator=generator), {}]]

    def run(self, patcher, positive, negative, latent=None, steps=10, cfg=5.0, sampler="euler",
               seed=7, **kwargs):  # fmt: skip
        """What the KSampler node does, with a seeded noise and without a progress bar."""
        latent = self.latent() if latent is None else latent
        noise = self.sample.prepare_noise(latent, seed)
        return self.sample.sample(
            patcher, noise, steps, cfg, sampler, "simple", positive, negative, latent,
            disable_pbar=True, seed=seed, **kwargs,
        )  # fmt: skip

    def guider(self, patcher, positive, negative, cfg=5.0):
        guider = self.samplers.CFGGuider(patcher)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return guider

    def run_short_of_memory(self, monkeypatch):
        """Let no two conditions fit into one call, as on a full GPU."""

        def none_free(dev=None, torch_free_too=False):
            return (0, 0) if torch_free_too else 0

        monkeypatch.setattr(self.model_management, "get_free_memory", none_free)

    def sigmas(self, patcher, steps):
        schedule = patcher.get_model_object("model_sampling")
        return self.samplers.calculate_sigmas(schedule, "simple", steps)


class _Wrapped(torch.nn.Module):
    """A network that does not run the DIFFUSION_MODEL wrappers itself, for the real host."""

    dtype = torch.float32

    def __init__(self, network, host):
        super().__init__()
        self.network = network
        self._extension = host.patcher_extension
        # WAN21 reads the input channels here, to find out whether an image is to be concatenated
        plain = SimpleNamespace(weight=torch.empty(1, 16))
        self.patch_embedding = getattr(network, "patch_embedding", plain)

    def forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None,
                transformer_options={}, **kwargs):  # noqa: B006  # fmt: skip
        kind = self._extension.WrappersMP.DIFFUSION_MODEL
        wrappers = self._extension.get_all_wrappers(kind, transformer_options)
        executor = self._extension.WrapperExecutor.new_class_executor(
            self.network, self.network, wrappers
        )
        return executor.execute(
            x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs
        )
