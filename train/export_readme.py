"""The README.md of an export: how to sample from it, as code that runs."""

from __future__ import annotations

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

_T5 = """\
pipeline = CogVideoXPipeline.from_pretrained(".", torch_dtype=dtype).to(device)
video = pipeline("a prompt", {size}, max_sequence_length={tokens}).frames[0]
export_to_video(video, "video.mp4", fps={fps:g})
```
"""

_BERT = """\
pipeline = CogVideoXPipeline.from_pretrained(".", torch_dtype=dtype).to(device)


def embed(text):  # without padding, zeros behind: what the transformer was trained with
    ids = pipeline.tokenizer(text, truncation=True, max_length={tokens}, return_tensors="pt").input_ids
    embedding = torch.zeros(1, {tokens}, pipeline.text_encoder.config.hidden_size)
    with torch.no_grad():
        embedding[:, : ids.shape[1]] = pipeline.text_encoder(ids.to(device))[0].cpu()
    return embedding.to(device, dtype)


prompts = {{"prompt_embeds": embed("a prompt"), "negative_prompt_embeds": embed("")}}
video = pipeline(**prompts, {size}).frames[0]
export_to_video(video, "video.mp4", fps={fps:g})
```

The text encoder is MiniLM, not T5. `pipeline("a prompt")` runs too, but pads the prompt and lets the encoder look at
the padding: the transformer then gets embeddings unlike those that it was trained with. Embed prompts as above.
"""

_NONE = """\
pipeline = CogVideoXPipeline.from_pretrained(".", torch_dtype=dtype, text_encoder=..., tokenizer=...).to(device)
video = pipeline("a prompt", {size}, max_sequence_length={tokens}).frames[0]
export_to_video(video, "video.mp4", fps={fps:g})
```

The text encoder was left out: load {text} and its tokenizer by transformers, or give `prompt_embeds` and
`negative_prompt_embeds` [1, {tokens}, {width}].
"""

_ADAPTERS = """\
pipeline = CogVideoXPipeline.from_pretrained({base!r}, torch_dtype=dtype).to(device)
pipeline.transformer.register_to_config({trained})  # positions as in the training
pipeline.load_lora_weights(".")
video = pipeline("a prompt", {size}).frames[0]
export_to_video(video, "video.mp4", fps={fps:g})
```

`comfyui/{name}.safetensors` holds the same for ComfyUI's own CogVideoX nodes: put it into `models/loras` and load it by
LoraLoaderModelOnly. Both files keep the adapters' alpha, so that a strength of 1 is what was trained.
"""


def pipeline(name: str, source: Trained, kind: str) -> str:
    """kind: of the text encoder, t5, bert or none."""
    text = {"t5": _T5, "bert": _BERT}.get(kind, _NONE)
    return _text(name, source, "A CogVideoX pipeline", text)


def adapters(name: str, source: Trained) -> str:
    return _text(name, source, f"Adapters (LoRA) for {source.training['model']}", _ADAPTERS)


def _text(name: str, source: Trained, what: str, rest: str) -> str:
    config = source.config
    height, width = 8 * config.sample_height, 8 * config.sample_width
    return (_BEGIN + rest).format(
        name=name,
        what=what,
        step=source.checkpoint.step,
        size=f"num_frames={config.sample_frames}, height={height}, width={width}",
        trained=f"sample_height={config.sample_height}, sample_width={config.sample_width}",
        tokens=config.max_text_seq_length,
        width=config.text_embed_dim,
        fps=source.fps(),
        base=source.training["model"],
        text=(source.checkpoint.facts["encoder"].get("text") or {}).get("model"),
    )
