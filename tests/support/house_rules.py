"""The rules of the house, each a function from a tree of sources to what breaks the rule there.

They read sources and import nothing of clipfast. The order of the rooms is the list in docs/house.py.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_ROOMS, MOST_FILES, MOST_PARAMETERS, MOST_FOUNDATIONS = 20, 15, 10, 3
BESIDE_THE_ROOMS = {"__init__.py", "__main__.py", "py.typed"}
NOT_SOURCE = {".pyc", ".so", ".pyd"}
TESTS_OF_NO_ROOM = {
    "support": "helpers that several rooms' tests share",
    "gpu": "what needs a GPU",
    "csrc": "the C++ and CUDA sources",
}
FIXED_BY_A_PEER = {  # signatures that are not ours to shorten: function -> whose it is
    "clipfast.integrations.sentence_transformers.FusedMultipleNegativesRankingLoss.__init__": "sentence-transformers",
}


def _load_house() -> Any:
    spec = spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = _load_house()


class House(NamedTuple):
    """A tree of sources as the rules see it."""

    root: Path
    rooms: list[Any]
    modules: Mapping[str, Any]  # dotted name -> house.Module
    imports: Mapping[str, set[str]]  # dotted name -> dotted names


def read(root: Path, rooms: list[Any]) -> House:
    modules = house.read_modules(root)
    return House(root, rooms, modules, house.read_imports(modules))


# ---- the rules: each yields what breaks it --------------------------------------------------------------------------


def rooms_are_listed_and_exist(tree: House) -> Iterator[str]:
    listed = set(house.folders(tree.rooms))
    there = {module.folder for module in tree.modules.values() if module.folder}
    for folder in sorted(there - listed):
        yield f"{'/'.join(folder)}: a folder that is not in ROOMS of docs/house.py"
    for folder in sorted(listed - there):
        yield f"{'/'.join(folder)}: in ROOMS of docs/house.py, but there is no such folder with Python files"


def few_rooms(tree: House) -> Iterator[str]:
    if (count := len(tree.rooms)) > MOST_ROOMS:
        yield f"{count} rooms; at most {MOST_ROOMS} are allowed"


def nothing_beside_the_rooms(tree: House) -> Iterator[str]:
    rooms = {folder[0] for folder in house.folders(tree.rooms)}
    entries = [entry for entry in (tree.root / house.PACKAGE).iterdir() if _holds_sources(entry)]
    beside = sorted(entry.name for entry in entries if entry.name not in rooms | BESIDE_THE_ROOMS)
    foundations = [name for name in beside if name.endswith(".py")]
    yield from (f"{name}: neither a room nor a module" for name in beside if name not in foundations)
    if len(foundations) > MOST_FOUNDATIONS:
        yield f"{', '.join(foundations)}: {len(foundations)} modules beside the rooms; at most {MOST_FOUNDATIONS} are allowed"


def _holds_sources(entry: Path) -> bool:
    """Whether a checkout has this entry: not a compiled file, and not a folder with nothing else."""
    files = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
    return any(path.suffix not in NOT_SOURCE for path in files)


def small_folders(tree: House) -> Iterator[str]:
    for folder, count in Counter(module.folder for module in tree.modules.values()).items():
        if count > MOST_FILES:
            yield f"{'/'.join(folder)}: {count} files; at most {MOST_FILES} are allowed"


def purposes(tree: House) -> Iterator[str]:
    for folder in house.folders(tree.rooms):
        face = tree.modules.get(".".join((house.PACKAGE, *folder)))
        line = house.purpose(face.source) if face else ""
        if not line.endswith((".", "?")):
            yield f"{'/'.join(folder)}/__init__.py: its docstring must begin with a sentence on one line; got {line!r}"


def imports_run_down(tree: House) -> Iterator[str]:
    order = {place: number for number, place in enumerate(house.places(tree.rooms))}
    for name, targets in sorted(tree.imports.items()):
        here = order.get(house.place_of(tree.modules[name]))
        for target in sorted(targets & tree.modules.keys()):
            there = order.get(house.place_of(tree.modules[target]))
            if here is not None and there is not None and there < here:
                yield f"{name} imports {target}, which stands above it"


def foundations_import_no_room(tree: House) -> Iterator[str]:
    for name, targets in sorted(tree.imports.items()):
        if not tree.modules[name].folder and name not in (house.PACKAGE, f"{house.PACKAGE}.__main__"):
            rooms = sorted(target for target in targets & tree.modules.keys() if tree.modules[target].folder)
            yield from (f"{name} imports {target}: a module beside the rooms must import none" for target in rooms)


def no_room_imports_the_root(tree: House) -> Iterator[str]:
    for name, targets in sorted(tree.imports.items()):
        if tree.modules[name].folder and house.PACKAGE in targets:
            yield f"{name} imports the root package {house.PACKAGE}; name the room that has what it needs"


def no_circle(tree: House) -> Iterator[str]:
    for circle in circles(tree.imports):
        yield " -> ".join([*circle, circle[0]])


def circles(imports: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """One circle, shortest first met, for each module on it that no circle before has named."""
    named: set[str] = set()
    for start in sorted(imports):
        path = _way_back(start, imports) if start not in named else None
        if path:
            named.update(path)
            yield path


def _way_back(start: str, imports: Mapping[str, set[str]]) -> list[str] | None:
    """The modules of the shortest way from ``start`` to itself, or None."""
    paths = [[start]]
    seen: set[str] = set()
    for path in paths:  # grows as it is read: breadth first
        for target in sorted(imports.get(path[-1], ())):
            if target == start:
                return path
            if target not in seen:
                seen.add(target)
                paths.append([*path, target])
    return None


def unique_names(tree: House) -> Iterator[str]:
    files: dict[str, list[str]] = {}
    for module in tree.modules.values():
        if not module.is_face:
            files.setdefault(module.file.name, []).append(module.name)
    yield from (f"{file}: {', '.join(names)}" for file, names in sorted(files.items()) if len(names) > 1)


def short_signatures(tree: House) -> Iterator[str]:
    for module in tree.modules.values():
        if module.folder[:1] in [(room,) for room in house.OUTSIDE]:
            continue  # a Triton kernel takes every number by itself
        for name, function in functions(ast.parse(module.source), module.name):
            excused = name in FIXED_BY_A_PEER or _is_command(function) or _is_kernel(function)
            if not excused and (count := len(_parameters(function))) > MOST_PARAMETERS:
                yield f"{name}, line {function.lineno}: {count} parameters; at most {MOST_PARAMETERS} are allowed"


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        inner = f"{name}.{child.name}" if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else name
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner, child
        yield from functions(child, inner)


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [argument for argument in every if argument is not None and argument.arg not in ("self", "cls")]


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether every parameter is a command's option or argument, as typer wants them: ``Annotated[type, typer.Option()]``."""
    annotations = [argument.annotation for argument in _parameters(function)]
    return all(isinstance(a, ast.Subscript) and ast.unparse(a.value) == "Annotated" for a in annotations)


def _is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether torch.library calls the function, by position, with all that an operator takes."""
    return any(ast.unparse(decorator).startswith("torch.library.") for decorator in function.decorator_list)


def mirrored_by_tests(tree: House) -> Iterator[str]:
    known = {Path(*folder) for folder in house.folders(tree.rooms)} | {Path(name) for name in TESTS_OF_NO_ROOM}
    for folder in sorted((tree.root / "tests").rglob("*")):
        name = folder.relative_to(tree.root / "tests")
        if folder.is_dir() and any(folder.glob("*.py")) and name not in known:
            yield f"tests/{name}: mirrors no room"


Rule = Callable[[House], Iterator[str]]
RULES: list[Rule] = [
    rooms_are_listed_and_exist,
    few_rooms,
    nothing_beside_the_rooms,
    small_folders,
    purposes,
    imports_run_down,
    foundations_import_no_room,
    no_room_imports_the_root,
    no_circle,
    unique_names,
    short_signatures,
    mirrored_by_tests,
]
