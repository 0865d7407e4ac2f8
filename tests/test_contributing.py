"""CONTRIBUTING.md says which files a change touches; each row is held to an example."""

import re

import pytest

PRODUCT = ("motioncache_core", "nodes", "kernels", "locales", "workflows")
# the shipped model and the weights' folder follow, whatever changes
BESIDE = ("motioncache_core/demo/", "motioncache_core/__init__.py")
ROW = re.compile(r"^\| (an? [^|]+?) \| (.+?) \| `([^`]+)` \|$", re.M)


def rows(root):
    text = (root / "CONTRIBUTING.md").read_text("utf-8")
    return {
        change: (re.findall(r"`([^`]+)`", files), name) for change, files, name in ROW.findall(text)
    }


def tracked(root, *folders):
    """Files of the working tree, whether they are committed or not."""
    return [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def pattern(path):
    """A path of the table as an expression: `<op>` stands for any name, a folder for its files."""
    named = re.sub(r"<[^>]+>", "[^/]+", re.escape(path).replace("\\<", "<").replace("\\>", ">"))
    return re.compile(named + (".*" if path.endswith("/") else ""))


CHANGES = (
    "a family", "a policy", "a memory tier", "a setting", "a report field", "an op",
    "a preset value", "a node", "a sampler's fault", "a forecast order", "a reason",
)  # fmt: skip


def test_all_changes_are_there(root):
    assert {*CHANGES} == rows(root).keys()


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_names_what_is_there_and_all_that_the_example_touches(root, change):
    named, example = rows(root)[change]
    paths = [pattern(n) for n in named if "/" in n and " " not in n]
    files = tracked(root, *PRODUCT, "tests")
    unmatched = [p.pattern for p in paths if not any(p.fullmatch(f) for f in files)]
    assert not unmatched, f"{change}: nothing is at {unmatched}"
    word = re.compile(rf"(?<![A-Za-z_]){re.escape(example)}(?![A-Za-z_])")
    touched = [
        f
        for f in tracked(root, *PRODUCT)
        if f.endswith((".py", ".md", ".json"))
        and not f.startswith(BESIDE)
        and word.search((root / f).read_text("utf-8"))
    ]
    assert touched, f"{change}: nobody uses {example}"
    missing = [f for f in touched if not any(p.fullmatch(f) for p in paths)]
    assert not missing, f"{change}: {example} is in {missing} too"
