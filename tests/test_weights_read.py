"""What a method has read is named in its record: source, revision and hashes of every frozen part and starting weight."""

import os
import shutil
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from judged import Copier, Gallery, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

from fashiongen import weights_read
from fashiongen.checkpoints import locate, locate_file, read_state, split_revision, tiny_weights
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate
from fashiongen.evaluation.provenance import unpinned, weights
from fashiongen.methods.base import Method
from fashiongen.methods.igr import IGR
from fashiongen.nn.parts import load_codec, load_image_encoder, load_noise_schedule, load_prompt_encoder
from fashiongen.records import Record, file_sha256

COMMIT, OTHER = "a" * 40, "b" * 40


class Reader(Method):
    """Reads the parts that a test names."""

    def __init__(self, *loads):
        super().__init__()
        for load in loads:
            load()


def sources(method: Method) -> dict[str, dict]:
    return {entry["source"]: entry for entry in weights(method)}


def test_every_part_of_a_tiny_method_is_named():
    found = sources(IGR())
    parts = [f"tiny/sd/{part}" for part in ("scheduler", "text_encoder", "tokenizer", "unet", "vae")]
    assert list(found) == ["tiny/clip", "tiny/ip_adapter/ip_adapter.safetensors", *parts]
    assert {(entry["revision"], entry["pinned"]) for entry in found.values()} == {(None, None)}
    assert set(found["tiny/clip"]["files"]) == {"config.json", "model.safetensors"}
    assert set(found["tiny/sd/tokenizer"]["files"]) >= {"vocab.json", "merges.txt"}
    vae = tiny_weights() / "sd" / "vae"
    assert found["tiny/sd/vae"]["files"] == {
        name: file_sha256(vae / name) for name in ("config.json", "diffusion_pytorch_model.safetensors")
    }


def test_another_frozen_part_of_the_same_shape_is_told_apart(tmp_path):
    folder = shutil.copytree(tiny_weights() / "sd", tmp_path / "sd")
    before = sources(Reader(lambda: load_codec(locate(str(folder))), lambda: load_noise_schedule(locate(str(folder)))))
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({**state, "decoder.conv_in.bias": state["decoder.conv_in.bias"] + 1}, file)
    after = sources(Reader(lambda: load_codec(locate(str(folder))), lambda: load_noise_schedule(locate(str(folder)))))
    changed = {source for source in before if before[source] != after[source]}
    assert changed == {str(folder / "vae")}


def test_a_file_that_changes_after_it_was_read_is_not_taken_for_it(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    method = Reader(lambda: read_state(file))
    save_file({"a": torch.zeros(3)}, file)
    assert sources(method)[str(file)]["files"] == {"w.safetensors": "changed since it was read"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of a hub with a repository in two revisions: the pinned one, and that of its main branch with another VAE."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    for commit in (COMMIT, OTHER):
        shutil.copytree(tiny_weights() / "sd", repository / "snapshots" / commit)
        shutil.copytree(tiny_weights() / "clip", repository / "snapshots" / commit / "models" / "image_encoder")
    save_file({"a": torch.ones(1)}, repository / "snapshots" / COMMIT / "models" / "ip.safetensors")
    file = repository / "snapshots" / OTHER / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({**state, "decoder.conv_in.bias": state["decoder.conv_in.bias"] + 1}, file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(OTHER)
    return repository


def read_all(name: str) -> Reader:
    folder = locate(name)
    return Reader(
        lambda: load_codec(folder),
        lambda: load_prompt_encoder(folder),
        lambda: load_noise_schedule(folder),
        lambda: load_image_encoder(folder, "models/image_encoder"),
    )


def test_a_pinned_repository_is_read_at_its_revision(hub):
    pinned, main = read_all(f"owner/name@{COMMIT}"), read_all("owner/name")
    parts = ("models/image_encoder", "scheduler", "text_encoder", "tokenizer", "vae")
    for method, commit, named in ((pinned, COMMIT, True), (main, OTHER, False)):
        found = sources(method)
        assert list(found) == [f"owner/name/{part}" for part in parts] and all(entry["files"] for entry in found.values())
        assert {(entry["revision"], entry["pinned"]) for entry in found.values()} == {(commit, named)}
    one, two = (sources(method)["owner/name/vae"]["files"] for method in (pinned, main))
    assert one["config.json"] == two["config.json"] and one != two
    assert unpinned(pinned) == []
    assert unpinned(main) == [f"owner/name: unpinned, so another run may read other weights; name its revision, now owner/name@{OTHER}"]
    with pytest.raises(UserError, match=f"owner/name@{'c' * 40}/vae: cannot load"):
        load_codec(f"owner/name@{'c' * 40}")


def test_a_file_of_a_pinned_repository(hub):
    def load():
        read_state(locate_file(f"owner/name@{COMMIT}/models/ip.safetensors", "x"))

    (entry,) = weights(Reader(load))
    assert (entry["source"], entry["revision"], entry["pinned"]) == ("owner/name/models/ip.safetensors", COMMIT, True)
    with pytest.raises(UserError, match="none on the hub"):
        locate_file("owner/name/models/ip.safetensors", "x")  # not in the main branch's revision


class Heir(Copier):
    """Starts from a parent's weights."""

    def load_parents(self, parents):
        read_state(parents["first"])


def test_a_resumed_training_names_what_it_started_from(tmp_path):
    """Also one that is resumed twice; a test reads nothing but the checkpoint."""
    parent, last = tmp_path / "first.safetensors", tmp_path / "last.ckpt"
    save_file({"a": torch.zeros(2)}, parent)
    for steps in (1, 2, 3):
        method, evaluate = Heir(), Evaluate(out=str(tmp_path / "fit.json"))
        if steps == 1:
            method.load_parents({"first": parent})
        saving = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)
        run = trainer(tmp_path, evaluate, saving, max_steps=steps, limit_val_batches=0)
        run.fit(method, datamodule=Gallery(), ckpt_path=str(last) if steps > 1 else None, weights_only=True)
        (entry,) = Record.read(tmp_path / "fit.json").weights
        assert (entry["source"], entry["files"]) == (str(parent), {parent.name: file_sha256(parent)})
    method = Heir()
    trainer(tmp_path, Evaluate(metrics={})).test(method, datamodule=Gallery(), ckpt_path=str(last), weights_only=True, verbose=False)
    assert weights(method) == []


@pytest.mark.parametrize("revision", ["main", "v1"])
def test_a_branch_or_a_tag_pins_nothing(hub, revision):
    (hub / "refs" / revision).write_text(COMMIT)
    method = Reader(
        lambda: load_noise_schedule(locate(f"owner/name@{revision}")),
        lambda: read_state(locate_file(f"owner/name@{revision}/models/ip.safetensors", "x")),
    )
    assert {(entry["revision"], entry["pinned"]) for entry in weights(method)} == {(COMMIT, False)}
    assert [line.partition("; ")[2] for line in unpinned(method)] == [f"name its revision, now owner/name@{COMMIT}"]


def test_a_folder_with_an_at_in_its_name_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert split_revision(locate("owner/name@v1")) == ("owner/name@v1", None)
    assert split_revision("owner/name@v2") == ("owner/name", "v2") and split_revision("owner/name") == ("owner/name", None)


def test_each_file_is_hashed_once(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(weights_read, "file_sha256", lambda path: counted.append(path) or file_sha256(path))
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    method = Reader(lambda: read_state(file), lambda: read_state(file))
    assert weights(method) == weights(method) and counted == [file]
    os.utime(file, ns=(1, 1))
    weights(Reader(lambda: read_state(file)))
    assert counted == [file, file]


def test_what_is_read_for_another_purpose_is_not_noted(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    method = Reader()
    with weights_read.unnoted():
        read_state(tmp_path / "w.safetensors")
    weights_read.end()
    read_state(tmp_path / "w.safetensors")
    assert weights(method) == [] == weights(L.LightningModule())


def test_a_record_with_weights_is_read_again(tmp_path):
    record = Record(node="n", method="igr", task="", dataset="", split="", protocol="", kind="fit")
    record.weights = [{"source": "owner/name/vae", "revision": COMMIT, "pinned": True, "files": {"config.json": "0" * 64}}]
    record.write(tmp_path / "r.json")
    assert Record.read(Path(tmp_path / "r.json")) == record
