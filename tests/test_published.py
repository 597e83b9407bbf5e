"""The papers' numbers under benchmarks/published: their schema and, where the papers' texts are present, every digit."""

import functools
import re
from collections import Counter
from copy import deepcopy
from itertools import groupby
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "benchmarks" / "published"
PAPERS = {path.stem: path for path in sorted(PUBLISHED.glob("*.yaml"))}

# The papers' texts, which are not part of the project.
TEXTS = ROOT.parent / "shared" / "papers"
TEXT = {
    "dualfashion": "000_359f041e42907578.txt",
    "geco": "001_4997b79d33ca5db6.txt",
    "outfitgan": "002_b5d0c56d9e350de1.txt",
    "twgtm": "003_42a161cee61c39a6.txt",
    "igr": "004_bb4b9b154fea9f7b.txt",
}

METHODS = set(
    "igr geco outfitgan dualfashion twgtm "
    "sd_v15 sd_v2 sd_naive controlnet difashion fashiondpo random popularity bpr_dae mgcm pix2pix_cm catvton tryoffdiff tryoffanyone "
    "idm_vton ootdiffusion ladi_vton gp_vton dci_vton mv_vton cfld".split()
)
DATASETS = set("viton_hd dress_code street_tryon ifashion polyvore_u fashionvc exp_reduced fashion_taobao_tb outfitset".split())
CATEGORIES = {"upper_body", "lower_body", "dresses"}
TASKS = {  # each with the fields of its protocols beside the common ones
    "vton": {"paired", "reference", "draws"},
    "vtoff": {"paired", "reference", "draws"},
    "retrieval": {"negatives_auc", "negatives_mrr", "k", "draws"},
    "pfitb": {"draws"},
    "gor": {"draws"},
}
PROTOCOL = {"task", "split", "samples", "size", "quotes", "note"}
NUMBER = r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?"


class Strict(yaml.SafeLoader):
    """Plain YAML alone: no key twice in a mapping, no anchors."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent) or self.peek_event().anchor is not None:
            raise yaml.YAMLError(f"an anchor or alias at {self.peek_event().start_mark}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.YAMLError(f"{twice} twice in one mapping, {node.start_mark}")
        return super().construct_mapping(node, deep)


@functools.cache
def load(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), Strict)


@pytest.fixture(params=sorted(PAPERS))
def paper(request) -> dict:
    return deepcopy(load(PAPERS[request.param]))  # tests change it


def cells(paper: dict):
    """Yield every cell: its table, row, group key, metric and value."""
    for table in paper["tables"]:
        for row in table["rows"]:
            for key, values in row["values"].items():
                for metric, value in values.items():
                    yield table, row, key, metric, value


def keys(mapping: dict, required: set[str], optional: set[str] = frozenset()) -> None:
    missing, unknown = required - set(mapping), set(mapping) - required - optional
    assert not missing and not unknown, f"missing {missing}, unknown {unknown} in {list(mapping.items())[:3]}"


# ---- the schema


def test_one_file_per_paper():
    assert set(PAPERS) == set(TEXT)
    for name, path in PAPERS.items():
        paper = load(path)
        assert (paper["schema"], paper["paper"], paper["method"] in METHODS) == (1, name, True)


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: &x 1\nb: *x", "a: !!python/name:os.system x"])
def test_what_is_not_plain_yaml_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        yaml.load(text, Strict)


def test_the_head_follows_the_schema(paper):
    keys(paper, {"schema", "paper", "title", "arxiv", "method", "metrics", "protocols", "tables", "notes"}, {"lacks"})
    assert ("lacks" in paper) == (not paper["tables"])  # a paper without a table says why
    for metric in paper["metrics"].values():
        keys(metric, {"printed", "higher_is_better"})
        assert metric["higher_is_better"] in (True, False, None)
        arrow = {"↑": True, "↓": False}.get(metric["printed"][-1])
        assert arrow is None or arrow == metric["higher_is_better"]
    for protocol in paper["protocols"].values():
        keys(protocol, PROTOCOL | TASKS[protocol["task"]])
        assert protocol["quotes"] and protocol["note"]
    if paper["tables"]:
        groups = [group for table in paper["tables"] for group in table["groups"].values()]
        assert {group["protocol"] for group in groups if "protocol" in group} == set(paper["protocols"])
        assert {metric for group in groups for metric in group["metrics"]} == set(paper["metrics"])


def test_every_table_is_complete(paper):
    assert [table["table"] for table in paper["tables"]] == [str(number + 1) for number in range(len(paper["tables"]))]
    for table in paper["tables"]:
        data = table["kind"] == "data"
        keys(table, {"table", "kind", "caption", "groups", "rows"}, {"origin_quotes"})
        assert table["kind"] in {"results", "ablation", "data"}
        for group in table["groups"].values():
            keys(group, {"printed", "metrics"} if data else {"printed", "dataset", "protocol", "metrics"})
            assert len(set(group["metrics"])) == len(group["metrics"]) > 0
            if not data:
                dataset, _, category = group["dataset"].partition("-")
                assert dataset in DATASETS and (not category or category in CATEGORIES), group["dataset"]
                for metric in group["metrics"]:
                    assert paper["metrics"][metric]["higher_is_better"] is not None
        columns = {key: group["metrics"] for key, group in table["groups"].items()}
        assert max(Counter(row["row"] for row in table["rows"]).values()) == 1
        for row in table["rows"]:
            keys(row, {"row", "origin", "values", "dataset" if data else "method"}, set() if data else {"variant", "note", "missing"})
            assert row["dataset"] in DATASETS if data else row["method"] in METHODS
            assert {key: list(values) for key, values in row["values"].items()} == columns, f"table {table['table']}, row {row['row']}"
            empty = {key for key, values in row["values"].items() if None in values.values()}
            assert empty == set(row.get("missing", {})), "a null without its reason, or a reason without a null"
        if not data:
            named = Counter((row["method"], row.get("variant")) for row in table["rows"])
            assert max(named.values()) == 1, "two rows are the same variant of the same method"


def test_every_value_is_a_string_of_digits(paper):
    for table, row, _, _, value in cells(paper):
        assert value is None or (isinstance(value, str) and re.fullmatch(NUMBER, value)), (table["table"], row["row"], value)


def test_the_origin_of_every_row_is_stated(paper):
    for table in paper["tables"]:
        for row in table["rows"]:
            own = table["kind"] == "data" or row["method"] == paper["method"]
            assert row["origin"] in ({"own"} if own else {"ran", "copied", "unsaid"})
            if row["origin"] in {"ran", "copied"}:
                assert table["origin_quotes"], "says that the paper ran or copied a row, but not where it says so"


def squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def test_our_names_are_those_printed(paper):
    """Each method, metric, task and dataset is the one whose printed name it stands for, as far as the name can tell."""
    printed = {
        "VITON-HD": "viton_hd", "StreetTryOn": "street_tryon", "Upper Body": "dress_code-upper_body", "Lower Body": "dress_code-lower_body",
        "Dresses": "dress_code-dresses", "iFashion": "ifashion", "Polyvore-U": "polyvore_u", "FashionVC": "fashionvc",
        "ExpReduced": "exp_reduced", "FashionTaobaoTB": "fashion_taobao_tb",
        "Virtual Try-on": "vton", "Virtual Try-off": "vtoff", "PFITB": "pfitb", "GOR": "gor",
    }  # fmt: skip
    for name, metric in paper["metrics"].items():
        shown, ours = squeezed(metric["printed"]), squeezed(name)
        assert ours.startswith(shown) or ours.endswith(shown) or shown.endswith(ours), (name, metric["printed"])
    for table in paper["tables"]:
        for group in table["groups"].values():
            for level in group["printed"]:
                if named := {ours for shown, ours in printed.items() if shown in level}:
                    task = paper["protocols"][group["protocol"]]["task"]
                    assert named <= {group["dataset"], task}, (level, group["dataset"], task)
                else:  # a family of metrics
                    assert all(squeezed(level) in squeezed(metric) for metric in group["metrics"]), level
        for row in table["rows"]:
            if table["kind"] == "data":
                assert squeezed(row["row"]).startswith(squeezed(row["dataset"]))
            elif row["origin"] != "own":
                assert squeezed(row["method"]).startswith(squeezed(row["row"])), (row["row"], row["method"])
            elif "variant" not in row:  # the method as proposed: of an ablation by scale, the scale that the paper chose
                assert "ours" in row["row"].lower() or squeezed(row["row"]) == paper["method"] or row["row"] == "1.5"


def chosen(paper: dict, place: dict) -> list:
    """Return the cells that a note's place names: those of a table, narrowed by row, group and metric where given."""
    keys(place, {"table"}, {"row", "group", "metric"})
    every = [{"table": table["table"], "row": row["row"], "group": key, "metric": metric} for table, row, key, metric, _ in cells(paper)]
    return [tuple(cell.values()) for cell in every if place.items() <= cell.items()]


def test_every_note_names_cells_that_exist(paper):
    for note in paper["notes"]:
        keys(note, {"kind", "at", "note"}, {"quotes"})
        assert note["kind"] in {"contradiction", "doubt", "gap", "other-paper"}
        assert note["at"] or not paper["tables"]
        for place in note["at"]:
            assert chosen(paper, place), f"{place} names no cell"


def test_a_cell_printed_twice_is_the_same_or_a_contradiction_is_noted(paper):
    """Papers contradict themselves between tables: the same method under the same protocol must not do so unnoticed."""
    noted = [[cell for place in note["at"] for cell in chosen(paper, place)] for note in paper["notes"] if note["kind"] == "contradiction"]
    seen = {}
    for table, row, key, metric, value in cells(paper):
        if table["kind"] == "data" or value is None:
            continue
        group = table["groups"][key]
        cell = (table["table"], row["row"], key, metric)
        what = (row["method"], row.get("variant"), group["dataset"], group["protocol"], metric)
        other, printed = seen.setdefault(what, (cell, value))
        assert printed == value or any(cell in note and other in note for note in noted), f"{other}: {printed}, {cell}: {value}"


def test_our_protocols_of_the_same_name_have_the_same_metrics(paper):
    """A protocol that recipes/tasks knows is about the same task, and computes each metric that the paper prints under it."""
    for table in paper["tables"]:
        for group in table["groups"].values():
            recipe = ROOT / "recipes" / "tasks" / f"{group.get('protocol')}.yaml"
            if recipe.is_file():
                ours = yaml.safe_load(recipe.read_text())["evaluate"]
                assert ours["task"] == paper["protocols"][group["protocol"]]["task"]
                assert set(group["metrics"]) <= set(ours["metrics"])


def test_the_readme_reads_all_cells():
    """The code in the README is what a reader of the files starts from: it must give every cell, with its row and column."""
    readme = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    scope = {"folder": PUBLISHED}
    exec(re.search(r"```python\n(.*?)```", readme, re.S)[1], scope)
    papers = [load(path) for path in PAPERS.values()]
    assert len(scope["cells"]) == sum(1 for paper in papers for table, *_ in cells(paper) if table["kind"] != "data")
    first = {"paper": "igr", "table": "1", "row": "Ours", "group": "viton_hd", "metric": "ssim"}
    assert [(cell["dataset"], cell["task"], cell["value"]) for cell in scope["cells"] if first.items() <= cell.items()] == [
        ("viton_hd", "vtoff", "0.7895")
    ]
    for word in METHODS | DATASETS | set(TASKS) | {field for fields in TASKS.values() for field in fields}:
        assert f"`{word}`" in readme, f"the README does not tell of {word}"


# ---- the papers' texts


@pytest.fixture
def text(paper) -> str:
    path = TEXTS / TEXT[paper["paper"]]
    if not path.is_file():
        pytest.skip(f"the text of the paper is not here: {path}")
    return path.read_text(encoding="utf-8")


def plain(line: str) -> str:
    """Return a line without its marks of best and second best, citations and kinds of blanks; LaTeX's arrows become characters."""
    line = re.sub(r"</?[bu]>|\*\*", "", line).replace("\\uparrow", "↑").replace("\\downarrow", "↓").replace(" ↑", "↑").replace(" ↓", "↓")
    line = " ".join(line.split())
    return re.sub(r" \([A-Z]\w+ et al\., \d{4}\)", "", line)


def tables_in(text: str) -> list[tuple[list[str], list[str], range]]:
    """Find the tables of a text, in order: the lines of the head, of the rows, and where they stand.

    A row is a line that ends with three or more cells, a table is two or more rows without another line between, and its head is what
    stands above them up to an empty line or the caption.
    """
    lines = [plain(line) for line in text.split("\n")]
    is_row = [bool(re.search(rf"(?: (?:{NUMBER}|-)){{3,}}$", line)) for line in lines]
    found = []
    for row, run in groupby(range(len(lines)), key=is_row.__getitem__):
        body = list(run)
        if row and len(body) > 1:
            top = body[0]
            while lines[top - 1] and not lines[top - 1].startswith("Table "):
                top -= 1
            found.append((lines[top : body[0]], [lines[at] for at in body], range(top, body[-1] + 1)))
    return found


def expected_head(paper: dict, table: dict) -> list[list[str]]:
    """Return the names over the columns, level by level: each group's once for neighbours of the same name, then the metrics'."""
    paths = [tuple(group["printed"]) for group in table["groups"].values()]
    levels = [[path[-1] for path, _ in groupby(path[: depth + 1] for path in paths)] for depth in range(len(paths[0]))]
    return [*levels, [paper["metrics"][metric]["printed"] for group in table["groups"].values() for metric in group["metrics"]]]


def mismatches(paper: dict, found: list) -> list[str]:
    """Compare each table with the text's table of the same number: the whole of every line of its head and rows."""
    if len(found) != len(paper["tables"]):
        return [f"the text has {len(found)} tables, the file {len(paper['tables'])}"]
    wrong = []
    for table, (head, body, _) in zip(paper["tables"], found, strict=True):
        where = f"{paper['paper']}, table {table['table']}"
        names = expected_head(paper, table)
        corners = {"", "Method", "Model", "Setting", "Guidance Scale", "Dataset", "Task", "Evaluation metric"}
        if len(head) != len(names) or any(
            not line.endswith(" ".join(level)) or line[: -len(" ".join(level))].strip() not in corners
            for line, level in zip(head, names, strict=True)
        ):
            wrong.append(f"{where}: the head is {head}, the file says {names}")
        rows = [
            " ".join([row["row"], *(value or "-" for values in row["values"].values() for value in values.values())])
            for row in table["rows"]
        ]
        if len(rows) != len(body):
            wrong.append(f"{where}: {len(body)} rows, the file has {len(rows)}")
        wrong += [f"{where}: the text has\n  {line}\nthe file\n  {row}" for line, row in zip(body, rows, strict=False) if line != row]
    return wrong


def test_every_number_is_the_papers(paper, text):
    assert mismatches(paper, tables_in(text)) == []


def test_each_table_is_found_at_its_caption(paper, text):
    """Tables are identified by their order: the caption with that number is within four lines, and no caption is left over."""
    lines = text.split("\n")
    captions = {
        found[1]: (at, " ".join(line[found.end() :].split()))
        for at, line in enumerate(lines)
        if (found := re.match(r"Table (\d+)[.:] ", line))
    }
    assert set(captions) == {table["table"] for table in paper["tables"]}
    for table, (_, _, where) in zip(paper["tables"], tables_in(text), strict=True):
        at, caption = captions[table["table"]]
        assert caption.startswith(table["caption"])
        assert min(abs(at - where[0]), abs(at - where[-1])) <= 4, f"table {table['table']} stands at line {where[0]}, its caption at {at}"


def test_any_changed_digit_is_detected(paper, text):
    """Change each number of each table in its last digit, one after the other: each change is a mismatch."""
    found = tables_in(text)
    for _, row, key, metric, value in list(cells(paper)):
        if value is not None:
            row["values"][key][metric] = value[:-1] + str((int(value[-1]) + 1) % 10)
            assert len(mismatches(paper, found)) == 1, f"{row['row']}, {key}, {metric}"
            row["values"][key][metric] = value


def test_two_swapped_numbers_of_a_row_are_detected(paper, text):
    found = tables_in(text)
    for table in paper["tables"]:
        for row in table["rows"]:
            for values in row["values"].values():
                first, *_, last = values
                if values[first] != values[last]:
                    values[first], values[last] = values[last], values[first]
                    assert len(mismatches(paper, found)) == 1
                    values[first], values[last] = values[last], values[first]


def test_quotes_are_the_papers_words(paper, text):
    words = " ".join(text.split())
    quotes = [quote for protocol in paper["protocols"].values() for quote in protocol["quotes"]]
    quotes += [quote for table in paper["tables"] for quote in table.get("origin_quotes", [])]
    quotes += [quote for note in paper["notes"] for quote in note.get("quotes", [])]
    for quote in quotes:
        assert " ".join(quote.split()) in words, quote


def test_numbers_in_notes_are_cells_of_the_paper_or_words_of_its_text(paper, text):
    """A number with a point or comma in a note is printed in the paper; one of another paper is in that paper's file."""
    others = {value for path in PAPERS.values() for *_, value in cells(load(path))}
    for note in paper["notes"]:
        for number in re.findall(r"\d+(?:,\d{3})+|\d+\.\d+", note["note"]):
            allowed = others if note["kind"] == "other-paper" else {value for *_, value in cells(paper)}
            assert number in allowed or number in text, number


def test_the_names_of_datasets_are_those_of_our_records():
    """Otherwise a paper's numbers would never be shown next to ours."""
    from fashiongen.data import VITONHD, DressCode, ExpReduced, FashionTaobaoTB, FashionVC, IFashion, PolyvoreU, StreetTryOn

    readers = (VITONHD, DressCode, StreetTryOn, FashionVC, ExpReduced, FashionTaobaoTB, IFashion, PolyvoreU)
    ours = {data.layout for data in readers}
    assert ours <= DATASETS
