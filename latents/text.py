"""Captions to token embeddings: T5 as CogVideoX's pipeline encodes prompts, or MiniLM where there is no hub.

One text at a time: what a caption becomes does not hang on its neighbours. T5-XXL at 226 tokens computes about as long
as it reads its weights, so a batch would save half of a few milliseconds (by arithmetic; not measured).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from curation.scorers.runtime import allow_torchvision, torch_device
from latents import minilm
from latents.weights import EncoderConfig, hash_files, identity, reproducible, torch_dtype
from orchestration.errors import RushesError

if TYPE_CHECKING:
    import torch

KINDS = ("t5", "bert")  # model_type in config.json
TOKENIZER: tuple[str, ...] = ("*.json", "*.model", "vocab.txt")  # settings and vocabularies: small files


class TextConfig(EncoderConfig):
    """The text encoder."""

    # A hub name or folder of a CogVideoX pipeline (text_encoder/ and tokenizer/), or of a T5 encoder with its
    # tokenizer; `minilm`: all-MiniLM-L6-v2 out of a published package; null: text is left to the trainer.
    model: str | None = Field(default=minilm.KEYWORD, min_length=1)
    revision: str | None = None  # of a hub name
    max_tokens: int = Field(default=226, ge=2, le=512)  # longer texts are cut


class TextEncoder:
    """Texts to embeddings. Constructed cheaply; `setup` loads weights, in the worker.

    cut: texts so far that had more than max_tokens.
    """

    HINT = (
        "text.model takes the name or folder of a CogVideoX pipeline (THUDM/CogVideoX-2b) or of a T5 encoder with its "
        f"tokenizer, weights in safetensors; {minilm.KEYWORD!r} needs no hub; null leaves text to the trainer."
    )

    def __init__(self, config: TextConfig):
        if config.model is None:
            raise ValueError("text.model is null: text is left to the trainer")
        self._given = config
        self._name = config.model
        self._model: Any = None
        self._tokenizer: Any = None
        self.cut = 0

    @cached_property
    def config(self) -> TextConfig:
        """As given, with nothing left to the machine."""
        return self._given.here()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What embeddings depend on. Needs the files, and loads none of them; does not need `setup`.

        model: NAME@COMMIT, FOLDER#HASH, or MiniLM's package. weights: SHA-256 over the safetensors' bytes. width: D.
        """
        model, tokenizer = self.folders
        try:
            width = self._settings["d_model" if self.kind == "t5" else "hidden_size"]
            weights = hash_files(weight_files(model))
            beside = sorted({path for folder in (model, tokenizer) for name in TOKENIZER for path in folder.glob(name)})
            if self._name == minilm.KEYWORD:
                name = minilm.NAME
            else:
                name = identity(self._name, model, weights, hash_files(beside))
        except (KeyError, ValueError, OSError) as error:
            raise self._unusable(error) from error
        kept = {"dtype", "store", "max_tokens"}
        return {"model": name, "weights": weights, "width": width, **self.config.model_dump(include=kept)}

    def setup(self) -> None:
        """Load tokenizer and weights. Raises RushesError where they are not to be had, ConfigError for the device."""
        allow_torchvision()
        from transformers import AutoTokenizer, BertModel, T5EncoderModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        device, dtype = torch_device(self.config.device), torch_dtype(self.config.dtype)
        (folder, words), t5 = self.folders, self.kind == "t5"
        given: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        try:
            weight_files(folder)
            self._tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=False)
            kind = T5EncoderModel if t5 else BertModel
            loaded: Any = kind.from_pretrained(folder, **given)
        except (OSError, ValueError, ImportError) as error:
            raise self._unusable(error) from error
        model, found = loaded
        if strange := sorted(found["missing_keys"]) + sorted(map(str, found["mismatched_keys"])):
            # transformers would fill these in at random and say so in a warning
            raise self._unusable(
                ValueError(f"{len(strange)} tensors are missing or of another shape, the first one is {strange[0]}")
            )
        if (most := getattr(model.config, "max_position_embeddings", 512)) < self.config.max_tokens:
            raise self._unusable(ValueError(f"it takes {most} tokens, text.max_tokens is {self.config.max_tokens}"))
        self._model = model.to(device).eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, int]]:
        """A text's embedding [max_tokens, D], on the CPU in the type it is kept in, and how many rows are real tokens.

        T5: the rows behind are the encoder's of padding, which it does not mask, as in CogVideoX. MiniLM: zeros.
        Raises MemoryError where it does not fit.
        """
        if self._model is None:
            raise RushesError("TextEncoder is used before setup: call setup in the worker that encodes")
        return [self._one(text) for text in texts]

    def empty(self) -> tuple[torch.Tensor, int]:
        """The empty caption's: what a dropped caption is replaced by in training."""
        return self.encode([""])[0]

    def _one(self, text: str) -> tuple[torch.Tensor, int]:
        import torch

        most, device = self.config.max_tokens, self._model.device
        padding = "max_length" if self.kind == "t5" else False
        tokens = len(self._tokenizer(text, verbose=False)["input_ids"])
        self.cut += tokens > most
        given = self._tokenizer(text, padding=padding, max_length=most, truncation=True, return_tensors="pt")
        with reproducible(device):
            # T5 without a mask, as CogVideoX's pipeline; MiniLM has nothing to mask.
            found = self._model(given["input_ids"].to(device))[0][0]
            kept = torch.zeros(most, found.shape[1], dtype=torch_dtype(self.config.store))
            kept[: len(found)] = found.cpu().to(kept.dtype)
        if not torch.isfinite(kept).all():
            raise RushesError(
                f"{self._name} gives infinite embeddings in {self.config.dtype}, kept as {self.config.store}: "
                "set text.dtype and text.store to bfloat16 or float32"
            )
        return kept, min(tokens, most)

    @cached_property
    def folders(self) -> tuple[Path, Path]:
        """Of the weights, and of the tokenizer."""
        if self._name == minilm.KEYWORD:
            return minilm.folder(), minilm.folder()
        folder = Path(self._name).expanduser()
        if not folder.is_dir():
            folder = self._download()
        if (folder / "text_encoder").is_dir():
            return folder / "text_encoder", folder / "tokenizer"
        return folder, folder

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """Of config.json."""
        path = self.folders[0] / "config.json"
        try:
            found = json.loads(path.read_text())
        except (ValueError, OSError) as error:
            raise self._unusable(error) from error
        if not isinstance(found, dict) or found.get("model_type") not in KINDS:
            raise self._unusable(ValueError(f"{path} is not of a T5 or BERT encoder"))
        return found

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self._settings["model_type"]

    def _download(self) -> Path:
        """A snapshot with all that is needed of it: of a pipeline, text_encoder/ and tokenizer/ only."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        if self._name.startswith((".", "/", "~")) or self._name.count("/") > 1:
            raise self._unusable(FileNotFoundError(f"no folder {self._name}"))
        small = list(TOKENIZER)
        try:
            folder = Path(snapshot_download(self._name, revision=self._given.revision, allow_patterns=small))
            part = "text_encoder/" if (folder / "model_index.json").is_file() else ""
            wanted = [*small, f"{part}*.safetensors"]
            return Path(snapshot_download(self._name, revision=folder.name, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> RushesError:
        return RushesError(f"cannot use {self._name} as text encoder: {error}\n{self.HINT}")


def weight_files(folder: Path) -> list[Path]:
    """What transformers would load. Raises FileNotFoundError."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        paths = [folder / Path(name).name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    else:
        paths = [folder / "model.safetensors"]
    if absent := [path.name for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}; rushes reads safetensors only")
    return paths
