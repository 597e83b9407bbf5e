"""Imports point one way: a file imports from lower floors or its own folder, and no method imports another."""

import ast
import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

PACKAGE = Path(__file__).parents[1] / "fashiongen"
FLOORS = {
    "errors": 0,
    "intervals": 0,
    "batches": 0,
    "outfit_batches": 0,
    "preference": 0,
    "checkpoints": 0,
    "closure": 0,
    "own_code": 0,
    "records": 0,
    "shipped": 0,
    "weights_read": 0,
    "nn": 1,
    "wardrobe": 1,
    "tasks": 2,
    "metrics": 2,
    "data": 3,
    "providers": 3,
    "methods": 4,
    "retrieval": 4,
    "evaluation": 5,
    "tiny": 6,
    "benchmark": 6,
    "cli": 7,
    "__main__": 8,
}
GROUND_FLOOR = ("errors", "batches", "outfit_batches", "checkpoints", "closure", "own_code", "records", "shipped", "weights_read")
SHARED_BY_METHODS = (
    "base",
    "concatenation",
    "multi_loss",
    "mutual_diffusion",
    "outfit_diffusion",
    "template_matching",
)  # files in methods/ that every method may import


def imported(tree: ast.AST, module: tuple[str, ...], package: Path) -> list[tuple[str, ...]]:
    """Return what a file imports of the package, as paths below it, function-level imports included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["fashiongen", *module[: len(module) - node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = []
            for alias in node.names:
                whole = package.joinpath(*base[1:], alias.name)
                names.append([*base, alias.name] if whole.is_dir() or whole.with_suffix(".py").is_file() else base)
        else:
            continue
        found += [tuple(name[1:]) for name in names if name[0] == "fashiongen" and len(name) > 1]
    return found


def allowed(importer: tuple[str, ...], target: tuple[str, ...]) -> bool:
    """Return whether the file `importer` may import `target`; files directly in the package share a folder per floor."""
    here, there = importer[0], target[0]
    if here != there:
        files = len(importer) == 1 and there in GROUND_FLOOR
        return FLOORS.get(there, 9) < FLOORS[here] or (files and FLOORS[there] == FLOORS[here])
    if here == "methods" and len(target) > 1:
        return target[1] in SHARED_BY_METHODS or importer[1:2] == target[1:2]
    return True


def violations(package: Path) -> list[str]:
    wrong = []
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").parts
        if module == ("__init__",):
            continue
        for target in imported(ast.parse(path.read_text(encoding="utf-8")), module, package):
            if not allowed(module, target):
                wrong.append(f"{'/'.join(module)} imports {'.'.join(target)}")
    return wrong


def test_imports_point_down():
    assert violations(PACKAGE) == []


def test_the_package_itself_imports_nothing():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_planted_imports_are_found(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "fashiongen", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (package / "nn" / "planted.py").write_text("def lazy():\n    from fashiongen.methods.base import Method\n    return Method\n")
    (package / "metrics" / "planted.py").write_text("from fashiongen import tasks\n")
    (package / "data" / "planted.py").write_text("from ..evaluation import Evaluate\n")
    (package / "methods" / "one").mkdir()
    (package / "methods" / "one" / "module.py").write_text(
        "import fashiongen.methods.two.network\nfrom fashiongen.methods.base import Method\n"
        "from fashiongen.methods.concatenation import ConcatenationMethod\n"
        "from fashiongen.methods.multi_loss import MultiLossMethod\n"
        "from fashiongen.methods.template_matching import TemplateMatchingMethod\n"
    )
    (package / "methods" / "one" / "network.py").write_text("from .module import x\nfrom ..two import y\n")
    (package / "methods" / "two").mkdir()
    (package / "methods" / "two" / "network.py").write_text("")
    assert violations(package) == [
        "data/planted imports evaluation",
        "methods/one/module imports methods.two.network",
        "methods/one/network imports methods.two",
        "metrics/planted imports tasks",
        "nn/planted imports methods.base",
    ]


# Code that uses task handlers, and so must not know any task's name or batch type.
ABOVE_TASKS = ("evaluation", "benchmark", "cli")
# `fashiongen retrieve` is a command of one task.
OF_ONE_TASK = {"retrieve", "retrieval"}
SHARED_BY_TASKS = ("base", "registry")


def particular(tree: ast.AST) -> list[str]:
    """Return the names of tasks and of batch types in a file, docstrings and help texts left out."""
    from fashiongen import batches, outfit_batches, tasks

    known = {**vars(batches), **vars(outfit_batches)}
    types = {name for name, value in known.items() if isinstance(value, type) and issubclass(value, batches.Batch)} - {"Batch"}
    # What the package of tasks does not export is a handler's own: its classes and their modules, and what it hands to its metrics.
    own = [
        import_module(f"{tasks.__name__}.{module.name}") for module in iter_modules(tasks.__path__) if module.name not in SHARED_BY_TASKS
    ]
    types |= {name for module in own for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    types |= {"Ranked", "Generated", "Completed", *(module.__name__.rpartition(".")[2] for module in own)} - OF_ONE_TASK
    methods = {task.method for task in tasks.known().values()}
    names = set(tasks.known()) | {task.__name__ for task in tasks.known().values()}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in (names | methods) - OF_ONE_TASK:
            found.append(node.value)
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}[type(node)]
            found += [getattr(node, name)] if getattr(node, name) in types | methods else []
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{tasks.__name__}."):
            found.append(node.module)
        if isinstance(node, ast.Compare | ast.MatchValue | ast.Dict):  # a string that is compared with is a case of its own
            found += [value.value for value in ast.walk(node) if isinstance(value, ast.Constant) and value.value in names & OF_ONE_TASK]
    return found


def test_only_handlers_know_tasks():
    found = {}
    for path in sorted(
        path for room in ABOVE_TASKS for path in [*(PACKAGE / room).rglob("*.py"), PACKAGE / f"{room}.py"] if path.is_file()
    ):
        if names := particular(ast.parse(path.read_text(encoding="utf-8"))):
            found[path.relative_to(PACKAGE).as_posix()] = names
    assert found == {}


def test_planted_tasks_are_found():
    for line in (
        "task == 'retrieval'",
        "size = 1 if record.task == 'vtoff' else 2",
        "from fashiongen.batches import TryOffBatch",
        "x = 'vtoff'",
        "match task:\n  case 'retrieval': pass",
        "{'retrieval': 1}[task]",
        "from fashiongen.tasks.try_off import TakesOff",
        "isinstance(task, tasks.one_image.OneImage)",
        "from fashiongen.batches import Ranked",
        "method.take_off(batch)",
        "hasattr(method, 'embed_query')",
    ):
        assert particular(ast.parse(line)), line
    assert not particular(ast.parse("commands.add_parser('retrieve')\nfrom fashiongen import retrieval"))
