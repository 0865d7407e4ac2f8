"""The README's numbers are those of the committed result files."""

import subprocess
import sys


def test_numbers_are_current(root):
    script = root / "tests" / "bench" / "readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_commands_are_named(root):
    text = (root / "README.md").read_text("utf-8")
    assert "make demo" in text
    assert "make test" in text
