"""Samplers on a Gaussian, whose denoiser is known exactly."""

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from fashiongen.errors import UserError
from fashiongen.nn.sampling import Sampling, sample

SCHEDULE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
MEAN, DEVIATION = 1.5, 0.4
SAMPLERS = ("ddim", "dpm++", "unipc", "euler", "pndm")


def exact(latents, timestep, doubled):
    """E[noise | z_t] for data N(MEAN, DEVIATION^2); the unconditional half has data N(0, 1)."""
    place = float(timestep)
    low = int(place)  # euler has fractions
    alpha = torch.lerp(SCHEDULE.alphas_cumprod[low], SCHEDULE.alphas_cumprod[min(low + 1, 999)], place - low)

    def predicted(values, mean, deviation):
        variance = alpha * deviation**2 + 1 - alpha
        return (1 - alpha).sqrt() * (values - alpha.sqrt() * mean) / variance

    if not doubled:
        return predicted(latents, MEAN, DEVIATION)
    first, second = latents.chunk(2)
    return torch.cat([predicted(first, 0.0, 1.0), predicted(second, MEAN, DEVIATION)])


def drawn(count=400, **settings):
    noise = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    return sample(Sampling(**settings), SCHEDULE, exact, noise, [str(index) for index in range(count)], 0)[:, 0, 0, 0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_draws_from_the_data(name):
    values = drawn(sampler=name, steps=50)
    near = 0.07 if name == "pndm" else 0.06  # like ddim it starts at timestep 981, where a little of the data is left
    assert values.mean().item() == pytest.approx(MEAN, abs=near) and values.std().item() == pytest.approx(DEVIATION, abs=0.06)


KARRAS = ("dpm++", "unipc", "euler")
ON_LEVELS = [{"sampler": name, "karras": True} for name in KARRAS]


@pytest.mark.parametrize("settings", [*({"sampler": name} for name in SAMPLERS[1:]), *ON_LEVELS], ids=str)
def test_the_samplers_solve_the_same_equation(settings):
    """From the same noise all end at the same latents if the steps are fine enough."""
    fine = drawn(sampler="ddim", steps=500)
    assert (drawn(steps=200, **settings) - fine).abs().max() < 0.06


def test_pndm_is_stable_diffusions_own():
    """A plain loop of diffusers' scheduler with the settings that Stable Diffusion publishes."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    plain = PNDMScheduler(**config, skip_prk_steps=True, set_alpha_to_one=False)
    plain.set_timesteps(10)
    noise = latents = torch.randn(3, 1, 2, 2)
    for timestep in plain.timesteps:
        latents = plain.step(exact(latents, timestep, False), timestep, latents).prev_sample
    assert torch.equal(sample(Sampling(sampler="pndm", steps=10), SCHEDULE, exact, noise, ["a", "b", "c"]), latents)


def plain(name, karras):
    """The scheduler of diffusers, with the settings that `Sampling` documents written out."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "use_karras_sigmas": karras}
    config |= {"timestep_spacing": "linspace"}
    if name == "euler":
        return EulerDiscreteScheduler(**config)
    if name == "unipc":
        return UniPCMultistepScheduler(**config, solver_order=2, final_sigmas_type="zero")
    return DPMSolverMultistepScheduler(**config, solver_order=2, algorithm_type="dpmsolver++", final_sigmas_type="zero")


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("name", KARRAS)
def test_a_sampler_is_a_plain_loop_of_diffusers_own(name, karras):
    sampler = plain(name, karras)
    sampler.set_timesteps(9)
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    latents = noise * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        predicted = exact(sampler.scale_model_input(latents, timestep), timestep, False)
        latents = sampler.step(predicted, timestep, latents).prev_sample
    assert torch.equal(sample(Sampling(sampler=name, steps=9, karras=karras), SCHEDULE, exact, noise, ["a", "b", "c"]), latents)


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_on_karras_noise_levels_a_second_order_gains_over_ddim(name):
    """On evenly spaced timesteps it does not: the last step removes the noise of a twelfth of them at once."""
    settings = {"ddim": {"sampler": "ddim"}, "even": {"sampler": name}, "karras": {"sampler": name, "karras": True}}
    fine = drawn(sampler="euler", karras=True, steps=200)
    errors = {case: (drawn(steps=12, **setting) - fine).square().mean().sqrt().item() for case, setting in settings.items()}
    assert errors["karras"] < min(errors["ddim"], errors["even"]) / 2


@pytest.mark.parametrize("name", KARRAS)
def test_karras_noise_levels_are_equation_5(name):
    """sigma_i = (sigma_max^(1/7) + i / (N - 1) * (sigma_min^(1/7) - sigma_max^(1/7)))^7."""
    timesteps = []

    def noted(latents, timestep, doubled):
        timesteps.append(float(timestep))
        return exact(latents, timestep, doubled)

    sample(Sampling(sampler=name, steps=8, karras=True), SCHEDULE, noted, torch.zeros(1, 1, 1, 1), ["a"])
    levels = ((1 - SCHEDULE.alphas_cumprod) / SCHEDULE.alphas_cumprod).sqrt()
    ends = levels[-1] ** (1 / 7), levels[0] ** (1 / 7)
    expected = (ends[0] + torch.linspace(0, 1, 8) * (ends[1] - ends[0])) ** 7
    low = torch.tensor(timesteps).long()
    high, part = (low + 1).clamp(max=999), torch.tensor(timesteps) - low
    # Only euler's timesteps have fractions; the others round to the next timestep, which is not far in noise but for the last few.
    close = {"rtol": 1e-3, "atol": 0} if name == "euler" else {"rtol": 0.01, "atol": 0.01}
    torch.testing.assert_close(torch.lerp(levels[low].log(), levels[high].log(), part).exp(), expected, **close)


def test_noise_of_a_stochastic_sampler_belongs_to_the_sample():
    settings = Sampling(sampler="ddim", steps=20, eta=1.0)
    noise = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    ids = ["a", "b", "c", "d"]
    whole = sample(settings, SCHEDULE, exact, noise, ids, 0)
    parts = torch.cat([sample(settings, SCHEDULE, exact, noise[index : index + 1], [ids[index]], 0) for index in range(4)])
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole, sample(settings, SCHEDULE, exact, noise, ids, 1), atol=0.01)
    values = drawn(sampler="ddim", steps=100, eta=1.0)
    assert values.mean().item() == pytest.approx(MEAN, abs=0.06) and values.std().item() == pytest.approx(DEVIATION, abs=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_is_computed_where_it_applies_alone(name):
    calls = []

    def counted(latents, timestep, doubled):
        calls.append((float(timestep) / 1000, doubled, len(latents)))
        return exact(latents, timestep, doubled)

    noise = torch.zeros(3, 1, 1, 1)
    for scale, interval in ((1.0, (0.0, 1.0)), (3.0, (0.0, 1.0)), (3.0, (0.2, 0.6))):
        calls.clear()
        sample(Sampling(sampler=name, steps=12, scale=scale, interval=interval), SCHEDULE, counted, noise, ["a", "b", "c"])
        assert len(calls) == (13 if name == "pndm" else 12)  # its second step is predicted again
        for place, doubled, count in calls:
            assert doubled == (scale != 1.0 and interval[0] <= place <= interval[1]) and count == (6 if doubled else 3)
    assert {doubled for _, doubled, _ in calls} == {True, False}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sampler": "plms"}, "IGR: sampler: plms: choose one of ddim, dpm\\+\\+, unipc, euler, pndm"),
        ({"steps": 0}, "IGR: steps: 0: must lie in 1 to 1000"),
        ({"interval": (0.6, 0.2)}, "IGR: guidance_interval: 0.6 to 0.2: must be two ascending numbers in"),
        ({"eta": 0.5, "sampler": "euler"}, "IGR: eta: 0.5: must lie in \\[0, 1\\], and be 0 for other samplers than ddim"),
        ({"karras": True}, "IGR: karras: must be false for ddim; it is for dpm\\+\\+, unipc, euler"),
        ({"karras": True, "sampler": "pndm"}, "IGR: karras: must be false for pndm"),
    ],
)
def test_settings_out_of_range_are_told(settings, says):
    with pytest.raises(UserError, match=says):
        Sampling(**settings).check(SCHEDULE, "IGR")
    for name in SAMPLERS:
        Sampling(sampler=name).check(SCHEDULE, "IGR")
