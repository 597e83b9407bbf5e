"""Recipes, overlays, protocols, suites and published numbers shipped with the package: where they are, and how names resolve to paths.

They are in the top-level folders `recipes/` and `benchmarks/` of a checkout; an installed wheel has copies in its folder `share`.
This file imports nothing heavy.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from fashiongen.errors import UserError

SUFFIX = ".yaml"
CONFIG_FOLDERS = ("", "overlays")
"""Folders of `recipes/` where a bare name given to `--config` is looked up, in this order."""


@dataclass(frozen=True)
class Entry:
    """A file shipped with the package: its name in commands, and a one-sentence description."""

    name: str
    path: Path
    description: str


def root() -> Path:
    """Return the folder that holds `recipes/` and `benchmarks/`."""
    installed = Path(__file__).with_name("share")
    return installed if installed.is_dir() else Path(__file__).parents[1]


def recipes_folder() -> Path:
    """Return the folder of the recipes, which contains `tiny/`, `overlays/` and `tasks/` (the protocols)."""
    return root() / "recipes"


def suites_folder() -> Path:
    """Return the folder of the benchmark's suites."""
    return root() / "benchmarks" / "suites"


def published_folder() -> Path:
    """Return the folder of the papers' numbers."""
    return root() / "benchmarks" / "published"


def find_config(given: str | Path) -> Path:
    """Return the file that `--config` refers to: an existing path, else the recipe or overlay of that name (`tasks/NAME` for a protocol).

    A value that looks like a path (for example, ends in `.yaml`) is returned unchanged.

    >>> find_config("tiny/igr").relative_to(root()).as_posix()
    'recipes/tiny/igr.yaml'
    >>> find_config("zero2").relative_to(root()).as_posix()
    'recipes/overlays/zero2.yaml'

    Raises:
        UserError: if there is no file of that name.
    """
    return _find(str(given), "--config", [recipes_folder() / folder for folder in CONFIG_FOLDERS], _config_names())


def find_suite(given: str | Path) -> Path:
    """Return the file of a suite, given by path or by name; see `find_config`."""
    return _find(str(given), "suite", [suites_folder()], _names(suites_folder()))


def find_protocol(name: str, recipe: Path | None = None) -> Path | None:
    """Return the file of a protocol: `tasks/NAME.yaml` next to the recipe or one folder up, else the shipped one; None if missing."""
    beside = [] if recipe is None else [folder / "tasks" for folder in list(recipe.absolute().parents)[:2]]
    files = (folder / f"{name}{SUFFIX}" for folder in [*beside, recipes_folder() / "tasks"])
    return next((file for file in files if file.is_file()), None)


def find_overlay(name: str, recipes: Path | None = None) -> Path | None:
    """Return the file of an overlay: `overlays/NAME.yaml` in `recipes` or next to it, else the shipped one; None if missing."""
    beside = [] if recipes is None else [recipes / "overlays", recipes.parent / "overlays"]
    files = (folder / f"{name}{SUFFIX}" for folder in [*beside, recipes_folder() / "overlays"])
    return next((file for file in files if file.is_file()), None)


def label(path: str | Path) -> str:
    """Return a file's name in records and messages: its path in a checkout for a shipped file, any other path unchanged.

    >>> label(find_config("tiny/igr"))
    'recipes/tiny/igr.yaml'
    >>> label("my/recipe.yaml")
    'my/recipe.yaml'
    """
    file = Path(path)
    return file.relative_to(root()).as_posix() if file.is_absolute() and file.is_relative_to(root()) else str(path)


def unknown(name: str, known: list[str], what: str) -> UserError:
    """Return the error for an unknown name, with the most similar names."""
    leaves = {known_name.rpartition("/")[2]: known_name for known_name in reversed(known)}
    similar = [leaves.get(match, match) for match in get_close_matches(name, [*known, *leaves], n=4)]
    hint = f"did you mean {' or '.join(dict.fromkeys(similar))}? " if similar else ""
    return UserError(f"{what} {name}: no such file, and no such name; {hint}`fashiongen recipes` lists the names")


def list_recipes() -> list[Entry]:
    """Return the recipes, full-size ones first."""
    return [*_entries(recipes_folder()), *_entries(recipes_folder() / "tiny", "tiny/")]


def list_overlays() -> list[Entry]:
    """Return the overlays."""
    return _entries(recipes_folder() / "overlays")


def list_protocols() -> list[Entry]:
    """Return the protocols."""
    return _entries(recipes_folder() / "tasks")


def list_suites() -> list[Entry]:
    """Return the suites of the benchmark."""
    return _entries(suites_folder())


def description(path: Path) -> str:
    """Return the first sentence of the comment on top of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    text = " ".join(lines)
    sentence = re.match(r".*?[.?!](?=\s|$)", text)
    return sentence[0] if sentence else text


def _find(given: str, what: str, folders: list[Path], known: list[str]) -> Path:
    path = Path(given).expanduser()
    if path.suffix in (SUFFIX, ".yml", ".json") or path.is_absolute() or given.startswith(".") or (path.exists() and not path.is_dir()):
        return path
    for folder in folders:
        if (file := folder / f"{given}{SUFFIX}").is_file():
            return file
    raise unknown(given, known, what)


def _config_names() -> list[str]:
    folders = ("", "tiny/", "overlays/", "tasks/")
    return [f"{folder}{name}" for folder in folders for name in _names(recipes_folder() / folder)]


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob(f"*{SUFFIX}"))


def _entries(folder: Path, prefix: str = "") -> list[Entry]:
    return [Entry(f"{prefix}{name}", file := folder / f"{name}{SUFFIX}", description(file)) for name in _names(folder)]
