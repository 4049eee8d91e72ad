"""The parts of a VAE's training by known answers: optimizers, average, batches, ranks, normalised latents, measures."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import two_ranks
from helpers_model import vae
from threadpoolctl import threadpool_limits
from torch import nn

from model.discriminator import PatchDiscriminator
from train.held_out import is_held_out
from train.optimizers import ConvMuon, follow, scale_lr
from train.ranks import Ranks
from train.vae.batches import batch, pixels
from train.vae.config import StageConfig
from train.vae.learner import Learner, channel_statistics
from train.vae.measure import LinearCode, held_out_psnr, quality, reconstruct

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def test_muon_of_convolutions_is_torchs_of_matrices():
    torch.manual_seed(0)
    convolutions = [nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3, 3), (6, 12, 1, 1, 1), (5, 7))]
    matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in convolutions]
    ours, theirs = ConvMuon(convolutions, 0.02), torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0)
    for _ in range(3):
        for weight, matrix in zip(convolutions, matrices, strict=True):
            weight.grad = torch.randn_like(weight)
            matrix.grad = weight.grad.flatten(1).clone()
        ours.step()
        theirs.step()
        ours.zero_grad()
        assert all(weight.grad is None for weight in convolutions)
    for weight, matrix in zip(convolutions, matrices, strict=True):
        assert torch.equal(weight.detach().flatten(1), matrix)
    before = [weight.detach().clone() for weight in convolutions]
    ours.step()  # without gradients nothing moves
    assert all(torch.equal(a, b) for a, b in zip(before, convolutions, strict=True))
    again = ConvMuon(convolutions, 0.02)
    again.load_state_dict(ours.state_dict())
    assert again.state_dict()["state"].keys() == ours.state_dict()["state"].keys() == {0, 1, 2}
    with pytest.raises(ValueError, match="not contiguous"):
        ConvMuon([nn.Parameter(torch.randn(4, 6, 3).transpose(1, 2))], 0.02)


def test_learning_rates_are_scaled_from_those_given():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.4)])
    for factor in (0.5, 0.5, 0.01, 1.0):
        scale_lr([optimizer], factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * factor, 0.4 * factor])


def test_the_rate_warms_up_and_goes_down_along_a_cosine():
    learner = Learner(
        two_ranks.settings(
            stages=[{"steps": 60}, {"steps": 50}],
            windows={"frames": 17, "size": 64},
            optimizer={"warmup": 10, "last": 0.1},
        ),
        ALONE,
    )
    assert [learner.rate(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learner.rate(60) == pytest.approx(0.55)
    assert learner.rate(110) == pytest.approx(0.1)


def test_the_average_follows():
    average, network = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    nn.init.constant_(average.weight, 1.0)
    nn.init.constant_(network.weight, 3.0)
    follow(average, network, 0.75)
    torch.testing.assert_close(average.weight, torch.full((1, 2), 1.5))
    follow(average, network, 0.75)
    torch.testing.assert_close(average.weight, torch.full((1, 2), 1.875))
    assert torch.equal(network.weight, torch.full((1, 2), 3.0))


def test_batches_are_a_pure_function_of_seed_step_and_rank():
    windows = two_ranks.windows()
    stage = StageConfig(steps=1, frames=9, size=32, batch=2, images=0.4, image_batch=3)
    found = {
        (seed, step, rank): batch(windows, stage, seed, step, rank)
        for seed in (0, 1)
        for step in range(40)
        for rank in (0, 1)
    }
    for (seed, step, rank), video in found.items():
        assert tuple(video.shape) in {(2, 3, 9, 32, 32), (3, 3, 1, 32, 32)}
        assert video.shape == found[seed, step, 1 - rank].shape  # all ranks take pictures in the same steps
        assert torch.equal(video, batch(windows, stage, seed, step, rank))
        assert not torch.equal(video, found[seed, step, 1 - rank])
    assert len({video.numpy().tobytes() for video in found.values()}) == len(found)
    share = np.mean([video.shape[2] == 1 for (_, _, rank), video in found.items() if not rank])
    assert 0.25 < share < 0.55
    only = [batch(windows, replaced, 0, step, 0).shape[2] for replaced in pictures() for step in range(20)]
    assert only == [1] * 40 + [9] * 20


def pictures() -> Iterator[StageConfig]:
    for frames, images in ((1, 0.0), (9, 1.0), (9, 0.0)):
        yield StageConfig(steps=1, frames=frames, size=32, images=images)


def test_samples_are_pieces_of_windows_that_are_learnt_from():
    """Windows are told by their colour: 10, 20, ..., 60 (held out), pictures 200."""
    windows = two_ranks.windows()
    shades = np.arange(10, 70, 10, np.uint8)[:, None, None, None, None]
    coloured = replace(
        windows, pixels=np.broadcast_to(shades, windows.pixels.shape), stills=np.full_like(windows.stills, 200)
    )
    stage = StageConfig(steps=1, frames=9, size=32, batch=2, images=0.5, image_batch=4)
    seen: dict[int, set[int]] = {1: set(), 9: set()}
    for step in range(60):
        video = batch(coloured, stage, 0, step, 0)
        values = ((video + 1) * 127.5).round().to(torch.int).amin((1, 2, 3, 4)).tolist()
        seen[video.shape[2]] |= set(values)
    assert seen == {1: {10, 20, 30, 40, 50, 200}, 9: {10, 20, 30, 40, 50}}


def test_clips_are_held_out_by_their_name_alone():
    names = [f"clip-{number}" for number in range(2000)]
    assert not any(is_held_out(name, 0.0) for name in names)
    few, many = ({name for name in names if is_held_out(name, share)} for share in (0.05, 0.3))
    assert few < many
    assert 60 < len(few) < 140
    assert 520 < len(many) < 680


def test_pixels_are_scaled_to_one():
    shown = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 1, 3)
    assert pixels(shown).flatten().tolist() == pytest.approx([-1, -0.6, 1])


def test_two_ranks_are_one_with_both_batches(tmp_path: Path):
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    files = [tmp_path / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, two_ranks.__file__, str(file)], env={**shared, "RANK": str(rank)})
        for rank, file in enumerate(files)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    first, second = (torch.load(file) for file in files)
    alone = two_ranks.gradients(two_ranks.videos(), ALONE)
    for ours, theirs, wanted in zip(first["gradients"], second["gradients"], alone, strict=True):
        assert torch.equal(ours, theirs)
        assert float((ours - wanted).norm()) < 1e-3 * float(wanted.norm())
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())
    assert all(a != b for a, b in zip(first["losses"], second["losses"], strict=True))
    assert first["any"] == second["any"] == (True, False)


@pytest.mark.parametrize("frames", [1, 9])
def test_normalised_latents_have_mean_0_and_deviation_1_and_decode_as_before(frames: int):
    network, size = vae(), 192
    x = torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = nn.functional.avg_pool3d(x, (1, 5, 5), stride=1, padding=(0, 2, 2)) * 3  # not all is noise
    with torch.no_grad():
        before = network.encode(x, chunk_frames=None)
        wanted = network.decode(before.mean, chunk_frames=None)
        mean, std = channel_statistics(network, [x])
        assert float(std.min()) > 0.01
        network.normalise(mean, std)
        after = network.encode(x, chunk_frames=None)
        found = network.decode(after.mean, chunk_frames=None)
    centre = tuple(value[None, :, None, None, None] for value in (mean, std))
    torch.testing.assert_close(after.mean, (before.mean - centre[0]) / centre[1], atol=1e-4, rtol=1e-4)
    deviation = (0.5 * before.logvar).exp() / centre[1]  # noise shrinks or grows with its latent
    torch.testing.assert_close((0.5 * after.logvar).exp(), deviation, atol=1e-4, rtol=1e-3)
    again = channel_statistics(network, [x])
    torch.testing.assert_close(again[0], torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(again[1], torch.ones(16), atol=1e-4, rtol=0)
    # At the borders zeros stand for something else now, and by the group norms a little of that is everywhere.
    inner = (..., slice(64, -64), slice(64, -64))
    error = (found - wanted).square()
    assert float(error[inner].mean()) < 0.02 * float(wanted[inner].var())
    assert float(error[inner].mean()) < float(error.mean())


def test_normalising_with_no_borders_changes_nothing_that_is_decoded():
    """Mean 0: the zeros around the picture stand for what they stood for."""
    network = vae()
    x = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        wanted = network.decode(network.encode(x).mean)
        network.normalise(torch.zeros(16), torch.linspace(0.2, 4, 16))
        found = network.decode(network.encode(x).mean)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_linear_code_is_exact_where_its_components_suffice():
    """Blocks that are a mean and three patterns; two components are worse, and the first frame counts for nothing."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], (3, 4, 8, 8, 3))
    weights = rng.integers(-12, 13, (2, 2, 2, 3))  # t, h, w
    blocks = 128 + np.einsum("thwk,kabcd->thwabcd", weights, patterns)
    video = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(8, 16, 16, 3).astype(np.uint8)
    with_first = np.concatenate([rng.integers(0, 256, (1, 16, 16, 3), np.uint8), video])
    assert np.array_equal(LinearCode.fit([with_first], 3, 1000)(video), video)
    assert quality(video, LinearCode.fit([with_first], 2, 1000)(video)).psnr < 50


def test_no_linear_code_is_better_than_the_one_of_the_very_frames():
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 200, 64)[None, :, None, None] + np.linspace(0, 40, 17)[:, None, None, None]
    videos = [(ramp + rng.normal(0, 20, (17, 64, 64, 3))).clip(0, 255).astype(np.uint8) for _ in range(3)]
    own, other = (LinearCode.fit(some, 8, 10_000) for some in (videos[:1], videos[1:]))
    source = videos[0][1:]
    assert quality(source, own(source)).psnr > quality(source, other(source)).psnr
    more = LinearCode.fit(videos[:1], 64, 10_000)
    assert quality(source, more(source)).psnr > quality(source, own(source)).psnr


def test_quality_of_known_differences():
    source = np.random.default_rng(0).integers(40, 200, (8, 32, 40, 3), np.uint8)
    same = quality(source, source)
    assert (same.psnr, same.ssim, same.flicker) == (100.0, 1.0, 100.0)
    brighter = quality(source, source + 1)  # each frame alike: nothing flickers
    assert brighter.psnr == pytest.approx(20 * math.log10(255), abs=1e-3)
    assert brighter.flicker == 100.0
    assert 0.99 < brighter.ssim < 1
    blinking = source.copy()
    blinking[::2] += 2
    found = quality(source, blinking)  # half the frames are off by 2; each difference of two frames is
    assert found.psnr == pytest.approx(20 * math.log10(255 / 2) + 10 * math.log10(2), abs=1e-3)
    assert found.flicker == pytest.approx(20 * math.log10(255 / 2), abs=1e-3)


def test_held_out_windows_are_seen_as_they_are_reconstructed():
    windows = two_ranks.windows()
    network = vae().eval()
    found = held_out_psnr(network, windows, 5, torch.float32)
    frames = windows.pixels[5]
    with torch.no_grad():
        made = network.decode(network.encode(pixels(frames[None])).mean).clamp(-1, 1)
    error = float((made - pixels(frames[None])).square().mean())
    assert found == pytest.approx(-10 * math.log10(error / 4), abs=1e-3)
    assert quality(frames, reconstruct(network, frames)).psnr == pytest.approx(found, abs=0.1)
    assert held_out_psnr(network, windows, 0, torch.float32) is None
    assert held_out_psnr(network, replace(windows, held_out=windows.held_out[:0]), 5, torch.float32) is None


@pytest.mark.parametrize("width", [8, 16, 64])
def test_pictures_are_judged_alike_in_bfloat16(width: int):
    """oneDNN's kernels for AMX left memory unwritten: what lies there is made NaN before."""
    torch.manual_seed(0)
    judge, x = PatchDiscriminator(width), torch.rand(2, 3, 1, 32, 32) * 2 - 1
    wanted = judge(x)
    for _ in range(5):
        junk = [torch.full((1 << 16,), float("nan")) for _ in range(4)]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            found = judge(x)
        torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.05)
    # One frame meets the middle of each kernel, as if it had black ones around.
    layer = judge.layers[0]
    assert isinstance(layer, nn.Conv3d)
    torch.testing.assert_close(layer(x), nn.functional.conv3d(x, layer.weight, layer.bias, 2, 1), atol=1e-5, rtol=1e-5)
