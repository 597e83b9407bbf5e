"""The command line: one argparse parser for all commands.

`fit`, `validate`, `test` and `predict` have their own parser, LightningCLI's (`fashiongen.cli.lightning`), which needs torch. This file
imports nothing heavy, so `--help` and `--version` are fast.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashiongen import __version__
from fashiongen.cli.masks import add_masks
from fashiongen.cli.parser import Parser
from fashiongen.cli.values import key_value, positive, size
from fashiongen.errors import UserError

TRAINER_COMMANDS = {
    "fit": "train the method of a recipe",
    "validate": "compute the validation loss of a checkpoint",
    "test": "evaluate a checkpoint with the metrics of its task and write the record",
    "predict": "write the images that a checkpoint generates",
}
EXAMPLES = """examples, with the weights and data that ship with the package:
  fashiongen fit --config tiny/igr
  fashiongen test --config tiny/igr --ckpt_path logs/igr/last.ckpt --evaluate.out logs/igr/test.json

`fashiongen COMMAND --help` explains a command. Add `--debug` to see an error's traceback.
"""


class _Misplaced(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        raise UserError("--config comes after the command: `fashiongen fit --config RECIPE`")


def parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command; return its options and, for commands that take them, the recipe keys that follow.

    Raises:
        UserError: if an option is unknown, missing or of the wrong type.
    """
    parser = build_parser()
    options, keys = parser.parse_known_args(args)
    if keys and not options.takes_keys:
        raise UserError(f"unrecognized arguments: {' '.join(keys)}; see `fashiongen {options.command} --help`")
    return options, keys


def split_debug(args: Sequence[str]) -> tuple[bool, list[str]]:
    """Remove `--debug`, which may be anywhere, from the arguments.

    >>> split_debug(["fit", "--debug", "--config", "igr"])
    (True, ['fit', '--config', 'igr'])
    """
    parser = Parser(add_help=False)
    parser.add_argument("--debug", action="store_true")
    options, rest = parser.parse_known_args(args)
    return options.debug, rest


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="fashiongen",
        description="Fashion generation and recommendation: train, test and compare published methods with recipes.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"fashiongen {__version__}")
    parser.add_argument("-c", "--config", action=_Misplaced, help=argparse.SUPPRESS)
    parser.set_defaults(action=None, takes_keys=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False).set_defaults(takes_keys=True)
    _add_recipes(commands)
    _add_data(commands)
    _add_wardrobe(commands)
    _add_retrieve(commands)
    _add_judge(commands)
    _add_bench(commands)
    _add_leaderboard(commands)
    _add_new(commands)
    _add_tiny(commands)
    _add_consolidate(commands)
    return parser


Commands = Any
"""The type that `add_subparsers` returns: its class has no public name in argparse."""


def _add_recipes(commands: Commands) -> None:
    commands.add_parser(
        "recipes",
        help="list recipes, overlays, protocols and suites",
        description="List the recipes, overlays, protocols and suites that ship with the package, by the names that commands take.",
        epilog="examples:\n"
        "  fashiongen fit --config tiny/igr                                      (a recipe)\n"
        "  fashiongen fit --config igr --config zero2                            (with an overlay)\n"
        "  fashiongen test --config tiny/random --evaluate.protocol geco-all     (with a protocol other than its own)\n"
        "  fashiongen bench run tiny-smoke --out results/smoke                   (a suite)",
    )


def _add_data(commands: Commands) -> None:
    data = commands.add_parser(
        "data",
        help="check a dataset, encode it before training, or make masks",
        description="Check a dataset, encode it before training, or make masks for your own photos.",
    )
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="list missing, unreadable, mis-sized and duplicate files",
        description="Read a dataset's folder as training does, report every missing, unreadable, mis-sized or duplicate file, and\n"
        "count the usable samples. Exit status 0 if any sample is usable, 1 if none is or, with --strict, if there is any finding.",
        epilog="example: fashiongen data check viton_hd /data/zalando-hd-resized --json check.json",
    )
    check.add_argument(
        "layout",
        metavar="LAYOUT",
        help="name of the layout, such as viton_hd, or package.module.Class of your own dataset; an unknown name lists all of them",
    )
    check.add_argument("root", metavar="ROOT", type=Path, help="the dataset's folder")
    check.add_argument("--strict", action="store_true", help="exit status 1 if there is any finding")
    check.add_argument("--json", type=Path, metavar="F", help="also write the findings to this file")
    encode = actions.add_parser(
        "encode",
        help="fill the latent and feature cache",
        description="Run the frozen encoders of a recipe's method once over its data, and cache each sample's encodings in a folder.\n"
        "Training with `--cache DIR` then runs no frozen encoder. After an interruption run the command again: it skips\n"
        "samples that are already encoded. Accepts further keys of the recipe, like `fashiongen fit`.",
        epilog="example: fashiongen data encode --config tiny/igr --out cache/igr",
    )
    encode.set_defaults(takes_keys=True)
    _add_config(encode)
    encode.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to fill; several processes can fill it at once")
    encode.add_argument(
        "--split",
        nargs="+",
        choices=["train", "val"],
        default=["train", "val"],
        help="splits to encode (default: both; tests use no cache)",
    )
    encode.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="float16 halves the folder's size (default: float32)"
    )
    add_masks(actions)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", action="append", required=True, metavar="RECIPE", help="the recipe, then its overlays")


def _add_wardrobe(commands: Commands) -> None:
    wardrobe = commands.add_parser("wardrobe", help="render the embedded world", description="Render the embedded synthetic world.")
    render = wardrobe.add_subparsers(dest="action", metavar="render", required=True).add_parser(
        "render",
        help="write it in a public dataset's folder layout",
        description="Write the embedded world in a public dataset's folder layout, to try a recipe without a download.",
        epilog="example: fashiongen wardrobe render viton_hd /tmp/wardrobe --people 40 --size 128x96 --seed 0",
    )
    render.add_argument(
        "layout",
        metavar="LAYOUT",
        help="name of the layout, such as viton_hd, or package.module.Class of your own dataset; an unknown name lists all of them",
    )
    render.add_argument("root", metavar="ROOT", type=Path, help="folder to write")
    render.add_argument("--people", type=int, default=40, metavar="N", help="people, or pairs of items, to draw (default: %(default)s)")
    render.add_argument("--size", type=size, default=(512, 384), metavar="HxW", help="height and width in pixels (default: 512x384)")
    render.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same world (default: %(default)s)")


def _add_retrieve(commands: Commands) -> None:
    retrieve = commands.add_parser(
        "retrieve",
        help="rank a folder of bottoms for a top",
        description="Rank the images in a folder for the image of a top with a trained method. Writes a page with the best matches, their\n"
        "scores and, for methods that generate one, the template for the top. Accepts further keys of the recipe.",
        epilog="example: fashiongen retrieve --config tiny/geco --ckpt_path logs/geco/last.ckpt "
        "--query top.jpg --catalogue bottoms --top 10 --out page.html",
    )
    retrieve.set_defaults(takes_keys=True)
    _add_config(retrieve)
    retrieve.add_argument("--query", type=Path, required=True, metavar="IMAGE", help="the image of a top, or a folder of them")
    retrieve.add_argument("--catalogue", type=Path, required=True, metavar="DIR", help="folder of images of bottoms")
    retrieve.add_argument("--top", type=positive, default=10, metavar="N", help="how many to show (default: %(default)s)")
    retrieve.add_argument("--out", type=Path, required=True, metavar="PAGE", help="HTML file to write; it is self-contained")
    retrieve.add_argument(
        "--index",
        choices=["exact", "ivf", "hnsw"],
        default="exact",
        help="exact scores the whole catalogue; ivf (on disk) and hnsw (faster, in memory) are approximate, report their recall, "
        "and need pip install 'fashiongen[scale]' (default: exact)",
    )
    retrieve.add_argument(
        "--effort",
        type=positive,
        default=64,
        metavar="N",
        help="nprobe of ivf, efSearch of hnsw (default: %(default)s)",
    )
    retrieve.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder to cache embeddings in for the next query (default: the user's cache folder)"
    )


def _add_judge(commands: Commands) -> None:
    judge = commands.add_parser(
        "judge",
        help="judge a folder of images made by any code, or kept predictions",
        description="Judge predictions in files by a protocol, without sampling: those that a test kept (`--evaluate.keep DIR`), or\n"
        "images made by any code, .png or .jpg, named after the sample id, the garment, or both in either order.\n"
        "Reports files that are missing, extra, lossy, unreadable or of another size, and writes a record marked with its source.\n"
        "The data are those of `--data CLASS --data.KEY VALUE ...`, or of a recipe given by --config. Accepts further keys of a recipe.",
        epilog="examples:\n"
        "  fashiongen judge results/paired --protocol vtoff-tryoffdiff --data fashiongen.data.VITONHD --data.root PATH --out judged.json\n"
        "  fashiongen test --config tiny/white --evaluate.keep kept\n"
        "  fashiongen judge kept --protocol vtoff-tiny --config tiny/white --out judged.json",
    )
    judge.set_defaults(takes_keys=True)
    judge.add_argument("folder", metavar="DIR", type=Path, help="folder of the predictions")
    judge.add_argument("--protocol", required=True, metavar="P", help="name (`fashiongen recipes` lists them) or YAML file of a protocol")
    judge.add_argument(
        "-c", "--config", action="append", default=[], metavar="RECIPE", help="a recipe whose data to use; its method is not run"
    )
    judge.add_argument("--out", type=Path, metavar="F", help="JSON file for the record (default: only print the metrics)")
    judge.add_argument("--name", metavar="NAME", help="the method's name in the record (default: the folder's)")
    judge.add_argument("--seed", type=int, metavar="S", help="the seed that the images were made with, for the record (default: unknown)")
    judge.add_argument(
        "--names",
        choices=["id", "garment", "person_garment", "garment_person"],
        help="what the files are named after (default: what matches the most samples)",
    )
    judge.add_argument(
        "--allow-missing",
        action="store_true",
        help="judge although samples have no prediction; such a result compares with no complete one",
    )


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench", help="run every method on every task it supports", description="Run every method on every task it supports."
    )
    actions = bench.add_subparsers(dest="action", metavar="run", required=True)
    actions.add_parser("describe")  # internal: `bench run` starts it and sends the suite's commands to its standard input
    run = actions.add_parser(
        "run",
        help="run the trainings and tests of a suite",
        description="Run every unfinished training and test of a suite, each in its own process, and write a record of each to DIR/nodes.\n"
        "A second run resumes the first. A finished node runs again only if its settings, its data, its parents or the package's\n"
        "code have changed; its old folder then moves to DIR/replaced.\n"
        "A node that fails does not stop the others; nodes that depend on it are skipped. Exit status 1 if any failed, else 0.",
        epilog=(
            "examples:\n"
            "  fashiongen bench run tiny-smoke --out results/smoke --dry-run     (lists the nodes)\n"
            "  fashiongen bench run tiny --out results/tiny --jobs 2\n"
            "  fashiongen bench run paper-geco --out /shared/geco --executor slurm --jobs 20 --slurm partition=gpu"
        ),
    )
    run.add_argument(
        "suite", metavar="SUITE", help="name or YAML file of a suite, which lists recipes, seeds, overlays, ablations and tests"
    )
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results; a cluster's machines must have access to it (default: results/NAME of the suite)",
    )
    run.add_argument("--dry-run", action="store_true", help="list the nodes with their commands and requirements; run none")
    run.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="nodes to run at once; they share the cores, each has its own GPUs"
    )
    run.add_argument("--executor", choices=["local", "ray", "slurm"], default="local", help="where nodes run (default: this machine)")
    run.add_argument("--accept-stale", action="store_true", help="keep finished nodes even if code or libraries have changed")
    run.add_argument("--address", metavar="A", help="address of a running Ray cluster (default: RAY_ADDRESS, else a new local one)")
    run.add_argument("--cpus", type=positive, default=1, metavar="N", help="cores per node under ray or slurm (default: %(default)s)")
    run.add_argument(
        "--slurm", action="append", default=[], type=key_value, metavar="KEY=VALUE", help="an option for sbatch; can be repeated"
    )


def _add_leaderboard(commands: Commands) -> None:
    leaderboard = commands.add_parser(
        "leaderboard",
        help="compare the records of a benchmark",
        description="Compare the records that `fashiongen bench run` wrote to DIR: one table per task, dataset and protocol, with\n"
        "intervals, paired tests against the best, and failures. Without --html, --markdown or --csv it prints the tables.\n"
        "It runs nothing.",
        epilog="example: fashiongen leaderboard runs/tiny --html leaderboard.html --csv leaderboard.csv",
    )
    leaderboard.add_argument("folder", metavar="DIR", type=Path, help="the --out of `fashiongen bench run`")
    leaderboard.add_argument("--html", type=Path, metavar="F", help="write a self-contained page")
    leaderboard.add_argument("--markdown", type=Path, metavar="F", help="write the tables as Markdown")
    leaderboard.add_argument("--csv", type=Path, metavar="F", help="write one line per number, at full precision, without published ones")
    leaderboard.add_argument("--published", type=Path, metavar="DIR", help="the papers' numbers (default: those shipped with the package)")


def _add_new(commands: Commands) -> None:
    new = commands.add_parser("new", help="start a new method", description="Write the files of a new method for you to edit.")
    method = new.add_subparsers(dest="action", metavar="method", required=True).add_parser(
        "method",
        help="write the folder, recipes and test of a new method",
        description="Write a small method that learns on the embedded world: its folder, its recipes and a passing test.\n"
        "In a checkout they go next to fashiongen's own methods; with --out DIR they go into your own package, and recipes name the\n"
        "method by class_path. No file is overwritten.",
        epilog="examples:\n  fashiongen new method my_method\n  fashiongen new method my_method --out ~/research",
    )
    method.add_argument("name", metavar="NAME", help="lower-case letters, digits and `_`, such as my_method; its class is then MyMethod")
    method.add_argument("--out", type=Path, metavar="DIR", help="folder or package to write to (default: the checkout of fashiongen)")


def _add_tiny(commands: Commands) -> None:
    tiny = commands.add_parser(
        "tiny", help="the tiny checkpoints shipped with the package", description="The tiny checkpoints shipped with the package."
    )
    build = tiny.add_subparsers(dest="action", metavar="build", required=True).add_parser(
        "build",
        help="retrain them from scratch",
        description="Retrain the tiny checkpoints (`pretrained: tiny`) from scratch on the embedded world:\n"
        "two to three hours on two cores, minutes on a GPU. A build that was killed resumes.\n"
        "Each stage's quality on held-out items is printed and written to BUILD.json.",
        epilog="examples:\n  fashiongen tiny build --out weights\n  fashiongen tiny build --out weights --device cuda\n"
        "  fashiongen tiny build --out weights --reuse classifier resnet18 alexnet",
    )
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    build.add_argument("--seed", type=int, default=0, metavar="S", help="seed for weights, data and order (default: %(default)s)")
    build.add_argument("--device", default="cpu", metavar="D", help="where to train: cpu, cuda, cuda:1 (default: %(default)s)")
    build.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "32", "bf16"),
        help="run networks in float32 or bfloat16; weights and losses stay in float32 (default: bf16 where the device has it)",
    )
    build.add_argument(
        "--reuse", nargs="+", default=[], metavar="STAGE", help="copy these stages from the shipped checkpoints instead of training them"
    )


def _add_consolidate(commands: Commands) -> None:
    consolidate = commands.add_parser(
        "consolidate",
        help="turn a DeepSpeed checkpoint (a folder) into a single file",
        description="Turn a DeepSpeed checkpoint (a folder) into a single file that --ckpt_path accepts on any machine.",
    )
    consolidate.add_argument("folder", metavar="DEEPSPEED_DIR", type=Path, help="checkpoint folder written by training with DeepSpeed")
    consolidate.add_argument("out", metavar="OUT", type=Path, help="file to write, such as igr.ckpt")
    consolidate.add_argument("--trust", action="store_true", help="confirm that you created the checkpoint: reading it unpickles")
