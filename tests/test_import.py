"""The pack imports where ComfyUI and Triton are absent, and imports no more than it says."""

import importlib
import subprocess
import sys
import textwrap

import pytest

# what the subprocesses share: the pack under its alias, and modules that look not installed
PRELUDE = """
import importlib, importlib.util, pkgutil, sys

class Without:
    # a finder that finds everything but these; the import system then reports them as not installed
    names = {"triton", "comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes"}

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("triton") is None

def load(name):
    root = sys.argv[1]
    spec = importlib.util.spec_from_file_location(
        name, root + "/__init__.py", submodule_search_locations=[root]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

def imported():
    return sorted(Without.names & {name.partition(".")[0] for name in sys.modules})
"""


def run(root, code):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), root.as_posix()],
        capture_output=True,
        text=True,
        cwd=root.anchor,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_root_needs_neither_torch_nor_comfyui(root):
    run(
        root,
        """
        import asyncio
        pack = load("motioncache_pack")
        assert asyncio.iscoroutinefunction(pack.comfy_entrypoint)
        assert not hasattr(pack, "NODE_CLASS_MAPPINGS")  # ComfyUI would then ignore the entry point
        assert "torch" not in sys.modules
        assert not imported(), imported()
        """,
    )


def test_core_imports_without_triton_and_comfyui(root):
    run(
        root,
        """
        load("motioncache_pack")
        core = importlib.import_module("motioncache_pack.motioncache_core")
        names = [m.name for m in pkgutil.walk_packages(core.__path__, core.__name__ + ".")]
        assert len(names) > 10, names
        for name in names:
            importlib.import_module(name)
        assert not imported(), imported()
        assert "motioncache_pack.kernels" not in sys.modules
        """,
    )


def test_kernels_import_without_triton_and_say_why(root):
    run(
        root,
        """
        load("motioncache_pack")
        kernels = importlib.import_module("motioncache_pack.kernels")
        assert not imported(), imported()
        assert "motioncache_pack.motioncache_core" not in sys.modules
        assert "triton" in str(kernels.list_backends())
        """,
    )


def test_web_directory_exists(root):
    pack = importlib.import_module("motioncache_pack")
    assert (root / pack.WEB_DIRECTORY).is_dir()


@pytest.mark.parametrize("folder", ["ComfyUI-MotionCache", "main"])
def test_comfyui_style_loading_gives_the_extension(root, folder):
    # ComfyUI names a pack after its path; the stand-in (or COMFYUI_PATH) gives comfy_api
    run(
        root,
        f"""
        import asyncio
        Without.names = set()
        load("motioncache_pack")
        fake = importlib.import_module("motioncache_pack.tests.support.fake_comfy")
        fake.install()
        pack = load("/some/where/custom_nodes/{folder}")
        extension = asyncio.run(pack.comfy_entrypoint())
        assert type(extension).__name__ == "MotionCacheExtension"
        ids = [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]
        assert "MotionCachePatcher" in ids and len(set(ids)) == len(ids)
        """,
    )
