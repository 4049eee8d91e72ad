"""`rushes export`: a checkpoint as files that other programs load, diffusers' pipelines and ComfyUI among them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console

from latents.text import TOKENIZER, TextEncoder, weight_files
from model import lora
from model.pretrained import save_pipeline, write_json
from model.transformer import PRESETS
from model.vae import CausalVAE
from orchestration.config import Config
from orchestration.errors import ConfigError, RushesError
from train import comfyui, export_readme
from train.source import Trained, find

MARK = "rushes.json"  # where an export comes from; what has it may be replaced by another
NONE = "none"  # in place of a text encoder
# diffusers finds both by transformers' names of them.
_CLASSES = {"t5": ("T5EncoderModel", "T5Tokenizer"), "bert": ("BertModel", "BertTokenizer")}
_MODEL_FILES = ("config.json", "model.safetensors.index.json")  # small files that are not the tokenizer's


class ExportConfig(Config):
    """What is written of a checkpoint."""

    merge: bool = False  # adapters into the weights that they were trained on: a whole pipeline
    sampler: Literal["dpm", "ddim"] = "dpm"  # that the pipeline samples with
    vae: str | None = None  # a folder or name in place of the VAE that made the latents
    text: str | None = None  # likewise of the text encoder; none: leave it out


def export(model: str, output: str, config: ExportConfig, console: Console) -> None:
    """A pipeline's folder, or the files of adapters. An earlier export in its place is replaced when all is written.

    Raises ConfigError for what cannot be exported, or written there.
    """
    target = Path(output).expanduser()
    _check(target)
    source = find(model, console)
    if not isinstance(source, Trained):
        raise ConfigError(f"{model} is no checkpoint but a pipeline: diffusers loads it as it is")
    if config.merge and source.adapters is None:
        raise ConfigError(f"merge: {source.name} has no adapters; leave it out")
    if source.training["model"] in PRESETS and source.adapters is not None and not config.merge:
        raise ConfigError(
            f"{source.name} has adapters of random weights (model: {source.training['model']}), which nobody else has: "
            "merge=true exports the whole pipeline"
        )
    try:
        with _whole(target) as made:
            if source.adapters is not None and not config.merge:
                said = _adapters(source, source.adapters, made, target.name)
            else:
                said = _pipeline(source, config, made, target.name, console)
            _mark(source, made)
    except (ValueError, OSError) as error:
        raise RushesError(f"{source.name}: {error}") from error
    step, readme = f"{source.checkpoint.step:,}", target / "README.md"
    console.print(f"{target}: {said}, of step {step}. How to sample: {readme}", soft_wrap=True, highlight=False)


def _pipeline(source: Trained, config: ExportConfig, made: Path, name: str, console: Console) -> str:
    vae = source.vae(config.vae, "cpu", console)
    text = None if config.text == NONE else source.text(config.text, "cpu", console)
    decoder = CausalVAE.from_pretrained(vae.folder)
    save_pipeline(made, source.transformer(), decoder, source.schedule, config.sampler)
    if text is not None:
        _copy_text(text, made)
    (made / "README.md").write_text(export_readme.pipeline(name, source, text is not None))
    return "a pipeline for diffusers"


def _adapters(source: Trained, adapters: Path, made: Path, name: str) -> str:
    shutil.copyfile(adapters / lora.WEIGHTS, made / lora.WEIGHTS)
    comfyui.save(adapters, source.config, made / "comfyui" / f"{name}.safetensors")
    (made / "README.md").write_text(export_readme.adapters(name, source))
    return "adapters for diffusers and for ComfyUI"


def _copy_text(text: TextEncoder, made: Path) -> None:
    """text_encoder/ and tokenizer/, and their classes in the index."""
    weights, words = text.folders
    wanted = [path for path in (weights / name for name in _MODEL_FILES) if path.is_file()] + weight_files(weights)
    small = {path for pattern in TOKENIZER for path in words.glob(pattern) if path.name not in _MODEL_FILES}
    for folder, paths in (("text_encoder", wanted), ("tokenizer", sorted(small))):
        (made / folder).mkdir()
        for path in paths:
            shutil.copyfile(path, made / folder / path.name)  # what a link in the hub's cache leads to
    index = json.loads((made / "model_index.json").read_text())
    for part, name in zip(("text_encoder", "tokenizer"), _CLASSES[text.kind], strict=True):
        index[part] = ["transformers", name]
    write_json(made / "model_index.json", index)


def _mark(source: Trained, made: Path) -> None:
    facts = source.checkpoint.facts
    kept = {"step": source.checkpoint.step, "training": facts["config"], "encoder": facts["encoder"]}
    write_json(made / MARK, kept)


def _check(target: Path) -> None:
    """Nothing but an earlier export, or an empty folder, is there."""
    if target.is_dir():
        if any(target.iterdir()) and not (target / MARK).is_file():
            raise ConfigError(f"{target} is there and no export of rushes: give another folder")
    elif target.exists():
        raise ConfigError(f"{target} is a file: give a folder")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that takes its place only when the block is done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=target.parent) as scratch:
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        made.mkdir()
        yield made
        if target.exists():
            target.rename(old)
        made.rename(target)
