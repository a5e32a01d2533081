"""Search against the dense matrix; recall against a count by hand; memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from clipfast.common.limits import DEFAULT_WORKSPACE_BYTES
from clipfast.inference.retrieval import recall_at_k, top_k

MIB = 2**20
SMALL = 2 * 4 * 2 * 64 * (64 + 24)  # the smallest workspace for width 24: tiles of 64


def features(rows: int, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 33, 33), (33, 5, 2), (300, 507, 10), (65, 500, 129), (130, 64, 64)])
def test_equal_to_the_dense_matrix(m: int, n: int, k: int, normalize: bool) -> None:
    queries, keys = features(m) * 3, features(n, seed=1) * 2
    left, right = ((F.normalize(x, dim=1) if normalize else x).double() for x in (queries, keys))
    dense = left @ right.T
    for workspace in (SMALL, DEFAULT_WORKSPACE_BYTES):
        scores, indices = top_k(queries, keys, k, normalize=normalize, workspace_bytes=workspace)
        assert scores.shape == indices.shape == (m, k)
        assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)
        torch.testing.assert_close(scores.double(), dense.topk(k).values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(dense.gather(1, indices), scores.double(), rtol=1e-5, atol=1e-5)
        assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_scores_are_those_of_the_very_features(dtype: torch.dtype) -> None:
    """Half-precision features are widened, so that their products are not rounded to half precision."""
    queries, keys = features(70).to(dtype), features(200, seed=1).to(dtype)
    scores, indices = top_k(queries, keys, 7, workspace_bytes=2 * SMALL)
    dense = (queries.double() @ keys.double().T).topk(7)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(scores.double(), dense.values, rtol=1e-6, atol=1e-6)
    assert torch.equal(indices, dense.indices)


def test_no_gradient_flows_and_nothing_is_changed() -> None:
    queries, keys = features(10).requires_grad_(), features(20, seed=1)
    before = keys.clone()
    assert not top_k(queries, keys, 3, normalize=True)[0].requires_grad
    assert torch.equal(keys, before)


def test_zero_rows_and_nan() -> None:
    queries = features(3)
    queries[1] = 0
    queries[2, 0] = torch.nan
    scores, _ = top_k(queries, features(100, seed=1), 5, normalize=True, workspace_bytes=SMALL)
    assert (scores[1] == 0).all()
    assert scores[2].isnan().all()
    assert scores[0].isfinite().all()


def recall_by_hand(similarity: torch.Tensor, answers: list[set[int]], k: int) -> float:
    """The share of hits, over the rows that have right answers."""
    ranked = similarity.argsort(1, descending=True)[:, :k].tolist()
    return sum(bool(answer & set(row)) for row, answer in zip(ranked, answers, strict=True) if answer) / sum(map(bool, answers))


@pytest.mark.parametrize("workspace", [SMALL, DEFAULT_WORKSPACE_BYTES])
def test_recall_with_several_texts_per_image(workspace: int) -> None:
    targets = torch.randint(0, 90, (350,), generator=torch.Generator().manual_seed(2))
    targets[targets == 7] = 8  # image 7 has no text
    images = features(90)
    texts = images[targets] + 1.5 * features(350, seed=3)
    found = recall_at_k(images, texts, (1, 3, 20), targets, workspace_bytes=workspace)
    similarity = F.normalize(images.double(), dim=1) @ F.normalize(texts.double(), dim=1).T
    of_image = [{t for t, i in enumerate(targets.tolist()) if i == image} for image in range(90)]
    assert not of_image[7]
    for k in (1, 3, 20):
        assert found["image_to_text"][k] == pytest.approx(recall_by_hand(similarity, of_image, k))
        assert found["text_to_image"][k] == pytest.approx(recall_by_hand(similarity.T, [{i} for i in targets.tolist()], k))
    assert 0 < found["text_to_image"][1] < found["text_to_image"][20] < 1


def test_recall_of_pairs() -> None:
    x = features(40)
    assert recall_at_k(x, 3 * x) == {"image_to_text": {1: 1.0, 5: 1.0, 10: 1.0}, "text_to_image": {1: 1.0, 5: 1.0, 10: 1.0}}
    shifted = recall_at_k(x, x.roll(1, 0), ks=[1, 40])
    assert shifted["image_to_text"] == {1: 0.0, 40: 1.0}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: top_k(x, x, 0), ValueError, r"k must be a whole number in \[1, 6\], the number to choose from; got 0"),
        (lambda x: top_k(x, x, 7), ValueError, "got 7"),
        (lambda x: top_k(x, x, 2.0), ValueError, "got 2.0"),
        (lambda x: top_k(x, x[:, :3], 1), ValueError, "keys must be as wide as queries, 24; got width 3"),
        (lambda x: top_k(x, x.double(), 1), TypeError, "cast one of them"),
        (lambda x: top_k(x, x.long(), 1), TypeError, "keys must be one of .*; got torch.int64"),
        (lambda x: top_k(x, x[0], 1), ValueError, r"keys must have shape \(rows, width\)"),
        (lambda x: top_k(x, x[:0], 1), ValueError, r"keys must have a row and a column .*; got shape \(0, 24\)"),
        (
            lambda x: top_k(x, x, 1, workspace_bytes=100),
            ValueError,
            r"workspace_bytes must be at least \d+, which one tile of features 24 wide takes; got 100",
        ),
        (lambda x: recall_at_k(x, x), ValueError, "got 10"),
        (lambda x: recall_at_k(x, x, ()), ValueError, "one or more numbers"),
        (lambda x: recall_at_k(x, x[:4], (1,)), ValueError, "pass targets, the image of each text"),
        (lambda x: recall_at_k(x, x, (1,), torch.arange(5)), ValueError, r"targets must be int64 \(6,\)"),
        (lambda x: recall_at_k(x, x, (1,), [0] * 6), ValueError, "got list"),
        (lambda x: recall_at_k(x, x, (1,), torch.arange(6) + 1), ValueError, r"images in \[0, 6\); got 6"),
    ],
)
def test_argument_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(features(6))


PROBE = """
import json, sys, torch
from clipfast.inference.retrieval import recall_at_k, top_k

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

def used(function, n, width):
    queries, keys = torch.randn(n, width), torch.randn(n, width)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before = resident("VmRSS")
    result = function(queries, keys)
    return resident("VmHWM") - before

few = lambda queries, keys: top_k(queries, keys, 10, normalize=True)
many = lambda queries, keys: top_k(queries, keys, 1500)
recall = lambda queries, keys: recall_at_k(queries, keys, (1, 10))
for function in (few, many, recall):
    used(function, 2048, 16)  # thread pools and the libraries' own buffers
print(json.dumps({"few": used(few, 25_000, 16), "many": used(many, 2_500, 16), "recall": used(recall, 12_000, 16)}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_the_result_and_the_workspace() -> None:
    """25,000 x 25,000 similarities would take 2.3 GiB, 12,000 x 12,000 ones 549 MiB; 1500 candidates of 1000 queries 103."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if "clear_refs" in done.stderr:
        pytest.skip("the kernel does not let a process reset its high-water mark")
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    results = {"few": 25_000 * 10 * 12, "many": 2_500 * 1500 * 12, "recall": 2 * 12_000 * 10 * 12}
    for name, result in results.items():
        assert used[name] <= result + 64 * MIB, f"{name}: {(used[name] - result) / MIB:.0f} MiB beside the result"
