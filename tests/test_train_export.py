"""`rushes export`: what diffusers' own pipeline and ComfyUI's rule make of it is what rushes samples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import helpers_export
import helpers_train
import pytest
import torch
import yaml
from helpers_curate import rushes
from helpers_export import CONFIG, TOKENS
from helpers_model import transformer
from rich.console import Console
from safetensors.torch import load_file

from latents.text import TextConfig, TextEncoder
from model import lora
from model.diffusion import NoiseSchedule
from model.sample import noise_for, sample
from model.transformer import ExpertTransformer
from orchestration.config import from_settings
from orchestration.errors import ConfigError, RushesError
from train.export import ExportConfig, export
from train.sampling import SampleConfig, sample_prompts

TOLERANCE = 1e-5  # float32
OPTIONS = {"num_inference_steps": 2, "num_frames": 9, "height": 32, "width": 48, "guidance_scale": 6.0}
ALL = (*lora.TARGETS, "ff.net.0.proj", "ff.net.2", "norm1.linear", "time_embedding.linear_1", "proj_out")


def run_export(model: Path, output: Path, *settings: str) -> None:
    export(str(model), str(output), from_settings(ExportConfig, settings, "test"), Console(quiet=True))


def load(folder: Path, **given):
    from diffusers import CogVideoXPipeline

    pipeline = CogVideoXPipeline.from_pretrained(folder, **given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline, *prompt: str, **given) -> torch.Tensor:
    """Latents of diffusers' pipeline."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        return pipeline(*prompt, generator=generator, output_type="latent", **OPTIONS, **given).frames


def ours(network: ExpertTransformer, schedule: NoiseSchedule, text: torch.Tensor, negative: torch.Tensor):
    """Latents, from the same seed."""
    generator = torch.Generator().manual_seed(3)
    noise = noise_for(network, 1, 9, 32, 48, generator)
    return sample(network, schedule, noise, text, negative, steps=2, generator=generator)


def embeddings(model: str, *prompts: str) -> list[torch.Tensor]:
    """[1, L, E] each."""
    encoder = TextEncoder(TextConfig(model=model, max_tokens=TOKENS, device="cpu"))
    encoder.setup()
    return [found[None] for found, _ in encoder.encode(prompts)]


def follow_readme(folder: Path, more: str = "") -> None:
    """Run the code of an export's README as a user would, with two steps."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = code.replace("num_frames=9", "num_inference_steps=2, num_frames=9").replace('"a prompt"', '"a red dog"')
    code = f"from curation.scorers.runtime import allow_torchvision; allow_torchvision()\n{code}{more}"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=200)
    assert (folder / "video.mp4").stat().st_size > 500


def image(model: Path, out: Path, **settings: object) -> bytes:
    words = [f"{name}={value}" for name, value in {"model": model, "out": out, **settings}.items()]
    config = from_settings(SampleConfig, [*words, "steps=2", "frames=1", "device=cpu"], "test")
    sample_prompts(["a red dog"], config, Console(quiet=True))
    return out.read_bytes()


def test_a_pipeline_with_t5_samples_as_rushes_does(tmp_path):
    t5 = helpers_export.t5(tmp_path / "t5")
    helpers_export.full(tmp_path / "run", encoders=helpers_export.encoder(str(t5)))
    with pytest.raises(ConfigError, match=r"was encoded with t5#\w+, a folder of that name: say where it is, text=FOL"):
        run_export(tmp_path / "run", tmp_path / "made")
    said = rushes("export", tmp_path / "run", tmp_path / "made", f"text={t5}")
    assert "a pipeline for diffusers, of step 4" in said
    pipeline = load(tmp_path / "made")
    found = theirs(pipeline, "a red dog", max_sequence_length=TOKENS)
    wanted = ours(transformer(CONFIG), NoiseSchedule(), *embeddings(str(t5), "a red dog", ""))
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert pipeline("a red dog", max_sequence_length=TOKENS, **OPTIONS).frames[0][0].size == (48, 32)
    assert type(pipeline.scheduler).__name__ == "CogVideoXDPMScheduler"
    follow_readme(tmp_path / "made")
    run_export(tmp_path / "run", tmp_path / "made", f"text={t5}", "sampler=ddim")  # an earlier export may be replaced
    assert type(load(tmp_path / "made").scheduler).__name__ == "CogVideoXDDIMScheduler"


def test_a_pipeline_with_minilm_samples_as_its_readme_says(tmp_path):
    helpers_export.full(tmp_path / "run")
    run_export(tmp_path / "run", tmp_path / "made")
    text, negative = embeddings("minilm", "a red dog", "")
    pipeline = load(tmp_path / "made")
    found = theirs(pipeline, prompt_embeds=text, negative_prompt_embeds=negative)
    wanted = ours(transformer(CONFIG), NoiseSchedule(), text, negative)
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    plain = theirs(pipeline, "a red dog", max_sequence_length=TOKENS)  # runs, with other embeddings: as the README says
    assert not torch.allclose(plain, wanted, atol=1e-3)

    follow_readme(tmp_path / "made", more="torch.save(prompts, 'prompts.pt')")
    prompts = torch.load(tmp_path / "made" / "prompts.pt", weights_only=True)
    torch.testing.assert_close(prompts["prompt_embeds"], text, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(prompts["negative_prompt_embeds"], negative, atol=TOLERANCE, rtol=TOLERANCE)


def test_an_exported_pipeline_is_sampled_like_its_checkpoint(tmp_path):
    helpers_export.full(tmp_path / "run")
    run_export(tmp_path / "run", tmp_path / "made")
    assert image(tmp_path / "made", tmp_path / "one.png") == image(tmp_path / "run", tmp_path / "two.png")
    kept = json.loads((tmp_path / "made" / "rushes.json").read_text())
    assert (kept["step"], kept["training"]["model"]) == (4, "tiny")
    with pytest.raises(ConfigError, match="is no checkpoint but a pipeline"):
        run_export(tmp_path / "made", tmp_path / "again")


def test_adapters_load_in_diffusers_with_their_alpha(tmp_path):
    base = helpers_export.pipeline(tmp_path / "base")
    helpers_export.adapters(tmp_path / "run", base, rank=4, alpha=2.0)
    said = rushes("export", tmp_path / "run", tmp_path / "dog")
    assert "adapters for diffusers and for ComfyUI, of step 4" in said
    text, negative = embeddings("minilm", "a red dog", "")
    prompts = {"prompt_embeds": text, "negative_prompt_embeds": negative}
    pipeline = load(base, text_encoder=None, tokenizer=None)
    bare = theirs(pipeline, **prompts)
    pipeline.load_lora_weights(tmp_path / "dog")
    found = theirs(pipeline, **prompts)
    network = transformer(CONFIG)
    lora.load(network, tmp_path / "run" / "checkpoints" / "step-00000004" / "lora")
    wanted = ours(network, NoiseSchedule(snr_shift_scale=1.0), text, negative)
    assert (found - bare).abs().max() > 0.05
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)

    run_export(tmp_path / "run", tmp_path / "merged", "merge=true")
    merged = theirs(load(tmp_path / "merged"), **prompts)
    torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4)


def native(name: str) -> str:
    """The layer that ComfyUI's network has for one of ours: its blocks are flat."""
    for theirs, its in (
        ("transformer_blocks.", "blocks."),
        (".attn1.to_out.0", ".attn_out"),
        (".attn1.to_", "."),
        (".ff.net.0.proj", ".ff_proj"),
        (".ff.net.2", ".ff_out"),
        ("time_embedding.linear_", "time_embedding_linear_"),
    ):
        name = name.replace(theirs, its)
    return f"diffusion_model.{name}"


def test_comfyui_adds_the_same_to_its_weights(tmp_path):
    base = helpers_export.pipeline(tmp_path / "base")
    helpers_export.adapters(tmp_path / "run", base, rank=4, alpha=2.0, targets=ALL)
    run_export(tmp_path / "run", tmp_path / "dog")
    state = load_file(tmp_path / "dog" / "comfyui" / "dog.safetensors")
    assert "diffusion_model.blocks.1.q.lora_up.weight" in state
    assert "diffusion_model.blocks.0.attn_out.lora_down.weight" in state
    assert state["diffusion_model.blocks.0.ff_proj.alpha"] == 2.0

    before, network = transformer(CONFIG).state_dict(), transformer(CONFIG)
    lora.load(network, tmp_path / "dog")
    lora.merge(network)
    changed = 0
    for name, after in network.state_dict().items():
        layer = native(name.removesuffix(".weight"))
        if f"{layer}.lora_up.weight" not in state:
            assert torch.equal(after, before[name])
            continue
        up, down, alpha = (state.pop(f"{layer}.{part}") for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        delta = alpha.item() / down.shape[0] * torch.mm(up, down)  # comfy/weight_adapter/lora.py
        assert delta.abs().max() > 1e-3
        torch.testing.assert_close(before[name] + delta, after, atol=TOLERANCE, rtol=TOLERANCE)
        changed += 1
    assert changed == 2 * 7 + 2
    assert not state


@pytest.mark.slow
def test_a_real_training_is_sampled_exported_and_adapted(tmp_path):
    helpers_train.make(tmp_path / "data")
    given = {
        "dataset": str(tmp_path / "data"),
        "output": str(tmp_path / "run"),
        "stages": [{"steps": 2, "batch": 2, "lr": 1e-3, "sample_size": [9, 32, 48]}],
        "dtype": "float32",
        "threads": 1,
    }
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(given))
    rushes("train", tmp_path / "full.yaml")
    rushes("export", tmp_path / "run", tmp_path / "made")
    assert image(tmp_path / "run", tmp_path / "one.png") == image(tmp_path / "made", tmp_path / "two.png")
    follow_readme(tmp_path / "made")

    given |= {"output": str(tmp_path / "adapted"), "model": str(tmp_path / "made"), "lora": {"rank": 4, "alpha": 2.0}}
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(given))
    rushes("train", tmp_path / "lora.yaml")
    rushes("export", tmp_path / "adapted", tmp_path / "dog")
    follow_readme(tmp_path / "dog")
    rushes("export", tmp_path / "adapted", tmp_path / "merged", "merge=true")
    assert image(tmp_path / "adapted", tmp_path / "3.png") == image(tmp_path / "merged", tmp_path / "4.png")
    assert image(tmp_path / "adapted", tmp_path / "3.png") != image(tmp_path / "made", tmp_path / "two.png")


def test_a_pipeline_without_its_text_encoder(tmp_path):
    helpers_export.full(tmp_path / "run")
    run_export(tmp_path / "run", tmp_path / "made", "text=none")
    assert not (tmp_path / "made" / "tokenizer").exists()
    text, negative = embeddings("minilm", "a red dog", "")
    pipeline = load(tmp_path / "made", text_encoder=None, tokenizer=None)
    found = theirs(pipeline, prompt_embeds=text, negative_prompt_embeds=negative)
    wanted = ours(transformer(CONFIG), NoiseSchedule(), text, negative)
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)


def test_what_is_no_export_stays_and_what_fails_leaves_nothing(tmp_path):
    helpers_export.full(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there and no export of rushes: give another folder"):
        run_export(tmp_path / "run", tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"notes\.txt is a file: give a folder"):
        run_export(tmp_path / "run", tmp_path / "mine" / "notes.txt")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="vae: cannot use /nowhere as VAE"):
        run_export(tmp_path / "run", tmp_path / "made", "vae=/nowhere")
    with pytest.raises(ConfigError, match="has no adapters; leave it out"):
        run_export(tmp_path / "run", tmp_path / "made", "merge=true")
    with pytest.raises(ConfigError, match="neither a training's folder, nor a checkpoint"):
        run_export(tmp_path / "nothing", tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "mine"}


def test_adapters_whose_base_is_gone_or_random_are_refused(tmp_path):
    base = helpers_export.pipeline(tmp_path / "base")
    helpers_export.adapters(tmp_path / "run", base)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"no folder {re.escape(str(base))}"):
        run_export(tmp_path / "run", tmp_path / "made")
    helpers_export.adapters(tmp_path / "random", Path("tiny"))
    with pytest.raises(ConfigError, match="has adapters of random weights"):
        run_export(tmp_path / "random", tmp_path / "made")
    with pytest.raises(RushesError, match="of another transformer"):
        run_export(tmp_path / "random", tmp_path / "made", "merge=true")
    assert not (tmp_path / "made").exists()
    assert not list(tmp_path.glob(".exporting-*"))
