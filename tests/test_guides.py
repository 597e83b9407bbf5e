"""Every command that README and the guides show parses, the short ones run, and so does the Python example."""

import re
import shlex
from pathlib import Path

import pytest

from fashiongen.cli import main
from fashiongen.cli.arguments import TRAINER_COMMANDS, parse
from fashiongen.cli.settings import resolve
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[1]
GUIDES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for folder in ("recipes", "benchmarks", "fashiongen") for path in (ROOT / folder).rglob("README.md")),
]
PROGRAM = re.compile(r"(?:\S*/)?(?:fashiongen|lightning) (?P<arguments>[a-z].*)|python -m fashiongen (?P<also>[a-z].*)")
HEADINGS = {"", "run", "render", "check", "encode", "masks", "build", "method"}  # a command's name alone, as sentences have it
OPTIONAL = re.compile(r"[\[\]]")  # `[--strict]`


def commands_of(guide: Path) -> list[list[str]]:
    """Return the arguments of each command in a guide: those in its code blocks, and those in backticks that are more than a name."""
    text = guide.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", text, re.DOTALL)
    shown = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    shown += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = []
    for line in shown:
        for part in re.split(r"\s&&\s|\s\|\s|;\s", line):
            if match := PROGRAM.fullmatch(part.strip().partition("  #")[0].partition(" #")[0].strip()):
                arguments = shlex.split(OPTIONAL.sub("", match["arguments"] or match["also"]))
                if arguments[0] == "recipes" or not set(arguments[1:]) <= HEADINGS:
                    found.append(arguments)
    return found


COMMANDS = [(guide, arguments) for guide in GUIDES for arguments in commands_of(guide)]


def named(entry) -> str:
    return f"{entry[0].relative_to(ROOT).as_posix()}: {' '.join(entry[1])}"


def test_there_are_commands():
    """Otherwise the tests below would pass with nothing to test."""
    assert {arguments[0] for _, arguments in COMMANDS} >= {
        *TRAINER_COMMANDS,
        "recipes",
        "data",
        "bench",
        "leaderboard",
        "retrieve",
        "wardrobe",
    }
    assert len(COMMANDS) > 30 and not [named(entry) for entry in COMMANDS if "..." in entry[1]]


@pytest.mark.parametrize("entry", [entry for entry in COMMANDS if entry[1][0] not in TRAINER_COMMANDS], ids=named)
def test_a_command_parses(entry, monkeypatch):
    monkeypatch.chdir(ROOT)
    options, keys = parse(entry[1])
    assert not keys or options.takes_keys


def test_commands_of_the_trainer_parse(monkeypatch):
    """With one parser, since creating one is slow."""
    monkeypatch.chdir(ROOT)
    commands = [entry for entry in COMMANDS if entry[1][0] in TRAINER_COMMANDS and not any(word.endswith(".help") for word in entry[1])]
    assert len(commands) > 12
    try:
        resolve([arguments for _, arguments in commands])
    except UserError:  # say which
        for entry in commands:
            try:
                resolve([entry[1]])
            except UserError as error:
                pytest.fail(f"{named(entry)}: {error}")


SHORT = [
    ["recipes"],
    ["wardrobe", "render", "viton_hd", "world", "--people", "12", "--size", "32x24", "--seed", "0"],
    ["data", "check", "viton_hd", "world", "--strict", "--json", "check.json"],
    ["bench", "run", "tiny-smoke", "--dry-run", "--out", "smoke"],
    ["fit", "--config", "tiny/igr", "--print_config"],
    ["fit", "--model.help", "fashiongen.methods.igr.IGR"],
    ["fit", "--data.help", "fashiongen.data.VITONHD"],
]


def test_short_commands_run(tmp_path, monkeypatch, capfd):
    """One after the other, in an empty folder: the second makes what the third reads."""
    monkeypatch.chdir(tmp_path)
    for arguments in SHORT:
        try:
            main(arguments)
        except SystemExit as stop:
            assert not stop.code, (arguments, capfd.readouterr().err)
        assert capfd.readouterr().out, arguments
    assert (tmp_path / "check.json").is_file()


def test_the_python_example_runs(cache):
    """As in the README, but on a small world, without a checkpoint and with two sampling steps."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    small = {"data.init_args.people": 40, "data.init_args.validation": 4, "model.init_args.steps": 2}
    shorter = code.replace('checkpoint="logs/igr/last.ckpt"', f"keys={small}")
    assert shorter != code and len([line for line in code.splitlines() if line.strip()]) <= 6
    scope = {}
    exec(compile(shorter, "README.md", "exec"), scope)
    garments = scope["garments"]
    assert garments.shape[1:] == (3, 64, 48) and garments.isfinite().all() and garments.abs().max() <= 1
