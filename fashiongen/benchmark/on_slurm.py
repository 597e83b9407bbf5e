"""Runs nodes as Slurm jobs by submitit, on machines that share the folders; `pip install 'fashiongen[cluster]'`."""

import importlib
import math
import threading
from pathlib import Path
from typing import Any

from fashiongen.benchmark.node import Interrupted, Job, run_node, without_running
from fashiongen.errors import UserError
from fashiongen.records import Record

MINUTES = 24 * 60
"""Time limit of a job without a limit in the suite."""


class OnSlurm:
    """Submits each node as a separate job."""

    def __init__(self, jobs: int, out: Path, cpus: int, options: dict[str, str], cluster: str = "slurm") -> None:
        """Prepare to submit.

        Args:
            jobs: how many nodes to submit at a time.
            out: the benchmark's folder; submitit's own files go to its folder `slurm`.
            cpus: cores per node.
            options: of sbatch, such as partition and account.
            cluster: slurm, or local or debug of submitit, which need no Slurm.

        Raises:
            UserError: if submitit is not installed or there is no Slurm.
        """
        try:
            submitit: Any = importlib.import_module("submitit")
        except ImportError as error:
            raise UserError(f"--executor slurm: {error}; install it with `pip install 'fashiongen[cluster]'`") from error
        self.submitit = submitit
        try:
            self.executor: Any = submitit.AutoExecutor(folder=out / "slurm", cluster=cluster)
        except RuntimeError as error:
            raise UserError(f"--executor slurm: {' '.join(str(error).split())}; run it where you can call srun") from error
        self.jobs, self.cpus, self.options = jobs, cpus, {f"slurm_{key}": value for key, value in options.items()}
        self.available: int | None = None
        self._lock, self._stopped = threading.Lock(), False
        self._submitted: list[Any] = []

    def run(self, job: Job) -> Record:
        """Submit a node and wait for it; a job that Slurm ended is a killed node."""
        job.environment["SLURM_JOB_NAME"] = "bash"  # Lightning's switch for: start the processes of several GPUs yourself, srun has not
        minutes = MINUTES if job.limit is None else math.ceil(job.limit / 60) + 5
        with self._lock:
            resources = {"timeout_min": minutes, "cpus_per_task": job.cpus, "gpus_per_node": job.gpus, "nodes": 1, "tasks_per_node": 1}
            self.executor.update_parameters(name=f"fashiongen-{job.id}", **resources, **self.options)
            submitted = self.executor.submit(run_node, job)
            self._submitted.append(submitted)
        try:
            record: Record = submitted.result()
        except self.submitit.core.utils.FailedJobError as error:
            raise UserError(f"{job.id}: its job failed: {' '.join(str(error).split())[-300:]}") from error
        except self.submitit.core.utils.UncompletedJobError as error:
            if self._stopped:
                raise Interrupted from error
            return without_running(job, "killed", f"its Slurm job {submitted.job_id} was ended: {' '.join(str(error).split())[:300]}")
        return record

    def stop(self) -> None:
        """Cancel all that was submitted."""
        with self._lock:
            self._stopped = True
            for submitted in self._submitted:
                submitted.cancel()
