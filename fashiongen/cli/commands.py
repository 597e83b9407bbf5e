"""The one entry point, behind the scripts `fashiongen` and `lightning`.

This file imports nothing heavy; each command imports what it needs.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fashiongen import shipped
from fashiongen.cli.arguments import TRAINER_COMMANDS, parse, split_debug
from fashiongen.errors import UserError

if TYPE_CHECKING:
    from fashiongen.benchmark.runner import Executor

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Raised while writing, without a file name."""


def main(args: list[str] | None = None) -> None:
    """Run one command; user errors end with one line on standard error and exit status 2.

    Args:
        args: the arguments after `fashiongen`; by default those of this process.
    """
    debug = False
    try:
        debug, rest = split_debug(sys.argv[1:] if args is None else args)
        options, keys = parse(rest)
        with _importable_folder():
            status = COMMANDS[options.command, options.action](argparse.Namespace(**vars(options), keys=keys, debug=debug))
        if status:
            sys.exit(status)
    except KeyboardInterrupt:
        print("fashiongen: interrupted", file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError) as error:
        message = _message(error)
        if message is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"fashiongen: {message}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _importable_folder() -> Iterator[None]:
    """Let recipes name classes in modules of the current folder, as `python -m fashiongen` already does.

    The folder is added last, so that nothing in it shadows an installed package.
    """
    folder = os.getcwd()
    if {"", folder} & set(sys.path):
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _message(error: UserError | OSError) -> str | None:
    """Return the line to print; None if it is not a user error."""
    if isinstance(error, UserError):
        text = str(error).strip()
        if text.startswith("Caught "):  # a DataLoader worker wraps the message in its own traceback, whose last line holds it
            return text.splitlines()[-1].partition("Error: ")[2]
        return " ".join(text.split())
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno in DISK_ERRORS:
        return f"{error.strerror}: fix this and run again; files written before are kept"
    return None


def _trainer(options: argparse.Namespace) -> None:
    from fashiongen.cli.lightning import run

    run([options.command, *options.keys], debug=options.debug)


def _recipes(options: argparse.Namespace) -> None:
    lists = {
        "Recipes: --config NAME": shipped.list_recipes(),
        "Overlays: a further --config NAME": shipped.list_overlays(),
        "Protocols: test --evaluate.protocol NAME": shipped.list_protocols(),
        "Suites: bench run NAME": shipped.list_suites(),
    }
    width = max(len(entry.name) for entries in lists.values() for entry in entries)
    with _until_reader_leaves():
        for heading, entries in lists.items():
            print(heading, *(f"  {entry.name:<{width}}  {entry.description}" for entry in entries), "", sep="\n")


@contextmanager
def _until_reader_leaves() -> Iterator[None]:
    """Stop printing quietly when the reader, such as `head`, closes the pipe."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _render(options: argparse.Namespace) -> None:
    from fashiongen import wardrobe

    layout = options.layout
    if "." in layout:
        from fashiongen.data.base import layout_name  # heavy

        layout = layout_name(layout)
    writers = wardrobe.writers()
    if layout not in writers:
        raise UserError(f"the wardrobe has no layout {layout!r}; it writes: {', '.join(writers)}")
    writers[layout](options.root, people=options.people, size=options.size, seed=options.seed)


def _check(options: argparse.Namespace) -> int:
    from fashiongen.data import check
    from fashiongen.data.base import layout_name

    return 0 if check.run(layout_name(options.layout), options.root, strict=options.strict, json_file=options.json) else 1


def _with_configs(options: argparse.Namespace) -> list[str]:
    return [*(arg for recipe in options.config for arg in ("--config", recipe)), *options.keys]


def _encode(options: argparse.Namespace) -> None:
    from fashiongen.cli.encode import encode_data

    encode_data(_with_configs(options), options.out, options.split, options.dtype, debug=options.debug)


def _masks(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from fashiongen.data.base import layout_name
    from fashiongen.data.make_masks import MaskOptions, make_masks

    given = {entry.name: getattr(options, entry.name) for entry in fields(MaskOptions)}
    given = {name: value.expanduser() if isinstance(value, Path) else value for name, value in given.items()}
    make_masks(MaskOptions(**given | {"layout": options.layout and layout_name(options.layout)}))


def _retrieve(options: argparse.Namespace) -> None:
    from fashiongen.cli.retrieve import retrieve_bottoms

    chosen = {name: getattr(options, name) for name in ("query", "catalogue", "top", "out", "index", "effort", "cache")}
    retrieve_bottoms(_with_configs(options), **chosen, debug=options.debug)


def _judge(options: argparse.Namespace) -> None:
    from fashiongen.cli.judge import judge_files

    judge_files(options)


def _describe(options: argparse.Namespace) -> None:
    """Inspect commands for a plan: read them as JSON from standard input, and write the answer to the file named there."""
    import json

    from fashiongen.benchmark.inspection import inspect_commands
    from fashiongen.cli.settings import resolve

    request = json.load(sys.stdin)
    found = inspect_commands(request["commands"], resolve, render=request["render"])
    Path(request["answer"]).write_text(json.dumps(found), encoding="utf-8")


def _bench(options: argparse.Namespace) -> int:
    """Run a suite and return the exit status."""
    from fashiongen.benchmark.runner import run_suite

    suite = shipped.find_suite(options.suite)
    out = options.out or Path("results", suite.stem)

    def executor(gpus: int) -> Executor:
        return _executor(options, out, gpus)

    return run_suite(suite, out, executor, dry_run=options.dry_run, accept_stale=options.accept_stale)


def _executor(options: argparse.Namespace, out: Path, gpus: int) -> Executor:
    """Return the executor of nodes; a dry run never connects to a cluster."""
    from fashiongen.benchmark.on_machine import OnMachine
    from fashiongen.benchmark.program import python_path

    if options.executor == "local":
        return OnMachine(options.jobs, gpus)
    if options.dry_run:
        listing = OnMachine(options.jobs, 0)
        listing.available, listing.cpus = None, options.cpus
        return listing
    if options.executor == "ray":
        from fashiongen.benchmark.on_ray import OnRay

        return OnRay(options.jobs, options.address, options.cpus, python_path())
    from fashiongen.benchmark.on_slurm import OnSlurm

    return OnSlurm(options.jobs, out.resolve(), options.cpus, dict(options.slurm))


def _leaderboard(options: argparse.Namespace) -> None:
    from fashiongen.benchmark import leaderboard

    published = options.published or shipped.published_folder()
    with _until_reader_leaves():
        leaderboard.run(options.folder, html=options.html, markdown_file=options.markdown, csv_file=options.csv, published=published)


def _new_method(options: argparse.Namespace) -> None:
    from fashiongen.cli.new_method import write_method

    write_method(options.name, options.out)


def _build_tiny(options: argparse.Namespace) -> None:
    from fashiongen.tiny.build import build

    build(options.out, options.seed, device=options.device, precision=options.precision, reuse=options.reuse)


def _consolidate(options: argparse.Namespace) -> None:
    from fashiongen.cli.checkpoints import consolidate

    consolidate(options.folder, options.out, trust=options.trust)


COMMANDS: dict[tuple[str, str | None], Callable[[argparse.Namespace], int | None]] = {
    **{(name, None): _trainer for name in TRAINER_COMMANDS},
    ("recipes", None): _recipes,
    ("data", "check"): _check,
    ("data", "encode"): _encode,
    ("data", "masks"): _masks,
    ("wardrobe", "render"): _render,
    ("retrieve", None): _retrieve,
    ("judge", None): _judge,
    ("bench", "run"): _bench,
    ("bench", "describe"): _describe,
    ("leaderboard", None): _leaderboard,
    ("new", "method"): _new_method,
    ("tiny", "build"): _build_tiny,
    ("consolidate", None): _consolidate,
}
"""The function that runs each command and action; it returns the exit status, None for 0."""
