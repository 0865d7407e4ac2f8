"""The page of the demo shows what was written, and nothing that was not."""

import re
import runpy


def test_the_page_shows_the_pictures_that_are_there(root, tmp_path):
    page = runpy.run_path(str(root / "tests" / "demo" / "page.py"))
    for name in ("side_by_side.webp", "forcing_timeline.png"):
        (tmp_path / name).touch()
    file = page["write"](tmp_path, "a <scene>", "a limit", ("one", "two"))
    text = file.read_text("utf-8")
    assert re.findall(r'<img src="([^"]+)"', text) == ["side_by_side.webp", "forcing_timeline.png"]
    assert "a &lt;scene&gt;" in text and "a limit" in text
    assert text.index("<pre>one</pre>") < text.index("<pre>two</pre>")


def test_every_picture_of_the_page_is_one_that_the_demo_writes(root):
    page = runpy.run_path(str(root / "tests" / "demo" / "page.py"))
    demo = (root / "tests" / "demo" / "run.py").read_text("utf-8")
    for name, _ in (*page["ORDINARY"], *page["FORCING"]):
        assert name.removeprefix("forcing_") in demo
