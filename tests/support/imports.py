"""The picture that the imports of `ablate` make: `python -m tests.support.imports` prints its numbers.

An arrow goes from what imports to what is imported, wherever the import stands (in a function, for types alone). A
floor is one more than the highest floor below; what imports each other in a circle shares one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

Graph = Mapping[str, frozenset[str]]
"""Name -> the names that it imports."""


def module_files(root: Path = ROOT) -> dict[str, Path]:
    """Every module of `ablate` by its dotted name."""
    found = {}
    for path in sorted((root / "ablate").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, module: str) -> set[str]:
    """Every dotted name that a file imports: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def modules(root: Path = ROOT) -> Graph:
    """Module -> modules; `from a import b` leads to the module a.b where there is one, else to a."""
    files = module_files(root)

    def target(name: str) -> str | None:
        return name if name in files or not name else target(name.rpartition(".")[0])

    graph = {}
    for module, path in files.items():
        named = imported(path, module) - {"ablate.__version__"}  # a number, and no way up
        graph[module] = frozenset(found for found in map(target, named) if found and found != module)
    return graph


def third_party(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the first part of everything else that it imports."""
    found = {module: imported(path, module) for module, path in module_files(root).items()}
    return {module: {name.partition(".")[0] for name in names} - {"ablate"} for module, names in found.items()}


def package_of(module: str) -> str:
    """The package that a module belongs to: `learning` for `ablate.learning.models.resnet`; a flat one is its own."""
    name = module.split(".")[1] if "." in module else "ablate"
    return "ablate" if name == "__main__" else name


def packages(graph: Graph) -> Graph:
    """Package -> packages."""
    found: dict[str, set[str]] = {package_of(module): set() for module in graph}
    for module, others in graph.items():
        found[package_of(module)] |= {package_of(other) for other in others} - {package_of(module)}
    return {name: frozenset(others) for name, others in found.items()}


def circles(graph: Graph) -> list[list[str]]:
    """What imports itself through others, each circle with all its members (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return sorted(found)


def floors(graph: Graph) -> dict[str, int]:
    """Each name's floor, from 1."""
    together = {name: tuple(circle) for circle in circles(graph) for name in circle}
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            members = together.get(name, (name,))
            below = {other for member in members for other in graph[member]} - set(members)
            level = 1 + max(map(floor, sorted(below)), default=0)
            found.update(dict.fromkeys(members, level))
        return found[name]

    for name in graph:
        floor(name)
    return found


@dataclass(frozen=True)
class Numbers:
    """Of a graph."""

    names: int
    floors: int
    arrows: int
    circles: list[list[str]]

    def __str__(self) -> str:
        told = "".join(f"\n  {' <-> '.join(circle)}" for circle in self.circles)
        return f"{self.names}, {self.floors} floors, {self.arrows} arrows, {len(self.circles)} circles{told}"


def numbers(graph: Graph) -> Numbers:
    """The picture in numbers."""
    return Numbers(len(graph), max(floors(graph).values()), sum(map(len, graph.values())), circles(graph))


def lines(graph: Graph) -> Iterable[str]:
    """Floor by floor, from the top: each name with what it imports."""
    levels = floors(graph)
    for name in sorted(graph, key=lambda name: (-levels[name], name)):
        yield f"{levels[name]:3} {name:<14} -> {' '.join(sorted(graph[name]))}"


if __name__ == "__main__":
    picture = modules()
    print(f"modules: {numbers(picture)}")
    print(f"packages: {numbers(packages(picture))}")
    print("\n".join(lines(packages(picture))))
