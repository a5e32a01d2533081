"""What the documentation names must exist: links and their anchors, files, modules, functions, flags.

Checked are the spans in backticks of README.md, CONTRIBUTING.md and docs/, and the files that their text blocks name.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from clipfast.losses.declaration import LOSSES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
WIDTH = 128

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
FILE = re.compile(r"(?<![\w./*$~<>-])(?:[\w.]+/)*\w+\.(?:py|md|cpp|cu|h)(?![\w.])")
DOTTED = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/])")
FLAG = re.compile(r"(?<![\w-])--([a-z][\w.-]*)")
FOLDER = re.compile(r"(?<![\w./*$~<>-])(?:benchmarks|clipfast|csrc|docs|examples|kernels|tests)/[\w./]*(?![\w/<>*{-])")
SPECIAL = re.compile(r"(?<![\w/>-])(?:\w*[a-z]\w*[A-Z]\w*|\w{2,}_\w+|_[a-z]\w+)(?![\w/<-])")  # CamelCase, under_score
DATA = {"csv", "tsv", "jsonl", "json", "pt", "toml", "tar", "png", "jpg", "txt", "safetensors"}  # endings of a user's files
PEERS = {"clip", "open_clip", "sentence_transformers", "transformers"}  # files of ours are called as they are
TABLES = {"model", "data", "optimizer", "evaluation", "checkpoints", "log"}  # of the training command's configuration

# Names that the pages use and that belong to others: their project -> the names.
OF_OTHERS = {
    "torch": "SyncBatchNorm fully_shard in_proj retain_graph",
    "transformers": """compute_loss_func eval_loss from_pretrained gelu_pytorch_tanh gradient_checkpointing_enable hidden_act
        hidden_size intermediate_size layer_norm_eps max_position_embeddings num_attention_heads num_channels
        num_hidden_layers projection_dim save_pretrained""",
    "open_clip": "accum-freq force_quick_gelu get_logits grad-clip-norm",
    "sentence-transformers": "MatryoshkaLoss",
    "lightning": "use_distributed_sampler",
    "pip": "no-build-isolation",
}
FOREIGN = {name for names in OF_OTHERS.values() for name in names.split()}


# ---- pages ----------------------------------------------------------------------------------------------------------


def prose(page: str) -> str:
    """The page without its fenced blocks; lines keep their numbers."""
    return FENCE.sub(lambda block: "\n" * block.group(0).count("\n"), page)


def anchors(page: str) -> set[str]:
    """The headings' anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> Iterator[str]:
    for link in LINK.findall(prose(page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            yield f"{link}: no such heading"


# ---- sources --------------------------------------------------------------------------------------------------------


@cache
def tracked() -> list[str]:
    """The repository's files: what git knows or would add, or in an unpacked archive what lies there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


@cache
def words() -> set[str]:
    """Every identifier of the sources and every word of their strings; comments and docstrings do not count."""
    found: set[str] = set()
    for name in (name for name in tracked() if not name.startswith("tests/")):  # a test may name what is gone
        text = "" if (ROOT / name).suffix not in {".py", ".toml", ".cpp", ".cu", ".h"} else (ROOT / name).read_text("utf-8")
        if name.endswith(".py"):
            found.update(_python_words(text))
        elif name.endswith(".toml"):
            found.update(re.findall(r"\w+", re.sub(r"(?m)#.*$", "", text)))
        else:
            found.update(re.findall(r"\w+", re.sub(r"(?s)/\*.*?\*/|//[^\n]*", "", text)))
    operators = {f"{loss}_{kind}" for loss in LOSSES for kind in ("mean", "losses", "gradients")}  # made from declarations
    return found | operators | {Path(name).stem for name in tracked()}


def _python_words(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)  # a docstring
        for _, value in ast.iter_fields(node):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str):
                    yield from re.findall(r"\w+", item)


@cache
def words_of_module(stem: str) -> set[str]:
    """The identifiers and strings' words of the package's files with this name; empty if there is none."""
    names = [name for name in tracked() if name.startswith(("clipfast/", "kernels/")) and name.endswith(".py")]
    texts = [(ROOT / name).read_text("utf-8") for name in names if stem in (Path(name).stem, Path(name).parent.name)]
    return {word for text in texts for word in _python_words(text)}


# ---- names ----------------------------------------------------------------------------------------------------------


def unknown_names(page: str) -> Iterator[str]:
    """What the page's spans name and the sources do not have. What its own blocks show counts as known there."""
    shown = set(re.findall(r"\w+", " ".join(block for _, block in FENCE.findall(page))))
    for kind, block in FENCE.findall(page):
        if kind == "text":
            yield from (f"no file {name}" for name in FILE.findall(block) if not _is_file(name))
        elif kind == "python":
            yield from filter(None, map(_not_importable, _imported(block)))
    for span in SPAN.findall(prose(page)):
        yield from (f"{span}: {reason}" for reason in _reasons(" ".join(span.split()), shown))


def _imported(block: str) -> Iterator[str]:
    """The names that a block imports from clipfast; a block fenced as ``no-run`` is not run, so nothing else checks them."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clipfast":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reasons(span: str, shown: set[str]) -> Iterator[str]:
    yield from (f"no file {name}" for name in FILE.findall(span) if not _is_file(name))
    rest = FILE.sub(" ", span)
    yield from (f"no folder {name}" for name in FOLDER.findall(rest) if not (ROOT / name).exists())
    rest = FOLDER.sub(" ", rest)
    known = words() | shown | FOREIGN
    yield from (reason for name in DOTTED.findall(rest) if (reason := _wrong_dotted(name)))
    yield from (f"no flag --{flag}" for flag in FLAG.findall(rest) if not _is_flag(flag, known))
    if rest.isascii():  # a formula otherwise
        yield from (f"no name {name}" for name in SPECIAL.findall(FLAG.sub(" ", rest)) if name not in known)


def _is_file(name: str) -> bool:
    return any(file == name or file.endswith(f"/{name}") for file in tracked())


def _is_flag(flag: str, known: set[str]) -> bool:
    return flag in known or all(part.replace("-", "_") in known for part in flag.split("."))


def _wrong_dotted(name: str) -> str | None:
    """Why ``module.name`` or ``clipfast.room.name`` leads nowhere; None if it leads somewhere, or is another's."""
    first, *rest = name.split(".")
    if first == "clipfast":
        return _not_importable(name)
    if rest[-1] in DATA or first in TABLES | PEERS or not words_of_module(first):
        return None
    return None if rest[0] in words_of_module(first) else f"no {rest[0]} in {first}.py"


@cache
def _not_importable(name: str) -> str | None:
    """Why importing the name fails. Where a peer is absent, the source is asked instead."""
    value, path = None, ""
    for part in name.split("."):
        before, path = path.rpartition(".")[2], f"{path}.{part}".strip(".")
        try:
            value = getattr(value, part) if hasattr(value, part) else import_module(path)
        except (ImportError, RuntimeError) as error:
            is_module = not (getattr(error, "name", None) or "").startswith("clipfast") and words_of_module(part)
            if not is_module and part not in words_of_module(before):
                return f"no {part} in {name}"
            value = None
    return None


# ---- tests ----------------------------------------------------------------------------------------------------------

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


@each_page
def test_names_exist(page: Path) -> None:
    broken = list(unknown_names(page.read_text("utf-8")))
    assert not broken, "\n".join(["", *broken])


@each_page
def test_lines_are_short(page: Path) -> None:
    """Tables excepted: a row cannot be wrapped."""
    lines = enumerate(page.read_text("utf-8").splitlines(), 1)
    assert [number for number, line in lines if len(line) > WIDTH and not line.lstrip().startswith("|")] == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text("utf-8"))}
    assert set(PAGES) - linked == {index}


def test_links_and_anchors_are_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `name`, and (more)\n```text\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#a-name-and-more) [b](other.md#no-heading) [c](gone.md) [d](#e) [f](https://example.org)")
    assert list(broken_links(page)) == ["other.md#no-heading: no such heading", "gone.md: no such file", "#e: no such heading"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`clipfast/gone.py`", "no file clipfast/gone.py"),
        ("`gone.cpp`", "no file gone.cpp"),
        ("```text\ngone.py   what it was\n```", "no file gone.py"),
        ("```python no-run\nfrom clipfast.losses import gone\n```", "no gone in clipfast.losses.gone"),
        ("`tests/gone`", "no folder tests/gone"),
        ("`clipfast.gone.name`", "no gone in clipfast.gone.name"),
        ("`clipfast.losses.gone`", "no gone in clipfast.losses.gone"),
        ("`version.gone`", "no gone in version.py"),
        ("`python -m clipfast plan --gone-flag 3`", "no flag --gone-flag"),
        ("`gone_function(x)`", "no name gone_function"),
        ("`GoneClass`", "no name GoneClass"),
        ("`_gone`", "no name _gone"),
        ("``_gone``", None),
        ("`clipfast.clip_loss(..., return_stats=True)`, `version.py`, `tests/losses`, `ClipStats`, `--batch-size`", None),
        ("`my_name`\n```python\nmy_name = 1\n```", None),
        ("`pairs.csv`, `checkpoints.every_steps`, `e_ij·(u_i + v_j)`", None),
    ],
)
def test_unknown_names_are_seen(text: str, expected: str | None) -> None:
    found = list(unknown_names(text))
    assert found == [] if expected is None else len(found) == 1 and found[0].endswith(expected), found
