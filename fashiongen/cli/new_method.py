"""`fashiongen new method NAME`: writes the files of a new method from the templates in `templates/`."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template

from fashiongen import shipped
from fashiongen.errors import UserError

TEMPLATES = Path(__file__).with_name("templates") / "method"
PACKAGE_FILES = ("__init__.py", "module.py", "network.py", "README.md")


@dataclass(frozen=True)
class Place:
    """Where a method's files go.

    Attributes:
        root: the folder that its package is imported from.
        package: its dotted name, such as `fashiongen.methods.my_method`.
        recipes: folder of the recipe; the tiny one goes into its `tiny/`.
        tests: folder of the test.
    """

    root: Path
    package: str
    recipes: Path
    tests: Path

    @property
    def folder(self) -> Path:
        """Return the folder of the package."""
        return self.root.joinpath(*self.package.split("."))


def write_method(name: str, out: Path | None) -> None:
    """Write the folder, recipes and test of a new method, and print what to do next.

    Args:
        name: the name of its folder and recipes; its class has the same name in CamelCase.
        out: folder of the user's own package or modules; by default the checkout of fashiongen.

    Raises:
        UserError: if the name is invalid or taken, or a file already exists; then nothing is written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"{name!r} cannot be a method's name: use lower-case letters, digits and `_`, such as my_method")
    place = _in_checkout(name) if out is None else _in_folder(name, out.expanduser().absolute())
    files = _files(name, place, in_checkout=out is None)
    # A folder hides the module of the same name beside it.
    if there := [file for file in [place.folder, place.folder.with_suffix(".py"), *files] if file.exists()]:
        raise UserError(f"{there[0]} exists, and nothing is overwritten: choose another name")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    _tell(name, place, list(files), in_checkout=out is None)


def _in_checkout(name: str) -> Place:
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "recipes").is_dir():
        raise UserError("fashiongen is installed here without its source tree: give the folder of your own code by --out DIR")
    if taken := [entry.name for entry in shipped.list_recipes() if entry.name.rpartition("/")[2] == name]:
        raise UserError(f"the name {name} is taken by the recipe {taken[0]}: choose another name")
    return Place(root, f"fashiongen.methods.{name}", root / "recipes", root / "tests" / "methods")


def _in_folder(name: str, out: Path) -> Place:
    """Return the place in a folder; if it is inside a package, the method becomes part of that."""
    root, parts = out, [name]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if wrong := [part for part in parts if not part.isidentifier()]:
        raise UserError(f"{wrong[0]!r} of {out} cannot be the name of a package: Python cannot import it; rename the folder")
    if len(parts) == 1 and importlib.util.find_spec(name) is not None and not (out / name).exists():
        raise UserError(f"a module called {name} is installed already and would hide yours: choose another name")
    return Place(root, ".".join(parts), root / "recipes", root / "tests")


def _files(name: str, place: Place, *, in_checkout: bool) -> dict[Path, str]:
    class_name = "".join(part.capitalize() for part in name.split("_"))
    tiny = place.recipes / "tiny" / f"{name}.yaml"
    test = place.tests / f"test_{name}.py"
    values = {
        "name": name,
        "class_name": class_name,
        "package": place.package,
        "class_path": f"{place.package}.{class_name}",
        "tiny_recipe": f"tiny/{name}" if in_checkout else tiny.relative_to(place.root).as_posix(),
        "tiny_recipe_path": tiny.relative_to(place.root).as_posix(),
        "gap": "" if in_checkout else "\n",  # between imports of fashiongen and of the user's own package
        "levels": len(test.relative_to(place.root).parts) - 1,
    }
    targets = {
        **{file: place.folder / file for file in PACKAGE_FILES},
        "full.yaml": place.recipes / f"{name}.yaml",
        "tiny.yaml": tiny,
        "test.py": test,
    }
    return {target: _filled(template, values) for template, target in targets.items()}


def _filled(template: str, values: dict[str, str | int]) -> str:
    return Template((TEMPLATES / f"{template}.template").read_text(encoding="utf-8")).substitute(values)


def _tell(name: str, place: Place, files: list[Path], *, in_checkout: bool) -> None:
    def near(file: Path) -> str:
        """Return a path as typed from the current folder."""
        return os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)

    recipe = f"tiny/{name}" if in_checkout else place.recipes.relative_to(place.root).joinpath("tiny", f"{name}.yaml").as_posix()
    print("written:", *(f"  {near(file)}" for file in files), "", "next:", sep="\n")
    if place.root != Path.cwd():
        print(f"  cd {shlex.quote(str(place.root))}")
    print(f"  python -m pytest {files[-1].relative_to(place.root).as_posix()}")
    print(f"  fashiongen fit --config {recipe}")
    print(f"then replace the loss and the network with your own; {near(place.folder / 'README.md')} maps the paper to the code")
