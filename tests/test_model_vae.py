"""The causal VAE against diffusers', in chunks, in tiles and whole."""

from __future__ import annotations

import pytest
import torch
from helpers_model import TOLERANCE, diffusers_vae, largest_difference, vae
from hypothesis import given, settings
from hypothesis import strategies as st

from model.vae import PRESETS, CausalVAE, check_frames
from model.vae_tiling import Tiling, chunks

TILES = Tiling(48, 40)


def video(frames: int, height: int = 80, width: int = 72, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 3, frames, height, width, generator=generator).clamp(-1, 1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    ours = vae()
    return ours, diffusers_vae(ours, tmp_path_factory.mktemp("vae"))


def set_up(theirs, chunk_frames: int | None, tiling: Tiling | None) -> None:
    theirs.num_sample_frames_batch_size = chunk_frames or 10_000
    theirs.num_latent_frames_batch_size = (chunk_frames or 10_000) // 4
    theirs.use_tiling = False
    if tiling:
        theirs.enable_tiling(tiling.height, tiling.width)


@pytest.mark.parametrize("tiling", [None, TILES], ids=["whole", "tiled"])
@pytest.mark.parametrize("chunk_frames", [8, 16, None])
@pytest.mark.parametrize("frames", [1, 9, 33])
def test_encoding_and_decoding_are_diffusers(pair, frames, chunk_frames, tiling):
    ours, theirs = pair
    set_up(theirs, chunk_frames, tiling)
    x = video(frames, batch=2 if frames == 1 else 1)
    with torch.no_grad():
        found, wanted = ours.encode(x, chunk_frames=chunk_frames, tiling=tiling), theirs.encode(x).latent_dist
        torch.testing.assert_close(found.mean, wanted.mean, atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(found.logvar, wanted.logvar, atol=TOLERANCE, rtol=TOLERANCE)
        assert float(wanted.mean.std()) > 0.1
        latents = wanted.mean * 3
        decoded = ours.decode(latents, chunk_frames=chunk_frames, tiling=tiling)
        assert decoded.shape == x.shape
        torch.testing.assert_close(decoded, theirs.decode(latents).sample, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("chunk_frames", [8, None])
def test_gradients_are_diffusers(pair, chunk_frames):
    ours, theirs = pair
    set_up(theirs, chunk_frames, None)
    theirs.train()
    x, weight = video(17, 32, 40), torch.randn(1, 3, 17, 32, 40, generator=torch.Generator().manual_seed(0))
    for network in pair:
        network.zero_grad()
    found = ours.encode(x, chunk_frames=chunk_frames)
    reconstruction = ours.decode(found.mean, chunk_frames=chunk_frames)
    ((reconstruction * weight).mean() + found.logvar.mean()).backward()
    wanted = theirs.encode(x).latent_dist
    ((theirs.decode(wanted.mean).sample * weight).mean() + wanted.logvar.mean()).backward()
    assert largest_difference(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("chunk_frames", [8, None])
def test_recomputing_changes_no_gradient(chunk_frames):
    plain, checkpointed = vae(), vae()
    checkpointed.gradient_checkpointing = True
    assert checkpointed.gradient_checkpointing
    assert not plain.gradient_checkpointing
    for network in (plain, checkpointed):
        posterior = network.encode(video(17, 32, 32), chunk_frames=chunk_frames)
        network.decode(posterior.mean, chunk_frames=chunk_frames).square().mean().backward()
    assert largest_difference(plain, checkpointed) < 1e-7


def test_later_frames_never_change_earlier_chunks(pair):
    ours, _ = pair
    x = video(33, 32, 32)
    changed = x.clone()
    changed[:, :, 17:] = -changed[:, :, 17:]
    with torch.no_grad():
        before, after = ours.encode(x), ours.encode(changed)
        assert torch.equal(before.mean[:, :, :5], after.mean[:, :, :5])  # 17 frames
        assert torch.equal(before.logvar[:, :, :5], after.logvar[:, :, :5])
        assert not torch.allclose(before.mean[:, :, 5:], after.mean[:, :, 5:], atol=1e-3)
        latents = before.mean
        other = latents.clone()
        other[:, :, 5:] += 1
        assert torch.equal(ours.decode(latents)[:, :, :17], ours.decode(other)[:, :, :17])


def test_earlier_frames_reach_later_chunks(pair):
    """The cache is used: a chunk is not encoded as if it stood alone."""
    ours, _ = pair
    x = video(17, 32, 32)
    changed = x.clone()
    changed[:, :, :9] = -changed[:, :, :9]
    with torch.no_grad():
        assert not torch.allclose(ours.encode(x).mean[:, :, 3:], ours.encode(changed).mean[:, :, 3:], atol=1e-3)


def test_latents_depend_on_the_chunks(pair):
    """Why encoders have to record them."""
    ours, _ = pair
    with torch.no_grad():
        by_8, by_16 = ours.encode(video(33, 32, 32)).mean, ours.encode(video(33, 32, 32), chunk_frames=16).mean
    assert float((by_8 - by_16).abs().max()) > 1e-3


def test_an_image_is_a_video_of_one_frame(pair):
    ours, _ = pair
    with torch.no_grad():
        image = video(1, 32, 32)
        posterior = ours.encode(image)
        assert posterior.mean.shape == (1, 16, 1, 4, 4)
        assert ours.decode(posterior.mean).shape == image.shape
        video_of_it = ours.encode(torch.cat([image, video(9, 32, 32)[:, :, 1:]], dim=2), chunk_frames=None)
        assert video_of_it.mean.shape[2] == 3


def test_inputs_are_left_as_they_are(pair):
    """Without gradients, activations are in place; never on what was given."""
    ours, _ = pair
    x = video(9, 32, 32)
    latents = torch.randn(1, 16, 3, 4, 4)
    copies = x.clone(), latents.clone()
    with torch.inference_mode():
        ours.encode(x)
        ours.decode(latents)
    assert torch.equal(x, copies[0])
    assert torch.equal(latents, copies[1])


def test_scaling_goes_there_and_back(pair):
    ours, _ = pair
    latents = torch.randn(1, 16, 1, 4, 4)
    torch.testing.assert_close(ours.scaled(latents), 0.7 * latents)
    torch.testing.assert_close(ours.unscaled(ours.scaled(latents)), latents)


def test_posterior_samples_have_its_mean_and_deviation(pair):
    ours, _ = pair
    with torch.no_grad():
        posterior = ours.encode(video(1, 32, 32))
        drawn = torch.stack([posterior.sample(torch.Generator().manual_seed(i)) for i in range(400)])
    assert torch.equal(drawn[7], posterior.sample(torch.Generator().manual_seed(7)))
    deviation = torch.exp(0.5 * posterior.logvar)
    assert float(((drawn.mean(0) - posterior.mean) / deviation).abs().max()) < 0.25
    assert float((drawn.std(0) / deviation - 1).abs().max()) < 0.2


@given(st.integers(1, 400), st.sampled_from([8, 16, 24, None]))
@settings(deadline=None)
def test_chunks_cover_each_frame_once_in_order(n, size):
    frames = 8 * n + 1
    covered = [frame for piece in chunks(frames, size) for frame in range(frames)[piece]]
    assert covered == list(range(frames))
    lengths = [len(range(frames)[piece]) for piece in chunks(frames, size)]
    assert lengths[0] % 2 == 1  # only the first begins with a frame that stands for itself
    assert all(length == size for length in lengths[1:])


@given(st.integers(-3, 200))
def test_only_8n_plus_1_frames_are_taken(frames):
    if frames >= 1 and (frames - 1) % 8 == 0:
        check_frames(frames)
    else:
        with pytest.raises(ValueError, match=f"{frames} frames are not 8N\\+1.*Take \\d+ or \\d+"):
            check_frames(frames)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.encode(video(8, 32, 32)), "8 frames are not 8N.1: .* Take 1 or 9"),
        (lambda v: v.encode(video(13, 32, 32)), "Take 9 or 17"),
        (lambda v: v.encode(video(9, 36, 32)), "36x32 px; height and width have to be multiples of 8"),
        (lambda v: v.encode(torch.zeros(1, 9, 3, 32, 32)), r"takes \[batch, 3, frames, height, width\]"),
        (lambda v: v.encode(video(9, 32, 32), chunk_frames=12), "chunk_frames is 12; it has to be a multiple of 8"),
        (lambda v: v.decode(torch.zeros(1, 16, 2, 4, 4)), "2 latent frames come from no video of 8N"),
        (lambda v: v.decode(torch.zeros(1, 3, 16, 4, 4)), "transposed"),
        (lambda v: Tiling(100, 80), "a tile's height is 100 px"),
        (lambda v: Tiling(96, 80, overlap_width=0.6), "overlap_width is 0.6"),
    ],
)
def test_what_cannot_be_is_refused(pair, call, message):
    with pytest.raises(ValueError, match=message):
        call(pair[0])


@pytest.mark.parametrize("tiling", [Tiling(32, 32), Tiling(64, 40, 0.3, 0.25), Tiling(56, 72, 0, 0)], ids=str)
def test_tiles_of_any_size_put_everything_where_it_belongs(tiling):
    """A network that only averages (8x8 px to a latent) or repeats gives the same whole and in tiles."""
    from model.vae_tiling import in_tiles

    x = video(1, 128, 160)

    def shrink(y):
        return torch.nn.functional.avg_pool3d(y, (1, 8, 8))

    def grow(y):
        return torch.nn.functional.interpolate(y, scale_factor=(1.0, 8.0, 8.0))

    torch.testing.assert_close(in_tiles(x, shrink, tiling, given=8, made=1), shrink(x))
    small = shrink(x)
    torch.testing.assert_close(in_tiles(small, grow, tiling, given=1, made=8), grow(small))


def test_presets_have_the_published_size():
    with torch.device("meta"):
        sizes = {
            name: sum(parameter.numel() for parameter in CausalVAE.from_preset(name).parameters()) for name in PRESETS
        }
    assert round(sizes["cogvideox"] / 1e6, 1) == 215.6
    assert sizes["small"] * 2 < 20e6  # bytes of its file, in float16
    with pytest.raises(ValueError, match="no vae preset 'big'; there are cogvideox, small"):
        CausalVAE.from_preset("big")


def test_it_compiles_as_one_graph(pair):
    x = video(9, 32, 32)
    network = vae()
    compiled = torch.compile(network.encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network.encoder(x), atol=TOLERANCE, rtol=TOLERANCE)
    torch._dynamo.reset()


def test_training_forward_sees_the_whole_video():
    network = vae()
    x = video(9, 32, 32)
    reconstruction, posterior = network(x, torch.Generator().manual_seed(0))
    assert reconstruction.shape == x.shape
    whole = network.encode(x, chunk_frames=None)
    assert torch.equal(posterior.mean, whole.mean)


@pytest.mark.parametrize("frames", [1, 9])
def test_gradients_in_bfloat16_are_those_of_float32(frames):
    """On CPUs with AMX, kernels for single frames and flat kernels wrote NaN, or past their memory."""
    network = CausalVAE.from_preset("small").train()
    x = video(frames, 96, 96)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            made = network.decode(network.encode(x, chunk_frames=None).mean, chunk_frames=None)
        (made.float() - x).abs().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).clone())
        network.zero_grad()
    assert torch.isfinite(found[1]).all()
    assert torch.cosine_similarity(*found, dim=0) > 0.95
