"""A recipe, an overlay or a key names the protocol; the protocol states its task, and a recipe of another task is refused."""

from pathlib import Path

import pytest
import yaml

from fashiongen.cli import main
from fashiongen.cli.protocols import CommandLine, find_protocol, with_protocol
from fashiongen.errors import UserError

RECIPES = Path(__file__).parents[2] / "recipes"
IGR = str(RECIPES / "tiny" / "igr.yaml")


def protocol_args(*args):
    line = CommandLine.read(args)
    return with_protocol(line, find_protocol(line))


def parsed(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, args), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def complaint(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, args)))
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.count("\n") == 1
    return text


def test_the_protocols_file_is_loaded_before_the_recipe_so_later_keys_win():
    tiny, street = (str(RECIPES / "tasks" / f"{name}.yaml") for name in ("vtoff-tiny", "vtoff-igr-street"))
    assert protocol_args("fit", "--config", IGR) == ["fit", "--config", IGR]
    args = protocol_args("test", "--config", IGR, "--evaluate.out", "x.json")
    assert args == ["test", "--config", tiny, "--config", IGR, "--evaluate.out", "x.json"]
    assert protocol_args("test", "--config", "tiny/igr") == ["test", "--config", tiny, "--config", "tiny/igr"]
    assert protocol_args("test", "--config", IGR, "--config", street)[:3] == ["test", "--config", street]


@pytest.mark.parametrize("given", [["--evaluate.protocol", "vtoff-igr"], ["--evaluate.protocol=vtoff-igr"]], ids=len)
@pytest.mark.parametrize("first", [True, False])
def test_the_key_wins_wherever_it_stands(given, first):
    rest = [*given, "--config", IGR] if first else ["--config", IGR, *given]
    assert protocol_args("test", *rest)[:3] == ["test", "--config", str(RECIPES / "tasks" / "vtoff-igr.yaml")]


def test_a_protocol_next_to_a_users_own_recipe_is_found_before_the_shipped_one(tmp_path):
    own = tmp_path / "recipes" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("evaluate: {protocol: vtoff-tiny}")
    assert protocol_args("test", "--config", str(own))[2] == str(RECIPES / "tasks" / "vtoff-tiny.yaml")
    (tmp_path / "tasks").mkdir()
    beside = tmp_path / "tasks" / "vtoff-tiny.yaml"
    beside.write_text("evaluate: {task: vtoff}")
    assert protocol_args("test", "--config", str(own))[2] == str(beside)


def test_a_file_with_metrics_is_its_own_protocol(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("evaluate: {task: vtoff, protocol: mine, metrics: {ssim: {class_path: fashiongen.metrics.SSIM}}}")
    assert protocol_args("test", "--config", str(own))[2] == str(own)


def test_an_unknown_protocol_is_refused_by_a_test_alone(tmp_path, capsys):
    lost = tmp_path / "lost.yaml"
    lost.write_text("evaluate: {protocol: vtoff-tinny}")
    assert "lost.yaml: evaluate.protocol: vtoff-tinny: no such file, and no such name; did you mean vtoff-tiny" in complaint(
        capsys, "test", "--config", lost
    )
    assert find_protocol(CommandLine.read(["fit", "--config", str(lost)])) is None


@pytest.mark.parametrize(
    "args",
    [
        ["test", "--config", "tiny/random", "--evaluate.protocol", "vtoff-tiny"],
        ["test", "--config", "tiny/random", "--config", "tasks/vtoff-tiny", "--evaluate.task", "retrieval"],
        ["test", "--config", "tiny/random", "--evaluate.task", "vtoff"],
        ["fit", "--config", "tiny/popularity", "--evaluate.protocol=vtoff-tiny"],
    ],
    ids=["another protocol", "its file", "another task", "fit"],
)
def test_a_recipe_of_another_task_than_its_protocols_is_refused(args, capsys):
    line = complaint(capsys, *args)
    assert args[2] in line and "for the task" in line and "its protocol" in line
    assert "vtoff" in line and "retrieval" in line


@pytest.mark.parametrize(
    "args",
    [
        ["--evaluate", '{"protocol": "strict"}'],
        ["--config", "{evaluate: {protocol: strict}}"],
        ["--evaluate.protocol", "strict", "--config", "tasks/vtoff-igr"],
    ],
    ids=["a group", "inline", "before a file"],
)
def test_no_record_bears_the_name_of_a_protocol_whose_metrics_were_not_read(args, capsys):
    line = complaint(capsys, "test", "--config", "tiny/igr", *args)
    assert "evaluate.protocol" in line and "strict" in line and "--evaluate.protocol" in line


@pytest.mark.parametrize(("task", "reason"), [("nowhere.Task", "No module named 'nowhere'"), ("vtof", "unknown task; choose one of")])
def test_a_missing_task_is_named(task, reason, capsys):
    line = complaint(capsys, "test", "--config", "tiny/igr", "--evaluate.task", task)
    assert "evaluate.task=" in line and task in line and reason in line


def test_a_recipe_cannot_override_the_task_of_its_protocol(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text((RECIPES / "tiny" / "random.yaml").read_text().replace("protocol: strict", "protocol: vtoff-tiny"))
    assert "is for the task retrieval, and its protocol vtoff-tiny for vtoff" in complaint(capsys, "test", "--config", recipe)


def test_a_task_may_be_named_by_the_path_of_its_class(capsys):
    settings = parsed(capsys, "test", "--config", "tiny/igr", "--evaluate.task", "fashiongen.tasks.try_off.TryOff")
    assert settings["evaluate"]["protocol"] == "vtoff-tiny"


def test_a_protocol_must_state_its_task(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("evaluate: {metrics: {}}")
    recipe = tmp_path / "toy.yaml"
    recipe.write_text("evaluate: {protocol: mine}")
    with pytest.raises(UserError, match=r"tasks/mine\.yaml: a protocol states its task: add evaluate\.task"):
        find_protocol(CommandLine.read(["test", "--config", str(recipe)]))


def test_names_and_inline_yaml_are_taken_by_config(capsys):
    settings = parsed(capsys, "fit", "--config", "tiny/igr", "--config", "smoke", "--config", "{trainer: {max_steps: 7}}")
    assert settings["model"]["class_path"].endswith("IGR")
    assert settings["trainer"]["max_steps"] == 7
    assert (
        settings["trainer"]["limit_val_batches"]
        == yaml.safe_load((RECIPES / "overlays" / "smoke.yaml").read_text())["trainer"]["limit_val_batches"]
    )


def test_an_unknown_recipe_is_one_line(capsys):
    assert "--config tiny/igrr: no such file, and no such name; did you mean tiny/igr" in complaint(capsys, "fit", "--config", "tiny/igrr")
