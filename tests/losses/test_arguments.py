"""What the losses refuse, with the words they refuse it in; and what must not change a result."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import CLIP, HALF, LOSSES, NEEDS_EXTENSION, NT_XENT, SIGLIP, SWEEPS, Loss, each_loss, error, random_pairs

import clipfast
from clipfast.compute import native, triton_backend
from clipfast.compute.backend_declaration import Query
from clipfast.compute.cpu_backend import CPU
from clipfast.compute.cuda_backend import CUDA
from clipfast.compute.registry import AUTO, choose, resolve
from clipfast.compute.triton_backend import TRITON
from clipfast.losses.clip import CLIP as DECLARED
from clipfast.losses.declaration import PLAIN
from clipfast.losses.dispatch import REFERENCE, SINGLE, Call, route
from clipfast.losses.options import checked
from clipfast.operators.record import Inputs

A, B = (x.float() for x in random_pairs(140, 16))
FEW = B[:139]


def call(loss: Loss, a, b, scale=10.0, **options):
    return loss(a, b, scale, **options)


@each_loss
@pytest.mark.parametrize(
    ("a", "b", "kind", "message"),
    [
        ([[1.0]], B, TypeError, "must be a tensor of features (rows, width); got list"),
        (
            A.long(),
            B,
            TypeError,
            "must be one of torch.float32, torch.float64, torch.bfloat16, torch.float16; got torch.int64",
        ),
        (A, B.to(torch.complex64), TypeError, "got torch.complex64"),
        (A[0], B, ValueError, "must have shape (rows, width); got (16,)"),
        (A, B[None], ValueError, "must have shape (rows, width); got (1, 140, 16)"),
        (A[:0], B, ValueError, "must have a row and a column at least; got shape (0, 16)"),
        (A, B[:, :0], ValueError, "must have a row and a column at least; got shape (140, 0)"),
        (A, B[:, :8], ValueError, ", 16; got width 8"),
        (A, B.to("meta"), ValueError, "got meta; move them to one device"),
        (A.double(), B, TypeError, "outside autocast nothing is promoted silently"),
        (A, B.half(), TypeError, "cast one of them"),
    ],
    ids=lambda x: None if isinstance(x, (torch.Tensor, type, list)) else "-".join(re.findall(r"\w+", x)[:6]),
)
def test_features_that_are_refused(loss: Loss, a, b, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call(loss, a, b)


@pytest.mark.parametrize(
    ("loss", "advice"),
    [
        (CLIP, "text_features must have 140 rows, as image_features has; got 139; pass targets (M,) int64"),
        (SIGLIP, "text_features must have 140 rows, as image_features has; got 139; the sigmoid loss takes them in pairs"),
        (NT_XENT, "z2 must have 140 rows, as z1 has; got 139; each sample needs its two views"),
    ],
    ids=["clip", "siglip", "nt_xent"],
)
def test_unequal_numbers_say_what_to_pass(loss: Loss, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        call(loss, A, FEW)


def test_more_queries_than_keys_need_targets() -> None:
    with pytest.raises(ValueError, match="got 139 keys for 140 queries; pass targets"):
        clipfast.info_nce_loss(A, FEW, 1.0)


@pytest.mark.parametrize("backend", [*SWEEPS, "reference"])
@pytest.mark.parametrize("function", [clipfast.clip_loss, clipfast.info_nce_loss], ids=["clip", "info_nce"])
@pytest.mark.parametrize(
    ("targets", "kind", "message"),
    [
        ([0, 1], TypeError, "targets must be an int64 tensor with each row's column; got list"),
        (torch.arange(140).int(), TypeError, "got torch.int32"),
        (torch.arange(139), ValueError, "targets must have shape (140,), one column for each row; got (139,)"),
        (torch.arange(140).to("meta"), ValueError, "targets must be on cpu, as the features are; got meta"),
        (torch.arange(1, 141), ValueError, "targets must be columns in [0, 140) or -100; got targets[139] = 140"),
        (torch.arange(140) - 1, ValueError, "targets must be columns in [0, 140) or -100; got targets[0] = -1"),
    ],
    ids=["list", "int32", "shape", "device", "beyond", "negative"],
)
def test_targets_that_are_refused(function, targets, kind: type[Exception], message: str, backend: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        function(A, B, 1.0, targets=targets, backend=backend)


@pytest.mark.parametrize("backend", [*SWEEPS, "reference"])
def test_two_images_of_one_text_are_refused(backend: str) -> None:
    with pytest.raises(ValueError, match=r"targets must name each column once at most.*use info_nce_loss for one direction"):
        clipfast.clip_loss(A, B, 1.0, targets=torch.arange(140).clamp_min(1), backend=backend)


@pytest.mark.parametrize("backend", [*SWEEPS, "reference"])
@pytest.mark.parametrize("loss", LOSSES[:2], ids=lambda loss: loss.name)
def test_all_targets_ignored_is_the_mean_of_nothing(loss: Loss, backend: str) -> None:
    """An error, where ``F.cross_entropy`` gives NaN; the sum is 0 and so are its gradients."""
    targets = torch.full((140,), -100)
    a = A.clone().requires_grad_()
    for x in (A, a):
        with pytest.raises(ValueError, match="got -100 everywhere"):
            call(loss, x, B, targets=targets, backend=backend)
    total = call(loss, a, B, targets=targets, backend=backend, reduction="sum")
    total.backward()
    assert total == 0
    assert not a.grad.any()


@each_loss
@pytest.mark.parametrize(
    ("scale", "kind", "message"),
    [
        ("1", TypeError, "must be a float or a floating tensor with one element; got str"),
        (True, TypeError, "got bool"),
        (None, TypeError, "got NoneType"),
        (torch.ones(2), ValueError, "got torch.float32 (2,)"),
        (torch.tensor(1), ValueError, "got torch.int64 ()"),
    ],
    ids=["str", "bool", "none", "two", "integer"],
)
def test_scales_that_are_refused(loss: Loss, scale, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call(loss, A, B, scale)


@each_loss
def test_reductions_and_workspaces_that_are_refused(loss: Loss) -> None:
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', 'none'; got 'avg'"):
        call(loss, A, B, reduction="avg")
    with pytest.raises(
        ValueError, match="workspace_bytes must be at least 40960, which one tile of features 16 wide takes; got 16383"
    ):
        call(loss, A, B, workspace_bytes=16383, backend="torch")


@each_loss
@pytest.mark.parametrize(
    "options", [{"normalize": "no"}, {"normalize": None}, {"workspace_bytes": "64M"}, {"workspace_bytes": 1e8}]
)
def test_options_of_a_wrong_type_are_refused(loss: Loss, options: dict) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"{name} must be .*; got {options[name]!r}"):
        call(loss, A, B, **options)


@each_loss
def test_backends_that_are_refused(loss: Loss) -> None:
    accepted = ", ".join(map(repr, clipfast.backends()))
    with pytest.raises(ValueError, match=f"backend must be one of {accepted}, None; got 'gpu'"):
        call(loss, A, B, backend="gpu")
    with pytest.raises(
        ValueError, match=r"backend must be one that can run this call; got 'cpu': .*pass None to let clipfast choose"
    ):
        call(loss, A.double(), B.double(), backend="cpu")


@NEEDS_EXTENSION
def test_every_predicate_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = clipfast.backends()
    assert [name for name in ("cpu", "torch", "reference") if usable[name] is None] == ["cpu", "torch", "reference"]
    on_gpu = Query("cuda", torch.float32)
    assert CPU.why_not(on_gpu) == "it runs on the CPU; the features are on cuda"
    assert "computes in float32" in CPU.why_not(Query("cpu", torch.float64))
    assert choose(Query("cuda", torch.float64)) == "torch"
    monkeypatch.setattr(native, "load_error", lambda extension="cpu": "it was not built")
    assert "not available: it was not built" in clipfast.backends()["cpu"]
    assert "not available: it was not built" in CUDA.why_not(on_gpu)


def test_the_predicates_of_the_gpu_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load_error", lambda extension="cpu": None)
    monkeypatch.setattr(triton_backend, "triton_missing", lambda: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    half, single = Query("cuda", torch.bfloat16, 64), Query("cuda", torch.float32, 64)
    assert TRITON.why_not(half) is None
    assert CUDA.why_not(half) is None
    assert choose.__wrapped__(half) == "triton"
    assert TRITON.why_not(Query("cpu", torch.bfloat16)) == "it runs on a GPU; the features are on cpu"
    assert "float64 features need the torch backend" in TRITON.why_not(Query("cuda", torch.float64))
    assert "have 34 bytes, no multiple of 16" in CUDA.why_not(Query("cuda", torch.bfloat16, 34))
    assert "TF32" in CUDA.why_not(single)
    monkeypatch.setattr(triton_backend, "triton_missing", lambda: "Triton is not installed")
    assert choose.__wrapped__(half) == "torch"


@NEEDS_EXTENSION
def test_small_batches_do_without_a_sweep() -> None:
    def way(rows: torch.Tensor, cols: torch.Tensor, **options) -> str:
        return route(
            Call(DECLARED, Inputs(rows, cols, torch.tensor(1.0), None, None), checked("clip_loss", PLAIN["clip"], options))
        )

    x = torch.zeros(385, 16)
    assert way(x[:384], x[:384]) == SINGLE
    assert way(x[:384], x[:384], reduction="sum") == REFERENCE
    assert way(x[:384].double(), x[:384].double()) == REFERENCE
    assert way(x, x[:384]) == AUTO
    assert resolve(AUTO, A).name == choose(Query("cpu", torch.float32))
    assert resolve(AUTO, A.double()).name == "torch"


@each_loss
@pytest.mark.parametrize("narrow", HALF, ids=str)
def test_autocast_promotes_the_narrower_tower(loss: Loss, narrow: torch.dtype) -> None:
    a, b = A.clone().requires_grad_(), B.to(narrow).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = call(loss, a, b)
    mixed.backward()
    assert mixed.dtype == torch.float32
    assert error(mixed.detach(), call(loss, A, B.to(narrow).float())) < 1e-7
    assert (a.grad.dtype, b.grad.dtype) == (torch.float32, narrow)


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_modules_have_open_clips_results_and_need_a_process_group(name: str) -> None:
    module = getattr(clipfast, name)
    scalars = (10.0,) if name == "ClipLoss" else (10.0, -10.0)
    value = module()(A, B, *scalars)
    assert module(rank=0, world_size=1)(A, B, *scalars, output_dict=True) == {"contrastive_loss": value}
    with pytest.raises(RuntimeError, match=rf"{name}\(world_size=2\) needs torch.distributed.init_process_group first"):
        module(world_size=2)


def test_horovod_is_refused() -> None:
    with pytest.raises(ValueError, match="use_horovod must be False; got True"):
        clipfast.ClipLoss(use_horovod=True)
    assert isinstance(clipfast.ClipLoss(True, True, True), torch.nn.Module)


@each_loss
def test_the_distributed_arguments(loss: Loss) -> None:
    for wrong, message in (
        ({"strategy": "tree"}, "strategy must be one of 'auto', 'gather', 'ring'; got 'tree'"),
        ({"gradient_reduction": "max"}, "gradient_reduction must be one of 'mean', 'sum'; got 'max'"),
    ):
        with pytest.raises(ValueError, match=message):
            call(loss, A, B, **wrong)
    with pytest.raises(
        TypeError, match=r"group must be a torch.distributed ProcessGroup that this process belongs to.*got str"
    ):
        call(loss, A, B, group="world")
