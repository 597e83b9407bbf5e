"""The same suite gives the same records wherever its nodes run."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import toys
from lightning.fabric.plugins.environments import SLURMEnvironment

from fashiongen.benchmark.on_ray import OnRay
from fashiongen.benchmark.on_slurm import OnSlurm
from fashiongen.errors import UserError
from fashiongen.records import Record

RECIPES = {
    "white": {"facts": {"learns": False}},
    "base": {"toy": {"fit": {"steps": 3}}},
    "second": {"toy": {"fit": {"steps": 3}}, "parents": {"first": "base"}},
    "raises": {"toy": {"fit": {"raises": "always"}}},
    "dies": {"toy": {"fit": {"dies": True}}},
    "needy": {"facts": {"needs": ["silhouettes"]}},
}
PATH = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])


def what_counts(out: Path) -> dict[str, object]:
    found = {path.parent.name: Record.read(path) for path in sorted((out / "nodes").glob("*/record.json"))}
    return {
        name: (record.status, record.reason, record.exit_status, record.metrics, record.checkpoint, record.key, record.overlays)
        for name, record in found.items()
    }


def test_ray_gives_the_records_of_this_machine(tmp_path, trace, monkeypatch):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    suite = toys.write_suite(tmp_path, RECIPES)
    assert toys.run(suite, tmp_path / "here")[0] == 1
    started = len(trace.read_text().splitlines())
    status, told = toys.run(suite, tmp_path / "ray", lambda gpus: OnRay(4, None, 1, PATH))
    assert status == 1, told
    assert what_counts(tmp_path / "ray") == what_counts(tmp_path / "here")
    assert len(trace.read_text().splitlines()) == 2 * started


def test_slurm_gives_the_records_of_this_machine(tmp_path, trace, monkeypatch):
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    monkeypatch.setenv("PYTHONPATH", PATH)
    suite = toys.write_suite(tmp_path, RECIPES)
    assert toys.run(suite, tmp_path / "here")[0] == 1
    status, told = toys.run(suite, tmp_path / "slurm", lambda gpus: OnSlurm(4, tmp_path / "slurm", 1, {}, cluster="local"))
    assert status == 1, told
    assert what_counts(tmp_path / "slurm") == what_counts(tmp_path / "here")
    assert list((tmp_path / "slurm" / "slurm").glob("*_submitted.pkl"))


def test_a_node_may_have_what_one_machine_of_a_ray_cluster_has(monkeypatch):
    machines = [{"Alive": alive, "Resources": {"GPU": gpus, "CPU": 4.0}} for alive, gpus in ((True, 2.0), (True, 2.0), (False, 8.0))]
    ray = SimpleNamespace(init=lambda **options: None, nodes=lambda: machines, remote=lambda **options: lambda function: function)
    monkeypatch.setitem(sys.modules, "ray", ray)
    executor = OnRay(4, None, 6, None)
    assert (executor.available, executor.cpus) == (2, 4)


def test_lightning_starts_its_processes_itself_in_a_slurm_job(tmp_path, trace, monkeypatch):
    """Otherwise it would take the job's single task for one of several started by srun."""
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    monkeypatch.setenv("PYTHONPATH", PATH)
    suite = toys.write_suite(tmp_path, {"white": RECIPES["white"]})
    jobs = []

    class Watched(OnSlurm):
        def run(self, job):
            jobs.append(job)
            return super().run(job)

    assert toys.run(suite, tmp_path / "out", lambda gpus: Watched(1, tmp_path / "out", 1, {}, cluster="local"))[0] == 0
    for name, value in {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "fashiongen", **jobs[0].environment}.items():
        monkeypatch.setenv(name, value)
    assert not SLURMEnvironment.detect()
    SLURMEnvironment().validate_settings(num_devices=4, num_nodes=1)


@pytest.mark.parametrize("module", ["ray", "submitit"])
def test_a_missing_extra_is_a_one_line_error(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"install it with `pip install 'fashiongen\[cluster\]'`"):
        OnRay(1, None, 1, None) if module == "ray" else OnSlurm(1, tmp_path, 1, {})


def test_a_missing_slurm_is_a_one_line_error(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"--executor slurm: .*run it where you can call srun"):
        OnSlurm(1, tmp_path, 1, {})
