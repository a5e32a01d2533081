"""The tokenizer against OpenAI's and open_clip's, string by string; its vocabulary file; its arguments."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peers import peer_module
from texts import varied_texts

from clipfast.text import bpe, vocabulary
from clipfast.text.tokenizer import Tokenizer, default_tokenizer, tokenize

TEXTS = varied_texts(6000)


@pytest.fixture(scope="module")
def original():
    return peer_module("clip", "simple_tokenizer.py", "openai-clip").SimpleTokenizer()


@pytest.fixture(scope="module")
def ids() -> list[list[int]]:
    return [default_tokenizer().encode(text) for text in TEXTS]


def test_ids_equal_openais(original, ids) -> None:
    wrong = [text for text, mine in zip(TEXTS, ids, strict=True) if mine != original.encode(text)]
    assert not wrong, f"{len(wrong)} of {len(TEXTS)} differ, such as {wrong[0]!r}"


def test_decoded_texts_equal_openais(original, ids) -> None:
    tokenizer = default_tokenizer()
    assert all(tokenizer.decode(mine) == original.decode(mine) for mine in ids)
    everything = list(range(tokenizer.vocab_size))
    assert tokenizer.decode(everything) == original.decode(everything)
    assert tokenizer.decode(tokenize("hello world!")[0][:5]) == "<|startoftext|>hello world ! <|endoftext|>"


def test_rows_equal_open_clips() -> None:
    texts = varied_texts(5500, special_tokens=False)  # its special tokens are spelled differently
    theirs = peer_module("open_clip", "tokenizer.py", "open_clip_torch").SimpleTokenizer()(texts)
    mine = tokenize(texts, truncate=True)
    assert mine.dtype == torch.int32
    assert torch.equal(mine.long(), theirs)


def test_the_texts_are_varied(ids) -> None:
    """The texts hold every case that the comparisons claim to cover."""
    assert len(set(TEXTS)) >= 5000
    assert max(len(row) for row in ids) > 300
    assert [] in ids
    assert sum(text.isascii() and text.isprintable() and "&" not in text for text in TEXTS) > 500
    assert {i for row in ids for i in row} >= {bpe.START_OF_TEXT, bpe.END_OF_TEXT}


def test_a_row_is_start_ids_end_and_zeros() -> None:
    assert tokenize("a diagram", context_length=6).tolist() == [[49406, 320, 22697, 49407, 0, 0]]
    assert tokenize(("a dog", "")).shape == (2, 77)
    assert tokenize([]).shape == (0, 77)


def test_a_long_text_is_refused_or_cut() -> None:
    text = "word " * 80
    with pytest.raises(RuntimeError, match=f"Input {text} is too long for context length 77"):
        tokenize(["short", text])
    cut = tokenize(text, truncate=True)[0]
    assert cut[0] == 49406
    assert cut[-1] == 49407
    assert (cut[1:-1] == cut[1]).all()
    assert tokenize("word " * 75).shape == (1, 77)  # the longest text that fits
    assert tokenize("two words", context_length=1, truncate=True).tolist() == [[49407]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tokenize(3), TypeError, "texts must be a string or several strings; got int"),
        (lambda: tokenize(b"bytes"), TypeError, "got bytes"),
        (lambda: tokenize(["fine", None]), TypeError, "a text must be a string; got NoneType"),
        (lambda: tokenize("text", context_length=0), ValueError, "context_length must be a whole number of at least 1; got 0"),
        (lambda: default_tokenizer().decode([49408]), ValueError, r"each in \[0, 49408\); got 49408"),
        (lambda: default_tokenizer().decode(tokenize("a batch")), ValueError, "ids must be those of one text"),
    ],
)
def test_argument_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_cache_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "CACHED_WORDS", 10)
    tokenizer = Tokenizer()
    for text in TEXTS[-50:]:
        assert tokenizer.encode(text) == default_tokenizer().encode(text)
        assert len(tokenizer._ids) <= 10
    assert tokenizer.encode("<|endoftext|>") == [49407]


def test_it_goes_to_a_worker_process() -> None:
    tokenizer = Tokenizer(context_length=16)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(again("a cat"), tokenizer("a cat"))
    assert repr(again) == repr(tokenizer)


def test_the_vocabulary_may_be_given_and_is_checked(tmp_path: Path) -> None:
    copy = tmp_path / "mine.gz"
    shutil.copy(vocabulary.find_vocabulary(), copy)
    assert Tokenizer(copy).path == copy
    copy.write_bytes(copy.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"path must be CLIP's vocabulary, .*; got .*mine.gz with sha256 "):
        Tokenizer(copy)
    with pytest.raises(FileNotFoundError, match="no vocabulary file at"):
        Tokenizer(tmp_path / "nothing.gz")


def test_the_vocabulary_is_found_in_the_cache_then_in_a_package_then_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vocabulary.find_vocabulary().read_bytes()
    site, cache = tmp_path / "site", tmp_path / "cache"
    for package, content in (("clip", b"a clipboard tool"), ("open_clip", real)):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("raise AssertionError('imported')")
        (site / package / vocabulary.NAME).write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(site)])
    for package in vocabulary.PACKAGES:
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(vocabulary, "cache_folder", lambda: cache)
    asked = []
    monkeypatch.setattr(vocabulary, "download", lambda *arguments: asked.append(arguments))
    assert vocabulary.find_vocabulary() == site / "open_clip" / vocabulary.NAME
    cache.mkdir()
    (cache / vocabulary.NAME).write_bytes(real)
    assert vocabulary.find_vocabulary() == cache / vocabulary.NAME
    monkeypatch.setattr(sys, "path", [])
    (cache / vocabulary.NAME).write_bytes(b"damaged")
    vocabulary.find_vocabulary()
    assert asked == [(vocabulary.URL, vocabulary.SHA256, cache)]


@pytest.mark.parametrize("package", ["ftfy", "regex"])
def test_a_missing_package_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import clipfast.text.tokenizer as t; t.tokenize('a cat')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"the tokenizer needs {package}, which is not installed: pip install {package}" in done.stderr
