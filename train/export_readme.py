"""The README.md of an export: how to sample from it, as code that runs."""

from __future__ import annotations

from latents import minilm
from train.source import Trained

_BEGIN = """\
# {name}

{what}, written by `rushes export` from step {step:,} of a training ([rushes.json](rushes.json) has its settings).

In this folder:

```python
import torch
from diffusers import CogVideoXPipeline
from diffusers.utils import export_to_video

device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
"""

_PIPELINE = """\
pipeline = CogVideoXPipeline.from_pretrained(".", torch_dtype=dtype{without}).to(device)
"""

_ADAPTED = """\
pipeline = CogVideoXPipeline.from_pretrained("{base}", torch_dtype=dtype).to(device)
pipeline.transformer.register_to_config(sample_height={rows}, sample_width={columns})  # positions as in the training
pipeline.load_lora_weights(".")
"""

_T5 = """\
video = pipeline("a prompt", {size}, max_sequence_length={tokens}).frames[0]
"""

_MINILM = """\


def embed(text):  # without padding, zeros behind: what the transformer was trained with
    ids = pipeline.tokenizer(text, truncation=True, max_length={tokens}, return_tensors="pt").input_ids
    embedding = torch.zeros(1, {tokens}, pipeline.text_encoder.config.hidden_size)
    with torch.no_grad():
        embedding[:, : ids.shape[1]] = pipeline.text_encoder(ids.to(device))[0].cpu()
    return embedding.to(device, dtype)


prompts = {{"prompt_embeds": embed("a prompt"), "negative_prompt_embeds": embed("")}}
video = pipeline(**prompts, {size}).frames[0]
"""

_END = """\
export_to_video(video, "video.mp4", fps={fps:g})
```
"""

_OF_MINILM = """
The text encoder is MiniLM, not T5. `pipeline("a prompt")` runs too, but pads the prompt and lets the encoder look at
the padding: the transformer then gets embeddings unlike those that it was trained with. Embed prompts as above.
"""

_LEFT_OUT = """
The text encoder was left out ({text}): load it and its tokenizer by transformers, or give both as None and
`prompt_embeds`, `negative_prompt_embeds` [1, {tokens}, {width}] in place of prompts.
"""

_COMFYUI = """
`comfyui/{name}.safetensors` holds the same for ComfyUI's own CogVideoX network: put it into `models/loras` and load it
by LoraLoaderModelOnly. Both files keep the adapters' alpha, so that a strength of 1 is what was trained.
"""


def pipeline(name: str, source: Trained, text: bool) -> str:
    """text: whether the text encoder is in it."""
    ask, note = (_MINILM, _OF_MINILM) if _is_minilm(source) and text else (_T5, "")
    return _filled(name, source, "A CogVideoX pipeline", _PIPELINE, ask, note if text else _LEFT_OUT, text)


def adapters(name: str, source: Trained) -> str:
    ask, note = (_MINILM, _OF_MINILM) if _is_minilm(source) else (_T5, "")
    return _filled(name, source, f"Adapters (LoRA) for {source.training['model']}", _ADAPTED, ask, note + _COMFYUI)


def _is_minilm(source: Trained) -> bool:
    return _text(source) == minilm.NAME


def _text(source: Trained) -> str | None:
    """The text encoder's name."""
    return (source.checkpoint.facts["encoder"].get("text") or {}).get("model")


def _filled(name: str, source: Trained, what: str, load: str, ask: str, note: str, text: bool = True) -> str:
    config = source.config
    height, width = 8 * config.sample_height, 8 * config.sample_width
    return (_BEGIN + load + ask + _END + note).format(
        name=name,
        what=what,
        step=source.checkpoint.step,
        base=source.training["model"],
        rows=config.sample_height,
        columns=config.sample_width,
        without="" if text else ", text_encoder=..., tokenizer=...",
        size=f"num_frames={config.sample_frames}, height={height}, width={width}",
        tokens=config.max_text_seq_length,
        fps=source.fps(),
        text=_text(source),
        width=config.text_embed_dim,
    )
