"""CIGM: its steps against a plain loop, its diversity, and what it logs."""

import copy
from dataclasses import replace

import lightning.pytorch as L
import pytest
import torch
import yaml
from couples import Couples, Pairs, candidates, pairs, queries
from cpu_deepspeed import CPUDeepSpeedStrategy, fit
from lightning.pytorch.loggers import TensorBoardLogger
from small_geco import SMALL, checkpointing, cigm, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torch.utils.data import DataLoader

from fashiongen.batches import PairBatch, to_float
from fashiongen.errors import UserError
from fashiongen.methods.geco import CIGM
from fashiongen.methods.geco.network import Discriminator, Generator
from fashiongen.nn import noise


def encoded_once(generator, top, drawn, masks):
    """Two draws per top like the authors' U-Net on repeated tops, except that its encoder's norms count each top once."""
    skips = [generator.first(top)]
    for down in generator.down:
        skips.append(down(skips[-1]))
    hidden = torch.cat([drawn[:, :, None, None], generator.bottleneck(skips[-1]).repeat(2, 1, 1, 1)], dim=1)
    for level, up in enumerate(generator.up):
        hidden = up(hidden)
        if level < len(masks):
            hidden = hidden * masks[level] / 0.5
        hidden = torch.cat([hidden, skips.pop().repeat(2, 1, 1, 1)], dim=1)
    return generator.last(hidden).chunk(2)


def shapes(network):
    return {name: value.shape for name, value in network.state_dict().items()}


def test_by_default_both_networks_have_the_sizes_that_are_held_against_the_authors():
    with torch.device("meta"):
        method, generator, discriminator = CIGM(), Generator(), Discriminator()
    assert shapes(method.generator) == shapes(generator)
    assert shapes(method.discriminator) == shapes(discriminator)


@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_cigm_trains_as_a_plain_loop_would(diversity):
    """Two turns of two Adams: the discriminator on eq. 8, then the generator on eq. 7 against the new discriminator."""
    method = cigm(diversity=diversity)
    generator, discriminator = copy.deepcopy(method.generator), copy.deepcopy(method.discriminator)
    adams = [torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (generator, discriminator)]
    batches = []
    training_step = method.training_step

    def recording(batch, batch_idx):
        batches.append((method.global_step, batch))
        return training_step(batch, batch_idx)

    method.training_step = recording
    trainer(max_steps=3).fit(method, Couples())
    assert [step for step, _ in batches] == [0, 1, 2]

    for step, batch in batches:
        draw_step = 2 * step  # as when each of the two optimizers counted
        top, bottom = to_float(batch.top), to_float(batch.bottom)
        drawn = noise.normal(noise.keys(batch.ids, 0, "train", draw_step, "template"), (4,))
        masks = [
            noise.normal(noise.keys(batch.ids, 0, "train", draw_step, "dropout", level), shape) > 0
            for level, shape in enumerate(generator.dropout_shapes)
        ]
        if diversity:
            again = noise.normal(noise.keys(batch.ids, 0, "train", draw_step, "second template"), (4,))
            twice = [torch.cat([mask, mask]) for mask in masks]
            generated, other = encoded_once(generator, top, torch.cat([drawn, again]), twice)
        else:
            generated = generator(top, drawn, masks)
        real, fake = discriminator(top, bottom), discriminator(top, generated.detach())
        adams[1].zero_grad()
        (
            binary_cross_entropy_with_logits(real, torch.ones_like(real)) + binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        ).backward()
        adams[1].step()
        fake = discriminator(top, generated)
        adams[0].zero_grad()
        l1 = (generated - bottom).abs().mean()
        if diversity:
            l1 = l1 / 2 + (other - bottom).abs().mean() / 2 - diversity / 2 * (generated - other).abs().mean()
        (binary_cross_entropy_with_logits(fake, torch.ones_like(fake)) + 100.0 * l1).backward()
        adams[0].step()
    for name, value in generator.state_dict().items():
        torch.testing.assert_close(method.generator.state_dict()[name], value, msg=name)
    for name, value in discriminator.state_dict().items():
        torch.testing.assert_close(method.discriminator.state_dict()[name], value, msg=name)


class BlackOrWhite(Couples):
    """Each top once with a black bottom and once with a white one."""

    def train_dataloader(self):
        rows = Pairs(8, 16)
        both = [replace(rows[row], bottom=torch.full_like(rows[row].bottom, value)) for row in range(8) for value in (0, 255)]
        return DataLoader(both * 8, batch_size=16, collate_fn=PairBatch.collate)


def test_with_diversity_templates_vary_with_the_noise():
    """Eq. 7 gives one image for every noise; less the spread, noise tells whether the bottom is black or white."""
    spread = {}
    for diversity in (0.0, 1.0):
        torch.manual_seed(0)
        wider = {**SMALL, "features": 8, "discriminator_widths": (4, 8), "diversity": diversity}
        method = CIGM(**wider, optimizer=lambda p: torch.optim.Adam(p, lr=2e-3, betas=(0.5, 0.999)))
        trainer(max_steps=200).fit(method, BlackOrWhite())
        with torch.no_grad():
            drawn = method.eval().generator(to_float(pairs().top), torch.randn(6 * 32, 4))
        spread[diversity] = drawn.mean(dim=(1, 2, 3)).view(32, 6).std(dim=0).mean().item()
    assert spread[1.0] > 0.1 and spread[0.0] < 0.01, spread


def test_several_draws_of_a_top_are_those_of_the_top_several_times():
    method, top = cigm(), torch.rand(3, 3, 16, 16)
    drawn = torch.randn(6, 4)
    with torch.no_grad():
        method.eval()
        once, each = method.generator(top, drawn), method.generator(top.repeat(2, 1, 1, 1), drawn)
        torch.testing.assert_close(once, each)
        method.train()
        masks = [torch.rand(3, *shape) > 0.5 for shape in method.generator.dropout_shapes]
        once = method.generator(top, drawn, masks)
        each = method.generator(top.repeat(2, 1, 1, 1), drawn, [mask.repeat(2, 1, 1, 1) for mask in masks])
        torch.testing.assert_close(once, each)
        assert (once[:3] - once[3:]).abs().max() > 0.01


def test_both_learning_rates_follow_the_scheduler_and_go_on_with_it(tmp_path):
    def halving():
        return cigm(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))

    run = trainer(max_steps=3, **checkpointing(tmp_path, 1))
    run.fit(halving(), Couples())
    assert [optimizer.param_groups[0]["lr"] for optimizer in run.optimizers] == pytest.approx([2e-4 / 8] * 2)
    resumed = trainer(max_steps=3)
    resumed.fit(halving(), Couples(), ckpt_path=tmp_path / "step=1.ckpt")
    assert [optimizer.param_groups[0]["lr"] for optimizer in resumed.optimizers] == pytest.approx([2e-4 / 8] * 2)


def test_a_scheduler_that_waits_for_a_metric_is_refused():
    waiting = cigm(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(UserError, match="CIGM: lr_scheduler: ReduceLROnPlateau waits for one metric"):
        trainer(max_steps=1).fit(waiting, Couples())


def test_dropout_drops_half():
    method = cigm()
    shape = method.generator.dropout_shapes[0]
    mask = noise.normal(noise.keys([str(row) for row in range(200)], 0, "train", 0, "dropout", 0), shape) > 0
    assert mask.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_deepspeed_is_refused_in_one_line():
    method = cigm()
    method.trainer = L.Trainer(accelerator="cpu", strategy=CPUDeepSpeedStrategy(stage=2), logger=False, barebones=True)
    with pytest.raises(UserError, match="CIGM has 2 optimizers and DeepSpeed takes one") as error:
        method.configure_optimizers()
    assert "\n" not in str(error.value)


def test_two_processes_train_by_the_overlay(tmp_path):
    """Each backward pass leaves out one network, which plain DDP does not allow."""
    settings = {**SMALL, "discriminator_widths": [4, 8]}
    recipe = tmp_path / "cigm.yaml"
    model = {"class_path": "fashiongen.methods.geco.CIGM", "init_args": settings}
    data, evaluate = {"class_path": "couples.Couples"}, {"task": "retrieval"}
    trainer = {"max_steps": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    recipe.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer, "evaluate": evaluate}))
    state = torch.load(fit(tmp_path / "ddp", "ddp", "--config", recipe), weights_only=True)
    assert [optimizer["state"][0]["step"] for optimizer in state["optimizer_states"]] == [2, 2]


@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_validation_logs_the_loss_and_an_image(diversity, tmp_path):
    """With diversity both templates that the loss compares are shown."""
    logger = TensorBoardLogger(tmp_path, name="", version="")
    run = trainer(max_epochs=1, limit_val_batches=2, logger=logger, log_every_n_steps=1)
    method, data = cigm(diversity=diversity), Couples()
    with torch.no_grad():  # a new generator hardly depends on the noise
        for parameter in method.generator.parameters():
            parameter.mul_(4)
    run.fit(method, data)
    values = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("val/")}
    adversarial, l1, spread = [], [], []
    method.eval()
    with torch.no_grad():
        for batch in data.val_dataloader():
            top, bottom = to_float(batch.top), to_float(batch.bottom)
            first, second = (method.template(top, batch.top_ids, draw) for draw in (0, 1))
            logits = method.discriminator(top, first)
            adversarial.append(binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).item())
            l1.append(100 * (first - bottom).abs().mean().item())
            spread.append(100 * diversity / 2 * (first - second).abs().mean().item())
    assert values["val/l1"] == pytest.approx(sum(l1) / 2, rel=1e-5)
    assert values["val/loss"] == pytest.approx((sum(adversarial) + sum(l1) - sum(spread)) / 2, rel=1e-5)
    assert values.get("val/spread", 0.0) == pytest.approx(sum(spread) / 2, rel=1e-4) and ("val/spread" in values) == bool(diversity)
    assert sum(spread) > 1 or not diversity
    logger.finalize("")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/generator", "train/discriminator", "val/loss"} <= set(events.Tags()["scalars"])
    shown = events.Images("val/top, template, bottom")
    assert len(shown) == 1 and (shown[0].width, shown[0].height) == (2 * (16 + 2) + 2, (4 if diversity else 3) * (16 + 2) + 2)


def test_cigm_alone_ranks_by_the_mean_absolute_difference():
    method, batch = cigm(compared_size=4).eval(), pairs()
    query, candidate = method.embed_query(queries(batch)), method.embed_candidate(candidates(batch))
    templates = interpolate(method.draw_template(queries(batch)), size=(4, 4), mode="bilinear", antialias=True)
    bottoms = interpolate(to_float(batch.bottom), size=(4, 4), mode="bilinear", antialias=True)
    expected = torch.tensor([[-(template - bottom).abs().mean() for bottom in bottoms] for template in templates])
    torch.testing.assert_close(method.score(query, candidate), expected)
