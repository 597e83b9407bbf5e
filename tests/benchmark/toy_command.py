"""Acts like `fashiongen fit` and `fashiongen test`, in a tenth of a second: a recipe's key `toy` says what happens.

A fit adds steps to a chain of hashes and saves after each; a resumed one must end like an uninterrupted one. A test reads the chain.
Each start is logged in the file of TOY_TRACE. Also writes and describes toy recipes, without heavy imports.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from fashiongen.records import Record, kept_sha256, write_atomically

LAST, BEST = Path("logs/toy/last.ckpt"), Path("logs/toy/best.ckpt")


def main(kind: str, *arguments: str) -> None:
    given: dict[str, list[str]] = {}
    for key, value in zip(arguments[::2], arguments[1::2], strict=True):
        given.setdefault(key, []).append(value)
    toy: dict = {}
    for config in given["--config"]:
        toy |= json.loads(Path(config).read_text()).get("toy", {}).get(kind, {})
    with open(os.environ["TOY_TRACE"], "a") as trace:
        trace.write(f"{Path.cwd().name} {'resumed' if LAST.exists() else 'begun'}\n")
    print(f"{kind} in", os.environ["OMP_NUM_THREADS"], "threads on", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if toy.get("raises"):
        raise RuntimeError(toy["raises"])
    if toy.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    seed = int(given["--seed_everything"][0])
    {"fit": fit, "test": test}[kind](toy, given, seed)


def fit(toy: dict, given: dict[str, list[str]], seed: int) -> None:
    parents = {key.removeprefix("--parents."): json.loads(Path(path[0]).read_text()) for key, path in given.items() if "parents" in key}
    state = {"step": 0, "chain": hashlib.sha256(json.dumps([seed, parents]).encode()).hexdigest()}
    if "--ckpt_path" in given:
        state = json.loads(Path(given["--ckpt_path"][0]).read_text())
    while state["step"] < toy.get("steps", 3):
        time.sleep(toy.get("pause", 0.01))
        state = {"step": state["step"] + 1, "chain": hashlib.sha256(state["chain"].encode()).hexdigest()}
        write_atomically(LAST, json.dumps(state))
        if state["step"] == toy.get("best"):
            write_atomically(BEST, json.dumps(state))
    record = Record(node="", kind="fit", method="class", task="", dataset="toys", split="train", protocol="")
    for role, path in (("last", LAST), ("best", BEST)):
        if path.exists():
            content = path.read_bytes()
            chain = json.loads(content)["chain"]
            record.checkpoints[role] = {"path": str(path), "sha256": hashlib.sha256(content).hexdigest(), "weights_sha256": chain}
    record.checkpoint = record.checkpoints.get("best") or record.checkpoints["last"]
    record.write(given["--evaluate.out"][0])


def test(toy: dict, given: dict[str, list[str]], seed: int) -> None:
    chain = json.loads(Path(given["--ckpt_path"][0]).read_text())["chain"] if "--ckpt_path" in given else f"{seed}"
    if "--data.init_args.garments" in given:
        chain += Path(given["--data.init_args.garments"][0], "garment.txt").read_text()
    time.sleep(toy.get("pause", 0.01))
    out = Path(given["--evaluate.out"][0])
    values = [int(hashlib.sha256(f"{chain} {sample}".encode()).hexdigest()[:6], 16) for sample in range(5)]
    rows = [json.dumps({"id": f"sample-{number}", "score": value}) + "\n" for number, value in enumerate(values)]
    write_atomically(out.with_name(f"{out.stem}.per_sample.jsonl"), "".join(rows))
    record = Record(node="", method="class", task="rank", dataset="toys", split="test", protocol="toy", n_samples=5)
    record.metrics = {"score": {"value": sum(values) / 5, "higher_is_better": True, "ci95": None}}
    record.per_sample, record.weights = f"{out.stem}.per_sample.jsonl", toy.get("weights", [])
    if "--evaluate.keep" in given:
        kept = Path(given["--evaluate.keep"][0])
        write_atomically(kept / "garment.txt", f"{chain} {toy}")
        record.predictions = {"path": str(kept), "sha256": kept_sha256(kept)}
    record.write(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
