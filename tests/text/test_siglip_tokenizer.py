"""SigLIP's tokenizer with a SentencePiece model trained here on a few sentences."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from peers import peer_module
from pieces import T5_IDS, train
from texts import varied_texts

from clipfast.text.siglip_tokenizer import SentencePieceTokenizer, canonicalize

sentencepiece = pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With T5's ids: padding 0, end 1, unknown 2, no start."""
    return train(tmp_path_factory.mktemp("pieces"), **T5_IDS)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("A photo, of_a CAT!", "a photo of a cat"),
        ("  it's\t\n(two)  cats ", "its two cats"),
        ("snake__case--word", "snake caseword"),
        ("“Ünïcode” — stays", "“ünïcode” — stays"),
        ("...", ""),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert canonicalize(text) == canonical


@pytest.mark.parametrize("pad_id", [None, 0])
def test_rows_are_ids_end_and_padding(model: Path, pad_id: int | None) -> None:
    tokenizer = SentencePieceTokenizer(model, context_length=12, pad_id=pad_id)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode("a small dog")
    rows = tokenizer(["A small dog.", ""])
    padding = 1 if pad_id is None else 0
    assert rows.dtype == torch.int32
    assert rows[0].tolist() == [*plain, 1] + [padding] * (11 - len(plain))
    assert rows[1].tolist() == [1] + [padding] * 11
    assert tokenizer.decode(rows[0]) == "a small dog"
    assert tokenizer("a cat", context_length=9).shape == (1, 9)


def test_a_long_text_is_refused_or_keeps_its_end(model: Path) -> None:
    tokenizer = SentencePieceTokenizer(model, context_length=4)
    with pytest.raises(RuntimeError, match="Input the quick brown fox is too long for context length 4"):
        tokenizer("the quick brown fox")
    cut = tokenizer("the quick brown fox", truncate=True)
    assert cut[0, :3].tolist() == tokenizer.encode("the quick brown fox")[:3]
    assert cut[0, 3] == 1


def test_canonical_text_and_rows_equal_open_clips(model: Path) -> None:
    theirs = peer_module("open_clip", "tokenizer.py", "open_clip_torch").canonicalize_text
    assert all(canonicalize(text) == theirs(text) for text in varied_texts(5000))


def test_it_goes_to_a_worker_process(model: Path) -> None:
    tokenizer = SentencePieceTokenizer(model, context_length=16, pad_id=0)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert repr(again) == repr(tokenizer)
    assert torch.equal(again("a cat"), tokenizer("a cat"))


def test_files_that_do_not_serve(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no SentencePiece model at"):
        SentencePieceTokenizer(tmp_path / "none.model")
    (tmp_path / "text.model").write_text("no model")
    with pytest.raises(ValueError, match=r"path must be a SentencePiece model; got .*text.model"):
        SentencePieceTokenizer(tmp_path / "text.model")
    with pytest.raises(ValueError, match="must have an end-of-text piece"):
        SentencePieceTokenizer(train(tmp_path, eos_id=-1))
    with pytest.raises(ValueError, match=r"pad_id must be in \[0, \d+\), or None for the end's id; got 1000"):
        SentencePieceTokenizer(model, pad_id=1000)
    with pytest.raises(TypeError, match="a text must be a string; got int"):
        SentencePieceTokenizer(model)([3])
