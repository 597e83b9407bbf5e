"""Runs nodes on this machine; GPUs are handed out, cores are shared."""

import os
import threading

from fashiongen.benchmark.node import Job, Processes, run_node
from fashiongen.records import Record


class OnMachine:
    """Runs several nodes at once, each on its own GPUs."""

    def __init__(self, jobs: int, gpus: int) -> None:
        """Share `gpus` GPUs, those that CUDA_VISIBLE_DEVICES names if it is set, and all cores among `jobs` nodes at a time."""
        named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        self.jobs = jobs
        self.available: int | None = gpus
        self._gpus = (named or [str(number) for number in range(gpus)])[:gpus]
        self._processes = Processes()
        self._returned = threading.Condition()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.cpus = max(1, cores // jobs)

    def run(self, job: Job) -> Record:
        """Run a node as soon as enough GPUs are free."""
        with self._returned:
            self._returned.wait_for(lambda: len(self._gpus) >= job.gpus or self._processes.stopped)
            mine, self._gpus = self._gpus[: job.gpus], self._gpus[job.gpus :]
        try:
            if self.available:
                job.environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            return run_node(job, self._processes)
        finally:
            with self._returned:
                self._gpus += mine
                self._returned.notify_all()

    def stop(self) -> None:
        """End all that runs."""
        self._processes.stop()
        with self._returned:
            self._returned.notify_all()
