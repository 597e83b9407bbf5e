"""What an evaluation checks before any work: the method, the data and the task fit together."""

import lightning.pytorch as L

from fashiongen import tasks
from fashiongen.data.base import FashionData
from fashiongen.errors import UserError
from fashiongen.evaluation.judge import FromFiles
from fashiongen.tasks import Task


def data_of(trainer: L.Trainer) -> FashionData:
    """Return the run's DataModule.

    Raises:
        UserError: if there is none, it is not a `FashionData`, or it does not describe itself.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
    if not isinstance(data, FashionData):
        found = "none" if data is None else f"a {type(data).__name__}"
        raise UserError(f"evaluate: the Trainer must get a fashiongen.data.base.FashionData as datamodule=, but got {found}")
    if lacking := [name for name in ("name", "split", "task") if getattr(data, name, None) is None]:
        raise UserError(f"{type(data).__name__} does not set {', '.join(lacking)}: see fashiongen.data.base.FashionData")
    return data


def task_of_run(name: str | None, method: L.LightningModule, data: FashionData) -> Task:
    """Return the handler of a run's task, by default the data's.

    Raises:
        UserError: if the task is unknown or not supported by the method or the data, or the data lack a part that the method needs.
    """
    try:
        task = tasks.find(name or data.task)()
    except UserError as error:
        raise UserError(f"evaluate.task={error}") from error
    able, method_name = tasks.supported(method), type(method).__name__
    if task.name not in able and not isinstance(method, FromFiles):
        raise UserError(f"evaluate.task={task.name}: {method_name} does not support this task; it supports: {', '.join(able) or 'no task'}")
    if tasks.find(data.task) is not type(task):
        raise UserError(
            f"evaluate.task={task.name}, but the data are for {data.task}: set data.init_args.task to {task.name}, where "
            f"{data.name} has that setting, or use another dataset"
        )
    if lacking := sorted(set(getattr(method, "needs", ())) - data.offers):
        offered = ", ".join(sorted(data.offers)) or "nothing"
        raise UserError(f"{method_name} needs {', '.join(lacking)}, which {data.name} does not offer here (it offers {offered})")
    return task
