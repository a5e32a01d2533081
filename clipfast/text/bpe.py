"""Byte-pair encoding of single words, with OpenAI's vocabulary file."""

from __future__ import annotations

import gzip
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

START_OF_TEXT, END_OF_TEXT = 49406, 49407
VOCABULARY_SIZE = 49408
SPECIAL = {"<|startoftext|>": (START_OF_TEXT,), "<|endoftext|>": (END_OF_TEXT,)}

WORD_END = 256  # a byte that ends a word has this much added to its id
MERGED = 512  # id of the first merge
CACHED_WORDS = 2**17  # some 30 MB of words with their ids; a full cache is emptied

Merges = dict[tuple[int, int], int]


class Words(dict[str, tuple[int, ...]]):
    """A cache: the ids of the words seen so far. Looking up another word computes its ids."""

    def __init__(self, merges: Merges) -> None:
        super().__init__(SPECIAL)
        self.merges = merges

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= CACHED_WORDS:
            self.clear()
            self.update(SPECIAL)
        self[word] = ids = merge(word.encode("utf-8"), self.merges)
        return ids


def merge(word: bytes, merges: Merges) -> tuple[int, ...]:
    """The ids of a word: join neighbours, the vocabulary's earliest merge first and from left to right, until no pair merges.

    The ids of merges grow with their ranks, and a pair's id is above those of its parts. So a heap of (id of the pair,
    position) yields the pairs in that order, in O(n log n) for a word of n bytes.
    """
    ids = [BYTE_IDS[byte] for byte in word]
    ids[-1] += WORD_END
    count = len(ids)
    after, before = list(range(1, count + 1)), list(range(-1, count - 1))
    heap = [(merges[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
    heapify(heap)
    while heap:
        joined, i = heappop(heap)
        j = after[i]
        if j >= count or merges.get((ids[i], ids[j])) != joined:  # one of them has been joined with its other neighbour
            continue
        ids[i], ids[j] = joined, -1
        after[i] = k = after[j]
        if k < count:
            before[k] = i
            if right := merges.get((joined, ids[k])):
                heappush(heap, (right, i))
        h = before[i]
        if h >= 0 and (left := merges.get((ids[h], joined))):
            heappush(heap, (left, h))
    return tuple(i for i in ids if i >= 0)


def _byte_order() -> list[int]:
    """The bytes in the order of their ids: those with a visible Latin-1 character, then the others."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return visible + [b for b in range(256) if b not in visible]


BYTE_IDS = {byte: i for i, byte in enumerate(_byte_order())}


def read_vocabulary(path: Path) -> tuple[Merges, list[bytes]]:
    """Merges by the ids of their parts, and the bytes of each id, ``</w>`` included.

    The file spells each byte as a visible character: its own if it has one, otherwise one from U+0100 on.
    """
    order = _byte_order()
    spelled = [chr(b) for b in order[:188]] + [chr(0x100 + i) for i in range(68)]
    texts = spelled + [character + "</w>" for character in spelled]
    ids = {text: i for i, text in enumerate(texts)}
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges: Merges = {}
    # The first line is a heading, and the file has more merges than CLIP's vocabulary.
    for i, line in enumerate(lines[1 : 1 + VOCABULARY_SIZE - MERGED - len(SPECIAL)], MERGED):
        left, right = line.split()
        merges[ids[left], ids[right]] = ids[left + right] = i
        texts.append(left + right)
    to_byte = dict(zip(spelled, order, strict=True))
    return merges, [bytes(to_byte[c] for c in text) for text in [*texts, *SPECIAL]]
