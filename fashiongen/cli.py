"""The one entry point, behind the scripts `fashiongen` and `lightning`.

This file imports nothing heavy, so that `--help` and `--version` answer at once; each command imports what it needs.
"""

import argparse
import errno
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from fashiongen import __version__
from fashiongen.errors import UserError

TRAINER_COMMANDS = {
    "fit": "train the method of a recipe",
    "validate": "compute the validation loss of a checkpoint",
    "test": "judge a checkpoint by the metrics of its task and write the record",
    "predict": "write the images that a checkpoint makes",
}
EXAMPLES = """examples, with weights and data that come with the package:
  fashiongen fit --config recipes/tiny/igr.yaml
  fashiongen test --config recipes/tiny/igr.yaml --ckpt_path logs/igr/last.ckpt --evaluate.out logs/igr/test.json

`fashiongen COMMAND --help` explains a command. `--debug` anywhere shows where an error came from.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print over several lines."""
        raise UserError(f"{message}; see `{self.prog} --help`")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x384")
    return int(height), int(width)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fashiongen",
        description="Fashion generation and recommendation: train, test and compare published methods by recipes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fashiongen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)

    wardrobe = commands.add_parser("wardrobe", help="draw the embedded world of fashion", description="Draw the embedded world of fashion.")
    render = wardrobe.add_subparsers(dest="action", metavar="render", required=True).add_parser(
        "render",
        help="write it in the folder layout of a public dataset",
        description="Write the embedded world in the folder layout of a public dataset, to try a recipe without downloading one.",
        epilog="example: fashiongen wardrobe render viton_hd /tmp/wardrobe --people 40 --size 128x96 --seed 0",
    )
    render.add_argument("layout", metavar="LAYOUT", help="name of the layout, such as viton_hd")
    render.add_argument("root", metavar="ROOT", type=Path, help="folder to write")
    render.add_argument("--people", type=int, default=40, metavar="N", help="people, or pairs of items, to draw (default: %(default)s)")
    render.add_argument("--size", type=_size, default=(512, 384), metavar="HxW", help="height and width in pixels (default: 512x384)")
    render.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same world (default: %(default)s)")

    data = commands.add_parser(
        "data", help="check a dataset, or encode it ahead", description="Check a dataset, or encode it ahead of training."
    )
    data_actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = data_actions.add_parser(
        "check",
        help="name all that is missing, unreadable, mis-sized or double in a folder",
        description="Read a dataset's folder as its reader will, name every missing, unreadable, mis-sized or duplicate file, and "
        "count what is usable. Exit status 0 if there is anything usable, 1 if there is not, or with --strict if anything at all is found.",
        epilog="example: fashiongen data check viton_hd /data/zalando-hd-resized --json check.json",
    )
    check.add_argument("layout", metavar="LAYOUT", help="viton_hd, dress_code, street_tryon, fashionvc, exp_reduced or fashion_taobao_tb")
    check.add_argument("root", metavar="ROOT", type=Path, help="the dataset's folder")
    check.add_argument("--strict", action="store_true", help="exit status 1 if anything at all is found")
    check.add_argument("--json", type=Path, metavar="F", help="also write what was found to this file")
    encode = data_actions.add_parser(
        "encode",
        help="fill the latent and feature cache",
        description=(
            "Run the frozen encoders of a recipe's method over its data, once, and keep what they make of each sample in a folder.\n"
            "Training with `--cache DIR` then runs no frozen encoder. What is there already is not computed again, whenever it was\n"
            "stopped. Any further key of the recipe may be given, as with `fashiongen fit`."
        ),
        epilog="example: fashiongen data encode --config recipes/tiny/igr.yaml --out cache/igr",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    encode.add_argument("--config", action="append", required=True, metavar="RECIPE", help="the recipe, then its overlays")
    encode.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to fill; several processes may do so at a time")
    encode.add_argument(
        "--split", nargs="+", choices=["train", "val"], default=["train", "val"], help="what to encode (default: both; tests use no cache)"
    )
    encode.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="float16 halves the folder (default: float32)")

    retrieve = commands.add_parser(
        "retrieve",
        help="rank a folder of bottoms for a top",
        description=(
            "Rank the images of a folder for the image of a top by a trained method, and write a page with the best of them, their\n"
            "scores, and the template that the method draws for the top where it draws one. Any further key of the recipe may be given."
        ),
        epilog="example: fashiongen retrieve --config recipes/tiny/geco.yaml --ckpt_path logs/geco/last.ckpt "
        "--query top.jpg --catalogue bottoms --top 10 --out page.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    retrieve.add_argument("--config", action="append", required=True, metavar="RECIPE", help="the recipe, then its overlays")
    retrieve.add_argument("--query", type=Path, required=True, metavar="IMAGE", help="the image of a top, or a folder of them")
    retrieve.add_argument("--catalogue", type=Path, required=True, metavar="DIR", help="folder of images of bottoms")
    retrieve.add_argument("--top", type=int, default=10, metavar="N", help="how many to show (default: %(default)s)")
    retrieve.add_argument("--out", type=Path, required=True, metavar="PAGE", help="HTML file to write; it needs no other file")
    retrieve.add_argument(
        "--index",
        choices=["exact", "ivf", "hnsw"],
        default="exact",
        help="exact scores the whole catalogue; ivf (stays on the disk) and hnsw (faster, built in memory) miss some of it, say how much, "
        "and need pip install -e '.[scale]' (default: exact)",
    )
    retrieve.add_argument(
        "--effort", type=int, default=64, metavar="N", help="lists that ivf reads, candidates that hnsw keeps (default: %(default)s)"
    )
    retrieve.add_argument(
        "--cache", type=Path, metavar="DIR", help="where embeddings are kept for the next query (default: the user's cache folder)"
    )

    bench = commands.add_parser(
        "bench", help="run every method on every task that it can do", description="Run every method on every task that it can do."
    )
    run = bench.add_subparsers(dest="action", metavar="run", required=True).add_parser(
        "run",
        help="run the trainings and tests of a suite",
        description=(
            "Run every training and test of a suite that is not done, each as a process of its own, and write a record of each to\n"
            "DIR/nodes. A second run goes on where the first was stopped, however; what is finished is not repeated unless its\n"
            "settings, its data, its parents or the package's code have changed: then its old folder is kept in DIR/replaced.\n"
            "A node that fails does not stop the others; those that need it are skipped. Exit status 1 if any failed, 0 if none."
        ),
        epilog=(
            "examples:\n"
            "  fashiongen bench run benchmarks/suites/tiny-smoke.yaml --out results/smoke --dry-run     (lists the nodes)\n"
            "  fashiongen bench run benchmarks/suites/tiny.yaml --out results/tiny --jobs 2\n"
            "  fashiongen bench run benchmarks/suites/paper-geco.yaml --out /shared/geco --executor slurm --jobs 20 --slurm partition=gpu"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument("suite", metavar="SUITE", type=Path, help="YAML file that names recipes, seeds, overlays, ablations and tests")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results; a cluster's machines must see it too")
    run.add_argument("--dry-run", action="store_true", help="list the nodes with their commands and what they need; run none")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="nodes at a time, which share the cores, each with GPUs of its own")
    run.add_argument("--executor", choices=["local", "ray", "slurm"], default="local", help="where nodes run (default: this machine)")
    run.add_argument(
        "--accept-stale", action="store_true", help="keep what is finished though the package's code, or a library's version, has changed"
    )
    run.add_argument("--address", metavar="A", help="of a running Ray cluster (default: RAY_ADDRESS, else a new one on this machine)")
    run.add_argument("--cpus", type=int, default=1, metavar="N", help="cores of a node under ray or slurm (default: %(default)s)")
    run.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="an option of sbatch; may be given several times")

    leaderboard = commands.add_parser(
        "leaderboard",
        help="compare the records of a benchmark",
        description=(
            "Compare the records that `fashiongen bench run` left in DIR: a table a task, dataset and protocol, with intervals, paired\n"
            "tests against the best, and what failed. Without --html, --markdown or --csv the tables are printed. Nothing is run."
        ),
        epilog="example: fashiongen leaderboard runs/tiny --html leaderboard.html --csv leaderboard.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    leaderboard.add_argument("folder", metavar="DIR", type=Path, help="the --out of `fashiongen bench run`")
    leaderboard.add_argument("--html", type=Path, metavar="F", help="write one page that needs no other file")
    leaderboard.add_argument("--markdown", type=Path, metavar="F", help="write the tables as Markdown")
    leaderboard.add_argument("--csv", type=Path, metavar="F", help="write one line a number, at full precision, without published ones")
    leaderboard.add_argument(
        "--published", type=Path, metavar="DIR", help="the papers' numbers (default: benchmarks/published of the checkout)"
    )

    tiny = commands.add_parser(
        "tiny", help="the tiny checkpoints that come with the package", description="The tiny checkpoints that come with the package."
    )
    build = tiny.add_subparsers(dest="action", metavar="build", required=True).add_parser(
        "build",
        help="train them again from nothing",
        description="Train the tiny checkpoints (`pretrained: tiny`) again from nothing, on the embedded world.",
    )
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    build.add_argument("--seed", type=int, default=0, metavar="S", help="seed of weights, data and order (default: %(default)s)")

    consolidate = commands.add_parser(
        "consolidate",
        help="turn a DeepSpeed checkpoint (a folder) into one plain file",
        description="Turn a DeepSpeed checkpoint (a folder) into one file that --ckpt_path takes on any machine.",
    )
    consolidate.add_argument("folder", metavar="DEEPSPEED_DIR", type=Path, help="the checkpoint folder that training under DeepSpeed wrote")
    consolidate.add_argument("out", metavar="OUT", type=Path, help="file to write, such as igr.ckpt")
    consolidate.add_argument("--trust", action="store_true", help="you made the checkpoint yourself: its pickles may be read")
    return parser


def _dispatch(args: list[str]) -> None:
    if args and args[0] in TRAINER_COMMANDS:
        from fashiongen.training import run

        return run(args)
    if args and args[0].partition("=")[0] in ("-c", "--config"):
        raise UserError("--config comes after the command: `fashiongen fit --config RECIPE`")
    if args[:2] == ["data", "encode"]:
        options, keys = _parser().parse_known_args(args)
        from fashiongen.training import encode_data

        recipes = [arg for recipe in options.config for arg in ("--config", recipe)]
        return encode_data([*recipes, *keys], options.out, options.split, options.dtype)
    if args[:1] == ["retrieve"]:
        options, keys = _parser().parse_known_args(args)
        from fashiongen.training import retrieve_bottoms

        recipes = [arg for recipe in options.config for arg in ("--config", recipe)]
        chosen = {name: getattr(options, name) for name in ("query", "catalogue", "top", "out", "index", "effort", "cache")}
        return retrieve_bottoms([*recipes, *keys], **chosen)
    if args == ["bench", "describe"]:  # what `bench run` asks a process of its own
        return _describe()
    options = _parser().parse_args(args)
    if options.command == "wardrobe":
        from fashiongen import wardrobe

        writers = {name.removeprefix("write_"): getattr(wardrobe, name) for name in wardrobe.__all__ if name.startswith("write_")}
        if options.layout not in writers:
            raise UserError(f"the wardrobe knows no layout {options.layout!r}; it writes: {', '.join(writers)}")
        writers[options.layout](options.root, people=options.people, size=options.size, seed=options.seed)
    elif options.command == "data":
        if options.action == "check":
            from fashiongen.data import check, check_pairs

            run_check = check_pairs.run if options.layout in check_pairs.LAYOUTS else check.run
            if not run_check(options.layout, options.root, strict=options.strict, json_file=options.json):
                sys.exit(1)
    elif options.command == "bench":
        if status := _bench(options):
            sys.exit(status)
    elif options.command == "leaderboard":
        from fashiongen.benchmark import leaderboard

        leaderboard.run(
            options.folder, html=options.html, markdown_file=options.markdown, csv_file=options.csv, published=options.published
        )
    elif options.command == "tiny":
        from fashiongen.tiny.build import build

        build(options.out, seed=options.seed)
    else:
        from fashiongen.training import consolidate

        consolidate(options.folder, options.out, trust=options.trust)


def _describe() -> None:
    """Answer what a plan must know of commands, given as JSON on standard input, in the file that it names."""
    import json

    from fashiongen.benchmark.inspection import inspect_commands
    from fashiongen.training import resolved

    request = json.load(sys.stdin)
    found = inspect_commands(request["commands"], resolved, render=request["render"])
    Path(request["answer"]).write_text(json.dumps(found), encoding="utf-8")


def _bench(options: argparse.Namespace) -> int:
    """Run a suite and return the exit status."""
    from fashiongen.benchmark.program import python_path
    from fashiongen.benchmark.runner import Executor, run_suite

    for name in ("jobs", "cpus"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    parameters = dict(option.split("=", 1) if "=" in option else (option, "") for option in options.slurm)
    if wrong := [key for key, value in parameters.items() if not key or not value]:
        raise UserError(f"--slurm {wrong[0]}: must be KEY=VALUE, such as partition=gpu")

    def executor(gpus: int) -> Executor:
        from fashiongen.benchmark.on_machine import OnMachine

        if options.executor == "local":
            return OnMachine(options.jobs, gpus)
        if options.dry_run:  # lists what a cluster would be asked, without one
            listing = OnMachine(options.jobs, 0)
            listing.available, listing.cpus = None, options.cpus
            return listing
        if options.executor == "ray":
            from fashiongen.benchmark.on_ray import OnRay

            return OnRay(options.jobs, options.address, options.cpus, python_path())
        from fashiongen.benchmark.on_slurm import OnSlurm

        return OnSlurm(options.jobs, options.out.resolve(), options.cpus, parameters)

    return run_suite(options.suite, options.out, executor, dry_run=options.dry_run, accept_stale=options.accept_stale)


def _message(error: UserError) -> str:
    """Return the line to print; a DataLoader worker wraps the message in its own traceback, whose last line holds it."""
    text = str(error).strip()
    if text.startswith("Caught "):
        return text.splitlines()[-1].partition("Error: ")[2]
    return " ".join(text.split())


def main(args: list[str] | None = None) -> None:
    """Run one command; a user's mistake ends with one line on standard error and exit status 2."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    try:
        _dispatch([arg for arg in args if arg != "--debug"])
    except KeyboardInterrupt:
        print("fashiongen: interrupted", file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError) as error:
        if isinstance(error, UserError):
            message = _message(error)
        elif error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):  # met while writing, where no name is known
            message = f"{error.strerror}: mend that and run again; what was written before is kept"
        else:  # no file that a user could have named
            raise
        if debug:
            traceback.print_exc()
        print(f"fashiongen: {message}", file=sys.stderr)
        sys.exit(2)
