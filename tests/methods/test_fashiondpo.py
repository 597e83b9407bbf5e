"""FashionDPO: probabilities of steps, preferences, what is trained, and the authors' fault."""

import math
from types import SimpleNamespace

import pytest
import torch
from drawn_outfits import SIZE, outfit_batch

from fashiongen.errors import UserError
from fashiongen.methods.difashion import DiFashion
from fashiongen.methods.fashiondpo import FashionDPO
from fashiongen.methods.fashiondpo.trajectories import (
    Labels,
    labels_of,
    log_probability,
    preference_loss,
    roll_out,
    step_distribution,
    timesteps_of,
)
from fashiongen.nn.parts import ddim

SMALL = {"image_size": SIZE, "sampler": "ddim", "steps": 2, "samples": 3, "rollout_steps": 4, "steps_per_batch": 2}


def brightness(completed):
    return completed.images.mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    return FashionDPO(experts={"brightness": brightness}, category_scale=2.0, mutual_scale=1.0, history_scale=1.0, **SMALL)


@pytest.fixture(scope="module")
def rollouts(method):
    hidden, _ = method.hidden(outfit_batch(2, training=True))
    paths, scores = method.eval().sampled(hidden)
    method.train()
    return hidden, paths, labels_of(scores)


def test_a_step_s_distribution_is_that_of_diffusers_ddim():
    schedule = DiFashion(image_size=SIZE).schedule
    sampler, latents, epsilon = ddim(schedule), torch.randn(2, 4, 8, 6), torch.randn(2, 4, 8, 6)
    sampler.set_timesteps(5)
    times = timesteps_of(schedule, 5).tolist()
    assert times == sampler.timesteps.tolist()
    for timestep, previous in zip(times, [*times[1:], -1], strict=True):
        mean, deviation = step_distribution(schedule, epsilon, latents, timestep, previous)
        fresh = torch.randn_like(latents)
        for noise in (torch.zeros_like(latents), fresh):
            wanted = sampler.step(epsilon, timestep, latents, eta=1.0, variance_noise=noise).prev_sample
            torch.testing.assert_close(mean + deviation * noise, wanted, atol=1e-4, rtol=1e-4)
        sampled = mean + deviation * fresh
        normal = torch.distributions.Normal(mean, deviation).log_prob(sampled).flatten(1).mean(dim=1)
        torch.testing.assert_close(log_probability(mean, deviation, sampled), normal, atol=1e-3, rtol=1e-4)


def test_labels_are_the_better_half_by_the_scaled_mean():
    first, second = torch.tensor([[0.0, 10.0], [4.0, 2.0]]), torch.tensor([[0.1, 0.1], [0.3, 0.2]])
    means = torch.tensor([[0.0, 0.5], [(0.4 + 1.0) / 2, (0.2 + 0.5) / 2]])
    found = labels_of(torch.stack([first, second]))
    assert torch.equal(found.preferred, means >= means.flatten().quantile(0.5)) and torch.equal(found.other, ~found.preferred)
    assert labels_of(torch.zeros(2, 3, 2)).preferred.all()  # of equal results none is preferred to another
    part = torch.stack([first, second.where(torch.tensor([[True, False], [True, True]]), torch.nan)])
    assert torch.equal(labels_of(part).preferred[1:], found.preferred[1:])  # one expert has no score for one result
    none = torch.tensor([[[torch.nan, 1.0], [torch.nan, 2.0]]])
    assert labels_of(none).preferred.tolist() == [[False, False], [False, True]] and labels_of(none).other.tolist() == [
        [False, True],
        [False, False],
    ]
    assert not labels_of(torch.full((1, 2, 2), torch.nan)).preferred.any()


def test_the_preference_loss_equals_a_plain_loop():
    ratios, preferred = 0.2 * torch.randn(4, 3), torch.rand(4, 3) > 0.5
    preferred[:, 2] = True  # no pair in this outfit
    wanted = []
    for column in range(3):
        for winner in range(4):
            for loser in range(4):
                if preferred[winner, column] and not preferred[loser, column]:
                    held = [max(math.log(0.9), min(math.log(1.1), ratios[row, column].item())) for row in (winner, loser)]
                    wanted.append(-math.log(1 / (1 + math.exp(-0.5 * (held[0] - held[1])))))
    assert preference_loss(ratios, Labels(preferred, ~preferred), 0.5, 0.1).item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    everything = torch.ones(4, 3, dtype=torch.bool)
    assert preference_loss(ratios, Labels(everything, ~everything), 0.5, 0.1) == 0


@torch.no_grad()
def test_a_rollout_is_a_chain_of_its_steps(method, rollouts):
    hidden, paths, _ = rollouts
    assert paths.shape == (5, 3, 2, 4, 16, 12)
    times = timesteps_of(method.schedule, 4).tolist()
    predict = method.guided(hidden, range(3), method.known(hidden))
    epsilon = predict(paths[1].flatten(0, 1), torch.tensor(times[1]), False)
    mean, deviation = step_distribution(method.schedule, epsilon, paths[1].flatten(0, 1), times[1], times[2])
    fresh = (paths[2].flatten(0, 1) - mean) / deviation
    assert abs(fresh.mean()) < 0.1 and 0.9 < fresh.std() < 1.1 and len(fresh.flatten().unique()) > 4000
    ids = [f"{id_}/0" for draw in range(3) for id_ in method.draw_ids(hidden, draw)]
    again = roll_out(method.schedule, predict, method.pure_noise(hidden, ids), 4, ids, method.seed, "rollout")
    torch.testing.assert_close(again.unflatten(1, (3, 2)), paths, atol=1e-4, rtol=1e-4)


def test_only_the_lora_is_trained_and_it_starts_as_the_reference(method, rollouts):
    hidden, paths, labels = rollouts
    loss = method.dpo_loss(hidden, paths, labels, [0, 1, 2, 3])
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)  # all ratios are 1
    assert all(".lora_" in name for name, parameter in method.named_parameters() if parameter.requires_grad)
    kinds = set(method.origins().values())
    assert kinds == {"parent", "pretrained", "run"} and any(".lora_B" in name for name in method.state_dict())


def test_a_step_makes_preferred_results_more_likely(method, rollouts):
    hidden, paths, labels = rollouts
    assert (labels.preferred.any(dim=0) & labels.other.any(dim=0)).any()
    optimizer = torch.optim.SGD([parameter for parameter in method.parameters() if parameter.requires_grad], lr=1.0)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    loss = method.dpo_loss(hidden, paths, labels, [0, 1, 2, 3])
    loss.backward()
    optimizer.step()
    after = method.dpo_loss(hidden, paths, labels, [0, 1, 2, 3])
    assert after < loss and {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])} == {
        name for name in before if ".lora_B" in name
    }
    method.load_state_dict(before)
    optimizer.zero_grad()


def test_the_authors_code_trains_on_the_last_step_alone(method):
    assert FashionDPO(variant="code", **SMALL).drawn_steps() == [3]
    seen = set()
    for step in range(20):
        method.trainer = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FashionDPO, "global_step", step)
            drawn = method.drawn_steps()
        assert len(set(drawn)) == 2
        seen |= set(drawn)
    assert seen == {0, 1, 2, 3}


def test_it_starts_from_difashion_s_checkpoint(tmp_path):
    torch.manual_seed(1)
    parent, child = DiFashion(image_size=SIZE, sampler="ddim", steps=2).eval(), FashionDPO(**SMALL)
    with torch.no_grad():
        parent.mutual_encoder.hidden.weight.mul_(2)
        parent.unet.conv_in.weight[:, 4:].normal_()
    path = tmp_path / "difashion.ckpt"
    torch.save({"state_dict": parent.state_dict()}, path)
    child.load_parents({"difashion": path})
    batch = outfit_batch(1)
    torch.testing.assert_close(child.eval().fill_blank(batch).images, parent.fill_blank(batch).images, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="difashion"):
        child.load_parents({"other": path})


def test_a_hidden_item_is_hidden_everywhere(method):
    batch = outfit_batch(3, training=True)
    hidden, places = method.hidden(batch)
    assert hidden.blank.lengths.tolist() == [4, 4, 4] and hidden.blank_samples().tolist() == [0, 1, 2]
    for row, place in enumerate(places):
        assert hidden.items[row][place] == "" and (hidden.images[row][place] == 255).all() and hidden.blank[row][place]
        others = [slot for slot in range(4) if slot != place]
        assert torch.equal(hidden.images[row][others], batch.true_images[row][others]) and hidden.given[row][others].all()
    assert places != method_places(method, batch, epoch=1)


def method_places(method, batch, epoch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FashionDPO, "current_epoch", epoch)
        return method.hidden(batch)[1]


@pytest.mark.parametrize(
    "settings", [{"samples": 1}, {"rank": 0}, {"beta": 0.0}, {"ratio_clip": 1.0}, {"rollout_steps": 0}, {"rollout_steps": 1000}]
)
def test_settings_out_of_range_are_told(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        FashionDPO(**{**SMALL, **settings})


def test_a_training_needs_difashion_and_experts_and_whole_epochs():
    method, batch = FashionDPO(**SMALL), outfit_batch(1, training=True)
    method.trainer = SimpleNamespace(ckpt_path=None)
    with pytest.raises(UserError, match=r"--parents\.difashion"):
        method.on_train_start()
    method._has_parent = True
    with pytest.raises(UserError, match="experts"):
        method.on_train_start()
    with pytest.raises(UserError, match="middle of an epoch"):
        method.training_step(batch, 0)


@pytest.mark.parametrize(("batches", "max_steps", "expected"), [(3, -1, 3), (5, 2, 2)])
def test_only_what_the_epoch_trains_on_is_sampled(batches, max_steps, expected):
    """And no batch is read beyond it."""
    method, read = FashionDPO(**SMALL), []

    class Loader:
        def __iter__(self):
            for number in range(9):
                read.append(number)
                yield number

    method.trainer = SimpleNamespace(
        train_dataloader=Loader(),
        num_training_batches=batches,
        max_steps=max_steps,
        global_step=0,
        accumulate_grad_batches=1,
        is_global_zero=False,
        strategy=SimpleNamespace(batch_to_device=lambda batch, device: batch),
    )
    assert list(method.epoch_batches()) == read == list(range(expected))
