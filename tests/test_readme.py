"""README.md, .ci/run and the files they mention are consistent."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAIN_JOB = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/lightning fit --config recipes/tiny/igr.yaml"
    " && .venv/bin/fashiongen test --config recipes/tiny/igr.yaml --ckpt_path logs/igr/last.ckpt --evaluate.out logs/igr/test.json"
)
TESTS = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest -q -n auto"


@pytest.fixture(scope="module")
def lines():
    return (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", [MAIN_JOB, TESTS])
def test_the_first_screen_holds_both_commands(lines, command):
    assert lines[:45].count(command) == 1


def test_recipes_that_documents_name_exist():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("fashiongen/methods/*/README.md")]
    named = {match for path in documents for match in re.findall(r"--config[ =]([\w/.-]+\.yaml)", path.read_text(encoding="utf-8"))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_extras_that_the_readme_names_exist(lines):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra for names in re.findall(r"(?:\.|fashiongen)\[([\w,]+)\]", "\n".join(lines)) for extra in names.split(",")}
    assert "test" in named
    assert named <= set(extras)


def run_ci(checkout: Path, readme: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Run the real .ci/run in a checkout with the README `readme`; return its exit status and what it left in TMPDIR."""
    (checkout / ".ci").mkdir(parents=True)
    (checkout / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    (checkout / "README.md").write_text(readme)
    (checkout / ".venv").mkdir()
    (checkout / ".gitignore").write_text(".venv/\n")
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    scratch = checkout.parent / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(scratch), "CI_NO_INSTALL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, list(scratch.iterdir())


def test_ci_runs_the_readmes_command_on_a_copy(tmp_path):
    command = "mkdir .venv && touch .venv/made && echo -m pytest $HF_HUB_OFFLINE && ls -A && (exit 3)"
    done, left = run_ci(tmp_path / "checkout", f"# Title\n\n```bash\n{command}\n```\n")
    assert done.returncode == 3, done.stderr
    assert done.stdout.split() == ["-m", "pytest", "1", ".ci", ".gitignore", ".venv", "README.md"]
    assert left == []
    assert list((tmp_path / "checkout" / ".venv").iterdir()) == []


@pytest.mark.parametrize("readme", ["a -m pytest\nb -m pytest\n", "no command\n"])
def test_ci_refuses_a_readme_without_the_one_test_command(tmp_path, readme):
    done, left = run_ci(tmp_path / "checkout", readme)
    assert done.returncode == 2
    assert done.stderr == ".ci/run: README.md must hold one line with '-m pytest', its test command\n"
    assert left == []


def test_ci_script_is_executable_bash():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert (ROOT / ".ci" / "run").read_text().startswith("#!/usr/bin/env bash\n")
