"""Errors and warnings of libraries: turned into one line that says what is wrong, where, and how to fix it, or hidden."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fashiongen.cli.protocols import CommandLine
from fashiongen.errors import UserError

KNOWN_ERRORS = (  # parts of Lightning's messages, and what to tell the user instead
    (
        "single optimizer",
        "DeepSpeed takes one optimizer and this method has several: leave out the zero2 overlay, "
        "or use --trainer.strategy ddp_find_unused_parameters_true",
    ),
    (
        "No supported gpu backend",
        "trainer.accelerator: torch finds no GPU on this machine; leave the key out or add --trainer.accelerator cpu",
    ),
    (
        "restore optimizer state",
        "--ckpt_path contains only weights, without the optimizer's state: it can be tested, but training cannot resume from it",
    ),
    (
        "pytorch-lightning_version",
        "--ckpt_path: a torch file, but none that `fashiongen fit` wrote; published weights come in by the keys of `model`",
    ),
)
HIDDEN_WARNINGS = {  # Lightning's warnings that do not apply here, and why
    r".*in eval mode at the start of training": "frozen encoders are in eval mode on purpose, and a method says in one line what it trains",
    r".*isinstance\(treespec, LeafSpec\).* is deprecated": "Lightning's own use of torch, which a user cannot change",
    r".*does not have many workers": "recipes choose `num_workers`; the tiny ones hold their data in memory, where workers cost time",
    r".*configure_optimizers` returned `None`": "methods that gather what they return, such as the mean garment, have nothing to optimize",
    r".*training_step` returned `None`": "the same methods have no loss",
    r".*overridden `transfer_batch_to_device` in `LightningModule`": "what `judge` intends: it leaves out samples without a prediction",
    r".*ModelCheckpoint with manual optimization": "it suggests saving the weights from before the step; those after it are needed",
}
HIDDEN_LOGS = ("Tip:",)
"""Parts of Lightning's log messages that advertise other products."""


@contextmanager
def quiet(debug: bool = False) -> Iterator[None]:
    """Hide Lightning's messages that do not apply here; `debug` shows everything."""
    if debug:
        yield
        return
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings():
        for message in HIDDEN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        logger.addFilter(_is_no_advertisement)
        try:
            yield
        finally:
            logger.removeFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not any(part in record.getMessage() for part in HIDDEN_LOGS)


@contextmanager
def in_one_line(line: CommandLine) -> Iterator[None]:
    """Raise errors that the user can fix, from any library, as a one-line UserError."""
    try:
        yield
    except argparse.ArgumentError as error:
        raise UserError(explain(str(error), line)) from error
    except pickle.UnpicklingError as error:
        raise UserError("the file of --ckpt_path holds pickled objects that could run code, or is damaged: it is not read") from error
    except (MisconfigurationException, KeyError) as error:
        for phrase, told in KNOWN_ERRORS:
            if phrase in str(error):
                raise UserError(told) from error
        if isinstance(error, MisconfigurationException):
            raise UserError(str(error)) from error
        raise
    except ValueError as error:  # jsonargparse's multi-line error, wrapping what the constructor of a method, dataset or metric raised
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError | OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit status 1
            raise KeyboardInterrupt from None
        raise


def explain(message: str, line: CommandLine) -> str:
    """Turn jsonargparse's multi-line message into one line that names the key, the place and the fix."""
    command = line.command
    if "arguments are required" in message and not line.configs:
        return f"{command} needs a recipe: `fashiongen {command} --config NAME`; `fashiongen recipes` lists them"
    if missing := re.search(r"File does not exist: '([^']+)'", message):
        return f"{missing[1]}: no such file"
    if "Problems parsing config" in message:
        return f"{_broken(line)} is not valid YAML: {' '.join(message.partition(':')[2].split())}"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    unknown = re.search(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'", message)
    advice = f"`fashiongen {command} --help` lists the keys"
    if unknown:
        key = unknown[1] or unknown[2]
        if classes:
            advice = f"`fashiongen {command} --{keys[0]}.help {classes[0]}` lists the keys"
        owner = f" of {'.'.join(keys)}" if keys else ""
        return f"{_place(key.split('.')[-1], line)}: unknown key {key!r}{owner}{f' ({classes[-1]})' if classes else ''}; {advice}"
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value type:", "- Expected a <class 'NoneType'>", "Given value: {")
    lines = [part.strip().removeprefix("- ") for part in message.splitlines() if not part.strip().startswith(noise)]
    told = re.sub(r"<class '([^']+)'>", r"\1", " ".join(lines)).replace("Parser key ", "key ")
    place = f"{_place(keys[-1].split('.')[-1], line)}: " if keys else ""
    return f"{place}{told}; {advice}"


def _place(key: str, line: CommandLine) -> str:
    """Name the files that set `key`."""
    files = zip(line.configs, line.labels, strict=True)
    setting = [label for file, label in files if re.search(rf"\b{re.escape(key)}\s*:", file.read_text(encoding="utf-8"))]
    return ", ".join(setting) or "command line"


def _broken(line: CommandLine) -> str:
    for file, label in zip(line.configs, line.labels, strict=True):
        try:
            yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            return label
    return "a value on the command line"
