"""Texts per second of clipfast's tokenizer and of OpenAI's, in one process: python benchmarks/bench_tokenizer.py"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from clipfast import Tokenizer
from clipfast.bench.peers import file_of_package

COUNT, ROUNDS = 3000, 5


def original() -> Callable[[str], list[int]]:
    """``encode`` of a new SimpleTokenizer of the package openai-clip."""
    return file_of_package("clip", "simple_tokenizer.py", "openai-clip").SimpleTokenizer().encode


def texts() -> dict[str, list[str]]:
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlucmfwypvbgkjqxz", k=chance.randint(1, 10))) for _ in range(COUNT)]
    known = [" ".join(chance.choices(words[:500], k=12)) + "." for _ in range(COUNT)]
    return {
        "captions of 12 words out of 500": known,
        "the same with an é": [text + " é" for text in known],
        "8 words out of 6000": [
            " ".join(chance.choice(words)[::-1] + " " + chance.choice(words) for _ in range(4)) for _ in range(COUNT)
        ],
        "one word of 2000 letters": ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=2000)) for _ in range(20)],
    }


def seconds(make: Callable[[], Callable[[str], list[int]]], given: list[str]) -> float:
    """The fastest of several rounds, each with a new tokenizer, whose cache is empty."""
    found = []
    for _ in range(ROUNDS):
        encode = make()
        start = time.perf_counter()
        for text in given:
            encode(text)
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    try:
        original()
    except ModuleNotFoundError as error:
        raise SystemExit(f"the comparison needs another project's tokenizer: {error}") from error
    for name, given in texts().items():
        assert all(Tokenizer().encode(text) == original()(text) for text in given[:5])
        mine, theirs = seconds(lambda: Tokenizer().encode, given), seconds(original, given)
        print(f"{name}: {len(given) / mine:,.0f} texts/s, OpenAI's {len(given) / theirs:,.0f}: {theirs / mine:.1f} times")


if __name__ == "__main__":
    main()
