"""Finds tasks: all in this package, and those of other packages that have been imported or are named by class path."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from fashiongen.batches import Batch
from fashiongen.errors import UserError
from fashiongen.tasks.base import Task


def known() -> dict[str, type[Task]]:
    """Return all tasks, sorted by name."""
    _import_own()
    return dict(sorted(Task.subclasses.items()))


@functools.cache
def _import_own() -> None:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def find(name: str) -> type[Task]:
    """Return a task by its name, or by its class path (`package.module.Class`) if it is in another package.

    Raises:
        UserError: if there is none.
    """
    tasks = known()
    if name in tasks:
        return tasks[name]
    module, _, cls = name.rpartition(".")
    if module:
        try:
            found = getattr(importlib.import_module(module), cls, None)
        except ImportError as error:
            raise UserError(f"task {name}: {error}; a task of another package is named package.module.Class") from error
        if isinstance(found, type) and issubclass(found, Task) and found.name:
            return found
    raise UserError(f"{name}: unknown task; choose one of {', '.join(tasks)}, or package.module.Class of another package")


def task_of(batch: Batch) -> type[Task]:
    """Return the task selected by the exact type of a batch.

    Raises:
        TypeError: if no task takes it.
    """
    tasks = known().values()
    for task in tasks:
        if type(batch) is task.batch:
            return task
    raise TypeError(f"no task takes a {type(batch).__name__}; known: {', '.join(task.batch.__name__ for task in tasks)}")


def supported(method: type | object) -> list[str]:
    """Return the names of the tasks whose interface a method (class or instance) implements."""
    return [name for name, task in known().items() if _follows(method, task)]


def run(method: object, batch: Batch) -> Any:  # noqa: ANN401  what a method returns depends on the task
    """Call the method that the exact type of `batch` selects, with the batch without its targets, and return its result.

    Raises:
        TypeError: if no task takes the batch, or the method does not implement the task's interface.
    """
    task = task_of(batch)
    call: Callable[[Batch], Any] | None = getattr(method, task.method, None)
    if call is None:
        raise TypeError(f"{type(method).__name__} does not support the task {task.name!r}: it has no {task.method}()")
    return call(batch.without_target())


def _follows(method: type | object, task: type[Task]) -> bool:
    names = [name for name, value in vars(task.interface).items() if callable(value) and not name.startswith("_")]
    return all(callable(getattr(method, name, None)) for name in names)
