"""The tests of `tests/nodes` that the host has a part in, on the real ComfyUI."""

import importlib
import inspect

import pytest

pytestmark = pytest.mark.comfy

# what depends on the host; schemas, words and pictures do not, and test_server.py has them once
MODULES = (
    "life_cycle", "faults", "conflicts", "answers", "sampling", "chaining", "compiled",
    "forcing_sampler", "forcing_cached", "forcing_errors", "calibrate",
    "answer_graphs", "answer_calls", "bad_input", "shown_run", "states", "second_passes",
    "foreign", "magi_sampling",
)  # fmt: skip


def is_fixture(value):
    return type(value).__name__ == "FixtureFunctionDefinition"


for _name in MODULES:
    _module = importlib.import_module(f"motioncache_pack.tests.nodes.test_{_name}")
    for _key, _value in vars(_module).items():
        if (_key.startswith("test_") and inspect.isfunction(_value)) or is_fixture(_value):
            if globals().get(_key, _value) is not _value:
                raise RuntimeError(f"{_key} is a test or fixture of two files of tests/nodes")
            globals()[_key] = _value
