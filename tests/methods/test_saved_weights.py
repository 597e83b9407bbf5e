"""The content of a method's checkpoint: trained weights, weights from a parent, and nothing from `pretrained`."""

from pathlib import Path
from typing import ClassVar

import lightning.pytorch as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.data import DataLoader

from fashiongen.checkpoints import read_state
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.nn.parts import freeze

PRETRAINED = {"encoder.0.weight": torch.full((4, 4), 0.5), "encoder.0.bias": torch.zeros(4)}


def pretrained_encoder() -> nn.Module:
    """A frozen network whose weights a folder would bring; its norm has buffers."""
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    encoder[0].load_state_dict({"weight": PRETRAINED["encoder.0.weight"], "bias": PRETRAINED["encoder.0.bias"]})
    return freeze(encoder)


class Toy(Method):
    """A frozen encoder and a trained head."""

    frozen: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(self, lora: bool = False) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        torch.manual_seed(0)
        self.encoder = pretrained_encoder()
        if lora:
            inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), self.encoder)
        self.head = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return (self.head(self.encoder(batch)) - 1).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx))


class Numbers(L.LightningDataModule):
    """The same batch four times, so that a run interrupted in mid-epoch gets the same data as an uninterrupted one."""

    def loader(self):
        return DataLoader([torch.randn(5, 4, generator=torch.Generator().manual_seed(1))] * 4, batch_size=None)

    train_dataloader = val_dataloader = test_dataloader = loader


def trainer(folder, *callbacks, **options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1, enable_version_counter=False)
    return L.Trainer(**{"accelerator": "cpu", "max_steps": 4, "callbacks": [saving, *callbacks], **quiet, **options})


def state_of(folder, step: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"step={step}.ckpt", weights_only=True)["state_dict"]


def test_pretrained_weights_are_left_out(tmp_path):
    trainer(tmp_path).fit(Toy(), Numbers())
    assert set(state_of(tmp_path, 4)) == {"head.weight", "head.bias"}
    assert set(Toy().origins().values()) == {"run", "pretrained"}


def test_a_lora_adapter_inside_a_frozen_part_is_saved_and_resumed(tmp_path):
    method = Toy(lora=True)
    start = {key: value.clone() for key, value in method.state_dict().items()}
    trainer(tmp_path).fit(method, Numbers())
    state = state_of(tmp_path, 4)
    adapters = {key for key in state if "lora_" in key}
    assert len(adapters) == 2 and set(state) == adapters | {"head.weight", "head.bias"}
    assert not any(torch.equal(state[key], start[key]) for key in adapters)

    resumed = Toy(lora=True)
    trainer(tmp_path / "resumed").fit(resumed, Numbers(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in resumed.state_dict().items())
    assert torch.equal(resumed.encoder[0].base_layer.weight, PRETRAINED["encoder.0.weight"])


def test_a_missing_adapter_is_refused_by_name(tmp_path):
    trainer(tmp_path, max_steps=1).fit(Toy(lora=True), Numbers())
    state = state_of(tmp_path, 1)
    without = {key: value for key, value in state.items() if "lora_B" not in key}
    with pytest.raises(UserError, match=r"the checkpoint does not fit Toy: missing: encoder\.0\.lora_B\.default\.weight") as error:
        Toy(lora=True).load_state_dict(without)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"missing: .*head\.weight"):
        Toy(lora=True).load_state_dict({})
    with pytest.raises(UserError, match=r"left over: encoder\.0\.lora_A"):
        Toy().load_state_dict(state)
    Toy().load_state_dict({key: value for key, value in state.items() if "lora_" not in key})


def test_an_adapter_that_is_switched_off_is_saved_and_demanded_all_the_same():
    """If a second adapter is trained, and if the whole method is frozen, as for inference."""

    def two() -> Toy:
        method = Toy(lora=True)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), method.encoder, adapter_name="second")
        method.encoder[0].set_adapter("second")
        return method

    state = two().state_dict()
    assert {key.split(".")[3] for key in state if "lora_" in key} == {"default", "second"}
    for method in (two(), two().requires_grad_(False)):
        with pytest.raises(UserError, match=r"missing: encoder\.0\.lora_A\.default\.weight, encoder\.0\.lora_B\.default\.weight"):
            method.load_state_dict({key: value for key, value in state.items() if "default" not in key})
        method.load_state_dict(state)
    assert set(two().requires_grad_(False).state_dict()) == set(state)


class Preference(Method):
    """As in DPO: a policy that starts from a parent, and the parent itself as the frozen reference beside a frozen encoder."""

    frozen: ClassVar[tuple[str, ...]] = ("encoder",)
    from_parents: ClassVar[tuple[str, ...]] = ("reference",)

    def __init__(self) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.encoder = pretrained_encoder()
        self.policy, self.reference = nn.Linear(4, 1), freeze(nn.Linear(4, 1))

    def load_parents(self, parents):
        state = {key.removeprefix("head."): value for key, value in read_state(parents["policy"]).items()}
        self.policy.load_state_dict(state)
        self.reference.load_state_dict(state)

    def training_step(self, batch, batch_idx):
        features = self.encoder(batch)
        return (self.policy(features) - self.reference(features) - 1).square().mean()


def test_a_reference_from_a_parent_survives_a_resume(tmp_path):
    trainer(tmp_path / "parent", max_steps=2).fit(Toy(), Numbers())
    parent = state_of(tmp_path / "parent", 2)
    whole = Preference()
    whole.load_parents({"policy": tmp_path / "parent" / "step=2.ckpt"})
    trainer(tmp_path).fit(whole, Numbers())
    found = {key.partition(".")[0]: origin for key, origin in whole.origins().items()}
    assert found == {"encoder": "pretrained", "policy": "run", "reference": "parent"}

    torch.manual_seed(9)
    resumed = Preference()  # without its parent, which a resumed run does not need
    assert not torch.equal(resumed.reference.weight, parent["head.weight"])
    trainer(tmp_path / "resumed").fit(resumed, Numbers(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert torch.equal(resumed.reference.weight, parent["head.weight"])
    assert torch.equal(resumed.policy.weight, whole.policy.weight) and not torch.equal(resumed.policy.weight, resumed.reference.weight)
    with pytest.raises(UserError, match=r"missing: reference\.weight, reference\.bias"):
        Preference().load_state_dict({key: value for key, value in whole.state_dict().items() if "reference" not in key})


@pytest.mark.parametrize("lora", [False, True])
def test_what_is_saved_and_tested_with_ema_is_the_average(lora, tmp_path):
    """Compared with a manual average over steps; frozen parts are not in the checkpoint, and an interrupted run resumes exactly."""
    seen = []

    class Note(L.Callback):
        def on_train_batch_end(self, trainer, method, *_):
            seen.append({key: value.clone() for key, value in method.state_dict().items()})

    def averaging():
        return EMAWeightAveraging(decay=0.9)

    method = Toy(lora)
    run = trainer(tmp_path, averaging(), Note())
    run.fit(method, Numbers())
    expected = dict(seen[0])
    for state in seen[1:]:
        expected = {key: 0.9 * value + 0.1 * state[key] for key, value in expected.items()}
    saved = state_of(tmp_path, 4)
    assert saved.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(saved[key], value)
        assert not torch.allclose(value, seen[-1][key], atol=1e-4)
    raw = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["current_model_state"]
    assert all(torch.equal(value, seen[-1][key]) for key, value in raw.items())

    def test_loss(weights):
        judged = Toy(lora)
        judged.load_state_dict(weights)
        judged.eval()
        return torch.stack([judged.training_step(batch, 0) for batch in Numbers().loader()]).mean().item()

    (found,) = trainer(tmp_path).test(Toy(lora), Numbers(), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True, verbose=False)
    assert found["test/loss"] == pytest.approx(test_loss(saved), rel=1e-5) != pytest.approx(test_loss(seen[-1]), rel=1e-4)

    trainer(tmp_path / "resumed", averaging()).fit(Toy(lora), Numbers(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    resumed = state_of(tmp_path / "resumed", 4)
    assert resumed.keys() == saved.keys() and all(torch.equal(value, saved[key]) for key, value in resumed.items())


class Indexed(Toy):
    """Its frozen encoder has integers among its buffers, as CLIP's position ids."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder.register_buffer("position_ids", torch.arange(77), persistent=False)


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_the_overlays_average_leaves_integers_as_they_are(decay, tmp_path):
    overlay = Path(__file__).parents[2] / "recipes" / "overlays" / "ema.yaml"
    (settings,) = yaml.safe_load(overlay.read_text(encoding="utf-8"))["trainer"]["callbacks+"]
    assert settings["class_path"] == "lightning.pytorch.callbacks.EMAWeightAveraging"
    method = Indexed()
    trainer(tmp_path, EMAWeightAveraging(**{**settings["init_args"], "decay": decay})).fit(method, Numbers())  # ends with the average
    assert torch.equal(method.encoder.position_ids, torch.arange(77))


class Thawed(Toy):
    """Unfreezes a part of its encoder after callbacks have copied the weights."""

    def configure_optimizers(self):
        self.encoder[0].requires_grad_(True)
        return super().configure_optimizers()


def test_weights_that_are_unfrozen_late_are_saved_and_not_lost_to_an_average(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="thawed")
    trainer(tmp_path, saver).fit(Thawed(), Numbers())
    assert {"encoder.0.weight", "encoder.0.bias"} <= set(torch.load(tmp_path / "thawed.ckpt", weights_only=True)["state_dict"])
    with pytest.raises(UserError, match=r"lack weights that are trained: encoder\.0\.bias, encoder\.0\.weight"):
        trainer(tmp_path, ModelCheckpoint(tmp_path, filename="averaged"), EMAWeightAveraging(decay=0.9)).fit(Thawed(), Numbers())


def test_a_child_comes_from_one_place():
    with pytest.raises(TypeError, match="head: a child comes from `pretrained`"):
        type("Twice", (Toy,), {"frozen": ("head",), "from_parents": ("head",)})
