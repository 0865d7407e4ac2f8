"""One page that shows what the demo wrote, to open in a browser."""

from __future__ import annotations

import html
from pathlib import Path

STYLE = """
body { background: #1b1d21; color: #e8e8ec; font: 16px/1.5 sans-serif; max-width: 70rem;
       margin: 2rem auto; padding: 0 1rem }
figure { margin: 1.5rem 0 }
figcaption { color: #a0a0aa }
img { max-width: 100%; image-rendering: pixelated }
a { color: #8ab4f8 }
pre { background: #2d3036; padding: 1rem; overflow-x: auto; font-size: 14px }
"""

# file, what it shows
ORDINARY = (
    ("side_by_side.webp", "Without MotionCache, with it, five times the difference of the two."),
    ("motion_map.webp", "Motion map over the video: bright where the model saw motion."),
    ("motion_map.png", "The same map alone, one picture per latent frame."),
    (
        "timeline.png",
        "One cell an evaluation of the model, from left to right: orange is computed in full, "
        "darker in part, grey is reused.",
    ),
)
FORCING = (
    (
        "forcing_side_by_side.webp",
        "Bidirectional attention; block-causal attention without reuse, which is another video; "
        "the same with MotionCache; five times the difference of the last two.",
    ),
    (
        "forcing_timeline.png",
        "Chunks of the video down, evaluations across. The staircase is the delay; where nothing "
        "is drawn the chunk is not at work and costs nothing.",
    ),
)


def write(out: Path, title: str, limits: str, reports: tuple[str, str]) -> Path:
    """Write `index.html` beside the pictures that are there; returns its path.

    Args:
        limits: what one has to know of the model.
        reports: of the ordinary run and of the diffusion-forcing run.
    """
    body = [f"<h1>MotionCache</h1><p>{html.escape(title)}</p><p>{html.escape(limits)}</p>"]
    sections = (
        ("Ordinary sampling", ORDINARY, reports[0], "report.json"),
        ("Diffusion forcing: chunks one behind the other", FORCING, reports[1],
         "forcing_report.json"),
    )  # fmt: skip
    for head, figures, report, data in sections:
        body.append(f"<h2>{head}</h2>")
        body += [
            f'<figure><img src="{name}" alt="{words}"><figcaption>{words}</figcaption></figure>'
            for name, words in figures
            if (out / name).is_file()
        ]
        body.append(f"<pre>{html.escape(report)}</pre>")
        body.append(f'<p>All numbers: <a href="{data}">{data}</a></p>')
    page = out / "index.html"
    head = f"<meta charset='utf-8'><title>MotionCache demo</title><style>{STYLE}</style>"
    page.write_text(f"<!doctype html>{head}{''.join(body)}\n", "utf-8")
    return page
