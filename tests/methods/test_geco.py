"""GECo, and what it shares with CIGM: templates per top, scores, losses, and exact resuming."""

from dataclasses import replace

import lightning.pytorch as L
import pytest
import torch
from couples import Couples, candidates, pairs, queries
from small_geco import BACKBONE, SMALL, checkpointing, cigm, diverse_cigm, geco, trainer
from torch.nn.functional import interpolate

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.geco import GECo
from fashiongen.methods.geco.network import load_backbone
from fashiongen.nn import noise

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A checkpoint of CIGM, trained for some steps."""
    folder = tmp_path_factory.mktemp("cigm")
    trainer(max_steps=4, **checkpointing(folder, 4)).fit(cigm(), Couples())
    return folder / "step=4.ckpt"


@pytest.mark.parametrize("build", [cigm, diverse_cigm, geco], ids=["cigm", "diverse cigm", "geco"])
def test_broken_in_mid_epoch_and_resumed_it_ends_with_the_same_weights(build, parent, tmp_path):
    """An epoch has 4 steps; the run resumes from the third, regardless of random numbers drawn in between."""

    def run(method, **options):
        if isinstance(method, GECo):
            method.load_parents({"cigm": parent})
        torch.manual_seed(len(options))
        trainer(max_steps=7, **checkpointing(tmp_path, 3)).fit(method, Couples(), **options)
        return method.state_dict()

    whole = run(build())
    checkpoint = tmp_path / "step=3.ckpt"
    assert len(torch.load(checkpoint, weights_only=True)["optimizer_states"]) == (1 if build is geco else 2)
    resumed = run(build(), ckpt_path=checkpoint, weights_only=True)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize("build", [cigm, geco], ids=["cigm", "geco"])
def test_a_template_belongs_to_its_top(build, monkeypatch):
    """The same in another batch, another row and another pass; another one for another top or seed."""
    method, batch = build().eval(), queries(pairs())
    templates = method.draw_template(batch)
    assert templates.shape == (6, 3, 16, 16) and templates.abs().max() <= 1
    alone = method.draw_template(replace(batch.select([4]), ids=["another row"]))
    torch.testing.assert_close(alone, templates[4:5])
    torch.testing.assert_close(method.embed_query(batch.select([4])), method.embed_query(batch)[4:5])
    same_image = replace(batch, top=batch.top[:1].expand(6, -1, -1, -1))
    assert len({tuple(template.flatten().tolist()) for template in method.draw_template(same_image)}) == 6
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.allclose(method.draw_template(batch), templates)


def test_cigm_and_geco_draw_the_same_template(parent):
    first, second = cigm(), geco()
    first.load_state_dict(torch.load(parent, weights_only=True)["state_dict"])
    second.load_parents({"cigm": parent})
    batch = queries(pairs())
    assert torch.equal(first.eval().draw_template(batch), second.eval().draw_template(batch))


@pytest.mark.parametrize("build", [cigm, geco], ids=["cigm", "geco"])
def test_the_targets_are_hidden(build):
    method, batch = build().eval(), queries(pairs())
    expected = method.embed_query(batch.without_target())
    judged = replace(batch, positive=["other"] * 6, negatives=[("x",)] * 6, others=[("y",)] * 6)
    assert torch.equal(method.embed_query(judged), expected)


@pytest.mark.parametrize("build", [cigm, geco], ids=["cigm", "geco"])
def test_images_of_another_size_are_resized_and_missing_ones_are_an_error(build):
    method, batch = build().eval(), pairs(size=24)
    assert method.draw_template(queries(batch)).shape == (6, 3, 16, 16)
    assert method.embed_candidate(candidates(batch)).shape[0] == 6
    small = replace(batch, bottom=interpolate(to_float(batch.bottom), size=(16, 16), mode="bilinear", antialias=True))
    torch.testing.assert_close(method.embed_candidate(candidates(small)), method.embed_candidate(candidates(batch)))
    with pytest.raises(UserError, match="needs images"):
        method.embed_query(replace(queries(batch), top=None))


def test_wrong_settings_are_named():
    for build, wrong, named in (
        (cigm, {"variant": "papers"}, "variant: papers"),
        (cigm, {"l1_weight": -1.0}, "l1_weight: -1.0"),
        (cigm, {"diversity": -0.1}, "diversity: -0.1"),
        (cigm, {"diversity": 1.1}, "diversity: 1.1"),
        (cigm, {"compared_size": 17}, "compared_size: 17"),
        (geco, {"variant": "papers"}, "variant: papers"),
        (geco, {"alpha": 0.0, "beta": 0.0}, "alpha and beta are both 0"),
        (geco, {"beta": float("nan")}, "beta: nan"),
        (geco, {"tau": 0.0}, "tau must be above 0"),
        (geco, {"template_variants": -1}, "template_variants: -1"),
        (geco, {"published": "./absent.pt"}, "no such weights file"),
    ):
        with pytest.raises(UserError, match=named) as error:
            build(**wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_scores_are_dot_products_of_composed_queries(variant):
    """Query and bottoms computed again, one by one, with each image normalised as in the variant."""
    method, batch = geco(variant=variant).eval(), pairs()
    found = method.score(method.embed_query(queries(batch)), method.embed_candidate(candidates(batch)))

    def features(image):
        maps = method.network.backbone.forward_features(image)
        return maps.mean(dim=(2, 3))

    def imagenet(image):
        return ((image + 1) / 2 - MEAN) / STD

    with torch.no_grad():
        for row in range(6):
            top = to_float(batch.top[row : row + 1])
            drawn = noise.normal(noise.keys([batch.top_ids[row]], 0, "template", 0), (4,))
            if variant == "paper":
                template = imagenet(method.generator(top, drawn))
            else:
                template = method.generator(imagenet(top), drawn)
            query = method.network.query_projection(torch.cat([features(imagenet(top)), features(template)], dim=1))
            for column in range(6):
                bottom = method.network.bottom_projection(features(imagenet(to_float(batch.bottom[column : column + 1]))))
                assert found[row, column].item() == pytest.approx((query * bottom).sum().item(), rel=1e-4, abs=1e-4)


def test_without_templates_the_query_is_the_top_alone():
    method, batch = geco(template=False).eval(), pairs()
    assert method.generator is None and not method.draws_templates and geco().draws_templates and cigm().draws_templates
    assert method.network.query_projection.in_features == 8
    changed = method.embed_query(replace(queries(batch), top_ids=["another"] * 6))
    assert torch.equal(changed, method.embed_query(queries(batch)))
    method.load_parents({"cigm": "not read"})
    trainer(max_steps=1).fit(method, Couples())
    with pytest.raises(UserError, match="draws no template"):
        method.draw_template(queries(batch))


def test_the_loss_is_the_weighted_sum_and_an_ablation_leaves_its_part_out():
    batch = pairs()
    for settings in ({}, {"alpha": 0.0}, {"beta": 0.0}, {"gamma": 0.5, "tau": 0.1, "alpha": 0.7}):
        method = geco(**settings).eval()
        with torch.no_grad():
            losses = method.losses(batch, method.embed_query(queries(batch)), method.embed_candidate(candidates(batch)))
        expected = method.alpha * losses["bpr"] + method.beta * losses["info_nce"] + method.gamma * losses["regulariser"]
        torch.testing.assert_close(losses["loss"], expected)
    assert (method.alpha, method.beta, method.gamma, method.tau) == (0.7, 0.25, 0.5, 0.1)


def test_known_pairs_are_no_negatives():
    """Were every bottom of the batch a positive of every top, the parameters' norm alone would be left."""
    method, batch = geco().eval(), pairs()
    embeddings = method.embed_query(queries(batch)), method.embed_candidate(candidates(batch))
    everything = replace(batch, positives=[tuple(batch.bottom_ids)] * 6)
    with torch.no_grad():
        assert method.losses(batch, *embeddings)["bpr"] > 0
        losses = method.losses(everything, *embeddings)
    assert losses["bpr"] == 0 and losses["info_nce"] == 0 and losses["regulariser"] > 0


def test_the_generator_is_frozen_and_stays_as_in_inference(parent):
    method = geco()
    method.load_parents({"cigm": parent})
    trained = torch.load(parent, weights_only=True)["state_dict"]
    trainer(max_steps=3).fit(method, Couples())
    for name, value in method.train().generator.state_dict().items():
        assert torch.equal(value, trained[f"generator.{name}"]), name
    assert not method.generator.training and not any(module.training for module in method.generator.modules())
    assert method.network.training and method.network.backbone.training
    assert all(f"generator.{name}" in method.state_dict() for name in method.generator.state_dict()), "a checkpoint can be tested alone"


@pytest.mark.parametrize(("variant", "classifier"), [("paper", False), ("code", True)])
def test_only_the_network_is_trained(variant, classifier):
    method = geco(variant=variant).train()
    method.log_dict = lambda *_, **__: None
    method.training_step(pairs(), 0).backward()
    for name, parameter in method.named_parameters():
        assert parameter.requires_grad == name.startswith("network.") == (parameter.grad is not None), name
    assert any(".fc." in name for name, _ in method.named_parameters()) == classifier


def test_a_parent_that_does_not_fit_is_named(parent):
    with pytest.raises(UserError, match="supports only the parent `cigm`"):
        geco().load_parents({"generator": parent})
    with pytest.raises(UserError, match=r"step=4\.ckpt does not fit GECo's generator: of another shape: first\.0\.weight"):
        GECo(**SMALL | {"features": 3}, **BACKBONE).load_parents({"cigm": parent})
    with pytest.raises(UserError, match="GECo needs a trained generator"):
        trainer(max_steps=1).fit(geco(), Couples())


def test_a_parent_of_the_authors_variant_brings_a_layer_that_is_not_needed(tmp_path):
    trainer(max_steps=1, **checkpointing(tmp_path, 1)).fit(cigm(variant="code"), Couples())
    method = geco()
    method.load_parents({"cigm": tmp_path / "step=1.ckpt"})
    assert "generator.unused_down.0.weight" in torch.load(tmp_path / "step=1.ckpt", weights_only=True)["state_dict"]


def test_the_learning_rate_falls_by_epochs():
    method = geco(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1), template=False)
    rates = []

    class Note(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer(max_epochs=5, callbacks=[Note()]).fit(method, Couples())
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_a_training_template_belongs_to_row_and_step(monkeypatch):
    method, batch = geco().train(), pairs()
    top = to_float(batch.top)
    whole = method.training_template(batch, top)
    torch.testing.assert_close(method.training_template(batch.select([3]), top[3:4]), whole[3:4])
    monkeypatch.setattr(GECo, "global_step", 1)
    assert not torch.allclose(method.training_template(batch, top), whole)


def test_cached_templates_are_k_per_top_and_generated_once(monkeypatch):
    method, batch, calls = geco(template_variants=3).train(), pairs(), []
    method.generator.last[0].weight.mul_(100.0)  # at first, templates are grey, and another noise changes less than a grey level
    top = to_float(batch.top)
    generate = method.generate
    monkeypatch.setattr(method, "generate", lambda *inputs: (calls.append(len(inputs[0])), generate(*inputs))[1])
    seen = [set() for _ in batch.ids]
    for step in range(40):
        monkeypatch.setattr(GECo, "global_step", step)
        for row, template in enumerate(method.training_template(batch, top)):
            seen[row].add(tuple(template.flatten().tolist()))
        if step == 20:
            calls.clear()
    assert [len(templates) for templates in seen] == [3] * 6
    assert calls == [], "after so many steps all of them are known"
    broken = geco(template_variants=3).train()  # a resumed run has none of them and generates the same
    broken.load_state_dict(method.state_dict())
    torch.testing.assert_close(broken.training_template(batch, top), method.training_template(batch, top))


def test_it_learns_its_pairs(parent):
    """A dozen pairs of noise: each top comes to find its own bottom.

    It would not if the norms remembered other statistics than they trained with, as in three runs of the backbone: mean rank 4 to 5 then.
    """
    method = geco(gamma=0.0)
    method.load_parents({"cigm": parent})
    batch = pairs(12)

    def mean_rank():
        method.eval()
        scores = method.score(method.embed_query(queries(batch)), method.embed_candidate(candidates(batch)))
        method.train()
        return (scores > scores.diagonal()[:, None]).sum(dim=1).float().mean().item()

    assert mean_rank() > 4
    trainer(max_steps=60).fit(method, Couples(12, batch_size=12))
    assert mean_rank() < 1.5


def test_one_run_of_the_backbone_is_three_at_inference():
    method, batch = geco().eval(), pairs()
    top, bottom = to_float(batch.top), to_float(batch.bottom)
    for template in (top.flip(3), None):
        network = (method if template is not None else geco(template=False).eval()).network
        query, embedding = network(top, template, bottom)
        torch.testing.assert_close(query, network.query(top, template))
        torch.testing.assert_close(embedding, network.bottom(bottom))


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_norms_statistics_are_those_of_the_variant(variant):
    """`code`: of top, template, bottom and once more bottom, in turn, as the authors' four passes leave them; `paper`: of all together."""
    method, batch = geco(variant=variant), pairs()
    norm = method.network.backbone.bn1
    seen = []
    norm.register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    method.log_dict = lambda *args, **options: None
    method.train().training_step(batch, 0)
    assert [len(maps) for maps in seen] == ([6, 6, 6, 6] if variant == "code" else [18])
    expected = torch.zeros_like(norm.running_mean)
    for maps in seen:
        expected = 0.9 * expected + 0.1 * maps.mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)
    if variant == "code":
        torch.testing.assert_close(seen[3], seen[2])


def test_validation_logs_the_auc_against_true_negatives(parent):
    method, run = geco(), trainer(max_epochs=1, limit_val_batches=1)
    method.load_parents({"cigm": parent})
    run.fit(method, Couples())
    batch = next(iter(run.datamodule.val_dataloader()))
    with torch.no_grad():
        scores = method.eval().score(method.embed_query(queries(batch)), method.embed_candidate(candidates(batch)))
    credits = [
        1.0 if scores[row, row] > scores[row, other] else 0.5 if scores[row, row] == scores[row, other] else 0.0
        for row in range(len(batch))
        for other in range(len(batch))
        if batch.bottom_ids[other] not in {batch.bottom_ids[row], *batch.positives[row]}
    ]
    assert 0 < len(credits) and run.callback_metrics["val/auc"].item() == pytest.approx(sum(credits) / len(credits), abs=1e-6)


def test_a_resnet_without_weights_starts_as_torchvisions():
    """timm initialises residual branches with zero, so their convolutions get no gradient."""
    random = load_backbone("resnet18", None, False, {"channels": [8, 8, 8, 8]})
    assert (random.layer1[0].bn2.weight == 1).all()
    assert (load_backbone("resnet18", None, False, {"channels": [8, 8, 8, 8], "zero_init_last": True}).layer1[0].bn2.weight == 0).all()
