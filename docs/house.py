"""The house: the rooms of clipfast in order, their imports as the sources state them, and a picture of both.

An import may only run down the list. ``tests/test_house.py`` holds the project to it. ``python docs/house.py`` reads the
sources, without importing them, and rewrites ``docs/images/house.svg``.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Sequence, Set
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "house.svg"
PACKAGE = "clipfast"
OUTSIDE = {"kernels": "kernels"}  # rooms that lie beside clipfast/ in the repository: room -> folder

Room = str | tuple[str, list["Room"]]  # a folder, or a folder and what is in it
OWN = "."  # a folder's own files, where they stand among its sub-rooms; above them if it is not listed

# Top to bottom. A folder's __init__ is its face: it stands above all that the folder holds.
ROOMS: list[Room] = [
    "cli",
    "demo",
    "plan",
    "bench",
    "integrations",
    ("training", ["run", "records", "checkpointing", "step", "caching", "settings", "processes"]),
    "inference",
    "data",
    "hub",
    ("models", ["checkpoints", OWN]),
    "images",
    "text",
    "losses",
    "operators",
    "compute",
    "kernels",
    "sweep",
    "distributed",
    "common",
]

Folder = tuple[str, ...]  # by its names: ("models", "checkpoints")


class Module(NamedTuple):
    """One file: its dotted name (a package has its ``__init__``'s), its folder below clipfast/, and its source."""

    name: str
    folder: Folder
    file: Path
    source: str

    @property
    def is_face(self) -> bool:
        return self.file.name == "__init__.py"


Imports = dict[str, set[str]]  # module -> the modules of the house that it imports


# ---- reading ----------------------------------------------------------------------------------------------------------


def folders(rooms: Sequence[Room] = ROOMS, above: Folder = ()) -> Iterator[Folder]:
    """Every folder of the list, each before what it holds."""
    for room in rooms:
        name, inner = (room, []) if isinstance(room, str) else room
        if name != OWN:
            yield (*above, name)
            yield from folders(inner, (*above, name))


def places(rooms: Sequence[Room] = ROOMS, above: Folder = ()) -> Iterator[Folder]:
    """The order from top to bottom: for each folder its face (``__init__``), then its own files (``.``) and sub-rooms."""
    for room in rooms:
        name, inner = (room, []) if isinstance(room, str) else room
        if name == OWN:
            yield (*above, OWN)
        else:
            yield (*above, name, "__init__")
            yield from places(inner if OWN in inner else [OWN, *inner], (*above, name))


def folder_on_disk(root: Path, folder: Folder) -> Path:
    """Where a folder lies: below clipfast/, or beside it."""
    if folder and folder[0] in OUTSIDE:
        return root.joinpath(OUTSIDE[folder[0]], *folder[1:])
    return root.joinpath(PACKAGE, *folder)


def read_modules(root: Path = ROOT) -> dict[str, Module]:
    """Every Python file of clipfast/ and of the rooms beside it, by dotted name."""
    found = list(_files(root / PACKAGE, (), skip=set(OUTSIDE)))
    for room in OUTSIDE:
        found += _files(folder_on_disk(root, (room,)), (room,))
    return {module.name: module for module in found}


def _files(directory: Path, folder: Folder, skip: Set[str] = frozenset()) -> Iterator[Module]:
    for file in sorted(directory.glob("*.py")):
        parts = [PACKAGE, *folder] + ([file.stem] if file.name != "__init__.py" else [])
        yield Module(".".join(parts), folder, file, file.read_text("utf-8"))
    for inner in sorted(entry for entry in directory.glob("*/") if entry.name not in skip):
        yield from _files(inner, (*folder, inner.name))


def read_imports(modules: dict[str, Module]) -> Imports:
    """What each module imports of the others, wherever the statement stands: in functions and under TYPE_CHECKING too."""
    return {module.name: set(_imported(module, modules)) - {module.name} for module in modules.values()}


def _imported(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = _absolute(module, node)
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE:
                yield next((known for known in _prefixes(name) if known in modules), name)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".") if module.is_face else module.name.split(".")[:-1]
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(len(parts), 0, -1))


def purpose(source: str) -> str:
    """The first sentence or line of a docstring; empty without one."""
    lines = (ast.get_docstring(ast.parse(source)) or "").strip().splitlines()
    return lines[0] if lines else ""


def place_of(module: Module) -> Folder:
    """The module's entry in ``places``; for a file beside the rooms, such as version.py, that is ``(".",)``."""
    return (*module.folder, "__init__" if module.is_face else OWN)


def room_imports(modules: dict[str, Module], imports: Imports) -> dict[str, set[str]]:
    """Imports between rooms: room -> the other rooms that its files import."""
    between: dict[str, set[str]] = {}
    for name, targets in imports.items():
        if room := modules[name].folder[:1]:
            reached = {modules[target].folder[:1] for target in targets if target in modules}
            between.setdefault(room[0], set()).update(other[0] for other in reached if other and other != room)
    return between


# ---- drawing ----------------------------------------------------------------------------------------------------------

LEFT, TOP, STEP, ROW, BOX = 16, 40, 27, 60, 46  # px: margins, distance of two lanes, of two rows, height of a box
FIRST = 470  # px: width of the top room; each lower one is a lane wider
INK, FAINT, LINE, FILL, DOWN, UP = "#1f2937", "#64748b", "#94a3b8", "#eef2f7", "#2563eb", "#dc2626"
CAPTION = "A dot means: the room on the left imports the room below the dot."


def picture(root: Path = ROOT) -> str:
    """The house as SVG: a room reaches as far as its lane, and whoever imports it is a dot on that lane, above it."""
    modules = read_modules(root)
    between = room_imports(modules, read_imports(modules))
    rooms = [folder[0] for folder in folders(ROOMS) if len(folder) == 1]
    arrows = sorted((rooms.index(source), rooms.index(target)) for source in between for target in between[source])
    width, height = LEFT * 2 + FIRST + STEP * (len(rooms) - 1), TOP + ROW * len(rooms)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"font-family='DejaVu Sans, Verdana, sans-serif'>",
        "<!-- Drawn by docs/house.py from the imports in the sources. -->",
        f"<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0,0 L8,4 L0,8 z' fill='{LINE}'/></marker></defs>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        _text(LEFT, 24, 13, INK, CAPTION + (" Red: it runs up." if any(a > b for a, b in arrows) else "")),
    ]
    for row in range(len(rooms)):
        parts += _lines(row, [b for a, b in arrows if a == row], [a for a, b in arrows if b == row])
    for row, room in enumerate(rooms):
        parts += _box(row, room, modules)
    parts += [_dot(a, b, f"{rooms[a]} imports {rooms[b]}") for a, b in arrows]
    return "\n".join([*parts, "</svg>", ""])


def _lane(row: int) -> int:
    return LEFT + FIRST + STEP * row - STEP // 2


def _middle(row: int) -> int:
    return TOP + ROW * row + BOX // 2


def _lines(row: int, targets: list[int], sources: list[int]) -> Iterator[str]:
    """A room's own line to the right, through the lanes of what it imports, and its lane, which falls on its roof."""
    if targets:
        yield f"<path d='M{LEFT + FIRST},{_middle(row)} H{_lane(max(targets))}' stroke='{LINE}'/>"
    if sources:
        start, end = _middle(min(sources)), TOP + ROW * row
        yield f"<path d='M{_lane(row)},{start} V{end}' stroke='{LINE}' marker-end='url(#tip)'/>"


def _dot(row: int, target: int, title: str) -> str:
    colour = DOWN if row < target else UP
    return f"<circle cx='{_lane(target)}' cy='{_middle(row)}' r='4' fill='{colour}'><title>{title}</title></circle>"


def _box(row: int, room: str, modules: dict[str, Module]) -> Iterator[str]:
    y, width = TOP + ROW * row, FIRST + STEP * row
    yield f"<rect x='{LEFT}' y='{y}' width='{width}' height='{BOX}' rx='5' fill='{FILL}' stroke='{INK}'/>"
    yield _text(LEFT + 10, y + 20, 14, INK, room, " font-weight='bold'")
    yield _text(LEFT + 10, y + 36, 10, FAINT, f"{sum(module.folder[:1] == (room,) for module in modules.values())} files")
    face, letters = modules.get(f"{PACKAGE}.{room}"), (width - 130) // 6  # letters: what fits at 11 px
    lines = textwrap.wrap(purpose(face.source).split(" (docs/")[0] if face else "", letters)
    inner = [folder for folder in folders(ROOMS) if len(folder) > 1 and folder[0] == room]
    below = [f"in it: {', '.join('/'.join(folder[1:]) for folder in inner)}"] if inner else []
    start = y + 28 - 7 * (len(lines + below) - 1)
    for line, words in enumerate(lines + below):
        yield _text(LEFT + 122, start + 14 * line, 11, INK if line < len(lines) else FAINT, words)


def _text(x: int, y: int, size: int, colour: str, words: str, more: str = "") -> str:
    return f"<text x='{x}' y='{y}' font-size='{size}' fill='{colour}'{more}>{escape(words)}</text>"


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
    print(PICTURE)
