"""Runs nodes as tasks of a Ray cluster, whose machines share the folders; `pip install 'fashiongen[cluster]'`."""

import importlib
import os
import threading
from typing import Any

from fashiongen.benchmark.node import Interrupted, Job, run_node, without_running
from fashiongen.errors import UserError
from fashiongen.records import Record


class OnRay:
    """Submits each node with the GPUs and cores it needs, and lets Ray place it."""

    def __init__(self, jobs: int, address: str | None, cpus: int, path: str | None) -> None:
        """Connect to a cluster, or start one on this machine.

        Args:
            jobs: how many nodes to submit at a time.
            address: of a running cluster; by default RAY_ADDRESS, else a new one on this machine.
            cpus: cores per node.
            path: PYTHONPATH under which the workers find this package.

        Raises:
            UserError: if Ray is not installed or there is no such cluster.
        """
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise UserError(f"--executor ray: {error}; install it with `pip install 'fashiongen[cluster]'`") from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it would report over the network
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self.ray = ray
        address = address or os.environ.get("RAY_ADDRESS")
        environment = {"env_vars": {"PYTHONPATH": path}} if path else None
        local = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, runtime_env=environment, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--executor ray: no Ray at {address or 'this machine'}: {' '.join(str(error).split())}") from error
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]  # a task runs on one of them
        self._running, self._stopped, self._stopping = 0, False, threading.Condition()
        self.jobs = jobs
        self.available: int | None = int(max((machine.get("GPU", 0) for machine in machines), default=0))
        self.cpus = min(cpus, max(1, int(max((machine.get("CPU", 1) for machine in machines), default=1))))
        self.task: Any = ray.remote(max_retries=0)(run_node)

    def run(self, job: Job) -> Record:
        """Run a node wherever there is room; a lost worker is a killed node."""
        with self._stopping:
            self._running += 1
        try:
            submitted = self.task.options(num_cpus=job.cpus, num_gpus=job.gpus).remote(job)
            while not self.ray.wait([submitted], timeout=0.5)[0]:
                if self._stopped:
                    raise Interrupted
            record: Record = self.ray.get(submitted)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.OutOfMemoryError, self.ray.exceptions.NodeDiedError) as error:
            return without_running(job, "killed", f"its Ray worker was lost: {' '.join(str(error).split())[:300]}")
        finally:
            with self._stopping:
                self._running -= 1
                self._stopping.notify_all()
        return record

    def stop(self) -> None:
        """Disconnect from the cluster, which ends this run's tasks; waiting threads stop first, since a call to Ray would restart it."""
        with self._stopping:
            self._stopped = True
            self._stopping.wait_for(lambda: not self._running)
        self.ray.shutdown()
