"""Every op has a reference, a Triton kernel, a test and cases, and is one opaque node when
compiled."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.tests.kernels.cases import CASES, E4M3, Sizes

PACKAGE = Path(kernels.__file__).parent
TESTS = PACKAGE.parent / "tests"
CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)
NAMES = [op.__name__ for op in kernels.ops.OPS]
SMALL = Sizes("cpu", torch.float32, 2, 2, 3, 4, 3, head_dim=2, padding=1)


def copied(given):
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in given]


def public_call(name, given):
    """Call the public function as its signature asks, keyword-only parameters by name."""
    function = getattr(kernels, name)
    parameters = inspect.signature(function).parameters.values()
    plain, named = [], {}
    for parameter, value in zip(parameters, given, strict=True):
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            plain.append(value)
    return function(*plain, **named)


def defined(path, name):
    """Parameters of a top-level function, read without an import: Triton may be absent."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [argument.arg for argument in node.args.args]
    return None


def test_the_files_are_the_ops():
    for folder in ("ops", "reference", "triton"):
        files = {path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem[0] != "_"}
        assert files - {"pieces"} == set(NAMES), folder
    for backend in (kernels.reference.BACKEND, kernels.triton.BACKEND):
        assert list(backend.dtypes) == NAMES, backend.name


def test_one_name_in_every_place():
    for name in NAMES:
        parameters = list(inspect.signature(getattr(kernels, name)).parameters)
        for backend in ("reference", "triton"):
            found = defined(PACKAGE / backend / f"{name}.py", name)
            assert found == parameters, f"{name}, {backend}"
        assert (TESTS / "kernels" / f"test_{name}.py").exists(), name
        assert name in CASES, name
        schema = getattr(torch.ops.motioncache, name).default._schema
        assert [argument.name for argument in schema.arguments] == parameters, name
        assert inspect.getdoc(getattr(kernels, name)), name


def test_no_module_but_the_triton_ones_imports_triton():
    for path in PACKAGE.rglob("*.py"):
        imported = [
            name.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for name in node.names
        ]
        inside = path.parent.name == "triton" and path.name != "__init__.py"
        assert inside or "triton" not in imported, path.name


@pytest.mark.parametrize("label", CASES)
def test_opcheck(label):
    case = CASES[label](SMALL)
    given = case.arguments()
    dtypes = {value.dtype for value in given if isinstance(value, torch.Tensor)}
    # the first of the checks multiplies its arguments, which torch cannot do with fp8
    checked = CHECKS[1:] if E4M3 in dtypes else CHECKS
    op = getattr(torch.ops.motioncache, case.op).default
    torch.library.opcheck(op, given, test_utils=checked)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_in_one_graph_and_equal(name):
    torch._dynamo.reset()
    eager_in = CASES[name](SMALL).arguments()
    compiled_in = copied(eager_in)
    expected = public_call(name, eager_in)
    compiled = torch.compile(
        lambda values: public_call(name, values), fullgraph=True, backend="aot_eager"
    )
    actual = compiled(compiled_in)
    torch.testing.assert_close(actual, expected)
    for mine, theirs in zip(compiled_in, eager_in, strict=True):
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs)


def test_fake_tensors_need_no_kernel():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        for name in NAMES:
            given = [
                mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
                for value in CASES[name](SMALL).arguments()
            ]
            public_call(name, given)


def test_the_choice_is_made_when_a_compiled_graph_runs(monkeypatch):
    torch._dynamo.reset()
    x = torch.randn(1, 3, 4)
    compiled = torch.compile(kernels.reuse_residual, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, x), x + x)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("MOTIONCACHE_BACKEND", "triton")
    with pytest.raises(kernels.BackendUnavailableError):
        compiled(x, x)


def test_triton_modules_import_when_triton_is_there():
    usable, reason = kernels.triton.status()
    if not usable:
        pytest.skip(reason)
    for name in NAMES:
        module = importlib.import_module(f"{kernels.triton.BACKEND.package}.{name}")
        assert callable(getattr(module, name))
