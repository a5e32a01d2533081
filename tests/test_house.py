"""The house keeps its order: rooms, one-way imports, no circle, small folders, unique names, short signatures.

The rules are in tests/support/house_rules.py. Here the sources are held to them, and each is seen to fail.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from house_rules import (
    FIXED_BY_A_PEER,
    ROOT,
    RULES,
    House,
    Rule,
    few_rooms,
    foundations_import_no_room,
    functions,
    house,
    imports_run_down,
    mirrored_by_tests,
    no_circle,
    no_room_imports_the_root,
    nothing_beside_the_rooms,
    purposes,
    read,
    rooms_are_listed_and_exist,
    short_signatures,
    small_folders,
    unique_names,
)

# ---- the real house -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> House:
    return read(ROOT, house.ROOMS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house(rule: Rule, real: House) -> None:
    broken = list(rule(real))
    assert not broken, "\n".join(["", *broken])


def test_every_import_was_read(real: House) -> None:
    """A name that leads to no file would otherwise slip past the rules."""
    assert len(real.modules) > 100
    lost = [f"{name}: {target}" for name, targets in real.imports.items() for target in targets - real.modules.keys()]
    assert not lost


def test_signatures_of_peers_are_still_there(real: House) -> None:
    names = {name for module in real.modules.values() for name, _ in functions(ast.parse(module.source), module.name)}
    assert set(FIXED_BY_A_PEER) <= names


def test_the_picture_is_up_to_date() -> None:
    drawn = house.picture(ROOT)
    assert house.PICTURE.read_text("utf-8") == drawn, "run `python docs/house.py`, which draws docs/images/house.svg again"


# ---- each rule is seen to fail, in a made-up house --------------------------------------------------------------------

MADE_UP = ["top", ("middle", ["inner", "."]), "low", "kernels"]
FILES = {
    "clipfast/__init__.py": "from clipfast.top import start",
    "clipfast/__main__.py": "from clipfast.top.start import go",
    "clipfast/py.typed": "",
    "clipfast/version.py": "",
    "clipfast/top/__init__.py": '"""Begins."""\nfrom clipfast.top.start import go',
    "clipfast/top/start.py": "def go():\n    from clipfast.middle.inner import deep\n    import clipfast.low.ground",
    "clipfast/middle/__init__.py": '"""Works."""\nfrom clipfast.middle.inner.deep import dig\nfrom .work import work',
    "clipfast/middle/work.py": "import torch\nfrom clipfast.low import ground\nfrom clipfast.version import __version__",
    "clipfast/middle/inner/__init__.py": '"""Digs."""',
    "clipfast/middle/inner/deep.py": "from clipfast.middle.work import work\nfrom ..work import rest",
    "clipfast/low/__init__.py": '"""Carries."""',
    "clipfast/low/ground.py": "",
    "kernels/__init__.py": '"""Counts."""',
    "kernels/sums.py": "def kernel(a, b, c, d, e, f, g, h, i, j, k): ...",
    "tests/middle/inner/test_deep.py": "",
    "tests/support/helper.py": "",
}
ELEVEN = "a, b, c, d, *, e, f, g, h, i, j, **k"
FAKE = f"@torch.library.register_fake('a::b')\ndef _({ELEVEN}): ..."
COMMAND = "def go(" + ", ".join(f"a{i}: Annotated[int, typer.Option()]" for i in range(11)) + "): ..."


def make(root: Path, changes: Mapping[str, str], rooms: list[Any] = MADE_UP) -> House:
    for name, text in {**FILES, **changes}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return read(root, rooms)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_accepts_a_good_house(rule: Rule, tmp_path: Path) -> None:
    good = make(
        tmp_path, {"clipfast/top/command.py": COMMAND, "clipfast/top/fake.py": FAKE, "clipfast/top/__pycache__/gone.pyc": ""}
    )
    (tmp_path / "clipfast" / "removed" / "__pycache__").mkdir(parents=True)
    assert list(rule(good)) == []


@pytest.mark.parametrize(
    ("rule", "changes", "expected"),
    [
        (rooms_are_listed_and_exist, {"clipfast/attic/__init__.py": ""}, "attic: a folder that is not in ROOMS"),
        (rooms_are_listed_and_exist, {"clipfast/low/cellar/a.py": ""}, "low/cellar: a folder that is not in ROOMS"),
        (nothing_beside_the_rooms, {f"clipfast/more_{i}.py": "" for i in range(3)}, "4 modules beside the rooms"),
        (nothing_beside_the_rooms, {"clipfast/notes.txt": ""}, "notes.txt: neither a room nor a module"),
        (nothing_beside_the_rooms, {"clipfast/tables/words.csv": ""}, "tables: neither a room nor a module"),
        (small_folders, {f"clipfast/low/file_{i}.py": "" for i in range(14)}, "low: 16 files"),
        (purposes, {"clipfast/low/__init__.py": ""}, "low/__init__.py: its docstring must begin"),
        (purposes, {"clipfast/middle/inner/__init__.py": '"""Digs and\ndigs."""'}, "inner/__init__.py: its docstring"),
        (imports_run_down, {"clipfast/low/ground.py": "import clipfast.top.start"}, "low.ground imports clipfast.top.start"),
        (imports_run_down, {"clipfast/low/ground.py": "from ..top import start"}, "low.ground imports clipfast.top.start"),
        (
            imports_run_down,
            {"clipfast/low/ground.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from clipfast.top import go"},
            "low.ground imports clipfast.top, which",
        ),
        (imports_run_down, {"clipfast/low/ground.py": "def f():\n    import clipfast.middle"}, "imports clipfast.middle,"),
        (
            imports_run_down,
            {"clipfast/middle/work.py": "from clipfast.middle.inner import deep"},
            "imports clipfast.middle.inner",
        ),
        (imports_run_down, {"clipfast/middle/work.py": "from clipfast.middle import dig"}, "work imports clipfast.middle,"),
        (imports_run_down, {"kernels/sums.py": "from clipfast.low import ground"}, "kernels.sums imports clipfast.low.ground"),
        (foundations_import_no_room, {"clipfast/version.py": "import clipfast.low"}, "version imports clipfast.low"),
        (no_room_imports_the_root, {"clipfast/low/ground.py": "import clipfast"}, "low.ground imports the root"),
        (no_room_imports_the_root, {"clipfast/low/ground.py": "from clipfast import go"}, "low.ground imports the root"),
        (
            no_circle,
            {
                "clipfast/low/ground.py": "import clipfast.low.a",
                "clipfast/low/a.py": "def f():\n    from clipfast.low.ground import x",
            },
            "clipfast.low.a -> clipfast.low.ground -> clipfast.low.a",
        ),
        (
            no_circle,
            {
                "kernels/sums.py": "from clipfast.kernels import a",
                "kernels/a.py": "import clipfast.kernels.b",
                "kernels/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .sums import kernel",
            },
            "clipfast.kernels.a -> clipfast.kernels.b -> clipfast.kernels.sums -> clipfast.kernels.a",
        ),
        (unique_names, {"kernels/ground.py": ""}, "ground.py: clipfast.low.ground, clipfast.kernels.ground"),
        (short_signatures, {"clipfast/low/ground.py": f"def f({ELEVEN}): ..."}, "low.ground.f, line 1: 11 parameters"),
        (short_signatures, {"clipfast/low/ground.py": f"class A:\n    def f(self, {ELEVEN}): ..."}, "ground.A.f, line 2: 11"),
        (short_signatures, {"clipfast/low/ground.py": COMMAND.replace("go(", "go(b: int, ")}, "go, line 1: 12 parameters"),
        (mirrored_by_tests, {"tests/attic/test_a.py": ""}, "tests/attic: mirrors no room"),
    ],
)
def test_a_rule_sees(rule: Rule, changes: dict[str, str], expected: str, tmp_path: Path) -> None:
    broken = list(rule(make(tmp_path, changes)))
    assert len(broken) == 1
    assert expected in broken[0]


def test_a_listed_room_must_exist(tmp_path: Path) -> None:
    (broken,) = rooms_are_listed_and_exist(make(tmp_path, {}, [*MADE_UP, "garage"]))
    assert broken.startswith("garage: in ROOMS")


def test_rooms_are_counted(tmp_path: Path) -> None:
    (broken,) = few_rooms(make(tmp_path, {}, [*MADE_UP, *(f"room_{i}" for i in range(17))]))
    assert broken.startswith("21 rooms")


def test_the_picture_shows_rooms_and_arrows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {})
    monkeypatch.setattr(house, "ROOMS", MADE_UP)
    drawn = house.picture(tmp_path)
    assert "top imports middle" in drawn
    assert "middle imports top" not in drawn
    assert "it runs up" not in drawn
    make(tmp_path, {"clipfast/low/ground.py": "import clipfast.top"})
    assert "low imports top" in house.picture(tmp_path)
    assert "it runs up" in house.picture(tmp_path)
