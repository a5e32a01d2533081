"""open_clip's trainer takes the same steps with the fused loss as with its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import open_clip_runs
import pytest
from helpers import error
from peer_imports import peer

import clipfast
from clipfast.integrations import open_clip as integration

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = 24


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = peer("open_clip_train.main")
    for name in ("create_loss", "setup_logging"):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored after the test
    open_clip_runs.write_pairs(tmp_path, PAIRS)
    open_clip_runs.quiet(module, tmp_path)
    return module


@pytest.mark.parametrize(
    ("loss", "flags"),
    [(clipfast.ClipLoss, []), (clipfast.SigLipLoss, ["--siglip"]), (clipfast.ClipLoss, ["--accum-freq", "2"])],
    ids=["clip", "siglip", "accumulated"],
)
def test_the_trajectory_is_that_of_open_clips_own_loss(trainer: ModuleType, tmp_path: Path, loss: type, flags: list[str]):
    with open_clip_runs.losses() as want:
        trainer.main(open_clip_runs.arguments(tmp_path, "theirs", *flags))
    with open_clip_runs.losses() as got:
        integration.main(open_clip_runs.arguments(tmp_path, "ours", *flags))
    assert len(got) == PAIRS // 6
    assert {kind for kind, _ in got} == {loss}
    assert loss not in {kind for kind, _ in want}
    assert [value for _, value in got] == pytest.approx([value for _, value in want], rel=1e-5)
    (ours, our_gradients), (theirs, their_gradients) = (open_clip_runs.trained(tmp_path, name) for name in ("ours", "theirs"))
    assert max(error(ours[name], value) for name, value in theirs.items()) < 1e-5
    assert error(our_gradients, their_gradients) < 1e-5


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--distill-model", "ViT-B-32", "--distill-pretrained", "openai"], "not among clipfast's losses"),
        (["--model", "coca_ViT-B-32"], "not among clipfast's losses"),
        (["--horovod", "--siglip"], "start the processes with torchrun"),
    ],
)
def test_other_losses_are_refused_before_anything_is_made(trainer: ModuleType, flags: list[str], reason: str):
    with pytest.raises(SystemExit, match=f"error: .*{reason}"):
        integration.main(flags)
    with pytest.raises(ValueError, match=reason):
        integration.create_loss(trainer.parse_args(flags))
