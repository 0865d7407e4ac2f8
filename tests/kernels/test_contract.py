"""Every op has a reference, a Triton kernel, a test and a bench row, and is one opaque node when
compiled."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.kernels import library, ops

PACKAGE = Path(kernels.__file__).parent
TESTS = PACKAGE.parent / "tests"
CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)
NAMES = [op.__name__ for op in ops.OPS]


def arguments(name):
    """Small arguments in the order of the op's schema."""
    x, rows = torch.randn(2, 6, 4), torch.tensor([[1, 4, -1]], dtype=torch.int32)
    inverse = torch.tensor([[-1, 0, -1, -1, 1, -1]], dtype=torch.int32)
    new = torch.randn(2, 3, 4)
    stale = torch.zeros(6, dtype=torch.int32)
    return {
        "motion_map": (torch.randn(2, 3, 5, 4), torch.randn(2, 5, 4)),
        "accumulate_due": (
            torch.rand(6),
            stale,
            torch.tensor(0.3),
            torch.rand(6),
            2,
            0.5,
            0.5,
            0.1,
            4,
        ),
        "compact_rows": (torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.uint8),),
        "select_top": (torch.randn(6), torch.tensor([2], dtype=torch.int32)),
        "gather_rows": (x, rows, torch.randn(1, 6, 8), torch.randn(2, 2, 12), 3),
        "reuse_residual": (x, torch.randn_like(x), torch.randn_like(x), torch.rand(6)),
        "scatter_residual": (
            x,
            new,
            inverse,
            torch.randn_like(x),
            torch.randn_like(x),
            torch.rand(6),
            torch.rand(6),
        ),
        "store_residual": (x, x + 1, *(torch.randn_like(x) for _ in range(2)), torch.rand(6)),
        "correct_rows": (
            x,
            new,
            torch.tensor([1, 4, 5], dtype=torch.int32),
            torch.tensor([0, 2], dtype=torch.int32),
            torch.tensor([[0, -1], [2, 0]], dtype=torch.int32),
            torch.rand(2, 2, 2),
        ),
        "scatter_kv": (new, new + 1, rows, *coded_stores()),
        "read_kv": (*coded_stores(), torch.bfloat16, 5),
    }[name]


def coded_stores():
    """k, v and their scales for 2 heads."""
    stores = [torch.randn(2, 6, 4).to(dtype) for dtype in (torch.int8, torch.float8_e4m3fn)]
    return (*stores, *(torch.rand(2, 6, 2) for _ in range(2)))


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


def test_the_lists_of_ops_agree():
    assert list(library.SCHEMAS) == NAMES
    for backend in (kernels.reference.BACKEND, kernels.triton.BACKEND):
        assert list(backend.capabilities) == NAMES, backend.name


@pytest.mark.parametrize("name", NAMES)
def test_one_name_in_four_places(name):
    parameters = list(inspect.signature(getattr(kernels, name)).parameters)
    for backend in ("reference", "triton"):
        assert defined(PACKAGE / backend / f"{name}.py", name) == parameters, backend
    assert (TESTS / "kernels" / f"test_{name}.py").exists()
    schema = getattr(torch.ops.motioncache, name).default._schema
    assert [argument.name for argument in schema.arguments] == parameters
    assert inspect.getdoc(getattr(kernels, name))


def test_every_op_has_a_bench_row():
    tree = ast.parse((TESTS / "bench" / "kernel_cases.py").read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {f"case_{name}" for name in NAMES} <= functions


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


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    given = arguments(name)
    dtypes = {value.dtype for value in given if isinstance(value, torch.Tensor)}
    # the first of the checks multiplies its arguments, which torch cannot do with fp8
    checked = CHECKS[1:] if torch.float8_e4m3fn in dtypes else CHECKS
    op = getattr(torch.ops.motioncache, name).default
    torch.library.opcheck(op, given, test_utils=checked)


def test_opcheck_of_plain_stores():
    new, rows = arguments("scatter_kv")[0], arguments("scatter_kv")[2]
    given = (new, new + 1, rows, torch.zeros(2, 6, 4), torch.zeros(2, 6, 4), None, None)
    torch.library.opcheck(torch.ops.motioncache.scatter_kv.default, given)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_in_one_graph_and_equal(name):
    torch._dynamo.reset()
    given = arguments(name)
    eager_in = [value.clone() if isinstance(value, torch.Tensor) else value for value in given]
    expected = public_call(name, eager_in)
    compiled = torch.compile(
        lambda values: public_call(name, values), fullgraph=True, backend="aot_eager"
    )
    compiled_in = [value.clone() if isinstance(value, torch.Tensor) else value for value in given]
    actual = compiled(compiled_in)
    torch.testing.assert_close(actual, expected)
    for mine, theirs in zip(compiled_in, eager_in, strict=True):
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "name", ["gather_rows", "correct_rows", "scatter_kv", "compact_rows", "select_top"]
)
def test_fake_tensors_need_no_kernel(name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        given = [
            mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for value in arguments(name)
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
