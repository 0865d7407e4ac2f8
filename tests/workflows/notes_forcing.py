"""The notes in the diffusion-forcing workflows."""

from __future__ import annotations

from motioncache_pack.motioncache_core.demo import checkpoint

_TEXT_AND_VAE = """\
| umt5_xxl_fp8_e4m3fn_scaled.safetensors | text_encoders |
| wan_2.1_vae.safetensors | vae |

Text encoder and VAE are those of Wan 2.1, in *Comfy-Org/Wan_2.1_ComfyUI_repackaged* on Hugging \
Face."""

_SKYREELS_FILES = f"""\
Files, and where they go below ComfyUI/models:

| file | folder |
|---|---|
| SkyReels-V2-DF-1.3B-540P.safetensors | diffusion_models |
{_TEXT_AND_VAE} The model is `model.safetensors` of *Skywork/SkyReels-V2-DF-1.3B-540P*, saved \
under the name above. Repackaged files, also of the 14B models, are in the folder *Skyreels* of \
*Kijai/WanVideo_comfy*. Use **MotionCache Load SkyReels**: ComfyUI's own loader drops the frame \
rate that the 1.3B model was trained with."""

_UNTRIED = """\
**Not tried with the real weights**: we had neither the files nor a GPU. What is tested is a small \
model of the same build, against an independent implementation."""

DEMO = f"""\
## Diffusion forcing in half a minute
Press **Run**. Nothing needs to be downloaded. The video's 12 frames are cut into 4 chunks. Each \
chunk denoises a few steps behind the one before it, so that later frames can follow earlier ones \
that are nearly clean.

{checkpoint.LIMITS}

**Look at**
- *What was saved*: chunks down, model evaluations across. The staircase is the delay. Orange is \
computed in full, darker in part, grey is reused; where nothing is drawn the chunk is not at work \
and costs nothing.
- *Without | With | Motion map*: the same seed and sampler, without and with MotionCache.

**Turn** (on MotionCache Diffusion Forcing)
- **chunk_delay** 0 denoises all chunks alike; 24, as many as there are steps, makes one chunk \
after the other.
- **chunk_frames** 1 is frame by frame, 12 is ordinary sampling.
- **attention** *bidirectional* lets chunks see later ones too. That is another video, not a \
better or worse copy of this one, and about twice the work.
- **solver** *euler* is simpler than *unipc*.

On MotionCache Settings, a lower **compute_budget** is faster and less exact, and with \
**reuse_threshold** 0 both videos are the same.
"""

SKYREELS = f"""\
## SkyReels-V2 diffusion forcing with MotionCache
{_SKYREELS_FILES}

**What happens.** 97 frames are 25 latent frames, in 5 chunks of 5. Each chunk denoises 5 steps \
behind the one before it (**chunk_delay**). Resolution, steps, CFG, shift, chunks and the *paper* \
preset are the settings of the published MotionCache experiments. The speed-ups in that paper are \
the paper's, not ours; the report says what your run saved.

**attention** *block_causal*: a chunk sees itself and earlier chunks, and only chunks at work are \
computed. That is about half the work before anything is reused. It is **another video** than \
*bidirectional*, which is how the model was trained and published. Choose *bidirectional* for that.

**Memory.** Block-causal attention keeps keys and values: about 19 GB here, for the prompt and \
the negative prompt together. A smaller video needs less. So does **kv_keep**, at a cost in \
accuracy (see the node's help).

{_UNTRIED}
"""

LONG = f"""\
## SkyReels-V2: long video, and going on from one
{_SKYREELS_FILES}

**Long.** 177 frames are 45 latent frames, more than the model's 25 (**window_frames**). It is \
sampled in two windows that share 5 latent frames (**overlap_frames**): the second window is given \
the last 5 of the first. **condition_noise** 0.02 shows them to the model slightly noisy, which \
smooths the joint; above 0.05 videos come apart. Keys and values are those of one window, whatever \
the length.

**Longer.** *MotionCache Extend Video* appends 20 empty latent frames to the first result. The \
same sampler node goes on from there; the given frames stay as they are. 65 latent frames are 257 \
frames. Any video does instead of the first result: encode it with VAE Encode. One encoded picture \
makes it image to video. Mute the lower group (Ctrl+M) if 177 frames are enough.

Each sampler has a MotionCache node of its own, so that each report is about its own run. With \
windows, a motion map shows the last one.

*block_causal* attention is about half the work of *bidirectional* and gives another video; the \
model was trained bidirectional. Keys and values take about 19 GB.

{_UNTRIED}
"""

CAUSAL = f"""\
## Autoregressive Wan with many steps
The 50-step models that Causal-Forcing was distilled from make a video one chunk after the other, \
with CFG. ComfyUI's own autoregressive sampler has no CFG and is made for the 4-step models. Those \
leave nothing to reuse; these do.

Files, and where they go below ComfyUI/models:

| file | folder |
|---|---|
| causal_forcing_chunkwise_ar.safetensors | diffusion_models |
{_TEXT_AND_VAE}

The model is `chunkwise/ar_diffusion.pt` of *zhuhz22/Causal-Forcing*, a training checkpoint. Take \
its weights out first:
```
import torch
from safetensors.torch import save_file

w = torch.load("ar_diffusion.pt", map_location="cpu")
names = ("model.", "_fsdp_wrapped_module.")
out = {{}}
for key, value in w["generator"].items():
    for name in names:
        key = key.removeprefix(name)
    out[key] = value.bfloat16().contiguous()
save_file(out, "causal_forcing_chunkwise_ar.safetensors")
```
**Not tried.** We had neither the file nor a GPU; the lines above follow the project's own \
inference script.

**Settings**, from the project's configuration: chunks of 3 latent frames, 480x832, 81 frames, 50 \
UniPC steps, CFG 3, shift 5. **chunk_delay** 50 is the number of steps: one chunk after the other. \
If you change the steps, change it too. *block_causal* is how these models were trained: leave \
it. For `framewise/ar_diffusion.pt` set **chunk_frames** 1.
"""
