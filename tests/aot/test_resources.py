"""What is read off assembly, and the occupancy that follows from it."""

import pytest
from motioncache_pack.tests.aot.resources import accesses, occupancy
from motioncache_pack.tests.aot.table import failure, problem, report

PTX = """
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
    @%p2 ld.global.L1::evict_last.v2.b64 { %rd5, %rd6 }, [ %rd2 + 0 ];
    ld.global.b32 { %r9 }, [ %rd3 + 0 ];
    ld.global.u8 %rs1, [%rd4];
    ld.shared.v4.b32 { %r1, %r2, %r3, %r4 }, [%r8];
    st.global.v8.b32 [ %rd7 + 0 ], { %r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8 };
    @%p3 st.global.b16 [ %rd7 + 0 ], { %rs2 };
"""
AMDGCN = """
    global_load_dwordx4 v[0:3], v4, s[0:1]
    buffer_load_dwordx2 v[0:1], v4, s[4:7], 0 offen
    buffer_load_dword v0, v4, s[4:7], 0 offen
    global_load_short_d16_hi v0, v1, s[0:1]
    global_load_ubyte v0, v1, s[0:1]
    s_load_dwordx4 s[0:3], s[4:5], 0x0
    ds_read_b128 v[0:3], v4
    buffer_store_dwordx4 v[0:3], v4, s[4:7], 0 offen
"""


def test_widths_of_global_accesses():
    assert accesses(PTX, "cuda") == ({"16": 2, "4": 1, "1": 1}, {"32": 1, "2": 1})
    loads = {"16": 1, "8": 1, "4": 1, "2": 1, "1": 1}
    assert accesses(AMDGCN, "hip") == (loads, {"16": 1})


# worked out by hand: registers come in 256 a warp, from 4 parts of 16384; a block of compute
# capability 8.0 and later takes 1 KiB of shared memory more than it asks for
@pytest.mark.parametrize(
    "target, registers, shared, warps, expected",
    [
        ("cuda:90", 32, 0, 4, 1.0),
        ("cuda:90", 33, 0, 4, 48 / 64),
        ("cuda:90", 64, 0, 4, 32 / 64),
        ("cuda:90", 117, 4096, 16, 16 / 64),
        ("cuda:90", 255, 0, 8, 8 / 64),
        ("cuda:90", 16, 64 << 10, 4, 3 * 4 / 64),
        # 24 blocks at most, and 48 warps
        ("cuda:89", 16, 0, 1, 24 / 48),
        ("cuda:120", 40, 0, 4, 1.0),
        ("cuda:80", 16, 81 << 10, 4, 2 * 4 / 64),
        ("hip:gfx942", 64, 0, 4, 1.0),
        ("hip:gfx942", 65, 0, 4, 7 / 8),
        ("hip:gfx942", 128, 0, 4, 4 / 8),
        ("hip:gfx942", 32, 40 << 10, 4, 1 / 8),
        ("cuda:70", 32, 0, 4, None),
        ("hip:gfx1100", 32, 0, 4, None),
    ],
)
def test_occupancy(target, registers, shared, warps, expected):
    assert occupancy(target, registers, shared, warps) == expected


ROW = {
    "target": "cuda:90", "op": "reuse_residual", "call": "forecast", "dtype": "bf16",
    "channels": 1536, "kernel": "a_kernel", "launch": 0, "clips": ["832x480"], "error": None,
    "registers": 40, "spill": 0, "shared": 0, "warps": 4, "occupancy": 0.75,
    "loads": {"16": 4, "4": 2}, "stores": {"16": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    "change, told",
    [
        ({}, ""),
        ({"spill": 8}, "spills 8 bytes"),
        ({"loads": {"4": 8}}, "loads 4 bytes at a time"),
        ({"loads": {"4": 8}, "clips": ["odd"]}, ""),
        ({"loads": {"4": 8}, "target": "hip:gfx942"}, ""),
        ({"error": "TypeError: no"}, "TypeError: no"),
    ],
)
def test_a_problem_is_told(change, told):
    row = ROW | change
    assert told in problem(row) and bool(told) == bool(problem(row))
    text = report([ROW, row], "3.6.0", 1.0)
    assert ("## Failed" in text) == bool(told)
    if told:
        assert failure(row) in text and f"{row['target']} reuse_residual forecast bf16 1536" in text


def test_the_table_shows_every_target():
    other = ROW | {"target": "hip:gfx942", "registers": 18, "occupancy": None}
    (line,) = [x for x in report([ROW, other], "3.6.0", 1.0).splitlines() if "a_kernel" in x]
    assert line.endswith("| 40 / 75% | 18 / ? |") and "16x4, 4x2" in line and "832x480" in line
