"""Suites become graphs, and mistakes in a suite are one-line errors."""

import json
from pathlib import Path

import pytest
import toys
import yaml

from fashiongen.benchmark.command_info import CommandInfo, obstacle
from fashiongen.benchmark.plan import Plan, make_plan
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[2]
SUITES = sorted((ROOT / "benchmarks" / "suites").glob("*.yaml"))
LEARNT: dict = {}
TRIVIAL = {"facts": {"learns": False}}


def plan(folder: Path, methods: dict, runs: list | None = None, **keys) -> Plan:
    return make_plan(toys.write_suite(folder, methods, runs, **keys), toys.describe)


def overlay(folder: Path, name: str, **content) -> None:
    (folder / "recipes" / "overlays").mkdir(parents=True, exist_ok=True)
    (folder / "recipes" / "overlays" / f"{name}.yaml").write_text(json.dumps(content))


def test_ids_and_arguments_identify_a_node(tmp_path):
    overlay(tmp_path, "bf16")
    overlay(tmp_path, "no-loss")
    runs = [
        {
            "methods": ["igr"],
            "overlays": ["bf16"],
            "seeds": [3],
            "ablations": ["no-loss", {"name": "tau-0.1", "keys": {"model.tau": 0.1, "model.sizes": [1, 2]}}],
            "tests": [
                {},
                {"protocol": "other", "keys": {"data.people": 9}},
                {"protocol": "other", "data": "Street"},
                {"name": "guidance-2", "keys": {"model.scale": 2}},
            ],
            "fit_keys": {"trainer.max_steps": 5},
        }
    ]
    nodes = {node.id: node for node in plan(tmp_path, {"igr": LEARNT}, runs, limits={"test": 60}).nodes}
    tests = ["toy--Toys", "other--Toys", "other--Street"]
    names = ["igr+bf16", "igr+bf16+no-loss", "igr+bf16+tau-0.1"]
    ids = [[f"fit--{name}--seed3", *(f"test--{name}--seed3--{test}" for test in tests)] for name in names]
    assert list(nodes) == [
        id_ for name, row in zip(names, ids, strict=True) for id_ in (*row, f"test--{name}+guidance-2--seed3--toy--Toys")
    ]
    recipes = tmp_path / "recipes"
    files = ["--config", str(recipes / "igr.yaml"), "--config", str(recipes / "overlays" / "bf16.yaml")]
    keys = ["--trainer.max_steps", "5", "--model.tau", "0.1", "--model.sizes", "[1, 2]"]
    fit = nodes["fit--igr+bf16+tau-0.1--seed3"]
    assert fit.arguments == ["fit", *files, *keys, "--seed_everything", "3"]
    assert (fit.method, fit.overlays, fit.seed, fit.limit) == ("igr", ["bf16", "tau-0.1"], 3, None)
    test = nodes["test--igr+bf16--seed3--other--Toys"]
    assert test.arguments == ["test", *files, "--data.people", "9", "--evaluate.protocol", "other", "--seed_everything", "3"]
    assert test.parents == {"checkpoint": "fit--igr+bf16--seed3"} and test.limit == 60
    guided = nodes["test--igr+bf16+guidance-2--seed3--toy--Toys"]
    assert guided.overlays == ["bf16", "guidance-2"] and guided.parents == {"checkpoint": "fit--igr+bf16--seed3"}


BEST = {"facts": {"best": "logs/toy/best.ckpt", "selects": "best"}}


def test_tests_and_later_stages_load_the_checkpoint_that_the_recipe_selects(tmp_path):
    overlay(tmp_path, "last", facts={"selects": "last"})
    recipes = {"base": BEST, "heir": {"parents": {"first": "base"}}}
    runs = [{"methods": ["base", "heir"], "tests": [{}, {"name": "last", "overlays": ["last"]}]}]
    nodes = {node.id: node for node in plan(tmp_path, recipes, runs).nodes}
    assert nodes["fit--base--seed0"].checkpoint == "logs/toy/last.ckpt"  # resumes from this one
    assert nodes["fit--base--seed0"].best == "logs/toy/best.ckpt" and nodes["fit--heir--seed0"].best is None
    assert nodes["fit--heir--seed0"].loads == {"first": "logs/toy/best.ckpt"}
    assert nodes["test--base--seed0--toy--Toys"].loads == {"checkpoint": "logs/toy/best.ckpt"}
    assert nodes["test--base+last--seed0--toy--Toys"].loads == {"checkpoint": "logs/toy/last.ckpt"}
    assert nodes["test--heir--seed0--toy--Toys"].loads == {"checkpoint": "logs/toy/last.ckpt"}


def test_a_best_checkpoint_without_a_fixed_name_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"base\.yaml: evaluate\.checkpoint: best, but .* monitor, filename: best, save_top_k: 1"):
        plan(tmp_path, {"base": {"facts": {"selects": "best"}}})


def test_parents_come_first_once_and_without_the_ablation_of_their_child(tmp_path):
    overlay(tmp_path, "smoke")
    overlay(tmp_path, "no-parent", parents={})
    recipes = {"geco": {"parents": {"cigm": "cigm"}}, "cigm": {"parents": {"base": "base"}}, "base": LEARNT, "white": TRIVIAL}
    runs = [{"methods": ["geco"], "overlays": ["smoke"], "seeds": [0, 1], "ablations": ["no-parent"]}, {"methods": ["white", "base"]}]
    nodes = {node.id: node for node in plan(tmp_path, recipes, runs).nodes}
    for seed in (0, 1):
        assert nodes[f"fit--geco+smoke--seed{seed}"].parents == {"cigm": f"fit--cigm+smoke--seed{seed}"}
        assert nodes[f"fit--cigm+smoke--seed{seed}"].parents == {"base": f"fit--base+smoke--seed{seed}"}
        assert nodes[f"fit--geco+smoke+no-parent--seed{seed}"].parents == {}
    order = list(nodes)
    assert all(order.index(parent) < order.index(node.id) for node in nodes.values() for parent in node.parents.values())
    assert not [id_ for id_ in order if id_.startswith("test--cigm")] and "fit--base--seed0" in nodes
    assert "fit--white--seed0" not in nodes and nodes["test--white--seed0--toy--Toys"].parents == {}


def test_a_plan_is_the_same_wherever_the_suite_lies(tmp_path):
    recipes = {"geco": {"parents": {"cigm": "cigm"}}, "cigm": LEARNT}
    one, two = (plan(tmp_path / name, recipes) for name in ("one", "two"))
    assert [node.content for node in one.nodes] == [node.content for node in two.nodes]


def test_a_parent_with_other_settings_elsewhere_in_the_suite_is_an_error(tmp_path):
    recipes = {"geco": {"parents": {"cigm": "cigm"}}, "cigm": LEARNT}
    runs = [{"methods": ["cigm"], "keys": {"trainer.max_epochs": 3}}, {"methods": ["geco"], "keys": {"trainer.max_epochs": 9}}]
    with pytest.raises(UserError, match=r"run 2: geco starts from cigm, which the suite trains with other overlays or keys \(.*run 1\)"):
        plan(tmp_path, recipes, runs)
    runs[0]["keys"] = {"trainer.max_epochs": 9}
    assert len(plan(tmp_path, recipes, runs).nodes) == 4


def test_the_seeds_of_a_child_train_its_parent_without_testing_it(tmp_path):
    recipes = {"geco": {"parents": {"cigm": "cigm"}}, "cigm": LEARNT}
    nodes = [
        node.id for node in plan(tmp_path, recipes, [{"methods": ["cigm"], "seeds": [0]}, {"methods": ["geco"], "seeds": [0, 1]}]).nodes
    ]
    assert "fit--cigm--seed1" in nodes and [name for name in nodes if name.startswith("test--cigm")] == ["test--cigm--seed0--toy--Toys"]


@pytest.mark.parametrize(
    ("runs", "keys", "words"),
    [
        ([{"methods": ["igr"], "sedes": [1]}], {}, "run 1: unknown key 'sedes'"),
        ([{"methods": ["igr"]}], {"limit": {}}, "unknown key 'limit'; it may have: suite, recipes, runs"),
        ([{"methods": ["irg"]}], {}, "methods: irg: no such recipe; .* holds: igr, lost"),
        ([{"methods": ["igr"], "overlays": ["bf61"]}], {}, r"overlays: bf61: .*bf61\.yaml does not exist"),
        ([{"methods": ["igr"], "ablations": ["absent"]}], {}, r"overlays: absent: .*absent\.yaml does not exist"),
        ([{"methods": ["igr"], "ablations": [{"name": "a/b"}]}], {}, "'a/b' may only contain letters"),
        ([{"methods": ["igr"], "ablations": [{"name": "a", "key": {}}]}], {}, "ablations: unknown key 'key'"),
        ([{"methods": ["igr"], "tests": [{"protocols": "x"}]}], {}, "tests: unknown key 'protocols'"),
        ([{"methods": ["igr"], "tests": [{}, {}]}], {}, "two tests would have the id test--igr--seed0--toy--Toys"),
        ([{"methods": ["igr"], "tests": [{"data": "../up"}]}], {}, r"tests: '\.\./up' may only contain letters"),
        ([{"methods": ["igr"], "seeds": [-1]}], {}, r"seeds: \[-1\] must be non-negative integers"),
        ([{"methods": ["igr"], "seeds": []}], {}, "seeds: "),
        ([{"methods": "igr"}], {}, "methods: 'igr' must be a list"),
        ([{"methods": ["igr"], "ablations": [{"name": "a" * 200}]}], {}, "is too long for a folder name"),
        ([{}], {}, "run 1: the key 'methods' is missing"),
        ([{"methods": ["igr"], "limits": {"fits": 3}}], {}, "limits: fits"),
        ([{"methods": ["igr"], "limits": {"fit": 0}}], {}, "limits: fit: 0: must be"),
        ([{"methods": ["igr"]}, {"methods": ["igr"]}], {}, "the suite has this row twice"),
        ([{"methods": ["lost"]}], {}, r"parents: nobody: .*nobody\.yaml does not exist"),
        ([{"methods": ["igr"]}], {"recipes": "absent"}, "recipes: .*absent: no such folder"),
        ([{"methods": ["igr"]}], {"suite": "../up"}, "suite: '../up' may only contain letters"),
    ],
)
def test_mistakes_in_a_suite_are_one_line_errors(tmp_path, runs, keys, words):
    with pytest.raises(UserError, match=words) as error:
        plan(tmp_path, {"igr": LEARNT, "lost": {"parents": {"of": "nobody"}}}, runs, **keys)
    assert "suite.yaml" in str(error.value) or "lost.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[1, 2", "just a text", ""])
def test_a_file_that_is_not_a_suite_is_named(tmp_path, content):
    (tmp_path / "suite.yaml").write_text(content)
    with pytest.raises(UserError, match=r"suite\.yaml"):
        make_plan(tmp_path / "suite.yaml", toys.describe)
    with pytest.raises(UserError, match="No such file"):
        make_plan(tmp_path / "absent.yaml", toys.describe)


@pytest.mark.parametrize(
    ("facts", "kind", "available", "reason"),
    [
        ({}, "fit", 0, None),
        ({"task": "vton"}, "test", 0, "M does not support vton; it supports: vtoff"),
        ({"task": "vtoff"}, "test", 0, None),
        ({"deepspeed": True, "n_optimizers": 2, "accelerator": "cuda", "gpus": 1}, "fit", 1, "DeepSpeed takes one optimizer and M has 2"),
        ({"deepspeed": True}, "fit", 0, "DeepSpeed needs a CUDA GPU, and there is none"),
        ({"deepspeed": True}, "fit", 2, "DeepSpeed needs a CUDA GPU, and the recipe asks for the CPU"),
        ({"deepspeed": True, "accelerator": "cuda", "gpus": 1}, "fit", 1, None),
        ({"accelerator": "cuda", "gpus": 4}, "fit", 1, "it needs 4 GPUs (trainer.accelerator, trainer.devices), but there are 1"),
        ({"accelerator": "cuda", "gpus": 4}, "fit", None, None),
        ({"problem": "no folder"}, "fit", 0, "no folder"),
        ({"needs": ["mask", "pose"]}, "fit", 0, "M needs pose, which D does not offer here (it offers mask)"),
        ({"needs": ["mask", "pose"], "offers": None}, "fit", 0, None),
    ],
)
def test_obstacles_are_named(facts, kind, available, reason):
    known = {"method": "M", "tasks": ["vtoff"], "dataset": "D", "offers": ["mask"]}
    assert obstacle(CommandInfo(**{**known, **facts}), kind, available) == reason


@pytest.mark.parametrize(
    ("asked", "available", "gpus", "skipped"),
    [
        ({"accelerator": "auto", "gpus": 1}, 0, 0, None),
        ({"accelerator": "auto", "gpus": 1}, 2, 1, None),
        ({"accelerator": "auto", "gpus": 1}, None, 1, None),  # a cluster's GPUs are unknown, so the needed ones are requested
        ({"accelerator": "auto", "gpus": 1, "deepspeed": True}, None, 1, None),
        ({"accelerator": "auto", "gpus": 1, "deepspeed": True}, 0, 0, "DeepSpeed needs a CUDA GPU, and there is none"),
        ({"accelerator": "cuda", "gpus": -1}, 4, 4, None),
        ({"accelerator": "cuda", "gpus": -1}, None, 1, None),
        ({"accelerator": "cpu"}, 4, 0, None),
    ],
)
def test_the_executor_and_not_the_planning_machine_resolves_auto(tmp_path, asked, available, gpus, skipped):
    suite = toys.write_suite(tmp_path, {"igr": {"facts": asked}})
    fit, test = make_plan(suite, toys.describe, available=lambda there: available).nodes
    assert (fit.gpus, fit.skipped) == (test.gpus, test.skipped) == (gpus, skipped)


def test_the_suites_exist():
    assert {path.name for path in SUITES} >= {
        "tiny-smoke.yaml",
        "tiny.yaml",
        "cycle-tiny.yaml",
        "paper-igr.yaml",
        "paper-geco.yaml",
        "ablations-igr.yaml",
        "ablations-geco.yaml",
    }


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_suites_name_only_what_exists(suite):
    """Their recipes, overlays, parents and protocols; the command line's parser checks that their keys are known (test_inspection)."""
    commands = []

    def describe(asked):
        commands.extend(asked)
        found = [
            CommandInfo(method="M", tasks=["t"], task=task(protocol(command)) if command[0] == "test" else "", protocol=protocol(command))
            for command in asked
        ]
        for facts in found:
            facts.checkpoint = "last.ckpt"
        return found, 8

    def protocol(command):
        keys = dict(zip(command[1::2], command[2::2], strict=True))
        named = keys.get("--evaluate.protocol", "")
        assert not named or (ROOT / "recipes" / "tasks" / f"{named}.yaml").is_file()
        return named

    def task(protocol):
        return "vtoff" if protocol.startswith("vtoff") else "t"

    nodes = make_plan(suite, describe).nodes
    assert nodes and yaml.safe_load(suite.read_text())["suite"] == suite.stem
    if suite.stem in ("tiny", "tiny-smoke"):
        tested = {node.method for node in nodes if node.kind == "test"}
        assert tested == {path.stem for path in (ROOT / "recipes" / "tiny").glob("*.yaml")}
