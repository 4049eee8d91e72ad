"""Schedules, predictions, timesteps, guidance and samplers, against diffusers' schedulers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers_model import TOLERANCE
from hypothesis import given, settings
from hypothesis import strategies as st

from model.diffusion import NoiseSchedule, add_noise, target, to_noise, to_x0
from model.guidance import dynamic_scale, guide
from model.samplers import ddim_step, dpm_step, trailing_timesteps
from model.timesteps import explicit_uniform

SCHEDULES = [
    NoiseSchedule(),
    NoiseSchedule(snr_shift_scale=1.0),
    NoiseSchedule(rescale_betas_zero_snr=False),
    NoiseSchedule(rescale_betas_zero_snr=False, prediction_type="epsilon"),
]


def diffusers_scheduler(schedule: NoiseSchedule, sampler: str, folder):
    import diffusers

    schedule.save_pretrained(folder, sampler)
    kind = {"ddim": "CogVideoXDDIMScheduler", "dpm": "CogVideoXDPMScheduler"}[sampler]
    return getattr(diffusers, kind).from_pretrained(folder)


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_schedule_is_diffusers(schedule, sampler, tmp_path):
    theirs = diffusers_scheduler(schedule, sampler, tmp_path)
    torch.testing.assert_close(schedule.alpha_bars(), theirs.alphas_cumprod, atol=1e-15, rtol=1e-12)
    assert NoiseSchedule.from_pretrained(tmp_path) == schedule


@given(st.floats(0.2, 20))
@settings(deadline=None, max_examples=30)
def test_the_last_timestep_is_pure_noise_and_snr_falls(shift):
    alpha_bars = NoiseSchedule(snr_shift_scale=shift).alpha_bars()
    assert float(alpha_bars[-1]) == 0.0
    assert bool((alpha_bars.diff() < 0).all())
    unscaled = NoiseSchedule(snr_shift_scale=shift, rescale_betas_zero_snr=False).alpha_bars()
    plain = NoiseSchedule(snr_shift_scale=1, rescale_betas_zero_snr=False).alpha_bars()
    ratio = (unscaled / (1 - unscaled)) / (plain / (1 - plain))  # of signal-to-noise ratios
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / shift), atol=0, rtol=1e-9)
    torch.testing.assert_close(alpha_bars[0], unscaled[0])


def test_epsilon_from_pure_noise_is_refused():
    with pytest.raises(ValueError, match="cannot start from pure noise"):
        NoiseSchedule(prediction_type="epsilon")
    with pytest.raises(ValueError, match="prediction_type is 'sample', not v_prediction or epsilon"):
        NoiseSchedule(prediction_type="sample")  # type: ignore[arg-type]


@given(st.floats(1e-4, 0.9999), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_predictions_convert_into_each_other(alpha_bar, seed):
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).unbind()
    x_t = add_noise(x0, noise, alpha_bar)
    for kind in ("v_prediction", "epsilon"):
        output = target(x0, noise, alpha_bar, kind)
        torch.testing.assert_close(to_x0(output, x_t, alpha_bar, kind), x0)
        torch.testing.assert_close(to_noise(output, x_t, alpha_bar, kind), noise)


@given(st.floats(1e-3, 0.999), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_plain_v_error_is_x0s_weighted_by_the_noise(alpha_bar, seed):
    generator = torch.Generator().manual_seed(seed)
    x0, noise, wrong = torch.randn(3, 7, generator=generator, dtype=torch.float64).unbind()
    x_t = add_noise(x0, noise, alpha_bar)
    v_error = (wrong - target(x0, noise, alpha_bar, "v_prediction")).square().mean()
    x0_error = (to_x0(wrong, x_t, alpha_bar, "v_prediction") - x0).square().mean()
    torch.testing.assert_close(v_error, x0_error / (1 - alpha_bar))


def test_each_sample_of_a_batch_has_its_own_timestep(tmp_path):
    schedule = NoiseSchedule()
    theirs = diffusers_scheduler(schedule, "ddim", tmp_path)
    x0, noise, timesteps = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.tensor([0, 500, 999])
    alpha_bars = schedule.alpha_bars()[timesteps]
    found = add_noise(x0, noise, alpha_bars)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, theirs.add_noise(x0, noise, timesteps))
    torch.testing.assert_close(target(x0, noise, alpha_bars, "v_prediction"), theirs.get_velocity(x0, noise, timesteps))
    assert torch.equal(found[2], noise[2])  # pure noise
    with pytest.raises(ValueError, match=r"alpha_bar has shape \[2\]"):
        add_noise(x0, noise, alpha_bars[:2])


@given(st.integers(1, 1000))
def test_trailing_timesteps_begin_at_the_end(steps):
    found = trailing_timesteps(steps)
    assert len(found) == steps
    assert found[0] == 999
    assert all(a > b for a, b in itertools.pairwise(found))
    assert found[-1] >= 0


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 50, 333, 1000])
def test_timesteps_are_diffusers(steps, tmp_path):
    theirs = diffusers_scheduler(NoiseSchedule(), "ddim", tmp_path)
    theirs.set_timesteps(steps)
    assert trailing_timesteps(steps) == theirs.timesteps.tolist()


def test_too_many_steps_are_refused():
    with pytest.raises(ValueError, match="1001 steps; there are 1 to 1000"):
        trailing_timesteps(1001)


def _denoiser(x, t):
    """Some function of both, in place of a network."""
    return torch.tanh(x) * 0.8 + math.sin(t) * 0.3


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 50])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_samplers_are_diffusers_step_by_step(schedule, sampler, steps, tmp_path):
    theirs = diffusers_scheduler(schedule, sampler, tmp_path)
    theirs.set_timesteps(steps)
    alpha_bars = schedule.alpha_bars().tolist()
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    wanted_before = x0_before = None
    before = None
    for i, t in enumerate(trailing_timesteps(steps)):
        output = _denoiser(x, t)
        following = t - 1000 // steps  # diffusers' next; ours is the next timestep, the same where steps divide 1000
        alpha_bar_next = alpha_bars[following] if following >= 0 else 1.0
        x0 = to_x0(output, x, alpha_bars[t], schedule.prediction_type)
        if sampler == "ddim":
            wanted = theirs.step(output, t, x).prev_sample
            found = ddim_step(x, x0, alpha_bars[t], alpha_bar_next)
        else:
            wanted, wanted_before = theirs.step(output, wanted_before, t, before, x, generator=generator)
            noise = torch.randn(x.shape, generator=again)
            second = x0_before is not None and following >= 0
            if second:
                noise = torch.randn(x.shape, generator=again)
            found = dpm_step(
                x, x0, noise, alpha_bars[t], alpha_bar_next, x0_before, alpha_bars[before] if second else None
            )
            torch.testing.assert_close(x0, wanted_before, atol=TOLERANCE, rtol=TOLERANCE)
            x0_before, before = x0, t
        torch.testing.assert_close(found, wanted.to(x.dtype), atol=TOLERANCE, rtol=TOLERANCE, msg=f"step {i}, t {t}")
        x = wanted.to(x.dtype)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=80)
def test_timesteps_cover_the_range_evenly_over_all_ranks(batch, world, seed, step):
    ranks = [explicit_uniform(seed, step, batch, rank, world) for rank in range(world)]
    drawn = sorted(t for rank in ranks for t in rank.tolist())
    size = batch * world
    assert len(drawn) == size
    for i, t in enumerate(drawn):  # one in each interval
        assert i * 1000 / size - 1 <= t <= (i + 1) * 1000 / size


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_the_same_global_batch_has_the_same_timesteps_on_any_number_of_ranks(seed, step):
    alone = explicit_uniform(seed, step, 12)
    for world in (2, 3, 4, 12):
        ranks = [explicit_uniform(seed, step, 12 // world, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat(ranks), alone)


def test_every_timestep_is_as_likely_as_any_other():
    drawn = torch.cat([explicit_uniform(7, step, 3, 1, 5, timesteps=20) for step in range(20_000)])
    counts = torch.bincount(drawn, minlength=20)
    assert len(counts) == 20
    assert float((counts / 3000 - 1).abs().max()) < 0.06  # 3 standard deviations are 0.055
    assert explicit_uniform(7, 1, 3).tolist() != explicit_uniform(7, 2, 3).tolist()


def test_the_loss_varies_less_than_with_independent_timesteps():
    def spread(draw):
        return torch.stack([draw(step).double().mean() for step in range(400)]).std()

    stratified = spread(lambda step: explicit_uniform(0, step, 16))
    independent = spread(lambda step: torch.randint(0, 1000, (16,), generator=torch.Generator().manual_seed(step)))
    assert float(stratified) < float(independent) / 5


def test_a_rank_outside_of_the_world_is_refused():
    with pytest.raises(ValueError, match="seed -1, step 0"):
        explicit_uniform(-1, 0, 4)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        explicit_uniform(0, 0, 4, rank=2, world=2)


def test_guidance():
    text, none = torch.tensor([2.0]), torch.tensor([1.0])
    assert guide(text, none, 1) == text
    assert guide(text, none, 6) == torch.tensor([7.0])
    scales = [dynamic_scale(6, step, 50) for step in range(50)]
    assert scales[0] == 1
    assert scales == sorted(scales)
    assert dynamic_scale(6, 50, 50) == pytest.approx(7)
    assert scales[25] == pytest.approx(1 + 6 * (1 - math.cos(math.pi / 32)) / 2)
