"""The contract of every method, for any task: it never sees its target, and a sample's result does not depend on its batch."""

import inspect
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch
import yaml
from lightning import LightningModule
from torch import Tensor

from fashiongen import tasks
from fashiongen.data.base import FashionData
from fashiongen.errors import UserError
from fashiongen.methods.base import Method

PEOPLE = (40, 240)  # of the embedded world: the first number that the layout supports, those of other tests
SAMPLES = 6
STEPS = 2  # of a sampler: the contract does not check quality


def class_of(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def small_data(recipe: Path) -> FashionData:
    """Build the recipe's data on a small embedded world, set up for training and testing."""
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
    cls = class_of(settings["class_path"])
    # Selection of training samples, as in HQFT, does not affect a test; its settings are objects built by the command line.
    wanted = {name: value for name, value in settings.get("init_args", {}).items() if name != "people" and not isinstance(value, dict)}
    small = {"validation": 4, "batch_size": 8, "eval_batch_size": SAMPLES, "num_workers": 0, "in_memory": True}
    known = {name for base in cls.__mro__ if "__init__" in vars(base) for name in inspect.signature(base).parameters}
    chosen = {**wanted, **{name: value for name, value in small.items() if name in known}}
    for people in PEOPLE:
        data = cls(**chosen, **({"people": people} if "people" in known else {}))
        with suppress(UserError):
            data.prepare_data()
            break
    data.setup("fit")
    data.setup("test")
    return data


def trained(recipe: Path, data: FashionData) -> Method:
    """Build the recipe's method as after `fit`: a method that stores training samples stores those of `data`."""
    model = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]
    cls = class_of(model["class_path"])
    settings = {name: value for name, value in model.get("init_args", {}).items() if name not in ("optimizer", "lr_scheduler")}
    if any("steps" in inspect.signature(base).parameters for base in cls.__mro__ if "__init__" in vars(base)):
        settings["steps"] = STEPS
    torch.manual_seed(0)
    method = cls(**settings).eval()
    learns = cls.training_step is not LightningModule.training_step
    if learns and not any(parameter.requires_grad for parameter in method.parameters()):
        data.setup("fit")
        for batch in data.train_dataloader():
            method.training_step(batch, 0)
        method.on_train_epoch_end()
        data.setup("test")
    return method


def equal(first: object, second: object) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if hasattr(first, "__dict__"):
        return all(equal(value, vars(second)[name]) for name, value in vars(first).items())
    return first == second


@torch.no_grad()
def check_contract(recipe: Path, data: FashionData) -> None:
    """Check the contract for a recipe's method on the first test samples of `data`."""
    task = tasks.find(data.task)()
    method = trained(recipe, data)
    assert task.name in tasks.supported(method)
    batch = next(iter(data.test_dataloader()))
    assert type(batch) is task.batch and 2 <= len(batch) <= SAMPLES
    # These two return what is evaluated and written, and Lightning passes them the whole batch.
    prediction = task.check_prediction(method, method.test_step(batch, 0), batch)

    assert any(getattr(batch, name) is not None for name in task.batch.TARGETS), "there is nothing to hide"
    spoiled = task.spoil_truth(batch)
    if "likes" in method.needs:  # the wardrobe's oracle, which alone may read them
        spoiled = replace(spoiled, likes=batch.likes, given_attributes=batch.given_attributes)
    assert equal(task.check_prediction(method, method.test_step(spoiled, 0), batch), prediction), "it saw the truth"
    # Even if a target is passed in another way, such as a cache, evaluation does not get it.
    assert equal(getattr(method, task.method)(spoiled.without_target()), getattr(method, task.method)(batch.without_target()))

    last = batch.select([len(batch) - 1])
    hidden = last if "likes" in method.needs else task.spoil_truth(last)
    alone = task.check_prediction(method, method.predict_step(hidden, 0), last)
    captions = task.captions(prediction, batch)
    if captions is not None:
        own = task.captions(alone, last)
        assert own == captions[len(captions) - len(own) :], "its captions depend on the batch"
    if isinstance(prediction, Tensor):
        torch.testing.assert_close(alone[0], prediction[-1], atol=1e-4, rtol=1e-4)
    try:
        together, single = dict(task.images(prediction, batch)), dict(task.images(alone, last))
    except UserError:  # the task makes no images
        return
    for name, image in together.items():
        assert image.shape[0] == 3 and image.isfinite().all() and image.min() >= -1 and image.max() <= 1, name
    for name, image in single.items():
        torch.testing.assert_close(image, together[name], atol=1e-4, rtol=1e-4)
