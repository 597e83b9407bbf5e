"""MGCM and Pix2PixCM: three losses in turn, exact resuming, and results that depend on neither batch nor chance."""

import warnings
from functools import partial
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy
from pair_batches import PairData, candidates, pairs, queries

from fashiongen.errors import UserError
from fashiongen.methods.mgcm import MGCM
from fashiongen.methods.pix2pix_cm import Pix2PixCM
from fashiongen.nn.template_matching import UPS, dropout_keys

pytestmark = pytest.mark.parametrize("kind", [MGCM, Pix2PixCM])
ADAM = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), weight_decay=0.01)


def build(kind, **settings):
    torch.manual_seed(0)
    return kind(width=4, dimensions=8, optimizer=ADAM, **settings)


def rows(count=12):
    torch.manual_seed(1)
    return pairs([f"b{index % 9}" for index in range(count)])


def fit(folder, method, batch, ckpt=None, every=None, **options):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0, every_n_train_steps=every)],
        **{"max_epochs": 2, "limit_val_batches": 0, **options},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(method, PairData(batch), ckpt_path=ckpt, weights_only=True)
    return trainer


@pytest.mark.parametrize("batches", [2, 3])
def test_a_run_broken_in_mid_epoch_or_between_epochs_ends_with_the_same_weights(kind, batches, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    whole = build(kind)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer = fit(tmp_path / "whole", whole, rows())
    assert trainer.global_step == 2 * 3, "two epochs of three batches"
    changed = {name.split(".")[1] for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"generator", "discriminator", "bottom_encoder", "ranker"}

    fit(tmp_path / "broken", build(kind), rows(), every=1, max_steps=batches)
    resumed = build(kind)
    trainer = fit(tmp_path / "resumed", resumed, rows(), ckpt=tmp_path / "broken" / "last.ckpt")
    assert trainer.global_step == 2 * 3
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def authors_step(network, optimizers, tops, bottoms, keys, nu, mu, pixel_weight):
    """One training step in the order of the authors' code, on our layers; returns the ranking's loss.

    They draw a template for the discriminator and another for the generator, show the discriminator the true bottoms first, and encode
    the bottoms once as positives and once as the three rolls.
    """
    generator, discriminator, encoder = network.generator.train(), network.discriminator.train(), network.bottom_encoder.train()
    square = torch.nn.functional.mse_loss
    template = generator(tops, keys[:UPS]).template
    real = discriminator(tops, bottoms)
    fake = discriminator(tops, template).detach()
    losses = [nu * 0.5 * (fake - 0.5 * square(real, torch.ones_like(real))).square().mean()]
    step(optimizers[0], losses[0])
    template = generator(tops, keys[UPS:]).template
    fake = discriminator(tops, template)
    step(optimizers[1], mu * 0.5 * square(fake, torch.ones_like(fake)) + pixel_weight * (template - bottoms).abs().mean())
    top_code, template_code, _ = generator.eval()(tops, None)
    code = encoder(bottoms)
    rolled = torch.stack([bottoms.roll(back, dims=0) for back in (1, 2, 3)], dim=1)  # (B, 3, 3, S, S)
    rolled_code = encoder(rolled.flatten(0, 1)).unflatten(0, rolled.shape[:2])

    def embed(side, code):
        return torch.sigmoid(side(code.mean(dim=(-2, -1))))

    top = embed(network.ranker.top, top_code)
    positive = (top * embed(network.ranker.bottom, code)).sum(-1) + 0.01 * (template_code - code).abs().sum(dim=(1, 2, 3))
    negative = (top[:, None] * embed(network.ranker.bottom, rolled_code)).sum(-1)
    negative = negative + 0.01 * (template_code[:, None] - rolled_code).abs().sum(dim=(2, 3, 4))
    ranking = -torch.log(torch.sigmoid(positive[:, None] - negative) + 1e-12).mean()
    step(optimizers[2], ranking)
    generator.train()
    return ranking.item()


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_code_trains_as_the_authors_code_does(kind):
    """Losses, weights and batch norm's statistics after two steps, in float64."""
    ours, theirs = (build(kind, variant="code").double().train() for _ in range(2))
    batch = rows(6)
    tops, bottoms = ours.images(batch.top).double(), ours.images(batch.bottom).double()
    own, others = ([ADAM(method._parameters_of(modules)) for modules in method.trains.values()] for method in (ours, theirs))
    for number in range(2):
        keys = dropout_keys(batch.ids, 0, number, draws=2)
        losses = {}
        for optimizer, (name, loss) in zip(own, ours.network.losses(tops, bottoms, None, keys), strict=True):
            step(optimizer, loss)
            losses[name] = loss.item()
        expected = authors_step(theirs.network, others, tops, bottoms, keys, 0.01, 0.1, 10000.0)
        assert losses["ranking"] == pytest.approx(expected, abs=1e-9)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, atol=1e-9, rtol=1e-9, msg=key)


def test_paper_draws_one_template_and_encodes_the_bottoms_once(kind):
    """The two runs of the generator and of the encoder are the authors' code's alone."""
    for variant, draws in (("paper", 1), ("code", 2)):
        method, batch = build(kind, variant=variant).train(), rows(6)
        assert method.network.draws == draws
        for _, loss in method.training_losses(batch, 0):
            loss.backward()
        for part, norm in (("generator", method.network.generator.down[0].norm), ("encoder", method.network.bottom_encoder.norms[0])):
            assert norm.num_batches_tracked == draws, (variant, part)
        assert method.network.discriminator.norms[0].num_batches_tracked == 3


def test_each_loss_moves_its_own_networks_alone(kind, tmp_path):
    """With the other optimizers off, only one part learns, from its own loss."""
    moved = []
    for chosen in range(3):
        method = build(kind)
        before = {name: value.clone() for name, value in method.named_parameters()}
        made = []

        def optimizer(parameters, made=made, chosen=chosen):
            made.append(None)
            return torch.optim.SGD(parameters, lr=1e-3 if len(made) == chosen + 1 else 0.0)

        method.optimizer = optimizer
        fit(tmp_path / str(chosen), method, rows(4), max_epochs=1)
        moved.append({name.split(".")[1] for name, value in method.named_parameters() if not torch.equal(value, before[name])})
    assert moved == [{"discriminator"}, {"generator"}, {"bottom_encoder", "ranker"}]


def test_training_lowers_the_pixel_loss_and_the_ranking_loss(kind, tmp_path):
    batch = rows(8)
    batch.top[:] = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1) * 30
    batch.bottom[:] = 255 - batch.top
    method = build(kind, pixel_weight=100.0)
    method.optimizer = partial(torch.optim.Adam, lr=3e-3, betas=(0.5, 0.999))
    seen = []
    method.log = lambda name, value, **_: seen.append((name, float(value)))
    fit(tmp_path, method, batch, max_epochs=25)
    for name in ("train/generator", "train/ranking"):
        values = [value for logged, value in seen if logged == name]
        assert sum(values[-6:]) < 0.8 * sum(values[:6]), (name, values[:6], values[-6:])


def test_validation_logs_the_rankings_loss_and_changes_nothing(kind, tmp_path):
    method = build(kind)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    (logged,) = trainer.validate(method, PairData(rows(8)), verbose=False)
    assert set(logged) == {"val/loss", "val/generator", "val/discriminator"}
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_results_do_not_depend_on_the_batch_or_on_chance(kind):
    method, batch = build(kind).eval(), rows(5)
    query, candidate = method.embed_query(queries(batch)), method.embed_candidate(candidates(batch))
    assert query.shape == candidate.shape == (5, 8 + 32 * 4)
    scores = method.score(query, candidate)
    assert scores.shape == (5, 5) and not scores.requires_grad and not method.inner_product
    alone = method.embed_query(queries(batch.select([3])))
    torch.testing.assert_close(alone, query[3:4], atol=1e-5, rtol=1e-5)
    template = method.draw_template(queries(batch))
    assert method.draws_templates  # `fashiongen retrieve` then shows them next to the query
    assert template.shape == (5, 3, 64, 64) and template.abs().max() <= 1
    assert torch.equal(method.draw_template(queries(batch)), template)


def test_larger_images_and_larger_sizes(kind):
    batch = pairs(["a", "b"], size=100)
    assert build(kind).eval().draw_template(queries(batch)).shape == (2, 3, 64, 64)
    large = build(kind, image_size=128).eval()
    assert large.draw_template(queries(batch)).shape == (2, 3, 128, 128)
    assert large.embed_candidate(candidates(batch)).shape == (2, 8 + 32 * 16)
    assert large.network.discriminator(torch.zeros(2, 3, 128, 128), torch.zeros(2, 3, 128, 128)).shape[0] == 2


def test_lists_without_images_and_strategies_for_one_optimizer_are_refused(kind):
    method = build(kind)
    with pytest.raises(UserError, match=f"{kind.__name__} needs images, but the data reads only the lists"):
        method.embed_query(queries(pairs(["a"], images=False)))
    method._trainer = SimpleNamespace(strategy=object.__new__(DeepSpeedStrategy))
    with pytest.raises(UserError, match=f"{kind.__name__} has 3 optimizers and DeepSpeed takes one: leave out the zero2 overlay"):
        method.configure_optimizers()
