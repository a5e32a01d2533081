"""The integrations in two processes of torchrun: losses and gradients are those of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning_runs
import open_clip_runs
import pytest
import tiny_clip
import tiny_sentences
import torch
from helpers import error
from peer_imports import peer
from torch import Tensor
from torch.utils.data import DataLoader

HERE = Path(__file__).resolve().parent
PEERS = ("open_clip_train.main", "sentence_transformers", "datasets", "transformers", "pytorch_lightning")
SECONDS = 300  # about 25 on one free core


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of the two processes."""
    for name in PEERS:
        peer(name)
    folder = tmp_path_factory.mktemp("ranks")
    open_clip_runs.write_pairs(folder, 24)
    tiny_sentences.write_encoder(folder / "encoder")
    path = os.pathsep.join(filter(None, [str(HERE.parent / "support"), str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(HERE / "two_ranks.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["clip", "clip local", "siglip"])
def test_open_clips_trainer_takes_the_same_steps(folder: Path, ranks: list[dict], name: str):
    ours, theirs = ([torch.tensor(rank["open_clip"][f"{side} {name}"]) for rank in ranks] for side in ("ours", "theirs"))
    assert ours[0].tolist() == ours[1].tolist(), "each rank has the loss of the whole batch"
    assert len(ours[0]) == 2
    torch.testing.assert_close(ours[0], (theirs[0] + theirs[1]) / 2, rtol=1e-5, atol=0)
    (got, gradient), (want, wanted) = (open_clip_runs.trained(folder, f"{side} {name}") for side in ("ours", "theirs"))
    assert max(error(got[key], value) for key, value in want.items()) < 1e-4  # biases begin at 0: their steps are small
    assert error(gradient, wanted) < 1e-5


@pytest.mark.parametrize("name", ["one direction", "both directions"])
@pytest.mark.parametrize("side", ["ours", "cached"])
def test_sentence_transformers_gathering(ranks: list[dict], side: str, name: str):
    def seen(side: str) -> tuple[list[Tensor], list[Tensor]]:
        return tuple(zip(*(rank["sentences"][f"{side} {name}"] for rank in ranks), strict=True))

    (values, gradients), (their_values, their_gradients) = seen(side), seen("theirs")
    for value, gradient in zip(values, gradients, strict=True):
        assert error(value, sum(their_values) / 2) < 1e-12
        assert error(gradient, their_gradients[0]) < 1e-10


def test_lightning_takes_the_steps_of_one_process(ranks: list[dict]):
    model, pairs = lightning_runs.model_and_pairs(lightning_runs.example())
    start = lightning_runs.flat(model)
    lightning_runs.plain_steps(model, DataLoader(pairs, batch_size=20), epochs=2)  # both processes' 10 pairs
    for rank in ranks:
        assert error(rank["lightning"] - start, lightning_runs.flat(model) - start) < 1e-9


@pytest.mark.parametrize("kind", tiny_clip.KINDS)
def test_transformers_models_gathering(ranks: list[dict], kind: str):
    model = tiny_clip.models(kind, double=True)[0]
    loss = model(**tiny_clip.collate(tiny_clip.pairs(torch.float64)[:8])).loss
    loss.backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for value, gradient in (rank["models"][kind] for rank in ranks):
        assert error(value, loss.detach()) < 1e-12
        assert error(gradient, wanted) < 1e-10
