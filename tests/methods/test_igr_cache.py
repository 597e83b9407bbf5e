"""IGR on samples that were encoded in advance: equal results, no frozen encoder in the step; also with the real command line."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fashiongen import tasks
from fashiongen.batches import TryOffBatch
from fashiongen.cli import main
from fashiongen.data.encoding_cache import EncodedDataset, encode
from fashiongen.data.loading import Loader
from fashiongen.methods.igr import IGR
from fashiongen.nn import encodings
from fashiongen.nn.parts import LatentCodec

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
WORLD = ["--data.init_args.people", "40", "--data.init_args.validation", "4", "--data.init_args.batch_size", "4"]


@pytest.fixture(scope="module")
def igr():
    torch.manual_seed(0)
    return IGR(steps=2)


def batches(igr, world, folder, dtype=torch.float32):
    """Return the same six samples as read, and with their cached encodings."""
    samples = torch.utils.data.Subset(world.datasets["test"], range(6))
    samples.rows = world.datasets["test"].rows[:6]
    encode(Loader(samples, batch_size=4), igr.encodings(), folder, dtype=dtype)
    read = EncodedDataset(samples, folder, igr.encodings())
    return tuple(TryOffBatch.collate([data[index] for index in range(6)]) for data in (samples, read))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
def test_a_step_on_cached_encodings_has_the_same_loss_and_runs_no_frozen_encoder(igr, world, tmp_path, dtype, tolerance):
    plain, kept = batches(igr, world, tmp_path, dtype)
    igr.train()
    expected = igr.denoising_loss(plain, ("train", 3), 0.5)
    calls = []
    frozen = {"vae": igr.codec.vae.encoder, "clip": igr.image_encoder.vision_model, "text": igr.prompt_encoder.text_encoder}
    hooks = [module.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, module in frozen.items()]
    found = igr.denoising_loss(kept, ("train", 3), 0.5)
    assert calls == []
    igr.denoising_loss(plain, ("train", 3), 0.5)
    assert calls == ["vae", "clip", "vae"]
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


def test_a_step_in_mixed_precision_gets_the_cached_values(igr, world, tmp_path):
    plain, kept = batches(igr, world, tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for kind in ("garment", "person", "image"):
            now = igr.encoded(kind, plain)
            # The batches differ in size, and with that the last bits; bfloat16 would differ in the third digit.
            torch.testing.assert_close(now, igr.encoded(kind, kept), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_evaluation_does_not_use_the_cache(igr, world, tmp_path):
    plain, kept = batches(igr, world, tmp_path)
    igr.eval()
    poisoned = replace(kept, encoded={kind: torch.full_like(value, torch.nan) for kind, value in kept.encoded.items()})
    assert torch.equal(tasks.run(igr, poisoned), tasks.run(igr, plain))


def test_cached_encodings_work_for_a_model_in_bfloat16(igr, world, tmp_path):
    plain, kept = batches(igr, world, tmp_path)
    torch.manual_seed(0)
    low = IGR().bfloat16()  # as DeepSpeed does it
    torch.testing.assert_close(low.denoising_loss(kept, ("val",), 0.0), low.denoising_loss(plain, ("val",), 0.0), rtol=0.05, atol=0)


def test_the_command_line_encodes_ahead_and_trains_from_it(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = ["--config", str(RECIPES / "igr.yaml"), *WORLD]
    assert main(["data", "encode", *recipe, "--out", "kept", "--split", "train"]) is None
    first = capsys.readouterr().out
    assert main(["data", "encode", *recipe, "--out", "kept"]) is None
    second = capsys.readouterr().out
    trained = int(first.partition("garment: ")[2].partition(" encoded, 0 already cached")[0])
    assert trained > 8
    for kind in ("garment", "person", "image"):
        assert f"{kind}: {trained} encoded, 0 already cached" in first
        assert f"{kind}: 4 encoded, {trained} already cached" in second

    common = [*recipe, "--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--trainer.logger", "false"]
    common += ["--model.init_args.cache_encodings", "false", "--trainer.enable_model_summary", "false"]
    common += ["--trainer.callbacks.every_n_train_steps", "3"]
    weights, hashed = [], []
    for name, more in (("plain", []), ("kept", ["--cache", "kept"])):
        with monkeypatch.context() as patch:
            if more:
                patch.setattr(LatentCodec, "moments", None)  # to call it is an error
                patch.setattr(
                    encodings, "_encoder_sha256", lambda encoder, real=encodings._encoder_sha256: (hashed.append(encoder), real(encoder))[1]
                )
            assert main(["fit", *common, "--trainer.callbacks.dirpath", name, *more]) is None
        weights.append(torch.load(f"{name}/last.ckpt", weights_only=True)["state_dict"])
    assert len(hashed) == len({*map(id, hashed)}) == 2, "each encoder's weights are hashed once, for both splits"
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=0, atol=1e-5, msg=key)

    # The fine stage trains on some of these samples, a few of them reframed: only those are encoded again. Its parent is not needed.
    fine = ["--config", str(RECIPES / "igr-hqft.yaml"), *WORLD, "--data.init_args.quality.init_args.keep", "0.9"]
    capsys.readouterr()
    assert main(["data", "encode", *fine, "--out", "kept"]) is None
    counted = {kind: line.split() for line in capsys.readouterr().out.splitlines() for kind in [line.partition(":")[0]]}
    assert int(counted["garment"][1]) == 0
    assert 0 < int(counted["person"][1]) < trained
    assert counted["person"][1:] == counted["image"][1:]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["fit", "--config", "igr.yaml", "--cache", "absent"], "the cache absent does not exist; run `fashiongen data encode"),
        (["data", "encode", "--config", "white.yaml", "--out", "kept"], "White has no frozen encoder"),
        (["data", "encode", "--out", "kept"], "--config"),
        (["data", "encode", "--config", "igr.yaml", "--out", "kept", "--data.init_args.peple", "3"], "unknown key 'peple'"),
        (["data", "encode", "--config", "igr.yaml", "--out", "kept", "--split", "test"], "invalid choice: 'test'"),
        (["data", "encode", "--config", "igr.yaml", "--out", os.devnull], "cannot write to the cache"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, cache, monkeypatch, capsys, args, line):
    monkeypatch.chdir(tmp_path)
    known = [str(RECIPES / arg) if arg.endswith(".yaml") else arg for arg in args]
    with pytest.raises(SystemExit) as stop:
        main([*known, *(WORLD if "--config" in args else [])])
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert line in error[-1] and error[-1].startswith("fashiongen: ")
    assert "Traceback" not in "".join(error)
