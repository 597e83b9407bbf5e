"""The training loop for several losses: compared with plain loops, with clipping and accumulation, and how it counts steps."""

import copy
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from pair_batches import PairData, pairs
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.utils.data import DataLoader, IterableDataset

from fashiongen.errors import UserError
from fashiongen.methods.mgcm import MGCM
from fashiongen.methods.multi_loss import MultiLossMethod
from fashiongen.nn import noise
from fashiongen.nn.negatives import negative_mask, rolled_mask
from fashiongen.nn.template_matching import ROLLS, dropout_keys

RATE = 0.1


class Gan(MultiLossMethod):
    """Two linear networks; one forward pass of the generator serves both losses."""

    trains: ClassVar[dict[str, tuple[str, ...]]] = {"discriminator": ("critic",), "generator": ("generator",)}

    def __init__(self, **options) -> None:
        super().__init__(**{"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=RATE), **options})
        torch.manual_seed(0)
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.draw_steps = []

    def training_losses(self, batch, draw_step):
        self.draw_steps.append(draw_step)
        yield from gan_losses(self.generator, self.critic, batch)


def gan_losses(generator, critic, batch):
    fake = generator(batch)
    real, judged = critic(batch), critic(fake.detach())
    yield (
        "discriminator",
        binary_cross_entropy_with_logits(real, torch.ones_like(real)) + binary_cross_entropy_with_logits(judged, torch.zeros_like(judged)),
    )
    judged = critic(fake)
    yield "generator", binary_cross_entropy_with_logits(judged, torch.ones_like(judged)) + 3 * (fake - 1).square().mean()


class Numbers(L.LightningDataModule):
    def __init__(self, batches: int = 6) -> None:
        super().__init__()
        self.batches = list(torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))[:batches])

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)


def fit(method, data=None, ckpt_path=None, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0, **quiet, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(method, data or Numbers(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def plain_loop(batches, every=1, clip=None):
    """Train a copy with a plain loop: on each batch the critic's loss and step, then the generator's loss and step."""
    method = Gan()
    networks = [method.critic, method.generator]
    optimizers = [torch.optim.SGD(network.parameters(), lr=RATE) for network in networks]
    for index, batch in enumerate(batches):
        steps = (index + 1) % every == 0 or index + 1 == len(batches)
        losses = gan_losses(method.generator, method.critic, batch)
        for network, optimizer in zip(networks, optimizers, strict=True):
            gradients = torch.autograd.grad(next(losses)[1] / every, list(network.parameters()), retain_graph=True)
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            if steps:
                if clip is not None:
                    clip(network.parameters())
                optimizer.step()
                optimizer.zero_grad()
    return method.state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_it_trains_as_a_plain_loop_would_with_and_without_accumulation(every):
    """Of six batches with four accumulated, the last two make a step of their own, as in Lightning's own loop."""
    method, data = Gan(), Numbers()
    trainer = fit(method, data, accumulate_grad_batches=every)
    assert trainer.global_step == -(-6 // every) and trainer.accumulate_grad_batches == every
    assert_same(method.state_dict(), plain_loop(data.batches, every))


def test_accumulating_batches_is_one_batch_of_all_for_the_first_loss():
    """The mean of the batches' gradients is the gradient of their mean. The generator's loss sees the critic's step on the last alone."""
    method, whole, data = Gan(), Gan(), Numbers(3)
    fit(method, data, accumulate_grad_batches=3)
    joined = Numbers(1)
    joined.batches = [torch.cat(data.batches)]
    fit(whole, joined)
    for name in ("critic.weight", "critic.bias"):
        torch.testing.assert_close(method.state_dict()[name], whole.state_dict()[name])
    assert not torch.allclose(method.generator.weight, whole.generator.weight, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({"gradient_clip_val": 0.05}, lambda parameters: nn.utils.clip_grad_norm_(list(parameters), 0.05)),
        (
            {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
            lambda parameters: nn.utils.clip_grad_value_(list(parameters), 0.01),
        ),
    ],
)
@pytest.mark.parametrize("every", [1, 2])
def test_clipping_bounds_the_step_of_each_loss(settings, clip, every):
    method, data = Gan(), Numbers()
    trainer = fit(method, data, accumulate_grad_batches=every, **settings)
    assert trainer.gradient_clip_val == settings["gradient_clip_val"]
    expected = plain_loop(data.batches, every, clip)
    assert_same(method.state_dict(), expected)
    assert not torch.allclose(expected["critic.weight"], plain_loop(data.batches, every)["critic.weight"], atol=1e-4)

    one = Gan()
    before = copy.deepcopy(one.state_dict())
    fit(one, Numbers(1), **settings)
    if "gradient_clip_algorithm" not in settings:
        for network in ("critic", "generator"):
            moved = [one.state_dict()[f"{network}.{leaf}"] - before[f"{network}.{leaf}"] for leaf in ("weight", "bias")]
            length = torch.cat([part.flatten() for part in moved]).norm().item()
            assert length == pytest.approx(RATE * 0.05, rel=1e-3), "the gradients of each network by themselves have the norm 0.05"


def test_a_gan_with_three_optimizers_ends_with_the_weights_of_the_old_loop():
    """MGCM equals, bit by bit, the old loop in which methods stepped their optimizers and each step counted."""
    torch.manual_seed(1)
    rows = pairs([f"b{index % 9}" for index in range(12)])

    def build():
        torch.manual_seed(0)
        return MGCM(width=4, dimensions=8, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999)))

    method, seen = build(), []
    losses = method.training_losses
    method.training_losses = lambda batch, draw_step: (seen.append(batch), losses(batch, draw_step))[1]
    trainer = fit(method, PairData(rows), max_epochs=2)
    assert trainer.global_step == len(seen) == 6

    old = build().train()
    network = old.network
    groups = ((network.discriminator,), (network.generator,), (network.bottom_encoder, network.ranker))
    optimizers = [old.optimizer([parameter for module in group for parameter in module.parameters()]) for group in groups]
    global_step = 0
    for batch in seen:
        tops, bottoms = old.images(batch.top), old.images(batch.bottom)
        negative = rolled_mask(negative_mask(batch.bottom_ids, batch.positives), ROLLS)
        turns = network.losses(tops, bottoms, negative, dropout_keys(batch.ids, old.seed, global_step))
        for optimizer, (_, loss) in zip(optimizers, turns, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            global_step += 1
    for name, value in old.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name


def test_steps_are_batches_also_after_a_resume(tmp_path):
    """max_steps, every_n_train_steps and the draws' keys; a resumed run ends like an uninterrupted one."""

    def saving(every):
        return ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=every, enable_version_counter=False)

    whole = Gan()
    trainer = fit(whole, max_epochs=2, max_steps=9, callbacks=[saving(2)], enable_checkpointing=True)
    assert trainer.global_step == 9 and whole.draw_steps == [2 * step for step in range(9)]
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"step={step}.ckpt" for step in (2, 4, 6, 8)]
    assert torch.load(tmp_path / "step=6.ckpt", weights_only=True)["global_step"] == 6

    resumed = Gan()
    trainer = fit(resumed, max_epochs=2, max_steps=9, ckpt_path=tmp_path / "step=6.ckpt")
    assert trainer.global_step == 9 and resumed.draw_steps == [12, 14, 16]
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_schedulers_step_once_a_step():
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    trainer = fit(Gan(lr_scheduler=halving), accumulate_grad_batches=2)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == pytest.approx([RATE / 8] * 2)


class Careless(Gan):
    """Does not detach: the first loss reaches the generator too."""

    def training_losses(self, batch, draw_step):
        fake = self.generator(batch)
        yield "discriminator", self.critic(fake).mean()
        assert not any(parameter.requires_grad for parameter in self.critic.parameters())
        yield "generator", self.critic(self.generator(batch)).square().mean()


@pytest.mark.parametrize("batches", [1, 2])
def test_no_gradient_is_left_in_another_losss_networks(batches):
    method, data = Careless(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0)), Numbers(batches)
    fit(method, data, accumulate_grad_batches=batches)
    fake = method.generator(torch.stack(data.batches))
    expected = torch.autograd.grad(method.critic(fake).square().mean(), method.generator.weight)[0]
    torch.testing.assert_close(method.generator.weight.grad, expected)
    torch.testing.assert_close(method.critic.weight.grad, fake.mean(dim=(0, 1))[None].detach())
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_the_last_batch_of_an_epoch_steps_also_if_nobody_knows_it_is_the_last():
    """A loader without a length, and a limit on the number of batches."""

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(Numbers(3).batches)

    endless = Numbers()
    endless.train_dataloader = lambda: DataLoader(Stream(), batch_size=None)
    for data, options in ((endless, {}), (Numbers(), {"limit_train_batches": 3})):
        method = Gan()
        assert fit(method, data, accumulate_grad_batches=2, **options).global_step == 2
        assert_same(method.state_dict(), plain_loop(Numbers(3).batches, 2))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["generator", "discriminator"], "yields 'generator' where `trains` has 'discriminator'"),
        (["discriminator"], "yields None where `trains` has 'generator'"),
        (["discriminator", "generator", "ranking"], "yields 'ranking', which `trains` lacks"),
    ],
)
def test_losses_in_another_order_or_number_are_a_programmers_error(names, message):
    class Wrong(Gan):
        def training_losses(self, batch, draw_step):
            for name in names:
                yield name, (self.critic if name == "discriminator" else self.generator)(batch).mean()

    with pytest.raises(RuntimeError, match=message):
        fit(Wrong())


def test_a_training_that_counted_optimizer_steps_is_not_resumed(tmp_path):
    """Checkpoints of earlier versions lack the mark; their weights load."""
    fit(Gan(), max_steps=2, callbacks=[ModelCheckpoint(tmp_path, filename="old", every_n_train_steps=2)], enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "old.ckpt", weights_only=True)
    assert checkpoint.pop("steps_are_batches")
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match="Gan cannot resume from a checkpoint of an earlier version") as error:
        fit(Gan(), ckpt_path=tmp_path / "old.ckpt")
    assert "\n" not in str(error.value)
    Gan().load_state_dict(checkpoint["state_dict"])


def test_a_checkpoint_loads_without_a_trainer(tmp_path):
    method = Gan()
    fit(method, max_steps=2, callbacks=[ModelCheckpoint(tmp_path, filename="two", every_n_train_steps=2)], enable_checkpointing=True)
    loaded = Gan.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    assert torch.equal(loaded.generator.weight, method.generator.weight)


class Unready(Numbers):
    """Fails in its first setup."""

    def setup(self, stage):
        self.setups = getattr(self, "setups", 0) + 1
        if self.setups == 1:
            raise OSError("no data yet")


def test_an_error_before_training_loses_no_setting_of_the_trainer():
    method, data = Gan(), Unready()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, accumulate_grad_batches=2, gradient_clip_val=0.05, **quiet)
    with pytest.raises(OSError, match="no data yet"):
        trainer.fit(method, data)
    assert (trainer.accumulate_grad_batches, trainer.gradient_clip_val) == (2, 0.05)
    trainer.fit(method, data)
    assert trainer.global_step == 3
    assert_same(method.state_dict(), plain_loop(data.batches, 2, lambda parameters: nn.utils.clip_grad_norm_(list(parameters), 0.05)))


def test_what_a_callback_freezes_stays_frozen():
    class Freeze(L.Callback):
        def on_train_batch_start(self, trainer, method, batch, batch_idx):
            if batch_idx == 2:
                method.generator.bias.requires_grad_(False)

    method = Gan()
    fit(method, callbacks=[Freeze()])
    assert [name for name, parameter in method.named_parameters() if not parameter.requires_grad] == ["generator.bias"]


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="Gan: lr_scheduler: ReduceLROnPlateau waits for one metric"):
        fit(Gan(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau))
    with pytest.raises(UserError, match="16-mixed the losses' gradients would be scaled unequally"):
        fit(Gan(), plugins=[MixedPrecision("16-mixed", "cpu")], accumulate_grad_batches=2)
    with pytest.raises(RuntimeError, match="not supported"):  # Lightning's own line
        fit(Gan(), callbacks=[GradientAccumulationScheduler({0: 2})])


def test_float16_scales_and_clips():
    method, scaler = Gan(), torch.amp.GradScaler("cpu", init_scale=128.0)  # the usual 65536 overflows at first, and no step is taken
    fit(method, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], gradient_clip_val=0.05, max_steps=1)
    for network in (method.critic, method.generator):
        norm = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm().item()
        assert norm == pytest.approx(0.05, rel=1e-2), "clipped after the scale is taken off"


class Images(SimpleNamespace):
    def __len__(self):
        return len(self.ids)


def test_the_example_of_the_guide_trains():
    guide = (Path(__file__).parents[2] / "fashiongen" / "methods" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names = {"MultiLossMethod": MultiLossMethod, "nn": nn, "noise": noise, "softplus": softplus, "torch": torch}
    exec(example, names)
    method, data = names["GAN"](), Numbers()
    before = copy.deepcopy(method.state_dict())
    data.batches = [Images(ids=[str(row) for row in range(5)], image=batch) for batch in data.batches]
    assert method.n_optimizers == 2 and fit(method, data).global_step == 6
    assert not any(torch.equal(value, before[name]) for name, value in method.state_dict().items())
