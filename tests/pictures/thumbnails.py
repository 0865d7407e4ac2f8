"""Pictures for the template browser: a real run for the demo, a schematic for what needs a GPU.

Other families have the steps that are computed, from a run of the workflow on a tiny model.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from motioncache_pack.nodes.pictures.timeline import as_picture
from motioncache_pack.tests.workflows import signatures, small
from motioncache_pack.tests.workflows.examples import read
from PIL import Image, ImageDraw, ImageFont

SIZE = (640, 360)
LIMIT = 80_000
LEFT, WIDTH = 24, 592
BACK, BOX, EDGE, ACCENT, WORDS, FAINT, STEPS = (
    "#1b1d21",
    "#2d3036",
    "#565b64",
    "#4c6f7d",
    "#eee",
    "#9aa1ab",
    "#b5507c",
)
DEMO = Path(__file__).resolve().parents[1] / "demo" / "run.py"

EXPERTS = (
    ("High noise", "*MotionCache", "Steps 0-10", "*Report"),
    ("Low noise", "*MotionCache", "Steps 10-20", "Video"),
)
# rows of boxes from left to right; a box with * is one of ours
SCHEMES = {
    "Wan 2.1 text to video": (
        "Wan 2.1 text to video",
        (("Wan 2.1", "*MotionCache", "KSampler", "Video"), ("", "", "*Report", "*Motion map")),
    ),
    "Wan 2.1 image to video": (
        "Wan 2.1 image to video",
        (("Wan 2.1 I2V", "*MotionCache", "KSampler", "Video"), ("", "", "*Report", "*Motion map")),
    ),
    "Wan 2.2 14B text to video": ("Wan 2.2 14B text to video, two experts", EXPERTS),
    "Wan 2.2 14B image to video": ("Wan 2.2 14B image to video, two experts", EXPERTS),
    "Wan 2.2 5B": (
        "Wan 2.2 5B: text or image to video",
        (("Wan 2.2 5B", "*MotionCache", "KSampler", "Video"), ("", "", "*Report", "*Motion map")),
    ),
}


# first and last step of each chunk
Bars = tuple[tuple[int, int], ...]


def _delayed(chunks: int, steps: int, delay: int, start: int = 0) -> Bars:
    return tuple((start + i * delay, start + i * delay + steps) for i in range(chunks))


STAIRCASES: dict[str, tuple[str, tuple[str, ...], Bars]] = {
    "SkyReels-V2 diffusion forcing": (
        "SkyReels-V2: chunks that denoise one behind the other",
        ("SkyReels-V2", "*MotionCache", "*Forcing", "Video"),
        _delayed(5, 50, 5),
    ),
    "SkyReels-V2 long video": (
        "SkyReels-V2: a long video in windows, and an extension of it",
        ("SkyReels-V2", "*MotionCache", "*Extend Video", "Long video"),
        (*_delayed(5, 50, 5), *_delayed(4, 50, 5, 70), *_delayed(4, 50, 5, 135)),
    ),
    "Wan 2.1 autoregressive, many steps": (
        "Autoregressive Wan: 50 steps, one chunk after the other",
        ("Wan 1.3B AR", "*MotionCache", "*Forcing", "Video"),
        _delayed(7, 50, 50),
    ),
    "MAGI-1 text to video": (
        "MAGI-1 text to video: four chunks at a time",
        ("*Load Magi", "*MotionCache", "*Sampling", "Video"),
        _delayed(4, 64, 16),
    ),
    "MAGI-1 image to video": (
        "MAGI-1 image to video: four chunks at a time",
        ("Picture", "*MotionCache", "*Sampling", "Video"),
        _delayed(5, 64, 16),
    ),
    "MAGI-1 video extension": (
        "MAGI-1 goes on from a video",
        ("Video", "*MotionCache", "*Sampling", "Longer video"),
        # the first chunk is given as a whole
        _delayed(5, 64, 16),
    ),
    "Demo 4 MAGI-1 without a download": (
        "MAGI-1's chunks on random numbers: draws noise",
        ("*Magi Tiny", "*MotionCache", "*Sampling", "Noise"),
        _delayed(4, 32, 8),
    ),
}

# what the model is given, which it is, and what comes out
RUNS = {
    "CogVideoX VOID, take an object out": ("Object and video", "CogVideoX VOID", "Video"),
    "Cosmos-Predict2 image to video": ("Picture", "Cosmos-Predict2", "Video"),
    "HunyuanVideo 1.5 text to video": ("Text", "Hunyuan 1.5", "Video"),
    "HunyuanVideo text to video": ("Text", "HunyuanVideo", "Video"),
    "Kandinsky 5 text to video": ("Text", "Kandinsky 5", "Video"),
    "LTX-2 text to video with sound": ("Text", "LTX-2", "Video, sound"),
    "LTX-Video text to video": ("Text", "LTX-Video", "Video"),
    "MiniMax H3 text to video with sound": ("Text", "MiniMax H3", "Video, sound"),
    "Mochi text to video": ("Text", "Mochi", "Video"),
    "SkyReels-V1 text to video": ("Text", "SkyReels-V1", "Video"),
    "Wan 2.1 Fun Camera": ("Camera, picture", "Fun Camera", "Video"),
    "Wan 2.1 Fun Control": ("Lines, picture", "Fun Control", "Video"),
    "Wan 2.1 HuMo, a person speaks": ("Person, speech", "HuMo", "Video"),
    "Wan 2.1 Phantom": ("Two pictures", "Phantom", "Video"),
    "Wan 2.1 SCAIL-2, replace a character": ("Picture, video", "SCAIL-2", "Video"),
    "Wan 2.1 VACE": ("Control video", "VACE", "Video"),
    "Wan 2.2 Animate": ("Picture, poses", "Animate", "Video"),
    "Wan 2.2 S2V, sound to video": ("Picture, sound", "Wan S2V", "Video"),
    "WanDancer, music to dance": ("Picture, music", "WanDancer", "Key poses"),
}


def draw(name: str, path: Path) -> int:
    """Write the thumbnail of an example; returns its size in bytes."""
    if name in SCHEMES:
        picture = _scheme(*SCHEMES[name])
    elif name in STAIRCASES:
        picture = _staircase(*STAIRCASES[name])
    elif name in RUNS:
        picture = _run(name, *RUNS[name])
    else:
        picture = DRAWN[name]()
    for quality in (90, 80, 70, 60):
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() < LIMIT:
            break
    return path.write_bytes(data.getvalue())


def _canvas(title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", SIZE, BACK)
    pen = ImageDraw.Draw(picture)
    pen.text((24, 22), "MotionCache", fill=WORDS, font=_font(30))
    pen.text((24, 62), title, fill=FAINT, font=_font(19))
    return picture, pen


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _scheme(title: str, rows: tuple[tuple[str, ...], ...]) -> Image.Image:
    picture, pen = _canvas(title)
    width, height, gap, top = 130, 64, 24, 130
    middles: dict[tuple[int, int], tuple[float, float]] = {}
    for r, row in enumerate(rows):
        for c, words in enumerate(row):
            x, y = 24 + c * (width + gap), top + r * (height + 46)
            middles[r, c] = (x + width / 2, y + height / 2)
            if not words:
                continue
            if c and row[c - 1]:
                pen.line((x - gap, y + height / 2, x, y + height / 2), fill=EDGE, width=3)
            elif r and not row[c - 1]:
                above = middles[0, c]
                pen.line((above[0], above[1] + height / 2, above[0], y), fill=EDGE, width=3)
            ours = words.startswith("*")
            pen.rounded_rectangle(
                (x, y, x + width, y + height), 9, fill=ACCENT if ours else BOX, outline=EDGE
            )
            pen.text(middles[r, c], words.lstrip("*"), fill=WORDS, font=_font(18), anchor="mm")
    if all(all(row) for row in rows):
        # the hand-over between the samplers
        (x, y), (_, below) = middles[0, 2], middles[1, 2]
        pen.line((x, y + height / 2, x, below - height / 2), fill=EDGE, width=3)
    return picture


def _staircase(title: str, boxes: tuple[str, ...], bars: Bars) -> Image.Image:
    picture, pen = _canvas(title)
    _chain(pen, boxes)
    top, row, unit = 184, 152 / len(bars), WIDTH / max(last for _, last in bars)
    for i, (first, last) in enumerate(bars):
        y = top + i * row
        box = (LEFT + first * unit, y, LEFT + last * unit, y + row - 4)
        pen.rounded_rectangle(box, min(4, row / 4), fill=STEPS)
    return picture


def _chain(pen: ImageDraw.ImageDraw, boxes: tuple[str, ...]) -> None:
    """Boxes in a row, from left to right."""
    width, height, gap, top = 130, 52, 24, 104
    for i, words in enumerate(boxes):
        x = LEFT + i * (width + gap)
        if i:
            pen.line((x - gap, top + height / 2, x, top + height / 2), fill=EDGE, width=3)
        fill = ACCENT if words.startswith("*") else BOX
        pen.rounded_rectangle((x, top, x + width, top + height), 9, fill=fill, outline=EDGE)
        words, size = words.lstrip("*"), 18
        while pen.textlength(words, font=_font(size)) > width - 8:
            size -= 1
        middle = (x + width / 2, top + height / 2)
        pen.text(middle, words, fill=WORDS, font=_font(size), anchor="mm")


def _run(name: str, given: str, model: str, made: str) -> Image.Image:
    """The steps of the workflow, as its report shows them of a run with a tiny model."""
    prompt = small.with_a_tiny_model(signatures.to_api(read(name)))
    ran = small.StandIn()
    ran.run(prompt)
    (report,) = (n for n, node in prompt.items() if node["class_type"] == "MotionCacheReport")
    steps = as_picture(ran.made[report][1][0])
    picture, pen = _canvas(name)
    _chain(pen, (given, model, "*MotionCache", made))
    height = round(steps.height * WIDTH / steps.width)
    picture.paste(steps.resize((WIDTH, height), Image.Resampling.LANCZOS), (LEFT, 196))
    words = "Which steps are computed: this workflow on a tiny model"
    pen.text((LEFT, 214 + height), words, fill=FAINT, font=_font(16))
    return picture


def _sampled(*files: str) -> list[Image.Image]:
    """Pictures of a real run of the demo; of an animation its middle."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(DEMO), "--out", folder, "--steps", "24"]
        subprocess.run(command, check=True)
        return [_frame(Path(folder) / file) for file in files]


def _forcing_demo() -> Image.Image:
    """A frame of every chunk above the timeline."""
    frames, steps = _sampled("forcing_with.png", "forcing_timeline.png")
    picture, _ = _canvas("Diffusion forcing: chunks that denoise one behind the other")
    side, gap = 140, (WIDTH - 4 * 140) / 3
    # a row of 12 frames with gaps of 4 pixels
    width = (frames.width + 4) / 12
    for i in range(4):
        left = round((3 * i + 1) * width)
        frame = frames.crop((left, 0, left + frames.height, frames.height))
        place = (round(LEFT + i * (side + gap)), 96)
        picture.paste(frame.resize((side, side), Image.Resampling.LANCZOS), place)
    picture.paste(steps.resize((WIDTH, 100), Image.Resampling.LANCZOS), (LEFT, 246))
    return picture


def _demo() -> Image.Image:
    panels = _sampled("without.webp", "with.webp", "motion_map.webp")
    picture, pen = _canvas("The small model that ships with the pack")
    for i, (panel, words) in enumerate(zip(panels, ("Without", "With", "Motion map"), strict=True)):
        x = 24 + i * 202
        picture.paste(panel.resize((188, 188), Image.Resampling.LANCZOS), (x, 112))
        pen.text((x + 94, 322), words, fill=WORDS, font=_font(19), anchor="mm")
    return picture


def _compare() -> Image.Image:
    """Both videos and what their difference is times five."""
    (panels,) = _sampled("side_by_side.webp")
    picture, pen = _canvas("The same seed without and with MotionCache, and their difference")
    height = round(panels.height * WIDTH / panels.width)
    picture.paste(panels.resize((WIDTH, height), Image.Resampling.LANCZOS), (LEFT, 112))
    for i, words in enumerate(("Without", "With", "Error x5")):
        place = LEFT + (2 * i + 1) * WIDTH / 6, 112 + height + 22
        pen.text(place, words, fill=WORDS, font=_font(19), anchor="mm")
    return picture


def _frame(path: Path) -> Image.Image:
    """The picture in the middle of an animation."""
    with Image.open(path) as animation:
        animation.seek(getattr(animation, "n_frames", 1) // 2)
        return animation.convert("RGB")


# of a real run of the shipped model
DRAWN: dict[str, Callable[[], Image.Image]] = {
    "Demo 1 without and with MotionCache": _demo,
    "Demo 3 diffusion forcing": _forcing_demo,
    "Demo 2 motion map and report": _compare,
}

NAMES = (*SCHEMES, *STAIRCASES, *RUNS, *DRAWN)
