"""An import may only go down: nodes -> motioncache_core, nodes -> kernels, and nothing else."""

import ast
import sys
from pathlib import PurePosixPath

import pytest

TENSORS = {"torch", "numpy", "einops", "safetensors"}
ALLOWED = {
    "kernels": {"torch", "triton"},
    "motioncache_core": TENSORS,
    # Pillow comes with ComfyUI
    "nodes": TENSORS | {"comfy_api", "PIL"},
}
BELOW = {"kernels": set(), "motioncache_core": set(), "nodes": {"motioncache_core", "kernels"}}
# the rooms of motioncache_core: an import may only go down this list, or stay in its room
ROOMS = (
    "demo", "engine", "models", "policy", "cache", "report", "sampling", "settings", "common",
)  # fmt: skip
# ComfyUI's own modules; `nodes` as an absolute name is ComfyUI's, tqdm comes with it
HOST_FOLDER = "nodes/host/"
HOST = {"comfy", "comfy_execution", "folder_paths", "latent_preview", "nodes", "tqdm"}


def imports(tree):
    """`(line, level, name)` of every import, however deep; level 0 is absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, node.level, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                plain = name.value.lstrip(".")
                yield node.lineno, len(name.value) - len(plain), plain


def violations(path, source):
    """What is wrong with the imports of the file at `path`, which is relative to the root."""
    path = PurePosixPath(path)
    package = path.parts[0]
    allowed = ALLOWED[package] | (HOST if str(path).startswith(HOST_FOLDER) else set())
    found = []
    for line, level, name in imports(ast.parse(source)):
        top = name.partition(".")[0]
        if level == 0:
            fine = top in allowed or top in sys.stdlib_module_names
        else:
            # one dot is the file's own folder; the root has depth 0
            depth = len(path.parts) - level
            fine = depth > 0 or (depth == 0 and top in BELOW[package] | {package})
        if not fine:
            found.append(f"{path}:{line}: {'.' * level}{name}")
    return found


def room_violations(path, source):
    """Imports of a file of motioncache_core that go up the list of rooms."""
    parts = PurePosixPath(path).with_suffix("").parts[1:]
    if parts == ("__init__",):
        # the package's own names, from every room
        return []
    here, found = ROOMS.index(parts[0]), []
    for line, level, name in imports(ast.parse(source)):
        if level == 0:
            continue
        target = [*parts[: len(parts) - level], *name.split(".")]
        if ROOMS.index(target[0]) < here:
            found.append(f"{path}:{line}: {'.' * level}{name}")
    return found


def test_imports_go_down_the_rooms(root):
    core = root / "motioncache_core"
    rooms = {p.stem for p in core.iterdir() if p.suffix in ("", ".py")} - {"__init__"}
    assert rooms - {"__pycache__"} == set(ROOMS)
    found = []
    for file in sorted(core.rglob("*.py")):
        found += room_violations(file.relative_to(root).as_posix(), file.read_text("utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("motioncache_core/cache/residuals.py", "from ..engine.call_plan import CallPlan", 1),
        ("motioncache_core/models/wan.py", "from ..demo import wan", 1),
        ("motioncache_core/cache/kv_blocks/block.py", "from ...policy import distance", 1),
        ("motioncache_core/settings.py", "from .report.trace import Trace", 1),
        ("motioncache_core/engine/session.py", "from .. import settings", 0),
        ("motioncache_core/cache/kv_blocks/block.py", "from ..kv_bytes import GPU", 0),
        ("motioncache_core/demo/training/train.py", "from .. import codec\nfrom . import muon", 0),
    ],
)
def test_an_import_up_the_rooms_is_caught(path, source, wrong):
    assert len(room_violations(path, source)) == wrong


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_down(root, package):
    files = sorted((root / package).rglob("*.py"))
    assert files, f"there is no file in {package}"
    found = []
    for file in files:
        found += violations(file.relative_to(root).as_posix(), file.read_text("utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("motioncache_core/engine/session.py", "from ...kernels import ops"),
        ("motioncache_core/engine/session.py", "from ... import kernels"),
        ("motioncache_core/models/wan.py", "from ...kernels import ops"),
        ("motioncache_core/models/wan.py", "from ....outside import x"),
        ("motioncache_core/engine/session.py", "import kernels"),
        ("motioncache_core/engine/session.py", "import motioncache_core.settings"),
        ("motioncache_core/engine/session.py", "def late():\n    import comfy.samplers"),
        ("motioncache_core/engine/session.py", "if TYPE_CHECKING:\n    from ...nodes import host"),
        ("motioncache_core/engine/session.py", "import triton"),
        ("motioncache_core/engine/session.py", "importlib.import_module('comfy.utils')"),
        (
            "motioncache_core/engine/session.py",
            "importlib.import_module('...kernels', __package__)",
        ),
        ("kernels/ops.py", "from ..motioncache_core import settings"),
        (
            "kernels/triton/gather_rows.py",
            "from ...motioncache_core.common.token_layout import TokenLayout",
        ),
        ("kernels/ops.py", "import einops"),
        ("kernels/ops.py", "__import__('comfy')"),
        ("nodes/report.py", "import comfy.utils"),
        ("nodes/report.py", "from comfy import utils"),
        ("nodes/report.py", "import nodes"),
        ("nodes/report.py", "from motioncache_core import trace"),
        ("nodes/report.py", "from .. import WEB_DIRECTORY"),
        ("nodes/report.py", "from ..tests.support import fake_comfy"),
        ("nodes/report.py", "from ...other_pack import x"),
        ("nodes/host/attach.py", "from ...tests import support"),
        ("nodes/host/attach.py", "import requests"),
    ],
)
def test_a_violation_is_caught(path, source):
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("motioncache_core/engine/session.py", "from ..models.wan import WAN\nimport torch, math"),
        (
            "motioncache_core/models/wan.py",
            "from ..common.token_layout import TokenLayout\nfrom . import adapter",
        ),
        ("kernels/triton/gather_rows.py", "import triton.language as tl\nfrom .. import checks"),
        (
            "nodes/report.py",
            "from comfy_api.latest import io\nfrom ..motioncache_core import trace",
        ),
        ("nodes/report.py", "from . import host\nfrom .. import kernels"),
        ("nodes/host/attach.py", "import comfy.samplers\nimport nodes\nfrom ...kernels import ops"),
    ],
)
def test_an_import_that_goes_down_is_fine(path, source):
    assert violations(path, source) == []
