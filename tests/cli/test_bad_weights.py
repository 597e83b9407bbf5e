"""Bad weights and checkpoints of every kind give a one-line error and exit status 2, or are used correctly; none can run code."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from spoilt import FIT, IGR, PREDICT, TRAIN, Bomb, Kind, check, cut, made, overlay

from fashiongen.cli import main

KINDS = [
    # Weights
    Kind(
        "weights of another shape",
        lambda w: w.change_weights(w.weights() / "unet", lambda s: s.update({"conv_in.weight": torch.zeros(3, 5)})),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: .*conv_in\.weight .*3, 5",
    ),
    Kind(
        "weights with a key too few",
        lambda w: w.change_weights(w.weights() / "vae", lambda s: s.pop("decoder.conv_in.weight")),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/vae: lacks weights of a AutoencoderKL: decoder\.conv_in\.weight",
    ),
    Kind(
        "weights with a key too many",
        lambda w: w.change_weights(w.weights() / "text_encoder", lambda s: s.update({"surplus": torch.zeros(1)})),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/text_encoder: has keys that are not weights of a CLIPTextModel: surplus",
    ),
    Kind(
        "weights that are cut off",
        lambda w: cut(w.weights() / "unet" / "diffusion_pytorch_model.safetensors"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there",
    ),
    Kind(
        "weights that are text",
        lambda w: (w.weights("clip") / "model.safetensors").write_text("hello"),
        [*IGR, "--model.init_args.image_encoder=./weights"],
        r"weights: cannot load a CLIPVisionModelWithProjection from there",
    ),
    Kind(
        "weights as a pickle alone",
        lambda w: (w.weights() / "unet" / "diffusion_pytorch_model.safetensors").rename("weights/unet/diffusion_pytorch_model.bin"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there \(Unable to load weights .*\.bin",
    ),
    Kind(
        "weights of another architecture",
        lambda w: shutil.copytree(w.weights() / "vae", "weights/unet", dirs_exist_ok=True),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: ",
    ),
    Kind(
        "a folder without its unet",
        lambda w: shutil.rmtree(w.weights() / "unet"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there",
    ),
    Kind(
        "a folder without its tokenizer",
        lambda w: shutil.rmtree(w.weights() / "tokenizer"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/tokenizer: cannot load a CLIPTokenizer from there",
    ),
    Kind(
        "a folder without model_index.json",
        lambda w: (w.weights() / "model_index.json").unlink(),
        [*IGR, "--model.init_args.pretrained=./weights"],
        made(2),
    ),
    Kind(
        "a config that is no JSON",
        lambda w: cut(w.weights() / "unet" / "config.json"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"weights/unet: cannot load a UNet2DConditionModel from there \(.*config",
    ),
    Kind(
        "a config of nonsense",
        lambda w: w.change_config(w.weights("clip") / "config.json", vision_config={"hidden_size": "wide"}),
        [*IGR, "--model.init_args.image_encoder=./weights"],
        r"weights: cannot load a CLIPVisionModelWithProjection from there",
    ),
    Kind(
        "a model that predicts something else",
        lambda w: w.change_config(w.weights() / "scheduler" / "scheduler_config.json", prediction_type="v_prediction"),
        [*IGR, "--model.init_args.pretrained=./weights"],
        r"predicts v_prediction, but IGR's eq\. 1 needs epsilon",
    ),
    Kind(
        "a folder of weights that is not there",
        lambda w: None,
        [*IGR, "--model.init_args.pretrained=./nowhere"],
        r"pretrained: \./nowhere: no such folder",
    ),
    Kind(
        "an image prompt whose pickle would run code",
        lambda w: Path("ip.bin").write_bytes(pickle.dumps(Bomb())),
        [*IGR, "--model.init_args.ip_adapter=./ip.bin"],
        r"ip\.bin: not a weights file that can be read safely",
    ),
    Kind(
        "an image prompt of another model",
        lambda w: torch.save({"image_proj": {"proj.weight": torch.zeros(3, 5)}, "ip_adapter": {}}, "ip.bin"),
        [*IGR, "--model.init_args.ip_adapter=./ip.bin"],
        r"ip\.bin does not fit .*missing: .*of another shape: image_proj\.proj\.weight \(3, 5\)",
    ),
    Kind(
        "an image prompt that is a list",
        lambda w: torch.save([1, 2], "ip.bin"),
        [*IGR, "--model.init_args.ip_adapter=./ip.bin"],
        r"no state dict",
    ),
    # Checkpoints
    Kind(
        "a checkpoint of another method",
        lambda w: main(TRAIN),
        [*IGR, "--ckpt_path=checkpoints/last.ckpt"],
        r"the checkpoint does not fit IGR: missing: network.*left over: total, count",
    ),
    Kind("a checkpoint that is not there", lambda w: None, [*PREDICT, "--ckpt_path=lost.ckpt"], r"lost\.ckpt: no such file"),
    Kind(
        "a checkpoint that is text", lambda w: None, [*PREDICT, "--ckpt_path=crop.yaml"], r"crop\.yaml: not a checkpoint, or a damaged one"
    ),
    Kind(
        "a checkpoint that is cut off",
        lambda w: (main(TRAIN), cut(Path("checkpoints/last.ckpt"))),
        [*PREDICT, "--ckpt_path=checkpoints/last.ckpt"],
        r"last\.ckpt: not a checkpoint, or a damaged one",
    ),
    Kind(
        "a checkpoint whose pickle would run code",
        lambda w: torch.save({"state_dict": {}, "bomb": Bomb()}, "bomb.ckpt"),
        [*PREDICT, "--ckpt_path=bomb.ckpt"],
        r"pickled objects that could run code",
    ),
    Kind(
        "a checkpoint of weights alone",
        lambda w: torch.save({"a": torch.zeros(1)}, "a.ckpt"),
        [*PREDICT, "--ckpt_path=a.ckpt"],
        r"--ckpt_path: a torch file, but none",
    ),
    Kind(
        "a DeepSpeed folder",
        lambda w: Path("zero.ckpt").mkdir(),
        [*PREDICT, "--ckpt_path=zero.ckpt"],
        r"zero\.ckpt is a DeepSpeed.*--trust",
    ),
    Kind(
        "a parent that is not there",
        lambda w: overlay(parents={"coarse": "igr"}),
        [*FIT, "--config", "overlay.yaml"],
        r"needs the checkpoint of its parent igr: add --parents\.coarse PATH",
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_weights(kind, world, capsys):
    check(kind, world, capsys)


def test_no_kind_is_lost():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 25
