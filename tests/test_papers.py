"""What the papers' texts state, in tests/papers: every setting against the fully resolved recipe, every row of a table against its suite.

tests/papers/igr.yaml says what the fields mean. Where the papers' texts are present, every quote is looked up in them.
"""

import functools
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDPMScheduler, UNet2DConditionModel
from published_sd15 import IMAGE, SMALL
from test_published import PAPERS as PUBLISHED
from test_published import TEXT, TEXTS, load
from torch import nn

import fashiongen.data
from fashiongen.benchmark.command_info import CommandInfo
from fashiongen.benchmark.plan import make_plan
from fashiongen.cli.settings import resolve
from fashiongen.methods.bpr_dae.loss import ROLLS as BPR_DAE_ROLLS
from fashiongen.methods.catvton import CatVTON
from fashiongen.methods.geco.network import load_backbone
from fashiongen.methods.igr.module import PROMPTS
from fashiongen.methods.igr.network import build_garmnet
from fashiongen.methods.tryoffanyone import TryOffAnyone
from fashiongen.nn.parts import ddim
from fashiongen.nn.template_matching import ROLLS, TemplateMatcher

ROOT = Path(__file__).parents[1]
RECIPES, SUITES = ROOT / "recipes", ROOT / "benchmarks" / "suites"
FILES = {path.stem: load(path) for path in sorted((Path(__file__).parent / "papers").glob("*.yaml"))}
SETTINGS = [(name, place) for name, file in FILES.items() for place in range(len(file["settings"]))]
TOLD = {recipe for file in FILES.values() for recipe in file["recipes"]}
LONGEST_QUOTE = 12

# What a recipe decides without deciding a number, or what belongs to the machine.
UNTOLD = re.compile(
    r"seed_everything|data\.init_args\.(root|num_workers|eval_batch_size|images|quality\.init_args\.decisions)|evaluate\.(task|protocol)"
    r"|trainer\.(accelerator|logger|callbacks|log_every_n_steps|val_check_interval|check_val_every_n_epoch|limit_val_batches|num_sanity_val_steps)"
)

REVISION = re.compile(r"@[0-9a-f]{40}(?=/|$)")
"""The revision of a hub id, which no paper states."""


def template_sign() -> int:
    matcher = TemplateMatcher(
        nn.Identity(), nn.Identity(), width=1, dimensions=1, alpha=0.0, beta=1.0, mu=0.0, nu=0.0, pixel_weight=0.0, variant="paper"
    )
    return int(matcher.pair_score(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]])))


@functools.cache
def garmnet_channels() -> int:
    with torch.device("meta"):
        return build_garmnet(UNet2DConditionModel.from_config(SMALL["unet"])).conv_in.in_channels


@functools.cache
def backbone_features() -> int:
    with torch.device("meta"):
        return load_backbone("resnet18", None, False, {}).num_features


def monitored(recipe: str) -> str:
    """Return which checkpoint of a recipe is the best."""
    (saving,) = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["trainer"]["callbacks"]
    return f"{saving['init_args']['mode']} {saving['init_args']['monitor']}"


# Settings that no recipe has, because the code fixes them.
FACTS = {
    "sampler": lambda recipe: type(ddim(DDPMScheduler())).__name__,
    "monitored": monitored,
    "garmnet channels": lambda recipe: garmnet_channels(),
    "image prompt size": lambda recipe: IMAGE["image_size"],
    "prompts": lambda recipe: len(set(PROMPTS.values())),
    "axis of the concatenation": lambda recipe: {"catvton": CatVTON, "tryoffanyone": TryOffAnyone}[recipe].axis,
    "backbone features": lambda recipe: backbone_features(),
    "sign of the distance to the template": lambda recipe: template_sign(),
    "negatives of a row": lambda recipe: len(BPR_DAE_ROLLS if recipe == "bpr_dae" else ROLLS),
}


def command_of(name: str) -> list[str]:
    """Return the test command of a recipe with its overlays or protocol; its settings include what `fit` reads."""
    recipe, *others = name.split("+")
    protocols = [other for other in others if (RECIPES / "tasks" / f"{other}.yaml").is_file()]
    files = [RECIPES / f"{recipe}.yaml", *(RECIPES / "overlays" / f"{other}.yaml" for other in others if other not in protocols)]
    return ["test", *(arg for file in files for arg in ("--config", str(file))), *(f"--evaluate.protocol={other}" for other in protocols)]


CHANGED = {
    ("igr", "model.init_args.optimizer.init_args.lr"): "1e-3",
    ("igr-hqft", "data.init_args.quality.init_args.keep"): "0.3",
    ("geco", "model.init_args.alpha"): "2.5",
    ("mgcm", "data.init_args.batch_size"): "42",
    ("geco", "evaluate.checkpoint"): "last",
}


@pytest.fixture(scope="module")
def read():
    """The resolved settings of every recipe that a file names, by name, and those of `CHANGED`: one parser reads all."""
    names = sorted({recipe for file in FILES.values() for setting in file["settings"] for recipe in recipes_of(file, setting)})
    others = [[*command_of(recipe), f"--{key}", value] for (recipe, key), value in CHANGED.items()]
    settings = resolve([*(command_of(name) for name in names), *others])
    return dict(zip(names, settings, strict=False)), dict(zip(CHANGED, settings[len(names) :], strict=True))


@pytest.fixture(scope="module")
def resolved(read):
    return read[0]


def recipes_of(file: dict, setting: dict) -> list[str]:
    return setting.get("recipes", file["recipes"])


def found(settings: dict, key: str, recipe: str) -> object:
    """Return the value of a key path, None if there is none."""
    if key.startswith("fact: "):
        return FACTS[key.removeprefix("fact: ")](recipe)
    value = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def mismatches(file: dict, resolved: dict[str, dict]) -> list[str]:
    """Return the settings of a file that a recipe has otherwise."""
    wrong = []
    for setting in file["settings"]:
        for recipe in recipes_of(file, setting):
            value, wanted = found(resolved[recipe], setting["key"], recipe), None if setting.get("absent") else setting["value"]
            if isinstance(value, str):
                value = REVISION.sub("", value)
            if setting["key"].endswith("class_path"):  # a class may be imported from two places
                value, wanted = (name and name.rpartition(".")[2] for name in (value, wanted))
            if value != wanted or type(value) is not type(wanted):
                told = f"; {setting['place']}: {setting['quote']!r}" if "place" in setting else ""
                wrong.append(f"{recipe}: {setting['key']} is {value!r}, not {wanted!r}{told}")
    return wrong


@pytest.mark.parametrize("name", FILES)
def test_the_recipes_have_what_the_paper_states(name, resolved):
    assert mismatches(FILES[name], resolved) == []


@pytest.mark.parametrize(("recipe", "key"), CHANGED)
def test_another_value_of_a_recipe_is_noticed(recipe, key, read):
    (file,) = [file for file in FILES.values() if recipe in file["recipes"]]
    resolved, changed = read
    (told,) = mismatches(file, {**resolved, recipe: changed[recipe, key]})
    assert told.startswith(f"{recipe}: {key} is ")


def test_a_change_of_any_setting_is_noticed(resolved):
    """Each value of each file, changed alone."""
    for name, place in SETTINGS:
        file = deepcopy(FILES[name])
        setting = file["settings"][place]
        setting.pop("absent", None)
        setting["value"] = "another"
        assert len(mismatches(file, resolved)) == len(recipes_of(file, setting)), setting


@pytest.mark.parametrize("recipe", sorted(TOLD))
def test_every_setting_that_a_recipe_makes_is_told(recipe):
    """A number that a recipe sets and no file explains could be changed without a test that notices."""
    (file,) = [file for file in FILES.values() if recipe in file["recipes"]]
    told = {setting["key"] for setting in file["settings"] if recipe in recipes_of(file, setting)}
    own = leaves(yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")))
    assert [key for key in own if key != "model.class_path" and not UNTOLD.match(key) and not covered(key, told)] == []


@pytest.mark.parametrize("name", FILES)
def test_the_methods_readme_tells_what_differs_from_the_paper(name):
    """Every setting that differs from the paper on purpose, or that the paper and its authors' code leave open."""
    chosen = [setting for setting in FILES[name]["settings"] if "stated" in setting or not {"place", "code"} & set(setting)]
    words = [readme_word(setting) for setting in chosen if str(setting.get("stated")) not in WORDS]
    assert words and [word for word in words if word not in readme_of(name)] == []


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (RECIPES / "tiny").glob("*.yaml") if path.stem in TOLD))
def test_the_methods_readme_tells_what_the_tiny_recipe_does_otherwise(recipe):
    (name,) = [name for name, file in FILES.items() if recipe in file["recipes"]]
    full, tiny = (flat(load(folder / f"{recipe}.yaml")["model"]) for folder in (RECIPES, RECIPES / "tiny"))
    other = {key.rpartition(".")[2] for key, value in tiny.items() if full.get(key, NAMED if key.endswith("class_path") else None) != value}
    assert [key for key in sorted(other - STAND_INS) if key not in readme_of(name)] == []


NAMED = "a class is told by its own name"
STAND_INS = {
    "pretrained",
    "image_encoder",
    "ip_adapter",
    "siglip",
    "weights",
    "cache_encodings",
    "class_path",
    "T_max",
    "max_lr",
    "total_steps",
    "warmup_steps",
    "pct_start",
}


def readme_of(name: str) -> str:
    """Return the README of a file's method; Pix2PixCM's refers to MGCM's."""
    folders = [name, "mgcm"] if name == "pix2pix_cm" else [name]
    return "".join((ROOT / "fashiongen" / "methods" / folder / "README.md").read_text(encoding="utf-8") for folder in folders)


def readme_word(setting: dict) -> str:
    """Return what a README must say of a setting: the last part of its key, or the words that it has instead."""
    words = {
        "data.init_args.quality.class_path": "by hand",
        "data.init_args.size": "resizes all images to 128x128" if setting.get("value") == [128, 128] else "size",
        "trainer.precision": setting.get("value", "mixed precision"),
        "fact: sign of the distance to the template": "sign of the distance to the template",
        "fact: axis of the concatenation": "along the height",
    }
    return words.get(setting["key"], setting["key"].rpartition(".")[2])


def flat(settings: dict, key: str = "") -> dict[str, object]:
    if not isinstance(settings, dict):
        return {key: settings}
    return {leaf: found for name, value in settings.items() for leaf, found in flat(value, f"{key}.{name}" if key else name).items()}


def covered(key: str, told: set[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in told)


def leaves(settings: object, key: str = "") -> list[str]:
    if isinstance(settings, dict) and settings:
        return [leaf for name, value in settings.items() for leaf in leaves(value, f"{key}.{name}" if key else name)]
    return [key]


def test_every_method_with_a_paper_has_its_file():
    methods = {table_row["method"] for paper in PUBLISHED.values() for table_row in published_rows(paper)}
    with_recipe = {path.stem for path in RECIPES.glob("*.yaml")}
    without_settings = {"popularity", "random"}  # nothing is chosen there
    assert TOLD <= with_recipe and methods & with_recipe <= TOLD | without_settings


# ---- the fields


@pytest.mark.parametrize(("name", "place"), SETTINGS, ids=lambda value: str(value))
def test_a_setting_is_complete(name, place):
    setting = FILES[name]["settings"][place]
    assert set(setting) <= {"key", "value", "absent", "recipes", "place", "quote", "code", "stated", "reason"}
    assert ("value" in setting) != ("absent" in setting) and ("place" in setting) == ("quote" in setting)
    assert {"place", "code", "reason"} & set(setting), "stated nowhere, so the reason is missing"
    assert "stated" not in setting or "reason" in setting or setting["stated"] in WORDS, "a deviation needs its reason"
    if "quote" in setting:
        assert len(setting["quote"].split()) <= LONGEST_QUOTE
        stated = setting.get("stated", setting.get("value"))
        wanted = stated if isinstance(stated, list) else [stated]
        if all(isinstance(number, int | float) and not isinstance(number, bool) and number for number in wanted):
            assert set(wanted) <= numbers_in(setting["quote"]), "the quote does not hold the number"


WORDS = {"three", "nine", "one negative for each positive"}


def numbers_in(quote: str) -> set[float]:
    """Return the numbers of a quote; 20% is 0.2, powers of ten are read, `four` is 4, and Equation 1 weights all alike by 1."""
    plain = re.sub("\N{MULTIPLICATION SIGN}" + r"10\^\{(-?\d+)\}", r"e\1", re.sub(r"(?<=\d),(?=\d{3}\b)", "", quote))
    numbers = {float(number) / (100 if percent else 1) for number, percent in re.findall(r"(\d+(?:\.\d+)?(?:e-?\d+)?)(\\?%?)", plain)}
    return numbers | ({4.0} if "four" in quote else set()) | ({1.0} if "objective function" in quote else set())


@pytest.mark.parametrize("name", FILES)
def test_the_quotes_are_the_papers_words(name):
    file = FILES[name]
    quoted = [entry["quote"] for entry in [*file["settings"], *file.get("unprinted", [])] if "quote" in entry]
    path = TEXTS / TEXT.get(file["paper"], "none")  # the texts of some papers were never at hand
    if not path.is_file():
        pytest.skip(f"the text of the paper is not here: {path}")
    words = squeezed(path.read_text(encoding="utf-8"))
    assert quoted and [quote for quote in quoted if squeezed(quote) not in words] == []


def squeezed(text: str) -> str:
    """Leave out blanks, which the text's conversion has put in at random."""
    return "".join(text.split())


# ---- the rows of the tables and their suites


def published_rows(path: Path) -> list[dict]:
    return [row for table in load(path)["tables"] if table["kind"] != "data" for row in table["rows"]]


@functools.cache
def planned(suite: str) -> dict[str, list[dict]]:
    """Return the settings of each test of a suite, by the name of its row: the files and keys of its command, merged."""

    def describe(commands):
        infos = [CommandInfo(method="M", tasks=["t"], checkpoint="last.ckpt") for _ in commands]
        for info, command in zip(infos, commands, strict=True):
            keys = dict(zip(command[1::2], command[2::2], strict=True))
            info.task, info.protocol = ("t", keys.get("--evaluate.protocol", "")) if command[0] == "test" else ("", "")
        return infos, 8

    rows: dict[str, list[dict]] = {}
    for node in make_plan(SUITES / f"{suite}.yaml", describe).nodes:
        if node.kind == "test":
            settings: dict = {}
            for option, value in zip(node.arguments[1::2], node.arguments[2::2], strict=True):
                if option == "--config":
                    merge(settings, deepcopy(load(Path(value))))
                else:
                    merge(settings, nested(option.removeprefix("--"), yaml.safe_load(value)))
            rows.setdefault("+".join([node.method, *node.overlays]), []).append(settings)
    return rows


def merge(settings: dict, other: dict) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            merge(settings[key], value)
        else:
            settings[key] = value


def nested(key: str, value: object) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def wanted_runs():
    """Yield what must be planned: paper, table and row, dataset, protocol, and what the file says of it."""
    for name, file in FILES.items():
        if "rows" in file:
            for table in load(PUBLISHED[name])["tables"]:
                if table["kind"] == "data":
                    continue
                entries = file["rows"].get(table["table"], {})
                for row in table["rows"]:
                    for group in row["values"]:
                        column = table["groups"][group]
                        yield f"{name} {table['table']} {row['row']}", column["dataset"], column["protocol"], entries.get(row["row"])
            for entry in file.get("unprinted", []):
                dataset = next((dataset for dataset in file.get("datasets", {}) if dataset in entry["row"]), None)
                yield f"{name} {entry['place']}", dataset, entry["protocol"], entry


@pytest.mark.parametrize(("where", "dataset", "protocol", "entry"), list(wanted_runs()))
def test_a_row_of_a_paper_is_planned_by_its_suite(where, dataset, protocol, entry):
    assert entry is not None, f"{where}: no suite plans this row, and no reason is given"
    if "absent" in entry:
        assert entry["absent"] == "no recipe of this method"
        (row,) = [row for row in published_rows(PUBLISHED[where.split()[0]]) if row["row"] == where.split(maxsplit=2)[2]][:1]
        assert not list(RECIPES.glob(f"{row['method']}.yaml"))
        return
    (file,) = [file for name, file in FILES.items() if name == where.split()[0]]
    rows = planned(entry["suite"])
    name = entry["row"].format(file.get("datasets", {}).get(dataset, ""))
    assert name in rows, f"{where}: {entry['suite']} has no row {name}"
    (settings,) = [settings for settings in rows[name] if settings["evaluate"]["protocol"] == protocol]
    if dataset is not None:
        layout = getattr(fashiongen.data, settings["data"]["class_path"].rpartition(".")[2]).layout
        assert layout == dataset
    for key, value in entry.get("keys", {}).items():
        assert found(settings, key, name) == (value[dataset] if isinstance(value, dict) else value), key


@pytest.mark.parametrize("name", [name for name, file in FILES.items() if "rows" in file])
def test_the_file_names_only_rows_of_the_paper(name):
    tables = {table["table"]: table for table in load(PUBLISHED[name])["tables"]}
    assert {table: set(rows) for table, rows in FILES[name]["rows"].items()} == {
        number: {row["row"] for row in table["rows"]} for number, table in tables.items() if table["kind"] != "data"
    }
