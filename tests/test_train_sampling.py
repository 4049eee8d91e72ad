"""`rushes sample`: a checkpoint and a prompt make a file that plays; what cannot be made is refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import helpers_export
import helpers_shards
import numpy as np
import pytest
import torch
from helpers_curate import rushes
from helpers_export import CONFIG, TOKENS
from helpers_model import transformer
from rich.console import Console

from latents.text import TextConfig, TextEncoder
from latents.vae import VaeConfig, VideoEncoder
from model import lora
from model.diffusion import NoiseSchedule
from model.sample import noise_for, sample, to_video
from model.vae import SMALL, CausalVAE
from orchestration.config import from_settings
from orchestration.errors import ConfigError
from train.sampling import SampleConfig, sample_prompts

TINY = NoiseSchedule(snr_shift_scale=3.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    helpers_export.full(folder, step=2, seed=1)
    helpers_export.full(folder, step=4)
    return folder


def make(capsys, *prompts: str, **settings: object) -> str:
    """Sample in this process with two steps; what is said."""
    words = [f"{name}={value}" for name, value in {"steps": 2, "device": "cpu", **settings}.items()]
    sample_prompts(prompts or ("a red dog",), from_settings(SampleConfig, words, "test"), Console(width=200))
    return capsys.readouterr().out


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def expected(network, prompt: str, frames: int, schedule: NoiseSchedule = TINY) -> np.ndarray:
    """[T, H, W, 3] uint8, by the networks themselves, from seed 0 with two steps."""
    text = TextEncoder(TextConfig(max_tokens=TOKENS, device="cpu"))
    text.setup()
    (wanted, _), (nothing, _) = text.encode([prompt, ""])
    generator = torch.Generator().manual_seed(0)
    noise = noise_for(network, 1, frames, 32, 48, generator)
    latents = sample(network, schedule, noise, wanted[None], nothing[None], steps=2, generator=generator)
    video = to_video(CausalVAE.from_pretrained(SMALL), latents)[0]
    return video.mul(255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def test_the_command_makes_a_video_from_the_newest_checkpoint(run, tmp_path, capsys):
    out = tmp_path / "new" / "dog.mp4"
    said = rushes("sample", "a red dog", f"model={run}", f"out={out}", "steps=2", "device=cpu")
    assert "9 frames of 32x48 px, 8 a second" in said
    assert "Sampling done: 2 of 2 steps" in said
    made = pictures(out)
    assert made.shape == (9, 32, 48, 3)
    wanted = expected(transformer(CONFIG), "a red dog", 9)
    assert np.abs(made.astype(float) - wanted).mean() < 6  # H.264
    make(capsys, model=run, out=tmp_path / "again.mp4")
    assert (tmp_path / "again.mp4").read_bytes() == out.read_bytes()
    make(capsys, model=run, out=tmp_path / "other.mp4", seed=1)
    assert (tmp_path / "other.mp4").read_bytes() != out.read_bytes()


def test_an_image_is_the_networks_own_to_the_bit(run, tmp_path, capsys):
    make(capsys, model=run, out=tmp_path / "dog.png", frames=1)
    (found,) = pictures(tmp_path / "dog.png")
    np.testing.assert_allclose(found.astype(int), expected(transformer(CONFIG), "a red dog", 1)[0], atol=1)
    assert found.std() > 5
    first = run / "checkpoints" / "step-00000002"
    make(capsys, model=first, out=tmp_path / "first.png", frames=1)
    (before,) = pictures(tmp_path / "first.png")
    np.testing.assert_allclose(before.astype(int), expected(transformer(CONFIG, 1), "a red dog", 1)[0], atol=1)
    assert not np.array_equal(before, found)


def test_a_gif_of_another_size_and_rate(run, tmp_path, capsys):
    said = make(capsys, model=run, out=tmp_path / "dog.gif", height=48, width=32, frames=17, fps=10, sampler="ddim")
    assert "17 frames of 48x32 px, 10 a second" in said
    assert pictures(tmp_path / "dog.gif").shape == (17, 48, 32, 3)
    with av.open(str(tmp_path / "dog.gif")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(10)


def test_the_rate_is_that_of_the_data_set(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    helpers_shards.make(tmp_path / "data")
    (tmp_path / "run" / "config.yaml").write_text(f"dataset: {tmp_path / 'data'}\nset: null\n")
    assert "23.976 a second" in make(capsys, model=tmp_path / "run", out=tmp_path / "dog.mp4")
    with av.open(str(tmp_path / "dog.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(23.976, abs=1e-3)


def test_each_of_several_prompts_is_as_it_is_alone(run, tmp_path, capsys):
    make(capsys, "a cat", "a red dog", model=run, out=tmp_path / "both.png", frames=1)
    make(capsys, "a red dog", model=run, out=tmp_path / "dog.png", frames=1)
    assert (tmp_path / "both-2.png").read_bytes() == (tmp_path / "dog.png").read_bytes()
    assert (tmp_path / "both-1.png").read_bytes() != (tmp_path / "dog.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_guidance_and_the_negative_prompt_count(run, tmp_path, capsys):
    given: list[dict[str, object]] = [{}, {"guidance": 1}, {"guidance": 1, "negative": "rain"}, {"negative": "rain"}]
    for number, settings in enumerate([*given, {"dynamic": "true"}]):
        make(capsys, model=run, out=tmp_path / f"{number}.png", frames=1, **settings)
    made = [(tmp_path / f"{number}.png").read_bytes() for number in range(5)]
    assert made[1] == made[2]
    assert len(set(made)) == 4


@pytest.mark.parametrize("base", ["pipeline", "checkpoint"])
def test_adapters_are_sampled_on_the_weights_that_they_were_trained_on(base, tmp_path, capsys):
    pipeline = helpers_export.pipeline(tmp_path / "pipeline")
    before = helpers_export.full(tmp_path / "full", model=str(pipeline))
    checkpoint = helpers_export.adapters(tmp_path / "run", pipeline if base == "pipeline" else before)
    make(capsys, model=tmp_path / "run", out=tmp_path / "dog.png", frames=1)
    network = transformer(CONFIG)
    lora.load(network, checkpoint / "lora")
    lora.merge(network)
    (found,) = pictures(tmp_path / "dog.png")
    wanted = expected(network, "a red dog", 1, NoiseSchedule.from_pretrained(pipeline))[0]
    np.testing.assert_allclose(found.astype(int), wanted, atol=1)
    bare = expected(transformer(CONFIG), "a red dog", 1, NoiseSchedule.from_pretrained(pipeline))[0]
    assert np.abs(wanted.astype(int) - bare).max() > 10
    make(capsys, model=tmp_path / "run", out=tmp_path / "without.png", frames=1, strength=0)
    np.testing.assert_allclose(pictures(tmp_path / "without.png")[0].astype(int), bare, atol=1)
    make(capsys, model=tmp_path / "run", out=tmp_path / "half.png", frames=1, strength=0.5)
    (half,) = pictures(tmp_path / "half.png")
    assert np.abs(half.astype(int) - bare).max() > 3
    assert np.abs(half.astype(int) - found).max() > 3


def test_a_prompt_that_was_cut_is_named(run, tmp_path, capsys):
    long = "a red dog in the grass " * 5
    assert f"more than {TOKENS} tokens and was cut: a red dog in" in make(
        capsys, long, model=run, out=tmp_path / "dog.png", frames=1
    )


def test_a_damaged_checkpoint_is_passed_over_or_refused(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "step-00000004"
    with next((last / "transformer").glob("*.safetensors")).open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\xff" * 8)
    said = make(capsys, model=tmp_path / "run", out=tmp_path / "dog.png", frames=1)
    assert "step-00000004 is passed over" in said
    make(capsys, model=run / "checkpoints" / "step-00000002", out=tmp_path / "two.png", frames=1)
    assert (tmp_path / "dog.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with pytest.raises(ConfigError, match=r"is not a whole checkpoint: .* is damaged"):
        make(capsys, model=last)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "dog.avi"}, r"the ending says the format, one of \.mp4, \.gif, \.png"),
        ({"out": "dog.png"}, "a png holds one frame, and there are 9"),
        ({"frames": 10}, "10 frames are not 8N"),
        ({"height": 40}, "40x48 px; height and width have to be multiples of 16"),
        ({"steps": 1001}, "1001 steps; there are 1 to 1000"),
        ({"strength": 0.5}, "strength: .* has no adapters"),
        ({"step": 3}, "unknown key 'step', did you mean 'steps'"),
        ({"vae": "/nowhere/vae"}, "vae: cannot use /nowhere/vae as VAE"),
        ({"model": "/nowhere/run"}, "neither a training's folder, nor a checkpoint, nor a CogVideoX pipeline"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_made_is_refused(settings, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make(capsys, **{"model": run, **settings})
    assert not list(tmp_path.iterdir())


def test_encoders_that_are_others_or_not_known_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = helpers_export.encoder()
    other = {**known, "vae": {**known["vae"], "weights": "0" * 64}}
    helpers_export.full(tmp_path / "other", encoders=other)
    with pytest.raises(ConfigError, match=r"has other weights than small#\w+, which encoded the data set.* vae=FOLDER"):
        make(capsys, model="other")
    said = make(capsys, model="other", vae=SMALL, out="dog.png", frames=1)  # the user's own word counts
    assert "has other weights than small#" in said
    assert Path("dog.png").is_file()
    helpers_export.full(tmp_path / "mine", encoders={**known, "vae": {**known["vae"], "model": "mine#0123"}})
    with pytest.raises(ConfigError, match="was encoded with mine#0123, a folder of that name: say where it is, vae"):
        make(capsys, model="mine")
    with pytest.raises(ConfigError, match="text: cannot use /nowhere as text encoder"):
        make(capsys, model="other", vae=SMALL, text="/nowhere")
    scaled = {**known, "vae": {**known["vae"], "scaling_factor": 0.7}}
    helpers_export.full(tmp_path / "scaled", encoders=scaled)
    with pytest.raises(ConfigError, match=r"has a scaling_factor of \d\.\d+, the transformer was made for 0\.7"):
        make(capsys, model="scaled")


def test_encoders_of_the_pipeline_that_was_trained_on_are_found_again(tmp_path, capsys):
    base = helpers_export.t5(helpers_export.pipeline(tmp_path / "base"))
    vae = VideoEncoder(VaeConfig(model=str(base))).facts
    encoders = {"vae": vae, "text": helpers_export.encoder(str(base))["text"]}
    assert all(one["model"].startswith("base#") for one in encoders.values())
    helpers_export.full(tmp_path / "run", encoders=encoders, model=str(base))
    make(capsys, model=tmp_path / "run", out=tmp_path / "dog.png", frames=1)
    make(capsys, model=tmp_path / "run", out=tmp_path / "cat.png", frames=1, text="minilm")
    assert (tmp_path / "dog.png").read_bytes() != (tmp_path / "cat.png").read_bytes()


def test_what_is_no_checkpoint_yet_is_refused(run, tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"has no whole checkpoint; rushes train saves one every checkpoint\.every"):
        make(capsys, model=tmp_path / "run")
    (tmp_path / "step-00000001").mkdir()
    with pytest.raises(ConfigError, match=r"not a whole checkpoint: COMPLETE\.json is missing"):
        make(capsys, model=tmp_path / "step-00000001")
    from train import checkpoints

    def write(folder: Path) -> None:
        (folder / "state").write_text("DeepSpeed's")

    old = checkpoints.save(tmp_path / "old" / "checkpoints", 3, helpers_export.facts(), write)
    with pytest.raises(ConfigError, match="has neither transformer/ nor lora/: an earlier version"):
        make(capsys, model=old.folder)
    assert 'which prompt? rushes sample "a rabbit' in rushes("sample", f"model={run}", code=2)
