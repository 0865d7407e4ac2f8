"""Time every op on every back end that can run here, after checking them.

    python tests/bench/kernels.py [--json OUT] [--op NAME ...] [--geometry NAME ...] [--repeats N]

On CUDA the sizes are those of Wan 1.3B and 14B at 832x480 and 1280x720, 81 frames, bf16; on a CPU
they are small, and the numbers say nothing about a GPU. Bytes are what the op must move at least,
GB/s is bytes by median time, and the shares are those of a plain device copy in the same run: of a
whole activation, and of as many bytes as the op moves. Ops on few numbers a token are bound by
their launches: for them only the second one tells anything. The gate compares the back ends at the
same sizes; where only the reference can run, it is the reference's tests. An op whose gate is red
gets no numbers, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, environment, load_pack, rows_of_others
from timing import FLUSH_BYTES, once, repeated

load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.tests.kernels.cases import CASES, Case, Sizes  # noqa: E402

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
SECONDS_PER_ROW = 2.0
# 21 latent frames; three tenths of the rows, up to a multiple of 128
WAN = {
    "1.3b-480p": Sizes("cuda", torch.bfloat16, 2, 21, 1560, 1536, 9856),
    "14b-480p": Sizes("cuda", torch.bfloat16, 2, 21, 1560, 5120, 9856),
    "1.3b-720p": Sizes("cuda", torch.bfloat16, 2, 21, 3600, 1536, 22784),
    "14b-720p": Sizes("cuda", torch.bfloat16, 2, 21, 3600, 5120, 22784),
}
SMALL = {"small": Sizes("cpu", torch.float32, 2, 6, 256, 384, 512)}
# the largest case holds its arguments, copies of them and what the reference needs besides
ACTIVATIONS_HELD = 24


def run_on(backend: str, case: Case) -> tuple[Tensor, ...]:
    """All results of one call, the arguments that it may have written included."""
    given = case.make()
    with kernels.use_backend(backend):
        result = getattr(kernels, case.op)(*given, **case.named)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(value for value in (*results, *given) if isinstance(value, Tensor))


def disagreement(expected: tuple[Tensor, ...], actual: tuple[Tensor, ...]) -> str | None:
    for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
        if left.dtype in TOLERANCE:
            error = torch.dist(left.float(), right.float()) / left.float().norm().clamp(min=1e-12)
            # a NaN must not pass
            if not float(error) <= TOLERANCE[left.dtype]:
                return f"tensor {index}: relative RMS error {float(error):.2e}"
            continue
        whole = [t.view(torch.uint8) if t.itemsize == 1 else t for t in (left, right)]
        if not torch.equal(*whole):
            return f"tensor {index}: {int((whole[0] != whole[1]).sum())} numbers differ"
    return None


def reference_gate(ops: set[str]) -> str | None:
    """What is wrong with the reference of these ops, by their tests; nothing must be."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    files = [str(ROOT / "tests" / "kernels" / f"test_{op}.py") for op in sorted(ops)]
    done = subprocess.run(
        [*command, "-m", "not triton", *files], cwd=ROOT, capture_output=True, text=True
    )
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]


def gate(case: Case, backends: list[str]) -> str | None:
    """What a back end does otherwise than the reference."""
    expected = run_on("reference", case)
    for backend in backends[1:]:
        wrong = disagreement(expected, run_on(backend, case))
        if wrong is not None:
            return f"{case.op} on {backend}: {wrong}"
    return None


def fitting(sizes: Sizes) -> Sizes:
    """These sizes, with one batch row where two do not fit."""
    if sizes.device != "cuda":
        return sizes
    free = torch.cuda.mem_get_info()[0]
    fits = ACTIVATIONS_HELD * sizes.nbytes(sizes.length) + FLUSH_BYTES < free
    return sizes if fits else replace(sizes, batch=1)


def copy_rate(device: str, nbytes: int, repeats: int) -> float:
    """Bytes per second that a copy reads and writes, with `nbytes` moved in all."""
    source = torch.randint(256, (max(nbytes // 2, 1),), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times, _ = repeated(lambda: target.copy_(source), device, repeats, SECONDS_PER_ROW)
    return 2 * source.numel() / times[len(times) // 2]


def measured(case: Case, backend: str, sizes: Sizes, repeats: int) -> dict[str, Any]:
    given = case.make()
    with kernels.use_backend(backend):
        call = partial(getattr(kernels, case.op), *given, **case.named)
        times, host = repeated(call, sizes.device, repeats, SECONDS_PER_ROW)
    median, low, high = (times[int(len(times) * share)] for share in (0.5, 0.2, 0.8))
    return {
        "backend": backend,
        "median_us": median * 1e6,
        "p20_us": low * 1e6,
        "p80_us": high * 1e6,
        "host_us": host * 1e6,
        "repeats": len(times),
        "bytes": case.moved,
        "gb_per_s": case.moved / median / 1e9,
    }


HEAD = (
    f"{'op':24}{'back end':11}{'median us':>11}{'20 %':>9}{'80 %':>9}{'host us':>9}{'MB':>9}"
    f"{'GB/s':>8}{'of copy':>9}{'of same':>9}"
)


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['case']:24}{row['backend']:11}{row['median_us']:11.1f}{row['p20_us']:9.1f}"
        f"{row['p80_us']:9.1f}{row['host_us']:9.1f}{row['bytes'] / 1e6:9.2f}"
        f"{row['gb_per_s']:8.1f}{row['share_of_copy']:9.1%}{row['share_of_same_copy']:9.1%}",
        flush=True,
    )


def one_geometry(
    name: str, sizes: Sizes, names: list[str], backends: list[str], repeats: int
) -> Iterator[dict[str, Any]]:
    """Rows of one geometry, as they are measured; `{"red": why}` for a case without numbers."""
    sizes = fitting(sizes)
    copy = copy_rate(sizes.device, 2 * sizes.nbytes(sizes.length), repeats)
    told = f"{sizes.batch} x {sizes.length} x {sizes.channels}, {sizes.count} rows, {sizes.dtype}"
    print(f"\n{name}: {told}; copy {copy / 1e9:.1f} GB/s\n{HEAD}", flush=True)
    shape = {
        "geometry": name,
        "batch": sizes.batch,
        "length": sizes.length,
        "channels": sizes.channels,
        "active": sizes.count,
        "dtype": str(sizes.dtype).removeprefix("torch."),
        "copy_gb_per_s": copy / 1e9,
    }
    for label in names:
        case = CASES[label](sizes)
        wrong = gate(case, backends)
        if wrong is not None:
            print(f"{label:24}no numbers, the gate is red: {wrong}", flush=True)
            yield {"red": f"{name}, {wrong}"}
            continue
        same = copy_rate(sizes.device, case.moved, repeats)
        for backend in backends:
            row = {"case": label, "op": case.op, "small": case.small}
            row |= measured(case, backend, sizes, repeats)
            row["share_of_copy"] = row["gb_per_s"] * 1e9 / copy
            row["share_of_same_copy"] = row["gb_per_s"] * 1e9 / same
            show(row)
            yield shape | row
        del case
        gc.collect()
        if sizes.device == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    cuda = torch.cuda.is_available()
    geometries = WAN if cuda else SMALL
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the file's other geometries")
    parser.add_argument("--op", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--geometry", nargs="+", default=list(geometries), choices=list(geometries))
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    torch.manual_seed(0)
    # the interpreter is no back end to time
    usable, detail = kernels.triton.status()
    backends = ["reference", "triton"] if cuda and usable else ["reference"]
    facts = environment()
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if not cuda:
        print("These are small sizes on a CPU. They say nothing about a GPU.")
        wrong = reference_gate({CASES[label](SMALL["small"]).op for label in options.op})
        if wrong is not None:
            sys.exit(f"No numbers: the gate is red.\n{wrong}")
    elif not usable:
        sys.exit(f"No numbers: {detail}, and the reference is not what runs on a GPU.")
    else:
        # the first use of the device is slow
        once(lambda: torch.ones(1, device="cuda"), "cuda")
    result: dict[str, Any] = {"bench": "kernels", "environment": facts, "red": [], "rows": []}
    if options.add and options.json:
        result["rows"] += rows_of_others(options.json, facts, options.geometry)
    for name in options.geometry:
        found = one_geometry(name, geometries[name], options.op, backends, options.repeats)
        for row in found:
            if "red" in row:
                result["red"].append(row["red"])
            else:
                result["rows"].append(row)
            # row by row: a run that is cut off keeps what it has
            if options.json:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if result["red"]:
        sys.exit("\n".join(("red:", *result["red"])))


if __name__ == "__main__":
    main()
