"""A loss is one declaration: a made-up member of the softmax family, declared in this file alone, gets everything else.

The decoupled loss (Yeh et al., 2022) leaves the positive out of the denominator: a line's loss is R - z, whose derivative by
R is 1 and by the positive's logit -1.
"""

from __future__ import annotations

import doctest
import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SWEEPS, counted_products, error, random_pairs, small_tiles
from torch import Tensor
from typer.testing import CliRunner

from clipfast.bench.measure import compare
from clipfast.cli.app import app
from clipfast.common.limits import using
from clipfast.losses import arguments, dispatch
from clipfast.losses.declaration import LOSSES, Loss, VectorBytes, declare, table
from clipfast.losses.dense import diagonal
from clipfast.losses.options import DEFAULTS, DESCRIPTIONS, LossOptions, documented
from clipfast.operators.record import Inputs, Options
from clipfast.operators.registration import ops
from clipfast.operators.softmax_family import SoftmaxFamily
from clipfast.plan import operations
from clipfast.plan.problem import Problem

ROOT = Path(__file__).parents[2]


class Decoupled:
    def close(self, negatives: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        return negatives - positive, negatives

    def pull(self, loss: Tensor) -> Tensor:
        return torch.ones_like(loss)


def dense(z: Tensor, targets: Tensor | None) -> Tensor:
    return z.masked_fill(diagonal(z), -torch.inf).logsumexp(1) - z.diagonal()


def textbook(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return dense(scale * a @ b.t(), None).mean()


def fused(a: Tensor, b: Tensor, scale: Tensor, **options: Any) -> Tensor:
    return decoupled_loss(a, b, scale, **options)


@documented({})
def decoupled_loss(queries: Tensor, keys: Tensor, logit_scale: Tensor | float, **options) -> Tensor:
    """Each query's negatives against its key, without the key in the denominator."""
    loss = LOSSES["decoupled"]
    a, b, checked = dispatch.features(loss, queries, keys, None, options)
    scale = arguments.number(logit_scale, a, "logit_scale")
    return dispatch.evaluate(dispatch.Call(loss, Inputs(a, b, scale, None, None), checked)).value


DECOUPLED = Loss(
    name="decoupled",
    summary="queries against keys, the positive left out of the denominator",
    sides=("queries", "keys"),
    family=SoftmaxFamily(function=Decoupled()),
    dense=dense,
    textbook=textbook,
    fused=fused,
    vector_bytes=VectorBytes(124, 68),
)
each_sweep = pytest.mark.parametrize("backend", SWEEPS)


@pytest.fixture(scope="module", autouse=True)
def declared() -> Iterator[None]:
    """In the catalogue while this file's tests run; its operators stay."""
    declare(DECOUPLED)
    yield
    del LOSSES["decoupled"]


def leaves(n: int = 33, d: int = 8, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    a, b = (x.to(dtype).requires_grad_() for x in random_pairs(n, d))
    return [a, b, torch.tensor(5.0, dtype=dtype, requires_grad=True)]


@each_sweep
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("n", [33, 500])
def test_values_and_gradients_are_the_dense_definition_s(n: int, reduction: str, backend: str) -> None:
    want = decoupled_loss(*(wanted := leaves(n)), reduction=reduction, backend="reference")
    upstream = torch.linspace(0.5, 2, want.numel(), dtype=torch.float64).view(want.shape)
    want.backward(upstream)
    with small_tiles(64):
        got = decoupled_loss(*(given := leaves(n, dtype=torch.float32)), reduction=reduction, backend=backend)
        got.backward(upstream.float())
    assert error(got.detach(), want.detach()) < 1e-6
    for x, y in zip(given, wanted, strict=True):
        assert error(x.grad, y.grad) < 1e-5


def test_gradcheck() -> None:
    with small_tiles():
        assert torch.autograd.gradcheck(lambda *x: decoupled_loss(*x, backend="torch"), leaves(13, 3))
        assert torch.autograd.gradcheck(lambda *x: decoupled_loss(*x, backend="torch", reduction="none"), leaves(13, 3))


@each_sweep
@pytest.mark.parametrize("kind", ["mean", "losses"])
def test_operators(kind: str, backend: str) -> None:
    a, b, scale = leaves(20, dtype=torch.float32)
    options = Options(True, False, [True, True, True, False], 2**16, backend, "", "auto")
    operator = getattr(ops, f"decoupled_{kind}").default
    torch.library.opcheck(operator, (a, b, scale, None, None, *options))


@each_sweep
def test_small_batches_take_the_dense_definition_and_others_the_sweep(backend: str) -> None:
    """The C++ of the single tile knows cross-entropies alone."""
    a, b, scale = leaves(dtype=torch.float32)
    call = dispatch.Call(DECOUPLED, Inputs(a, b, scale, None, None), dispatch.PLAIN["decoupled"])
    assert dispatch.route(call) == dispatch.REFERENCE
    assert error(decoupled_loss(a, b, scale).detach(), decoupled_loss(a, b, scale, backend=backend).detach()) < 1e-6


def test_bench_compares_it_with_the_textbook() -> None:
    found = compare("decoupled", 48, 8, compiled=False, budget_seconds=0.0)
    assert found["results"][0]["name"] == "dense eager"
    shown = CliRunner().invoke(app, ["bench", "--loss", "decoupled", "--sizes", "32", "--no-compiled", "--seconds", "0"])
    assert shown.exit_code == 0, shown.output
    assert "decoupled loss" in shown.output


@each_sweep
def test_plan_counts_its_operations(backend: str, tmp_path: Path) -> None:
    problem = Problem("decoupled", 700, 24, "float32", device="cpu", workspace_bytes=2**20)
    with counted_products(backend) as counts:
        decoupled_loss(*leaves(700, 24, torch.float32), backend=backend, workspace_bytes=2**20).backward()
    assert 2 * sum(counts.values()) == sum(p.operations for p in operations.single(problem))
    with using(kept_logits=100_000):
        assert operations.single(problem) != operations.single(Problem("clip", 700, 24, "float32", device="cpu"))
    command = ["plan", "--batch", "4096", "--dim", "64", "--loss", "decoupled", "--json", str(tmp_path / "plan.json")]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert json.loads((tmp_path / "plan.json").read_text())["problem"]["loss"] == "decoupled"


def test_its_row_of_the_documentation_s_table_and_its_help() -> None:
    assert f"| [`decoupled_loss`](decoupled.md) | {DECOUPLED.summary} |" in table()
    assert all(f"``{name}``" in str(decoupled_loss.__doc__) for name in DESCRIPTIONS)
    assert list(inspect.signature(decoupled_loss).parameters) == ["queries", "keys", "logit_scale", *DESCRIPTIONS]


def test_errors_name_the_function_and_what_it_accepts() -> None:
    a, b, scale = leaves()
    with pytest.raises(
        TypeError, match=r"decoupled_loss\(\) takes no argument 'reductoin'; beside its own it accepts normalize"
    ):
        decoupled_loss(a, b, scale, reductoin="mean")
    with pytest.raises(ValueError, match="the name of a loss must be new; got 'decoupled'"):
        declare(DECOUPLED)
    for name in ("", "a b", "1st", "x.y", "class", "verlust_ü"):
        with pytest.raises(ValueError, match="the name of a loss must be an ASCII identifier, such as 'info_nce'; got"):
            declare(replace(DECOUPLED, name=name))


# What every declaration of the catalogue keeps.

each_declared = pytest.mark.parametrize(
    "loss", [x for x in LOSSES.values() if x.name != "decoupled"], ids=lambda loss: loss.name
)


@each_declared
def test_fused_is_the_textbook_s_expression(loss: Loss) -> None:
    a, b, scale = leaves()
    want, got = loss.textbook(a, b, scale), loss.fused(a, b, scale)
    assert error(got.detach(), want.detach()) < 1e-12
    wanted, given = (torch.autograd.grad(value, (a, b, scale)) for value in (want, got))
    assert all(error(x, y) < 1e-10 for x, y in zip(given, wanted, strict=True))


@each_declared
def test_help_explains_every_argument_and_its_example_runs(loss: Loss) -> None:
    function = getattr(__import__("clipfast"), f"{loss.name}_loss")
    documentation = str(function.__doc__)
    own = [name for name in inspect.signature(function).parameters if name not in DESCRIPTIONS]
    for name in own:
        assert f"``{name}``" in documentation, name
    examples = doctest.DocTestFinder().find(function, globs={"torch": torch, function.__name__: function})
    assert examples[0].examples
    assert all(doctest.DocTestRunner().run(example).failed == 0 for example in examples)


def test_options_are_described_once() -> None:
    assert list(DEFAULTS) == list(DESCRIPTIONS)
    assert set(DEFAULTS) == set(LossOptions.__annotations__)


def test_the_documentation_holds_the_catalogue() -> None:
    catalogue = "\n".join(line for line in table().splitlines() if "decoupled" not in line)
    assert catalogue in (ROOT / "docs" / "losses" / "index.md").read_text("utf-8")
