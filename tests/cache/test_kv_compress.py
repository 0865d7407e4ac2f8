"""K/V compression of finished chunks against the formula written out in full."""

import pytest
import torch
from motioncache_pack.motioncache_core.cache import kv_compress
from motioncache_pack.motioncache_core.cache.kv_compress import (
    compress_kv,
    kv_gather,
    kv_scores,
    kv_select,
)
from motioncache_pack.motioncache_core.common.errors import CacheShapeError, SettingsError
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# batch, heads, head width, queries, keys; share of the importance, pooled keys
CASES = [
    ((3, 1, 5, 7, 13), 0.0, 7),
    ((3, 3, 4, 1, 31), 0.9, 3),
    ((1, 3, 8, 17, 6), 0.07, 7),
    ((2, 1, 3, 1, 1), 1.0, 7),
    ((3, 3, 6, 29, 101), 0.5, 7),
    ((2, 3, 70, 11, 9), 0.6, 1),
]


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_full(q, k, heads, mix=0.07, window=7):
    """The scores in fp64, one head at a time, with every n x n and m x n matrix."""
    batch, n, width = k.shape
    d = width // heads
    scores = torch.empty(batch, heads, n, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            qh = q[b, :, h * d : (h + 1) * d].double()
            kh = k[b, :, h * d : (h + 1) * d].double()
            mean = torch.softmax(qh @ kh.T / d**0.5, dim=1).mean(dim=0)
            half = window // 2
            near = [mean[max(i - half, 0) : i + half + 1].max() for i in range(n)]
            khat = kh / kh.norm(dim=1, keepdim=True)
            cosine = (khat @ khat.T).fill_diagonal_(0.0)
            redundancy = torch.softmax(cosine.sum(dim=1) / n, dim=0)
            scores[b, h] = mix * torch.stack(near) - (1 - mix) * redundancy
    return scores


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation put out in memory of its own."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {
            x.untyped_storage().data_ptr()
            for x in tree_leaves((args, kwargs))
            if isinstance(x, torch.Tensor)
        }
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                size = x.untyped_storage().nbytes() // x.element_size()
                self.elements = max(self.elements, size)
        return out


@pytest.mark.parametrize(("size", "mix", "window"), CASES)
def test_scores_are_the_formula_in_blocks_of_any_size(monkeypatch, size, mix, window):
    batch, heads, d, m, n = size
    q, k = draw(m, batch, m, heads * d) * 2, draw(n, batch, n, heads * d)
    wanted = in_full(q, k, heads, mix, window)
    for budget in (None, 1, 100, 1000, 5000):
        if budget is not None:
            monkeypatch.setattr(kv_compress, "_BLOCK_BYTES", budget)
        scores = kv_scores(q, k, heads=heads, mix=mix, window=window)
        assert scores.shape == (batch, heads, n) and scores.dtype == torch.float32
        torch.testing.assert_close(scores.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("share", [2, 3])
def test_heads_of_queries_that_share_keys_ask_by_their_largest_logit(monkeypatch, share):
    heads, d, m, n = 3, 5, 11, 23
    q, k = draw(share, 2, m, heads * share * d) * 2, draw(n, 2, n, heads * d)
    wanted = torch.empty(2, heads, n, dtype=torch.float64)
    for b in range(2):
        for h in range(heads):
            keys = k[b, :, h * d : (h + 1) * d].double()
            asking = q[b, :, h * share * d : (h + 1) * share * d].double().unflatten(1, (share, d))
            logits = torch.einsum("msd,nd->msn", asking, keys) / d**0.5
            mean = logits.amax(dim=1).softmax(dim=1).mean(dim=0)
            near = torch.stack([mean[max(i - 3, 0) : i + 4].max() for i in range(n)])
            unit = keys / keys.norm(dim=1, keepdim=True)
            like = ((unit @ unit.T).fill_diagonal_(0.0).sum(dim=1) / n).softmax(dim=0)
            wanted[b, h] = 0.6 * near - 0.4 * like
    for budget in (None, 1, 300):
        if budget is not None:
            monkeypatch.setattr(kv_compress, "_BLOCK_BYTES", budget)
        scores = kv_scores(q, k, heads=heads, mix=0.6)
        torch.testing.assert_close(scores.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_fp32(dtype):
    q, k, v = (draw(s, 2, n, 12).to(dtype) for s, n in ((1, 9), (2, 37), (3, 37)))
    scores = kv_scores(q, k, heads=3)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), in_full(q, k, 3), rtol=1e-5, atol=1e-7)
    kept = compress_kv(q, k, v, 11, heads=3)
    assert [x.dtype for x in kept] == [dtype, dtype]


def test_large_logits_give_finite_scores():
    q, k = draw(4, 3, 5, 12) * 1e6, draw(5, 3, 23, 12) * 1e6
    scores = kv_scores(q, k, heads=3)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.double(), in_full(q, k, 3), rtol=1e-5, atol=1e-7)
    assert kv_scores(q.half().clamp(-6e4, 6e4), k.half().clamp(-6e4, 6e4), heads=3).isfinite().all()


def test_a_key_of_zeros_gives_finite_scores():
    k = draw(6, 2, 19, 12)
    k[:, 4] = 0.0
    assert kv_scores(draw(7, 2, 3, 12), k, heads=3).isfinite().all()


@pytest.mark.parametrize("keep", [1, 5, 17])
def test_select_takes_the_highest_in_raster_order(keep):
    scores = draw(keep, 3, 2, 17)
    index = kv_select(scores, keep)
    assert index.dtype == torch.int64 and index.shape == (3, 2, keep)
    for b in range(3):
        for h in range(2):
            row = scores[b, h].tolist()
            wanted = sorted(sorted(range(17), key=lambda i: -row[i])[:keep])
            assert index[b, h].tolist() == wanted


def test_equal_scores_keep_the_earlier_row():
    scores = torch.tensor([[[1.0, 3.0, 1.0, 3.0, 1.0, 1.0]]]).repeat(2, 3, 1)
    assert (kv_select(scores, 4) == torch.tensor([0, 1, 2, 3])).all()
    # far more rows than any small-array special case of a sort
    many = kv_select(torch.zeros(1, 2, 5001), 777)
    assert (many == torch.arange(777)).all()


@pytest.mark.parametrize(("batch", "heads", "d"), [(1, 1, 5), (3, 3, 4), (2, 5, 1)])
def test_gather_takes_each_heads_own_rows(batch, heads, d):
    x = draw(batch, batch, 23, heads * d)
    index = kv_select(draw(heads, batch, heads, 23), 9)
    kept = kv_gather(x, index, heads)
    assert kept.shape == (batch, 9, heads * d)
    for b in range(batch):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for r, i in enumerate(index[b, h].tolist()):
                assert torch.equal(kept[b, r, part], x[b, i, part])


def test_heads_keep_different_rows():
    # the two heads see the same eight directions once, and copies of one more in opposite halves
    d, half = 16, 8
    basis = torch.eye(d)
    alone, copies = basis[:half], basis[half].expand(half, d)
    k = torch.cat((torch.cat((alone, copies)), torch.cat((copies, alone))), dim=1).unsqueeze(0)
    v = torch.arange(2.0 * half).view(1, -1, 1).expand(1, -1, 2 * d).contiguous()
    kept_k, kept_v = compress_kv(torch.zeros(1, 3, 2 * d), k, v, half, heads=2)
    assert torch.equal(kept_v[0, :, 0], torch.arange(0.0, half))
    assert torch.equal(kept_v[0, :, d], torch.arange(float(half), 2 * half))
    assert torch.equal(kept_k[0, :, :d], alone)
    assert torch.equal(kept_k[0, :, d:], alone)


def test_what_the_queries_ask_for_is_kept():
    # all keys equally redundant, the queries point at one of them: it and its pool of 7 are kept
    k = torch.eye(41).unsqueeze(0)
    q = k[:, 20:21] * 60
    assert kv_select(kv_scores(q, k, heads=1), 7).flatten().tolist() == list(range(17, 24))
    assert kv_select(kv_scores(q, k, heads=1, window=1), 1).item() == 20


def test_slices_of_a_large_store_are_left_alone_and_let_go():
    stores = [draw(seed, 2, 5000, 48).requires_grad_() for seed in (8, 9, 10)]
    with torch.enable_grad():
        q = stores[0][:, ::999, 12:36]
        k, v = (store[:, 100:4000, 12:36] for store in stores[1:])
    before = q.clone(), k.clone(), v.clone()
    with torch.enable_grad():
        scores = kv_scores(q, k, heads=3)
    index = kv_select(scores, 77)
    kept = compress_kv(q, k, v, 77, heads=3)
    for mine, given, copy, clean in zip(
        kept, (k, v), before[1:], compress_kv(*before, 77, heads=3), strict=True
    ):
        assert torch.equal(mine, clean) and torch.equal(given, copy)
        assert mine.is_contiguous() and mine.untyped_storage().nbytes() == 2 * 77 * 24 * 4
    assert index.untyped_storage().nbytes() == 2 * 3 * 77 * 8
    assert not scores.requires_grad and torch.equal(q, before[0])


def test_no_tensor_is_larger_than_the_budget():
    # 8000 x 8000 would be 64 M elements, 2 heads x 3000 queries x 8000 keys 48 M
    heads, m, n = 2, 3000, 8000
    q, k, v = draw(12, 1, m, 8), draw(13, 1, n, 8), draw(14, 1, n, 8)
    with Largest() as seen:
        compress_kv(q, k, v, 1000, heads=heads)
    assert 0 < seen.elements <= 64 * 2**20 // 4


@pytest.mark.parametrize(("m", "n", "heads", "d"), [(300, 2000, 4, 16), (1, 4001, 8, 64)])
def test_a_small_budget_holds_too(monkeypatch, m, n, heads, d):
    monkeypatch.setattr(kv_compress, "_BLOCK_BYTES", 4 * 65536)
    q, k = draw(15, 2, m, heads * d), draw(16, 2, n, heads * d)
    with Largest() as seen:
        kv_scores(q, k, heads=heads)
    # one head's keys are the floor of what can be done
    assert 0 < seen.elements <= max(65536, n * d)


@pytest.mark.parametrize("keep", [31, 32])
def test_nothing_to_drop_gives_the_same_tensors(keep):
    q, k, v = draw(17, 2, 3, 12), draw(18, 2, 31, 12), draw(19, 2, 31, 12)
    kept = compress_kv(q, k, v, keep, heads=3)
    assert kept[0] is k and kept[1] is v


@pytest.mark.parametrize(
    ("q", "k", "v", "keep", "heads", "says"),
    [
        ((2, 3, 12), (2, 9, 12), (2, 9, 12), 4, 5, "multiple of the heads"),
        ((2, 3, 12), (2, 9, 12), (2, 9, 12), 4, 0, "multiple of the heads"),
        ((2, 3, 12), (2, 9, 12), (2, 9, 12), 0, 3, "keep is 0"),
        ((2, 3, 12), (2, 9, 12), (2, 9, 12), -2, 3, "keep is -2"),
        ((1, 3, 12), (2, 9, 12), (2, 9, 12), 4, 3, "batch or width"),
        ((2, 3, 15), (2, 9, 12), (2, 9, 12), 4, 3, "batch or width"),
        ((2, 3, 12), (2, 9, 12), (1, 9, 12), 4, 3, "same shape"),
        ((2, 3, 12), (2, 9, 12), (2, 8, 12), 4, 3, "same shape"),
        ((2, 0, 12), (2, 9, 12), (2, 9, 12), 4, 3, "queries"),
        ((2, 3, 12), (2, 0, 12), (2, 0, 12), 4, 3, "keys"),
        ((3, 12), (2, 9, 12), (2, 9, 12), 4, 3, "queries"),
        ((2, 3, 12), (2, 3, 3, 4), (2, 3, 3, 4), 2, 3, "keys"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(q, k, v, keep, heads, says):
    with pytest.raises(CacheShapeError, match=says):
        compress_kv(torch.zeros(q), torch.zeros(k), torch.zeros(v), keep, heads=heads)


@pytest.mark.parametrize(
    ("shape", "keep", "says"),
    [((2, 3, 9), 0, "keep is 0"), ((2, 3, 9), 10, "keep is 10"), ((3, 9), 1, "heads, n")],
)
def test_select_refuses_what_it_cannot_keep(shape, keep, says):
    with pytest.raises(CacheShapeError, match=says):
        kv_select(torch.zeros(shape), keep)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 2, 4), (2, 12)])
def test_gather_refuses_an_index_of_another_shape(shape):
    with pytest.raises(CacheShapeError, match="rows to keep"):
        kv_gather(torch.zeros(2, 9, 12), torch.zeros(shape, dtype=torch.int64), 3)


@pytest.mark.parametrize("bad", [{"mix": -0.1}, {"mix": 1.1}, {"window": 0}, {"window": 4}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        kv_scores(torch.zeros(1, 2, 4), torch.ones(1, 5, 4), heads=1, **bad)
