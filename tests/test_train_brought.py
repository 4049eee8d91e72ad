"""`make train INPUT=...`: clips with captions in, an adapted CogVideoX out; what cannot be is said before any work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import helpers_media
import pytest
import torch
from helpers_model import ROPE, transformer
from safetensors import safe_open

from model.diffusion import NoiseSchedule
from model.pretrained import save_pipeline
from model.vae import SMALL, CausalVAE
from orchestration.errors import ConfigError
from train.brought import check

ROOT = Path(__file__).parents[1]
LATENTS, CONFIG = ROOT / "configs" / "latents-lora.yaml", ROOT / "configs" / "train-lora.yaml"
WORDS = {"bikes": "a street with bikes", "rabbit": "a rabbit", "phone": "zwk man talks"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CogVideoX folder: a small transformer and T5 of random weights, the VAE that comes with rushes."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("model") / "cog video"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("▁man", -3.1)]
    torch.manual_seed(0)
    t5 = T5Config(vocab_size=8, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    save_pipeline(
        folder,
        transformer(replace(ROPE, max_text_seq_length=226)),
        CausalVAE.from_pretrained(SMALL),
        NoiseSchedule(),
        text_encoder=T5EncoderModel(t5),
        tokenizer=T5Tokenizer(vocab=pieces, extra_ids=0),
    )
    return folder


@pytest.fixture(scope="module")
def clips(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of a second with captions, one without a caption, and a caption without a clip."""
    folder = tmp_path_factory.mktemp("own") / "my clips"
    folder.mkdir()
    names = {"bikes": "bikes", "rabbit": "bigbuckbunny", "phone": "carphone_pristine", "mute": "carphone_distorted"}
    for name, source in names.items():
        video = samples / f"{source}.mp4"
        helpers_media.make_video(folder / f"{name}.mp4", video, frames=32, size=(192, 128))
        if name in WORDS:
            (folder / f"{name}.txt").write_text(WORDS[name])
    (folder / "gone.txt").write_text("a clip that is not here")
    return folder


def make(clips: Path, output: Path, model: Path | str, *arguments: str, code: int = 0) -> str:
    given = [f"INPUT={clips}", f"OUTPUT={output}", f"MODEL={model}", *arguments]
    fresh = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "TEXT", "CONFIG")}
    done = subprocess.run(
        ["make", "--no-print-directory", "train", *given],
        cwd=ROOT,
        env={**fresh, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_clips_with_captions_become_a_lora_in_one_command(clips, pipeline, tmp_path) -> None:
    output, short = tmp_path / "my lora", "stages.0.steps=3 dtype=float32 threads=1 lora.rank=4"
    said = make(clips, output, pipeline, f"ARGS={short}")
    assert "captions without a clip: 1" in said
    assert "gone.txt: 'gone': no such video" in said
    assert "clips without a caption: 1" in said
    assert "mute.mp4" in said
    assert "3 samples of 4 clips" in said  # with two words for a caption, too

    (checkpoint,) = (output / "train" / "checkpoints").glob("step-*")
    complete = json.loads((checkpoint / "COMPLETE.json").read_text())
    assert complete["step"] == 3
    assert complete["facts"]["config"]["model"] == str(pipeline)
    with safe_open(checkpoint / "lora" / "pytorch_lora_weights.safetensors", "pt") as file:
        learnt = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ups = [tensor for name, tensor in learnt.items() if name.endswith("lora_B.weight")]
    assert len(ups) == ROPE.num_layers * 4
    assert all(tensor.abs().max() > 0 for tensor in ups)  # they begin as zeros

    again = make(clips, output, pipeline, f"ARGS={short}")
    assert "0 of 4 clips are to be captioned" in again
    assert "0 to encode" in again
    assert "all 3 steps are done" in again

    # All weights in place of adapters, from the same latents.
    whole = tmp_path / "whole"
    make(clips, output, pipeline, f"ARGS={short.replace('lora.rank=4', 'lora=null')} output={whole}")
    (checkpoint,) = (whole / "checkpoints").glob("step-*")
    assert (checkpoint / "transformer" / "diffusion_pytorch_model.safetensors").is_file()


def test_what_cannot_be_is_refused_before_any_work(clips, pipeline, tmp_path) -> None:
    def refused(message: str, source: Path | str = clips, text: Path | str = pipeline, **settings: Path | str) -> None:
        given = {"dataset": tmp_path / "out", "output": tmp_path / "out" / "train", "model": pipeline, **settings}
        with pytest.raises(ConfigError) as caught:
            check(str(source), str(text), LATENTS, CONFIG, [f"{name}={value}" for name, value in given.items()])
        assert message in str(caught.value)

    check(str(clips), str(pipeline), LATENTS, CONFIG, [f"model={pipeline}"])

    refused("nowhere", source=tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    refused("no videos there; found no file", source=tmp_path / "bare")
    shutil.copy(clips / "bikes.mp4", tmp_path / "bare")
    refused("put name.txt beside name.mp4", source=tmp_path / "bare")

    refused("no folder /nowhere", model="/nowhere")
    refused("MODEL=tiny has random weights", model="tiny")
    parts = tmp_path / "parts"
    shutil.copytree(pipeline, parts, symlinks=True)
    shutil.rmtree(parts / "vae")
    refused("without the folder vae/", model=parts)
    refused("cannot use minilm-of-mine as text encoder", text="minilm-of-mine")
    refused("did you mean 'steps'", **{"stages.0.step": "3"})
    refused("checkpoints need a local folder", output="s3://bucket/train", dataset="s3://bucket")
    assert not (tmp_path / "out").exists()


def test_a_text_encoder_of_another_width_is_refused(clips, pipeline, tmp_path) -> None:
    from transformers import T5Config, T5EncoderModel

    other = tmp_path / "other"
    T5EncoderModel(T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        other
    )
    with pytest.raises(ConfigError, match="its embeddings are 16 wide"):
        check(str(clips), str(other), LATENTS, CONFIG, [f"model={pipeline}"])


def test_make_ends_with_what_is_wrong(clips, tmp_path) -> None:
    said = make(clips, tmp_path / "out", "nobody/no-such-model", code=2)
    assert "error: MODEL=nobody/no-such-model: no folder nobody/no-such-model, and the hub did not give it" in said
    assert not (tmp_path / "out").exists()
