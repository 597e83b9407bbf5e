"""`benchmarks/gpu_check.py`: rehearsed on a CPU, and its running, stopping, leaving out and summing up."""

import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from statistics import StatisticsError
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
FULL = sorted((ROOT / "recipes").glob("*.yaml"))
TOYS = Path(__file__).with_name("toy_checks.py")

sys.path += [str(BENCHMARKS), str(BENCHMARKS / "speed")]

import gpu_check  # noqa: E402  from benchmarks/
import stand_ins  # noqa: E402
from gpu import closure  # noqa: E402
from gpu.checks import Check, all_checks  # noqa: E402
from gpu.summary import summary  # noqa: E402
from gpu.work import Work, as_json  # noqa: E402


def records_of(folder):
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {record["check"]: record for record in found}


def toy(name, limit=60.0, **arguments):
    return Check(name, "Toys", f"toy_checks:{name.partition('-')[0]}", limit, (TOYS,), arguments)


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Run toy checks as a rehearsal, and return their records."""

    def run(*checks, options=()):
        monkeypatch.setattr(gpu_check, "all_checks", lambda: list(checks))
        status = gpu_check.main(["--rehearse", "--out", str(tmp_path / "out"), *options])
        return status, records_of(tmp_path / "out")

    return run


def test_every_recipe_that_learns_is_checked(capsys):
    assert gpu_check.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(set(names)) == len(names)
    assert {f"step-{path.stem}" for path in FULL if "optimizer:" in path.read_text(encoding="utf-8")} <= set(names)
    assert {"card", "tests", "zero2", "zero2-offload", "speed-igr", "speed-retrieval", "longer-igr", "longer-geco"} <= set(names)
    assert {"speed-twgtm", "speed-catvton", "speed-tryoffdiff", "speed-tryoffanyone"} <= set(names)
    assert names.index("step-twgtm") < names.index("speed-twgtm") < names.index("longer-igr")
    assert names[-1] == "tiny-build"  # it takes what time is left
    assert not [name for name in names if name in ("longer-white", "longer-oracle", "step-random")]


def test_the_list_needs_no_heavy_import():
    code = "import sys, gpu_check; gpu_check.main(['--list']); assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True, capture_output=True, timeout=60)


def test_one_that_hangs_fails_or_dies_stops_no_other(toys, tmp_path, capsys):
    checks = [toy("hang", 1.5), toy("killed"), toy("wrong"), toy("impossible"), toy("right", number=7)]
    status, records = toys(*checks, options=["--archive", str(tmp_path / "gpu.zip")])
    assert status == 1
    ended = {name: (record["status"], record["reason"]) for name, record in records.items()}
    assert ended.pop("hang")[1].endswith("its limit")
    assert ended == {
        "killed": ("failed", "ended by signal 9"),
        "wrong": ("failed", "41 is not 42"),
        "impossible": ("skipped", "a part is missing here"),
        "right": ("ok", None),
    }
    assert records["killed"]["facts"] == {"found": 1}  # what it had found stays
    log = records["wrong"]["log"]
    assert "CheckFailed" in log and '"benchmarks/gpu/work.py"' in log and str(ROOT) not in log
    place = Path(f"/proc/{records['hang']['facts']['child']}/stat")  # what it started is gone with it, but for a zombie
    assert not place.exists() or place.read_text().rpartition(")")[2].split()[0] == "Z"
    page = (tmp_path / "out" / "README.md").read_text()
    assert page == summary(tmp_path / "out") and "| 7 | cpu |" in page and "41 is not 42" in page
    with zipfile.ZipFile(tmp_path / "gpu.zip") as archive:
        assert {"README.md", "right.rehearsal.json"} <= set(archive.namelist()) and archive.read("README.md").decode() == page
    assert "3 failed" in capsys.readouterr().out


def test_a_fresh_process_takes_over_where_cuda_does_not_start_in_a_forked_one(tmp_path):
    common = {"kind": "Toys", "card": "cpu", "rehearsal": True, "closure": "", "started": "", "limit": None}
    todo = Work("right", "toy_checks:right", {"number": 5}, "cpu", True, tmp_path, tmp_path, tmp_path / "right.json", common)
    (tmp_path / "work.json").write_text(as_json(todo))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(TOYS.parent)])}
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--perform", str(tmp_path / "work.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)
    record = json.loads((tmp_path / "right.json").read_text())
    assert record["status"] == "ok" and record["facts"]["rows"] == [{"number": 5, "device": "cpu"}] and record["versions"]["torch"]


def test_what_is_done_is_left_out_until_its_code_changes(toys, monkeypatch, capsys):
    toys(toy("right", number=1))
    _, records = toys(toy("right", number=2))
    assert records["right"]["facts"]["rows"] == [{"number": 1, "device": "cpu"}]
    assert "left out" in capsys.readouterr().out
    assert toys(toy("right", number=3), options=["--again"])[1]["right"]["facts"]["rows"][0]["number"] == 3
    monkeypatch.setattr(closure, "_sha256", lambda path: "other")
    assert toys(toy("right", number=4))[1]["right"]["facts"]["rows"][0]["number"] == 4


def test_one_that_the_end_of_the_time_stops_loses_no_older_record(toys, monkeypatch):
    monkeypatch.setattr(gpu_check, "LEAST", 0.5)
    status, records = toys(toy("hang", None), options=["--minutes", "0.03"])
    assert status == 0 and records["hang"]["status"] == "unfinished" and "time is over" in records["hang"]["reason"]
    right = toy("right", number=1)
    assert toys(right)[1]["right"]["status"] == "ok"
    slow = Check("right", "Toys", "toy_checks:hang", None, (TOYS,))
    assert toys(slow, options=["--minutes", "0.03", "--again"])[1]["right"]["facts"]["rows"][0]["number"] == 1


def test_mistakes_are_one_line(capsys, monkeypatch):
    for arguments, told in (
        (["--only", "nothing"], "--only nothing: no such check"),
        (["--rehearse", "--out", str(BENCHMARKS / "results" / "gpu")], "must not lie among results"),
    ):
        assert gpu_check.main(arguments) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setattr(gpu_check, "NEEDED", ("torch", "a_library_that_is_missing"))
    assert gpu_check.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu_check.py: not installed here: a_library_that_is_missing") and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu_check.py: no CUDA GPU here; --rehearse") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_why_the_gpu_cannot_be_asked_is_told(tmp_path, capsys, monkeypatch):
    asked = Check("probe", "", "toy_checks:wrong", 60.0, ())
    monkeypatch.setattr(gpu_check, "Check", lambda *_: asked)
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu_check.py: asking for the GPU failed: ") and "no CUDA GPU" not in error and error.count("\n") == 1


def test_a_smaller_batch_reads_the_same_world(tmp_path):
    """Rendering large people takes longer than the steps."""
    from gpu.training import step_keys

    work = SimpleNamespace(device="cuda", rehearse=False, scratch=tmp_path, folder=tmp_path)
    stand_ins_of = lambda settings, *place: {}  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stand_ins, "replaced", stand_ins_of)
        large, small = (step_keys(work, "igr-hqft", batch) for batch in (32, 2))
    assert {key for key in large if large[key] != small[key]} == {"data.init_args.batch_size"}


def test_a_batch_that_did_not_fit_this_card_is_not_tried_again(tmp_path, monkeypatch):
    from gpu import steps

    tried = []
    monkeypatch.setattr(steps, "_fits", lambda work, recipe, batch, *rest: tried.append(batch) or len(tried) > 1)
    monkeypatch.setattr(steps, "parent_keys", lambda *_: {})
    work = Work("step", "", {}, "cpu", True, tmp_path, tmp_path, tmp_path / "step.json", {"card": "a card"}, {"too_large": [32]})
    with pytest.raises(StatisticsError):  # no step was measured
        steps.run(work, "igr")
    assert tried == [16, 8] and work.facts["too_large"] == [32, 16]


def test_attentions_backward_pass_counts_four_products():
    """torch counts a fifth: the scores that the backward pass computes again, which are no work of the model."""
    from gpu.training import FOUR_PRODUCTS
    from torch.utils.flop_counter import FlopCounterMode

    one, tensor = 2 * 2 * 3 * 64 * 64 * 16, torch.empty(2, 3, 64, 16, device="meta")
    assert len(FOUR_PRODUCTS) >= 3
    for operation in FOUR_PRODUCTS:
        totals = []
        for mapping in ({}, FOUR_PRODUCTS):
            counter = FlopCounterMode(display=False, custom_mapping=mapping)
            with counter:  # as torch itself calls a formula, with the tensors' shapes
                counter._count_flops(operation, (tensor,) * 3, (tensor,) * 4, {})
            totals.append(counter.get_total_flops())
        assert totals == [5 * one, 4 * one], operation


def test_a_check_depends_on_what_it_imports_and_on_nothing_else():
    checks = {check.name: check for check in all_checks()}

    def used(name):
        check = checks[name]
        files = closure.used_by([*closure.files_of(check.function.partition(":")[0]), *check.sources])
        return {path.relative_to(ROOT).as_posix() for path in files}

    igr, mgcm = used("step-igr"), used("step-mgcm")
    assert {"recipes/igr.yaml", "benchmarks/gpu/steps.py", "benchmarks/gpu/training.py", "fashiongen/methods/igr/network.py"} <= igr
    assert {"fashiongen/nn/attention.py", "fashiongen/data/vitonhd.py", "benchmarks/speed/stand_ins.py"} <= igr
    assert "fashiongen/methods/mgcm/network.py" in mgcm - igr
    assert "recipes/igr.yaml" not in mgcm
    assert not {"fashiongen/tiny/build.py", "benchmarks/gpu_check.py", "benchmarks/gpu/summary.py"} & (igr | mgcm)
    catvton = used("speed-catvton")
    assert {"recipes/catvton.yaml", "benchmarks/speed/tryon.py", "benchmarks/speed/comparing.py"} <= catvton
    assert {"fashiongen/methods/catvton/module.py", "fashiongen/methods/concatenation.py"} <= catvton
    assert not [file for file in catvton if re.search("twgtm|tryoffdiff/|igr", file)], "another method's change needs no new measurement"
    longer = used("longer-geco")
    assert {"recipes/tiny/geco-cigm.yaml", "recipes/tasks/strict.yaml", "fashiongen/tiny/weights/resnet18/model.safetensors"} <= longer
    assert {"tests/contract.py", "tests/conftest.py", "tests/gpu/conftest.py", "tests/gpu/test_methods.py"} <= used("tests")


def test_a_speed_check_that_is_stopped_keeps_its_rows(tmp_path, monkeypatch):
    from gpu import scripts

    row, given = {"short": 2.0, "long": 3.0, "difference": 0.0, "short peak": 5.0, "long peak": 7.0}, []

    def main(args, written):
        given.extend(args)
        for rows in ({"first": row}, {"first": row, "second": row}):
            written({"conditions": {"steps": 2}, "rows": rows | {"peak memory in GB": {"short": 7.0}}})
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts, "import_module", lambda name: SimpleNamespace(main=main))
    work = Work("speed-twgtm", "", {}, "cuda", False, tmp_path, tmp_path, tmp_path / "record.json", {})
    with pytest.raises(KeyboardInterrupt):
        scripts.speed(work, "tryon", "twgtm")
    assert given[-4:] == ["--methods", "twgtm", "--weights", str(tmp_path / "weights")] and "--noises" in given
    facts = json.loads(work.file.read_text())["facts"]
    assert [found["row"] for found in facts["rows"]] == ["first", "second"] and facts["conditions"] == {"steps": 2}
    assert facts["rows"][1]["plain / ours"] == 1.5 and facts["rows"][1]["plain peak, GB"] == 7.0


@pytest.mark.parametrize("recipe", FULL, ids=lambda path: path.stem)
def test_all_published_weights_of_a_recipe_have_a_stand_in(recipe, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(stand_ins, "write", lambda name, *place: written.append(name) or tmp_path)
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"].get("init_args", {})
    found = stand_ins.replaced(settings, tmp_path, "full")
    named = {key for key, value in settings.items() if isinstance(value, str) and re.search(r"/|\.pth|\.safetensors|\.ckpt", value)}
    assert set(found) == named - {"image_encoder_subfolder"}


def test_a_revision_changes_no_shapes(monkeypatch, tmp_path):
    monkeypatch.setattr(stand_ins, "write", lambda name, *place: name)
    pinned = {
        "ip_adapter": "h94/IP-Adapter@0123abc/models/ip-adapter_sd15.safetensors",
        "pretrained": "stable-diffusion-v1-5/stable-diffusion-v1-5@main",
    }
    assert set(stand_ins.replaced(pinned, tmp_path, "full").values()) <= set(stand_ins.STAND_INS)
    with pytest.raises(LookupError, match="no stand-in"):
        stand_ins.replaced({"pretrained": "somebody/something"}, tmp_path, "full")


def test_the_full_stand_in_is_as_large_as_the_published_denoiser():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in stand_ins.build_unet("full").parameters()) == stand_ins.FULL_UNET == 859_520_964


def test_the_speed_script_has_stand_ins_for_its_full_size():
    import igr  # from benchmarks/speed

    assert set(igr.FULL.values()) <= set(stand_ins.STAND_INS)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch, tmp_path):
    from gpu import steps

    def run_cli(command, configs, keys, callbacks):
        if keys["batch"] > 210:
            raise torch.OutOfMemoryError
        if keys["batch"] > 105:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        (meter,) = callbacks
        assert meter.work is not None  # it notes what it has measured at once
        meter.parameters = {"trained": 3, "frozen": 0}
        meter.seconds, meter.whole, meter.losses, meter.flops = [1.0, 2.0, 4.0], [3.0], [0.5], 1e12
        return SimpleNamespace(model=torch.nn.Linear(2, 1))

    monkeypatch.setattr(steps, "run_cli", run_cli)
    monkeypatch.setattr(steps, "parent_keys", lambda *_: {})
    monkeypatch.setattr(steps, "step_keys", lambda work, recipe, batch: {"batch": batch})
    place = (tmp_path, tmp_path, tmp_path / "step-mgcm.json")
    work = Work("step-mgcm", "gpu.steps:run", {}, "cuda", False, *place, {"card": "NVIDIA H100 80GB HBM3"})
    steps.run(work, "mgcm")
    (row,) = work.facts["rows"]
    assert row["batch"] == "105 (recipe: 420)" and work.facts["too_large"] == [420, 210]
    assert (row["step, s"], row["samples/s"], row["TFLOP/s"], row["MFU"]) == (2.0, 52.5, 52.5, "5.3%")


def test_a_meter_counts_the_operations_of_a_step():
    from gpu.training import Meter

    class Linear(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 4)

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).square().mean()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    meter = Meter(warm=1, timed=2, count=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_steps=meter.steps, callbacks=[meter], **quiet)
    trainer.fit(Linear(), DataLoader(torch.rand(80, 8), batch_size=16))
    assert meter.flops == 2 * (2 * 8 * 4)  # forward, and the weight's gradient
    assert len(meter.losses) == 3 and len(meter.seconds) == len(meter.whole) == 2
    assert all(whole >= step > 0 for whole, step in zip(meter.whole, meter.seconds, strict=True))


@pytest.mark.parametrize("module", ["cards", "records", "zero", "longer"])
def test_examples(module):
    failed, tried = doctest.testmod(importlib.import_module(f"gpu.{module}"))
    assert tried and not failed


def test_the_committed_summary_is_that_of_its_records():
    page = gpu_check.RESULTS / "README.md"
    if page.is_file():
        assert page.read_text(encoding="utf-8") == summary(gpu_check.RESULTS)
    assert not [record for record in records_of(gpu_check.RESULTS).values() if record["rehearsal"]]


QUICK = ["card", "step-bpr_dae", "step-igr"]


def rehearse(out, *options):
    status = gpu_check.main(["--rehearse", "--out", str(out), "--patience", "8", *options])
    records = records_of(out)
    assert status == 0, {name: record["reason"] for name, record in records.items() if record["status"] == "failed"}
    return records


def test_a_rehearsal_measures_steps(tmp_path, cache):
    records = rehearse(tmp_path / "out", "--only", *QUICK)
    assert list(records) == QUICK and all(record["status"] == "ok" and record["rehearsal"] for record in records.values())
    (row,) = records["step-igr"]["facts"]["rows"]
    assert row["recipe"] == "igr" and row["size"] == "small" and row["step, s"] > 0 and row["TFLOP a sample"] > 0
    assert len(records["step-igr"]["facts"]["losses"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rehearsal_runs_every_check(tmp_path, cache):
    records = rehearse(tmp_path / "out", "--minutes", "18")
    assert set(records) == {check.name for check in all_checks()}
    assert {name for name, record in records.items() if record["status"] != "ok"} == set()
    shutil.rmtree(tmp_path / "out")
