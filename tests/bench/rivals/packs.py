"""Node packs from checkouts that a user names. None of their code is in this repository."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock


class NotLoadedError(Exception):
    """Why a pack cannot be measured."""


@dataclass(frozen=True)
class Shim:
    """A name that packs import and that this ComfyUI no longer has; using it raises."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# read by models that are not measured here (LTX-Video), imported by all who load the pack
SHIMS = (Shim("comfy.ldm.lightricks.model", "precompute_freqs_cis"),)


@dataclass(frozen=True)
class Loaded:
    """A pack in this process.

    Attributes:
        nodes: its classes by their id.
        how: what it took to load it, in words.
        version: its commit, or else a hash of its code.
    """

    nodes: dict[str, Any]
    how: str
    version: str
    shims: tuple[str, ...] = field(default=())


def load(folder: Path, file: str) -> Loaded:
    """The pack in a folder: as ComfyUI loads it, or else the file of its node alone, or else that
    with the missing names.

    Raises:
        NotLoadedError: there is no such folder, or it cannot be imported by any of these.
    """
    if not (folder / "__init__.py").is_file():
        raise NotLoadedError(f"no folder {folder.name} with a node pack among the rivals")
    version, said = _version(folder), []
    for shims, part in (((), None), ((), file), (SHIMS, None), (SHIMS, file)):
        try:
            with shimmed(shims) as used:
                module = _imported(folder, part)
        except Exception as error:
            said.append(brief(error))
            continue
        how = "as ComfyUI does" if part is None else f"{part}.py alone"
        how += f", with a stand-in for the missing {' and '.join(used)}" if used else ""
        # what ComfyUI would say of the pack as it is
        how += f" (as it is: {said[0]})" if said else ""
        return Loaded(dict(module.NODE_CLASS_MAPPINGS), how, version, tuple(used))
    raise NotLoadedError("; with stand-ins: ".join(dict.fromkeys((said[0], said[-1]))))


def core(module: str) -> Loaded:
    """ComfyUI's own nodes in a module of its extras."""
    found = importlib.import_module(module)
    nodes = {name: node for name, node in vars(found).items() if isinstance(node, type)}
    return Loaded(nodes, "ComfyUI's own", "ComfyUI's own")


def brief(error: Exception) -> str:
    """What went wrong in one line, without the places of this machine."""
    line = next(iter(f"{type(error).__name__}: {error}".splitlines()), "")
    return re.sub(r" \((?:/|[A-Za-z]:)[^)]*\)", "", line).strip()[:160]


@contextlib.contextmanager
def shimmed(shims: tuple[Shim, ...]) -> Iterator[list[str]]:
    """Gives modules the names that they lack, while it lasts; yields those that were lacking."""
    used = []
    with contextlib.ExitStack() as stack:
        for shim in shims:
            module = importlib.import_module(shim.module)
            if not hasattr(module, shim.name):
                used.append(str(shim))
                made = mock.patch.object(module, shim.name, _missing(str(shim)), create=True)
                stack.enter_context(made)
        yield used


def _missing(name: str) -> Any:
    def raises(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{name} is not in this ComfyUI")

    return raises


def _imported(folder: Path, part: str | None) -> ModuleType:
    """A pack under a name of its own, or a file of it whose siblings are found, without its
    `__init__`."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    name = f"rival_pack_{digest}"
    for known in [n for n in sys.modules if n.partition(".")[0] == name]:
        del sys.modules[known]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {folder.name}")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    with contextlib.redirect_stdout(io.StringIO()):
        if part is not None:
            return importlib.import_module(f"{name}.{part}")
        spec.loader.exec_module(package)
    return package


def _version(folder: Path) -> str:
    if (folder / ".git").exists():
        command = ("git", "-C", str(folder), "rev-parse", "--short", "HEAD")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    code = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        code.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return f"code {code.hexdigest()[:12]}"
