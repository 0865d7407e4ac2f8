"""The guard sees every way to wait for the device that it knows of, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.sync_guard import (
    DEVICE,
    DeviceTensor,
    HostWaitError,
    SyncGuard,
    module_on_device,
    on_device,
    on_host,
)

pytestmark = pytest.mark.usefixtures("no_gradients")


class Given:
    """Tensors on the device and one on the host, new for each test."""

    def __init__(self):
        self.host = torch.arange(20.0).reshape(4, 5)
        self.x = on_device(self.host - 7)
        self.mask = on_device(self.host % 3 == 0)
        self.rows = on_device(torch.tensor([2, 0, 3]))
        self.count = on_device(torch.tensor(3.0))


def assign(x, index, value):
    x[index] = value


# by the kind of wait
WAITS = {
    "read": {
        "item": lambda g: g.count.item(),
        "float": lambda g: float(g.count),
        "int": lambda g: int(g.count),
        "if": lambda g: 1 if g.count > 2 else 0,
        "tolist": lambda g: g.x.tolist(),
        "is_nonzero": lambda g: torch.is_nonzero(g.count),
        "equal": lambda g: torch.equal(g.x, g.x),
        "allclose": lambda g: torch.allclose(g.x, g.x),
        "a slice bound": lambda g: g.x[: g.rows[0]],
        "cpu": lambda g: g.x.cpu(),
        "to cpu": lambda g: g.x.to("cpu"),
        "to like a tensor of the host": lambda g: g.x.to(g.host),
        "copy_ to the host": lambda g: g.host.copy_(g.x),
        "non-blocking copy_ to ordinary memory": lambda g: g.host.copy_(g.x, non_blocking=True),
        "histc": lambda g: torch.histc(g.x),
        "inverse": lambda g: torch.linalg.inv(on_device(torch.eye(3))),
    },
    "upload": {
        "to the device": lambda g: g.host.to(DEVICE),
        "non-blocking, from ordinary memory": lambda g: g.host.to(DEVICE, non_blocking=True),
        "blocking, from pinned memory": lambda g: g.host.pin_memory().to(DEVICE),
        "copy_ to the device": lambda g: g.x.copy_(g.host),
        "tensor of a list": lambda g: torch.tensor([1.0, 2.0], device=DEVICE),
        "tensor of a number": lambda g: torch.tensor(1.0, device=DEVICE),
        "as_tensor": lambda g: torch.as_tensor([1.0], device=DEVICE),
        "new_tensor": lambda g: g.x.new_tensor([1.0]),
        "a list as an index": lambda g: g.x[[0, 2]],
        "rows of the host": lambda g: g.x[torch.tensor([0, 2])],
        "a number assigned to rows": lambda g: assign(g.x, g.rows, 0.0),
        "a tensor of the host assigned": lambda g: assign(g.x, slice(0, 4), g.host),
        "an operand of the host": lambda g: torch.where(g.mask, g.x, g.host),
        "a number assigned to a mask": lambda g: assign(g.x, g.mask, 0.0),
    },
    "shape": {
        "nonzero": lambda g: g.mask.nonzero(),
        "where with one argument": lambda g: torch.where(g.mask),
        "argwhere": lambda g: torch.argwhere(g.mask),
        "masked_select": lambda g: torch.masked_select(g.x, g.mask),
        "a mask as an index": lambda g: g.x[g.mask],
        "a mask as an index, beside a slice": lambda g: g.x[g.mask[:, 0], 1:],
        "numbers assigned to a mask": lambda g: assign(g.x, g.mask[:, 0], g.x[0]),
        "unique": lambda g: g.x.unique(),
        "unique_consecutive": lambda g: g.x.unique_consecutive(),
        "bincount": lambda g: torch.bincount(g.rows),
        "repeat_interleave by a tensor": lambda g: torch.repeat_interleave(g.x[:3], g.rows, dim=0),
    },
}


@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_is_caught_and_explained(kind):
    for name, waiting in WAITS[kind].items():
        given, guard, said = Given(), SyncGuard(), ""
        with guard:
            try:
                waiting(given)
            except HostWaitError as error:
                said = str(error)
        assert len(guard.waits) == 1, name
        wait = guard.waits[0]
        assert wait.kind == kind, name
        assert wait.op in said and "makes the host wait" in said, name
        assert wait.where[0][0] == "tests/support/test_sync_guard.py", wait.where


# each gives a result, which has to be that of the CPU
FINE = {
    "arithmetic": lambda g: (g.x * 2 + g.count - 1.5).exp(),
    "a number of the host": lambda g: g.x + torch.tensor(2.0),
    "comparison": lambda g: (g.x > 3) & g.mask,
    "matrix product": lambda g: F.linear(g.x, g.x),
    "attention": lambda g: F.scaled_dot_product_attention(*[g.x.reshape(1, 1, 4, 5)] * 3),
    "norm": lambda g: F.layer_norm(g.x, (5,)),
    "reductions": lambda g: g.x.abs().mean(dim=1).amax() + g.x.std(),
    "topk": lambda g: g.x.flatten().topk(3).indices,
    "sort": lambda g: g.x.flatten().sort(descending=True, stable=True).indices,
    "cumsum": lambda g: g.mask.cumsum(1),
    "slices": lambda g: g.x[1:, ::2].contiguous(),
    "rows by index_select": lambda g: g.x.index_select(0, g.rows),
    "rows by index": lambda g: g.x[g.rows],
    "nonzero_static": lambda g: torch.nonzero_static(g.mask, size=4),
    "searchsorted": lambda g: torch.searchsorted(g.x[0], g.x[1]),
    "where": lambda g: torch.where(g.mask, g.x, 0.0),
    "masked_fill": lambda g: g.x.masked_fill(g.mask, 1.0),
    "repeat_interleave by a number": lambda g: g.x.repeat_interleave(3, dim=1),
    "arange": lambda g: torch.arange(7, device=g.x.device),
    "full": lambda g: torch.full((2, 3), 4.0, device=g.x.device),
    "zeros and new_zeros": lambda g: torch.zeros(3, device=g.x.device) + g.x.new_zeros(3),
    "types": lambda g: g.x.half().type_as(g.x).to(torch.float64),
    "a row list": lambda g: kernels.compact_rows(g.mask.reshape(-1))[0],
}


def test_ordinary_work_is_not_a_wait():
    for name, work in FINE.items():
        given, guard = Given(), SyncGuard()
        with guard:
            out = work(given)
        assert type(out) is DeviceTensor and out.device == DEVICE and out.is_cuda, name
        for key in ("x", "mask", "rows", "count"):
            setattr(given, key, on_host(getattr(given, key)))
        expected = work(given)
        assert not guard.waits and guard.ops > 0, name
        assert on_host(out).stride() == expected.stride(), name
        assert_close(name, expected.double(), on_host(out).double(), 1e-6)
        assert on_host(out).dtype == expected.dtype, name
        assert expected.is_floating_point() or torch.equal(on_host(out), expected), name


def test_writes_through_views_reach_the_tensor():
    given = Given()
    x = given.x
    with SyncGuard():
        x[1:3, 0] = 9.0
        x[3].zero_()
        x.masked_fill_(x == -7, 5.0)
        x.index_fill_(0, given.rows[1:2], 2.0)
        assert torch.add(x, 1, out=x) is x
    expected = given.host - 7
    expected[1:3, 0], expected[3], expected[0] = 9.0, 0.0, 2.0
    assert torch.equal(on_host(x), expected + 1)


def test_pinned_memory_need_not_wait():
    given = Given()
    with SyncGuard():
        pinned = given.host.pin_memory()
        assert pinned.is_pinned() and not given.host.is_pinned()
        up = pinned[1:].to(DEVICE, non_blocking=True)
        target = torch.empty(4, 5, pin_memory=True)
        target.copy_(given.x, non_blocking=True)
        down = given.x.to("cpu", non_blocking=True)
    assert torch.equal(on_host(up), given.host[1:])
    assert torch.equal(target, given.host - 7) and torch.equal(down, target)


def test_reads_are_counted_up_to_what_is_allowed():
    given, guard = Given(), SyncGuard(reads=2)
    with guard:
        assert float(given.count) == 3.0
        assert given.x[0].tolist() == [-7, -6, -5, -4, -3]
        with pytest.raises(HostWaitError, match="read 3 of 2 allowed"):
            given.x.cpu()
    assert guard.count == 3


def test_no_upload_is_an_allowed_read():
    with SyncGuard(reads=5), pytest.raises(HostWaitError, match="ordinary memory"):
        torch.tensor([1.0], device=DEVICE)


def test_everything_can_be_listed():
    given, guard = Given(), SyncGuard(reads=None)
    with guard:
        chosen = given.x[given.mask]
        assert chosen.tolist() == (given.host - 7)[given.host % 3 == 0].tolist()
        torch.tensor([1.0], device=DEVICE)
    assert [wait.kind for wait in guard.waits] == ["shape", "read", "upload"]


def test_a_tensor_is_not_used_outside():
    with pytest.raises(RuntimeError, match="outside of SyncGuard"):
        Given().x + 1


def test_a_network_answers_as_on_the_cpu():
    net = DemoWan(ffn_dim=64, num_layers=2, text_dim=8, freq_dim=16).eval()
    x, t, text = torch.randn(1, 16, 3, 4, 5), torch.tensor([600.0]), torch.randn(1, 3, 8)
    moved = module_on_device(net)
    assert type(next(net.parameters())) is torch.nn.Parameter
    with SyncGuard():
        out = moved(on_device(x), on_device(t), on_device(text))
    assert_close("velocity", net(x, t, text), on_host(out))
