"""Deterministic strings that are hard for a tokenizer."""

# ruff: noqa: RUF001

from __future__ import annotations

import random

ENGLISH = (
    "a photo of the cat dog's DON'T we'll they've I'm he'd you're it's 3.14 2026-11-21 hello-world snake_case C++ #tag @name"
)
FOREIGN = "naïve café Straße İstanbul ΟΔΟΣ ΣΊΣΥΦΟΣ weißt ﬁancé ﬂow ſtop 'ſ \u212aelvin \u212b ½ ² ① “curly” ‘quotes’ — … € £"
SCRIPTS = "日本語 テキスト 한국어 العربية עברית हिन्दी ไทย Ελληνικά русский ＷＩＤＥ\u3000 𝒻𝒶𝓃 \u200b\ufeff e\u0301 x\u0338"
REFERENCES = "&amp; &lt;b&gt; &amp;lt; &amp;amp;lt; &#65; &#x1F600; &#0; &#128; &nbsp; &eacute; &notin &bogus; &#xD800; &quot;"
WORDS = [*ENGLISH.split(" "), *FOREIGN.split(" "), *SCRIPTS.split(" ")]
ENTITIES = REFERENCES.split(" ")
FAMILY = "\u200d".join(("👩", "👩", "👧", "👦"))
EMOJI = ["😀", "👍🏽", FAMILY, "🇩🇪", "❤\ufe0f", "☺", "🤷🏿\u200d♀\ufe0f", "1\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e007f"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\x0b", "\x0c", "\x85", "\x1c", "\x1f"]
CONTROLS = [chr(c) for c in range(32)] + [
    "\x7f",
    "\x80",
    "\x9f",
    "\x1b[31m",
    "\u202e",
    "\ufffe",
    "\ud800",
    "\udc00",
    "\U0010ffff",
]
SPECIAL_TOKENS = ["<|startoftext|>", "<|endoftext|>", "<|STARTOFTEXT|>", "<|ſtartoftext|>", "<|endoftext|", "</w>"]
FIXED = [
    "", " ", "\n\t ", "'", "''", "'s", "a", "é", "\ud800", "&", "&amp", "\x1f", "aaaaaaaaaaaaaaaa", "ab" * 500, "word " * 300,
    "x" * 5000, "1" * 100, "!" * 1000, "日" * 200, "😀" * 100, "\u0301" * 50, "İ" * 40, "a photo of a cat.", "A DIAGRAM",
    "<b>&amp;</b>", "schÃ¶n", "l’humanitÃ©", "doesnâ€™t", "(à¸‡'âŒ£')à¸‡", "\x1b[36;44mI&#x92;m blue\x1b[0m",
]  # fmt: skip


def letters(chance: random.Random) -> str:
    return "".join(chance.choice("abcdefghijklmnopqrstuvwxyzABCXYZ") for _ in range(chance.choice((1, 2, 3, 5, 8, 13, 40))))


def code_points(chance: random.Random) -> str:
    ends = chance.choice((0x80, 0x250, 0x800, 0x3000, 0x10000, 0x20000, 0x110000))
    return "".join(chr(chance.randrange(ends)) for _ in range(chance.randint(1, 12)))


def mojibake(chance: random.Random) -> str:
    """UTF-8 decoded by another encoding, which ftfy tries to undo."""
    return chance.choice(WORDS).encode("utf-8").decode(chance.choice(("latin-1", "cp1252", "cp437")), errors="replace")


PIECES = (
    lambda chance: chance.choice(WORDS),
    lambda chance: chance.choice(WORDS[:20]),
    letters,
    code_points,
    mojibake,
    lambda chance: chance.choice(EMOJI),
    lambda chance: chance.choice(ENTITIES),
    lambda chance: chance.choice(CONTROLS),
    lambda chance: "".join(chance.choice("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~0123456789") for _ in range(chance.randint(1, 6))),
)


def varied_texts(count: int, special_tokens: bool = True) -> list[str]:
    """``count`` different strings, the same ones at every call."""
    chance, found = random.Random(20261121), dict.fromkeys(FIXED)
    while len(found) < count:
        # Most strings have one kind of piece: a single control character would send a whole string down the slow path.
        pieces = PIECES if chance.random() < 0.3 else (chance.choice(PIECES),)
        parts = [chance.choice(pieces)(chance) for _ in range(chance.choice((1, 2, 4, 8, 30)))]
        if special_tokens and chance.random() < 0.05:
            parts.insert(chance.randint(0, len(parts)), chance.choice(SPECIAL_TOKENS))
        found["".join(part + chance.choice(("", " ", " ", chance.choice(SPACES))) for part in parts)] = None
    return list(found)
