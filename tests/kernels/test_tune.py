"""The choice of a block: the table's first, or the fastest that was measured, kept for the next process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clipfast.kernels import block_sizes, tune
from clipfast.kernels.block_sizes import SAFE, TABLE, Block

FEATURES = torch.empty(4, 8, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def a_hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Block]:
    """A machine on which the table's last block is the fastest; the blocks that were timed."""
    timed: list[Block] = []
    monkeypatch.setattr(block_sizes, "capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a Hopper")
    monkeypatch.setattr(tune, "_time", lambda block, dtype: timed.append(block) or -len(timed))
    monkeypatch.setenv("CLIPFAST_CACHE", str(tmp_path))
    tune._fastest.cache_clear()
    return timed


def test_nothing_is_timed_unless_asked_for(a_hopper: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPFAST_AUTOTUNE", raising=False)
    assert tune.block_of(FEATURES) == TABLE[9][0]
    assert a_hopper == []
    assert not tune.cache_file().exists()


def test_the_fastest_is_kept_for_the_next_process(a_hopper: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFAST_AUTOTUNE", "1")
    for _ in range(2):
        assert tune.block_of(FEATURES) == TABLE[9][-1]
        tune._fastest.cache_clear()  # as in a new process
    assert a_hopper == list(TABLE[9])
    assert len(json.loads(tune.cache_file().read_text())) == 1


def test_an_unreadable_file_is_measured_again(a_hopper: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFAST_AUTOTUNE", "1")
    tune.cache_file().write_text("{")
    assert tune.block_of(FEATURES) == TABLE[9][-1]
    assert len(a_hopper) == len(TABLE[9])


def test_ieee_float32_has_one_block(a_hopper: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFAST_AUTOTUNE", "1")
    assert tune.block_of(FEATURES.float()) == SAFE
    assert a_hopper == []
