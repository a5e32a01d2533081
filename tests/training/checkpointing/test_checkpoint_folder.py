"""A folder of checkpoints: which are kept, which are found, and that none is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipfast.training.checkpointing.checkpoint_folder import Checkpoints


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    for step in (9, 10, 100_000_000):
        checkpoints.save(step, {"value": torch.full((50,), float(step))})
    assert [path.name for path in checkpoints.paths()] == ["step-100000000.pt", "step-00000010.pt"]
    newest = checkpoints.path(100_000_000)
    for damaged in (newest.read_bytes()[:-40], b""):
        newest.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"step-100000000\.pt is damaged and is passed over"):
            found = checkpoints.newest()
        assert found is not None
        assert found[0] == checkpoints.path(10)
        assert found[1]["value"].eq(10).all()
    (tmp_path / ".step-00000011.pt.x1y2").write_bytes(b"half")
    checkpoints.remove_unfinished()
    for step in (11, 12):
        checkpoints.save(step, {})  # the damaged one is later than both, and takes no place from them
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["step-00000011.pt", "step-00000012.pt", "step-100000000.pt"]


def test_a_checkpoint_runs_no_code(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    torch.save({"code": Path}, checkpoints.path(1))
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(ValueError, match=r"must have a readable checkpoint; got damaged ones only"),
    ):
        checkpoints.newest()
