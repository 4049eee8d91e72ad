"""Folders: ours in diffusers, diffusers' in ours, and the ones that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_model import ROPE, SINCOS, TOLERANCE, VAE, diffusers_transformer, inputs, randomise, transformer, vae
from safetensors.torch import load_file, save_file

from model.diffusion import NoiseSchedule
from model.pretrained import save_pipeline
from model.sample import noise_for, sample, to_video
from model.transformer import ExpertTransformer
from model.vae import CausalVAE

# What THUDM/CogVideoX-2b's transformer says of itself.
PUBLISHED_2B = {
    "_class_name": "CogVideoXTransformer3DModel",
    "_diffusers_version": "0.30.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 16,
    "max_text_seq_length": 226,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-05,
    "num_attention_heads": 30,
    "num_layers": 30,
    "out_channels": 16,
    "patch_size": 2,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "spatial_interpolation_scale": 1.875,
    "temporal_compression_ratio": 4,
    "temporal_interpolation_scale": 1.0,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "timestep_activation_fn": "silu",
    "use_rotary_positional_embeddings": False,
}


def text_encoder():
    """A T5 and its tokenizer, of random weights."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    words = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁dog", "▁red", "s", "t"]
    tokenizer = T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)
    config = T5Config(vocab_size=len(words) + 1, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return randomise(T5EncoderModel(config)).eval(), tokenizer


def write_pipeline(folder: Path, config, sampler: str) -> None:
    encoder, tokenizer = text_encoder()
    save_pipeline(
        folder,
        transformer(config),
        vae(),
        NoiseSchedule(),
        sampler,
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("config", [SINCOS, ROPE], ids=["sincos", "rope"])
@pytest.mark.parametrize("writer", ["ours", "diffusers"])
def test_a_folder_samples_the_same_here_and_in_diffusers(writer, config, sampler, tmp_path):
    from diffusers import CogVideoXPipeline

    folder = tmp_path / "ours"
    write_pipeline(folder, config, sampler)
    pipeline = CogVideoXPipeline.from_pretrained(folder)
    if writer == "diffusers":
        folder = tmp_path / "theirs"
        pipeline.save_pretrained(folder, max_shard_size="100KB")
        assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    network, decoder = ExpertTransformer.from_pretrained(folder), CausalVAE.from_pretrained(folder)
    schedule = NoiseSchedule.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)

    noise = noise_for(network, 1, 9, 64, 48, torch.Generator().manual_seed(5))
    text, negative = pipeline.encode_prompt("a red dog", "", max_sequence_length=7)
    options = {"num_inference_steps": 4, "guidance_scale": 5.0, "num_frames": 9, "height": 64, "width": 48}
    with torch.no_grad():
        wanted = pipeline(
            "a red dog",
            latents=noise.clone(),
            generator=torch.Generator().manual_seed(9),
            output_type="pt",
            max_sequence_length=7,
            **options,
        ).frames
    latents = sample(
        network,
        schedule,
        noise,
        text,
        negative,
        steps=4,
        guidance=5.0,
        sampler=sampler,
        generator=torch.Generator().manual_seed(9),
    )
    found = to_video(decoder, latents).transpose(1, 2)  # [B, T, 3, H, W]
    assert found.shape == wanted.shape
    assert float(wanted.std()) > 0.02
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)


def test_saving_and_loading_keeps_every_bit(tmp_path):
    for network, folder in ((transformer(), tmp_path / "transformer"), (vae(), tmp_path / "vae")):
        network.save_pretrained(folder)
        again = type(network).from_pretrained(folder)
        assert again.config == network.config
        assert not again.training
        state = again.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_saving_over_shards_leaves_none(tmp_path):
    network = transformer()
    network.save_pretrained(tmp_path, max_shard_size="50KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors*"))
    assert len(shards) > 2
    assert "diffusion_pytorch_model.safetensors.index.json" in shards
    given = inputs(ROPE, 3, 6, 8)
    torch.testing.assert_close(ExpertTransformer.from_pretrained(tmp_path)(*given), network(*given))
    network.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["diffusion_pytorch_model.safetensors"]


def test_weights_load_in_the_type_asked_for(tmp_path):
    transformer().save_pretrained(tmp_path)
    loaded = ExpertTransformer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_the_published_config_is_the_2b_preset(tmp_path):
    from model.transformer import PRESETS

    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_2B))
    assert ExpertTransformer.read_config(tmp_path) == PRESETS["2b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size_t": 2, "patch_bias": False}, "is of CogVideoX 1.5"),
        ({"ofs_embed_dim": 512}, "ofs_embed_dim is 512; rushes has only None"),
        ({"in_channels": 32}, r"image-to-video or controlled CogVideoX \(32 channels in, 16 out\)"),
        ({"in_channels": 33}, r"image-to-video or controlled CogVideoX \(33 channels in, 16 out\)"),
        ({"num_layers": "2"}, "num_layers is '2', no int"),
        ({"quantization_config": {}}, "is of quantised weights"),
        ({"use_learned_positional_embeddings": True}, "image-to-video"),
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu'; rushes has only 'gelu-approximate'"),
        ({"novelty": 3}, "novelty is 3; rushes does not know it"),
        ({"_class_name": "LTXVideoTransformer3DModel"}, "is of LTXVideoTransformer3DModel, not of CogVideoX"),
        ({"num_layers": 3}, "missing transformer_blocks.2.*and \\d+ more"),
        ({"text_embed_dim": 25}, "text_proj.weight is \\[64, 24\\], not \\[64, 25\\]"),
    ],
    ids=str,
)
def test_folders_of_other_transformers_are_refused_by_name(change, message, tmp_path):
    transformer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        ExpertTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"invert_scale_latents": True}, "invert_scale_latents is True; rushes has only False"),
        ({"block_out_channels": [8, 16, 32]}, "3 levels of channels; rushes compresses 4x8x8 only"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "rushes has CogVideoXDownBlock3D only"),
        ({"_class_name": "AutoencoderKL"}, "is of AutoencoderKL, not of AutoencoderKLCogVideoX"),
    ],
    ids=str,
)
def test_folders_of_other_vaes_are_refused_by_name(change, message, tmp_path):
    vae(VAE).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        CausalVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("CogVideoXImageToVideoPipeline", "is image-to-video CogVideoX"),
        ("CogVideoXFunControlPipeline", "is controlled CogVideoX"),
        ("WanPipeline", "is WanPipeline; rushes reads CogVideoX 1.0"),
    ],
)
def test_other_pipelines_are_refused_by_name(kind, message, tmp_path):
    transformer().save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ValueError, match=message):
        ExpertTransformer.from_pretrained(tmp_path)


def test_other_schedules_are_refused(tmp_path):
    NoiseSchedule().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestep_spacing": "leading"}))
    with pytest.raises(ValueError, match="timestep_spacing is 'leading'; rushes has only 'trailing'"):
        NoiseSchedule.from_pretrained(tmp_path)


def test_what_a_schedule_leaves_out_is_what_diffusers_takes(tmp_path):
    """Its defaults are another process than the released models', and are refused, not guessed."""
    NoiseSchedule().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    for key, message in (("prediction_type", "prediction_type epsilon cannot"), ("clip_sample", "clip_sample is True")):
        kept = {name: value for name, value in json.loads(path.read_text()).items() if name != key}
        (folder := tmp_path / key).mkdir()
        (folder / path.name).write_text(json.dumps(kept))
        with pytest.raises(ValueError, match=message):
            NoiseSchedule.from_pretrained(folder)


def test_saving_that_fails_leaves_what_was_there(tmp_path):
    network = transformer()
    network.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"the user's")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the library says
        transformer(seed=1).save_pretrained(tmp_path, max_shard_size="much")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    network.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)


def test_loaded_weights_do_not_change_with_their_file(tmp_path):
    transformer().save_pretrained(tmp_path)
    loaded = ExpertTransformer.from_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    wanted = transformer().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())


def test_a_16_bit_transformer_samples_from_the_default_noise():
    network = transformer().bfloat16()
    noise = noise_for(network, 2, 9, 64, 48, torch.Generator().manual_seed(0))
    text, negative = torch.randn(2, 7, 24), torch.zeros(1, 7, 24)
    latents = sample(network, NoiseSchedule(), noise, text, negative, steps=2)
    assert latents.dtype == torch.float32
    assert bool(latents.isfinite().all())
    frames = to_video(vae().bfloat16(), latents[:1])
    assert frames.shape == (1, 3, 9, 64, 48)
    (network(latents.bfloat16(), text.bfloat16(), torch.zeros(2))).sum().backward()  # no inference tensors
    with pytest.raises(ValueError, match=r"negative has shape \[1, 5, 24\], text \[2, 7, 24\]"):
        sample(network, NoiseSchedule(), noise, text, negative[:, :5])


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder /nowhere/at-all"):
        ExpertTransformer.from_pretrained("/nowhere/at-all")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        ExpertTransformer.from_pretrained(tmp_path)
    transformer().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is damaged"):
        ExpertTransformer.from_pretrained(tmp_path)
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"it has diffusion_pytorch_model\.bin.*safetensors only"):
        ExpertTransformer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        ExpertTransformer.from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    transformer().save_pretrained(tmp_path, max_shard_size="50KB")
    (lost := sorted(tmp_path.glob("*-of-*"))[1]).unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        ExpertTransformer.from_pretrained(tmp_path)


def test_an_index_cannot_point_out_of_its_folder(tmp_path):
    folder = tmp_path / "inside"
    transformer().save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights), tmp_path / "outside.safetensors")
    weights.unlink()
    index = {"weight_map": dict.fromkeys(transformer().state_dict(), "../outside.safetensors")}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"lacks outside\.safetensors"):
        ExpertTransformer.from_pretrained(folder)


def test_a_name_that_is_no_folder_is_looked_up_on_the_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no folder nobody/nothing, and the hub did not give it"):
        ExpertTransformer.from_pretrained("nobody/nothing")


def test_diffusers_reads_what_it_reads_from_its_own(tmp_path):
    """Nothing in our config.json is left to diffusers' defaults."""
    theirs = diffusers_transformer(transformer(), tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    ours, saved = (
        {
            key: value
            for key, value in json.loads((tmp_path / name / "config.json").read_text()).items()
            if not key.startswith("_")
        }
        for name in ("ours", "theirs")
    )
    assert ours == saved
