"""A checkpoint as `rushes train` saves it, of small random weights, with the encoders that come with rushes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from helpers_model import ROPE, randomise, transformer

from latents.text import TextConfig, TextEncoder
from latents.vae import VaeConfig, VideoEncoder
from model import lora
from model.diffusion import NoiseSchedule
from model.pretrained import save_pipeline
from model.vae import SMALL, CausalVAE
from train import checkpoints
from train.config import LoraConfig, TrainConfig
from train.weights import write_weights

TOKENS = 8  # as helpers_train's texts
CONFIG = replace(ROPE, text_embed_dim=384, max_text_seq_length=226, sample_frames=9, sample_height=4, sample_width=6)
STAGES = ({"steps": 4, "batch": 1, "lr": 1e-3},)


@cache
def encoder(text: str = "minilm") -> dict[str, Any]:
    """What a data set says of its encoders."""
    made = TextEncoder(TextConfig(model=text, max_tokens=TOKENS))
    return {"vae": VideoEncoder(VaeConfig()).facts, "text": made.facts}


def facts(encoders: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    given = {"dataset": "/nowhere", "output": "/nowhere", "stages": STAGES, "dtype": "float32", **settings}
    config = TrainConfig.model_validate(given).identity()
    return {"config": config, "ranks": 1, "seconds": 1.0, "data": "0", "encoder": encoders or encoder()}


def full(run: Path, step: int = 4, seed: int = 0, config=CONFIG, **given: Any) -> Path:
    """A run's checkpoint with all weights; `given`: of `facts`."""
    weights = dict(transformer(config, seed).state_dict())
    saved = checkpoints.save(
        run / "checkpoints", step, facts(**given), lambda folder: write_weights(folder, config, weights, None)
    )
    return saved.folder


def adapters(run: Path, base: Path, rank: int = 4, alpha: float = 2.0, targets=lora.TARGETS) -> Path:
    """A run's checkpoint with adapters of a pipeline that `pipeline` wrote."""
    network = transformer(CONFIG)
    lora.add(network, rank, alpha, targets)
    learnt = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(5)
    for weight in learnt.values():
        weight.normal_(0, 0.5, generator=generator)
    given = LoraConfig(rank=rank, alpha=alpha, targets=targets)
    said = facts(model=str(base), lora=given.model_dump())
    saved = checkpoints.save(run / "checkpoints", 4, said, lambda folder: write_weights(folder, CONFIG, learnt, given))
    return saved.folder


def pipeline(folder: Path) -> Path:
    """Without a text encoder, of the weights that `full` has by default."""
    save_pipeline(folder, transformer(CONFIG), CausalVAE.from_pretrained(SMALL), NoiseSchedule(snr_shift_scale=1.0))
    return folder


def t5(folder: Path) -> Path:
    """A T5 of random weights with its tokenizer, as a pipeline has them, that is as wide as CONFIG takes."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    words = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁dog", "▁red", "s", "t"]
    tokenizer = T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)
    config = T5Config(vocab_size=len(words) + 1, d_model=384, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    randomise(T5EncoderModel(config)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder
