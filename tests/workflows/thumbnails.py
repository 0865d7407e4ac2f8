"""Pictures for the template browser: a real run for the demo, a schematic for what needs a GPU."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (640, 360)
LIMIT = 80_000
BACK, BOX, EDGE, ACCENT, WORDS, FAINT = (
    "#1b1d21",
    "#2d3036",
    "#565b64",
    "#4c6f7d",
    "#eee",
    "#9aa1ab",
)
DEMO = Path(__file__).resolve().parents[1] / "demo" / "run.py"

# rows of boxes from left to right; a box with * is one of ours
SCHEMES = {
    "wan21_t2v_motioncache": (
        "Wan 2.1 text to video",
        (("Wan 2.1", "*MotionCache", "KSampler", "Video"), ("", "", "*Report", "*Motion map")),
    ),
    "wan22_14b_t2v_motioncache": (
        "Wan 2.2 14B text to video, two experts",
        (
            ("High noise", "*MotionCache", "Steps 0-10", "*Report"),
            ("Low noise", "*MotionCache", "Steps 10-20", "Video"),
        ),
    ),
}


def draw(name: str, path: Path) -> int:
    """Write the thumbnail of an example; returns its size in bytes."""
    picture = _scheme(*SCHEMES[name]) if name in SCHEMES else _demo()
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


def _demo() -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(DEMO), "--out", folder, "--steps", "24"]
        subprocess.run(command, check=True)
        files = ("without.webp", "with.webp", "motion_map.webp")
        panels = [_frame(Path(folder) / file) for file in files]
    picture, pen = _canvas("The small model that ships with the pack")
    for i, (panel, words) in enumerate(zip(panels, ("Without", "With", "Motion map"), strict=True)):
        x = 24 + i * 202
        picture.paste(panel.resize((188, 188), Image.Resampling.LANCZOS), (x, 112))
        pen.text((x + 94, 322), words, fill=WORDS, font=_font(19), anchor="mm")
    return picture


def _frame(path: Path) -> Image.Image:
    """The picture in the middle of an animation."""
    with Image.open(path) as animation:
        animation.seek(getattr(animation, "n_frames", 1) // 2)
        return animation.convert("RGB")
