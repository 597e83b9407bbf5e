"""What a plan needs to know about a command before it runs: the method's needs and tasks, and the data. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(kw_only=True)
class CommandInfo:
    """The properties of a `fit` or `test` command.

    Attributes:
        method: name of the method's class.
        needs: parts that the data must offer.
        tasks: names of the tasks that the method supports.
        learns: whether it has a training step.
        n_optimizers: its number of optimizers; DeepSpeed supports one.
        task: name of the task of a test.
        protocol: name of the protocol of a test.
        dataset: name of the data module's class.
        data_name: the dataset's name in records.
        offers: parts that the data offer; None if unknown before the embedded world is rendered.
        problem: why the data cannot be read, in one line; None if they can.
        accelerator: cpu, cuda, or auto (cuda if there is a GPU).
        gpus: number of GPUs it uses on GPUs; -1 for all.
        deepspeed: whether its strategy is DeepSpeed.
        checkpoint: where a fit writes its last checkpoint, relative to its folder; None if the recipe names none.
        best: the same of its best checkpoint; None if none is monitored, or the file's name is not fixed.
        selects: which of the two the settings choose (`evaluate.checkpoint`), last or best.
        seeded_data: whether the DataModule has its own seed.
        absolute: keys whose relative path must be made absolute, since the command runs in a folder of its own.
        content: hash of the settings, the data and the frozen weights, independent of their location.
        code: hash of the modules of this package that it uses (`fashiongen.closure`).
        libraries: versions of the libraries that it uses.
        sources: identifies the code outside this package that it runs, by package or module (`own_code.own_sources`).
    """

    method: str
    needs: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    learns: bool = True
    n_optimizers: int = 1
    task: str = ""
    protocol: str = ""
    dataset: str = ""
    data_name: str = ""
    offers: list[str] | None = None
    problem: str | None = None
    accelerator: str = "cpu"
    gpus: int = 0
    deepspeed: bool = False
    checkpoint: str | None = None
    best: str | None = None
    selects: str = "last"
    seeded_data: bool = False
    absolute: dict[str, str] = field(default_factory=dict)
    content: str = ""
    code: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def placed(info: CommandInfo, available: int | None) -> CommandInfo:
    """Return a command's requirements if a node may have `available` GPUs: cpu or cuda, and how many GPUs.

    On a cluster (None), a GPU is requested if the recipe leaves it open.
    """
    accelerator = info.accelerator
    if accelerator == "auto":
        accelerator = "cpu" if available == 0 else "cuda"
    gpus = (available or 1) if info.gpus == -1 else info.gpus
    return replace(info, accelerator=accelerator, gpus=gpus if accelerator == "cuda" else 0)


def obstacle(info: CommandInfo, kind: str, available: int | None) -> str | None:
    """Return why a command cannot run, in one line; None if no obstacle is known.

    Args:
        info: of the command, placed.
        kind: fit or test.
        available: how many GPUs a node may have; None where only a cluster's scheduler knows.
    """
    if kind == "test" and info.task not in info.tasks:
        return f"{info.method} does not support {info.task}; it supports: {', '.join(info.tasks) or 'no task'}"
    if info.deepspeed and info.n_optimizers > 1:
        return f"DeepSpeed takes one optimizer and {info.method} has {info.n_optimizers}"
    if info.deepspeed and (info.accelerator != "cuda" or available == 0):
        return "DeepSpeed needs a CUDA GPU" + (", and there is none" if available == 0 else ", and the recipe asks for the CPU")
    if info.gpus and available is not None and info.gpus > available:
        return f"it needs {info.gpus} GPU{'s' * (info.gpus > 1)} (trainer.accelerator, trainer.devices), but there are {available}"
    if info.problem is not None:
        return info.problem
    if info.offers is not None and (lacking := sorted(set(info.needs) - set(info.offers))):
        return f"{info.method} needs {', '.join(lacking)}, which {info.dataset} does not offer here (it offers {join_names(info.offers)})"
    return None


def join_names(names: Iterable[str]) -> str:
    """Return names in order, for a sentence."""
    return ", ".join(sorted(names)) or "nothing"
