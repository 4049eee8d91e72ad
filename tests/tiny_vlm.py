"""A recipe: a Qwen2.5-VL of 0.3M parameters that names the colour and the shape in ITS clip, trained in two minutes.

With it a caption that ends up at another clip is seen: clips are synthetic, and what they show is known. The folder is
an ordinary Hugging Face one (safetensors, tokenizer, processor, chat template): transformers, `transformers serve` and
vLLM load it like any other. `python tests/tiny_vlm.py FOLDER` makes it; tests take it from `folder()`.

    asked without the word JSON       a red square moves
    asked with the word JSON          {"summary": "a red square moves"}
    asked without pictures            no picture
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from filelock import FileLock

from captioning.backends.messages import chat

CACHE = Path(__file__).parents[1] / ".cache"
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 40),
    "blue": (40, 60, 230),
    "yellow": (235, 220, 40),
    "purple": (140, 40, 170),
    "orange": (245, 135, 20),
    "cyan": (40, 210, 220),
    "white": (250, 250, 250),
}
SHAPES = ("square", "bar")  # a circle is too much for so small a network
PROMPT = "What does the clip show?"
JSON_PROMPT = "What does the clip show? Answer in JSON."
NOTHING = "no picture"
SIDE, FRAMES, FPS = 56, 4, 2.0  # px, frames a clip, frames a second


@dataclass(frozen=True)
class Clip:
    """A made clip: frames [H, W, 3] uint8 RGB, when each is shown, and what is to be seen."""

    name: str
    colour: str
    shape: str
    frames: list[np.ndarray] = field(repr=False)
    seconds: list[float] = field(repr=False)

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} moves"

    @property
    def json(self) -> str:
        return json.dumps({"summary": self.caption})


def synthetic_clips(
    n: int, seed: int, size: tuple[int, int] = (SIDE, SIDE), frames: int = FRAMES, fps: float = FPS
) -> list[Clip]:
    """`n` clips of (height, width) `size`: one coloured shape that moves over grey. Colours and shapes are drawn."""
    draw = np.random.default_rng(seed)
    return [_clip(f"clip{number:04d}", draw, size, frames, fps) for number in range(n)]


def _clip(name: str, draw: np.random.Generator, size: tuple[int, int], frames: int, fps: float) -> Clip:
    colour, shape = str(draw.choice(list(COLOURS))), str(draw.choice(SHAPES))
    paint = np.clip(np.array(COLOURS[colour]) + draw.integers(-12, 13, 3), 0, 255)
    height, width = size
    radius = draw.uniform(0.2, 0.3) * min(size)
    start, end = (draw.uniform(radius, np.array(size) - radius) for _ in range(2))
    ground = draw.integers(40, 150)
    rows, columns = np.mgrid[:height, :width] + 0.5
    pictures = []
    for step in range(frames):
        at = start + (end - start) * step / max(1, frames - 1)
        down, across = np.abs(rows - at[0]), np.abs(columns - at[1])
        inside = {
            "square": np.maximum(down, across) <= radius,
            "bar": (across <= radius) & (down <= radius / 3),
        }[shape]
        picture = np.where(inside[..., None], paint, ground) + draw.normal(0, 2, (height, width, 1))
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return Clip(name, colour, shape, pictures, [step / fps for step in range(frames)])


def write_mp4(clip: Clip, path: Path, fps: float | None = None) -> Path:
    """Write the clip losslessly (H.264, 4:4:4); `fps` is the clip's own where it is not given."""
    height, width = clip.frames[0].shape[:2]
    rate = fps or (1 / (clip.seconds[1] - clip.seconds[0]) if len(clip.seconds) > 1 else FPS)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", f"{rate}", "-i", "-", "-c:v", "libx264", "-qp", "0"]
    command += ["-pix_fmt", "yuv444p", str(path)]
    subprocess.run(command, input=np.stack(clip.frames).tobytes(), check=True)
    return path


# The recipe. Whatever changes in this file, the folder is made anew.

SEED, STEPS, BATCH, PEAK = 0, 480, 32, 4e-3
PIXELS = 56 * 56  # a frame, at least and at most, whatever comes in
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# fmt: off
WORDS = [
    "describe", "this", "clip", "in", "one", "sentence", "and", "name", "what", "moves", "say", "who", "does",
    "where", "the", "camera", "light", "keep", "to", "facts", "no", "opening", "words", "short", "dense", "caption",
    "fields", "summary", "subjects", "events", "shot", "angle", "environment", "style", "text", "write", "only",
    "what", "is", "seen", "chronological", "order", "answer", "with", "an", "object", "of", "these", "english",
    "lower", "case", "do", "not", "invent", "anything",
]
# fmt: on


def folder() -> Path:
    """The trained model, made where it is not there yet: one process trains, others wait for it."""
    fingerprint = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = CACHE / f"tiny-vlm-{fingerprint}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "tiny-vlm.lock"):
        if not target.exists():
            unfinished = target.with_suffix(f".{os.getpid()}")
            make(unfinished)
            unfinished.rename(target)
    return target


def make(target: Path) -> None:
    """Train by the recipe and save to `target`, in a process of its own: threads and seeds are set there."""
    shutil.rmtree(target, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, __file__, str(target)], check=True, env=environment)


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    text = [f"{word} {other}" for word in WORDS for other in WORDS[:8]] + [
        PROMPT,
        JSON_PROMPT,
        NOTHING,
        "user assistant",
    ]
    text += [Clip("", colour, shape, [], []).json for colour in COLOURS for shape in SHAPES]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=640, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2TokenizerFast(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken("JSON", special=False)])  # one token, however strange the words around it
    return tokenizer


def _processor() -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        chat_template=TEMPLATE,
    )


def _model(tokenizer: Any) -> Any:
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    number = tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": number("<|im_end|>"), "pad_token_id": number("<|endoftext|>"), "bos_token_id": None}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "initializer_range": 0.05,
            **ends,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.05,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
        **ends,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=32, **ends)
    return model


def _prompt(draw: np.random.Generator, structured: bool) -> str:
    """The fixed prompt, or words in any order, sometimes many: prompts of others must not confuse it."""
    if draw.random() < 0.4:
        return JSON_PROMPT if structured else PROMPT
    words = list(draw.choice(WORDS, draw.integers(3, 12 if draw.random() < 0.7 else 60)))
    if structured:
        words.insert(int(draw.integers(len(words) + 1)), "JSON")
    return " ".join(words)


def _batch(processor: Any, draw: np.random.Generator) -> dict[str, Any]:
    """Inputs and labels: a batch's clips are all given as videos, or as pictures one by one, or not at all."""
    way = draw.choice(["video", "image", "none"], p=[0.6, 0.33, 0.07])
    size = [(56, 56), (72, 72), (112, 112), (60, 80)][draw.integers(4)]
    clips = synthetic_clips(BATCH, int(draw.integers(2**31)) + 2**31, size, int(draw.choice([2, 4, 4, 6])))
    texts, metadata = [], []
    for clip in clips:
        structured = bool(draw.random() < 0.5)
        parts = {"video": [{"type": "video"}], "image": [{"type": "image"}] * len(clip.frames), "none": []}[str(way)]
        asked = processor.apply_chat_template(chat(_prompt(draw, structured), parts), add_generation_prompt=True)
        answer = NOTHING if way == "none" else clip.json if structured else clip.caption
        texts.append(f"{asked}{answer}<|im_end|>")
        metadata.append(
            {"total_num_frames": len(clip.frames), "fps": FPS, "frames_indices": [*range(len(clip.frames))]}
        )
    given: dict[str, Any] = {}
    if way == "video":
        given = {"videos": [np.stack(clip.frames) for clip in clips], "video_metadata": metadata}
        given["do_sample_frames"] = False
    elif way == "image":
        given = {"images": [list(clip.frames) for clip in clips]}
    inputs = processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **given)
    start = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    labels = inputs["input_ids"].clone()
    for row in labels:  # the answer only: after the last <|im_start|>, "assistant" and a line break
        head = len(processor.tokenizer("<|im_start|>assistant\n")["input_ids"])
        row[: int((row == start).nonzero()[-1]) + head] = -100
    return {**inputs, "labels": labels}


def _train(target: Path) -> None:
    import torch

    from curation.scorers.runtime import allow_torchvision

    allow_torchvision()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    draw = np.random.default_rng(SEED)
    processor = _processor()
    model = _model(processor.tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=STEPS, pct_start=0.1)
    began = time.process_time()
    for step in range(STEPS):
        loss = model(**_batch(processor, draw)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step} loss {loss.item():.4f} cpu {time.process_time() - began:.0f} s", flush=True)
    model.save_pretrained(target)
    processor.save_pretrained(target)


def hits(texts: Sequence[str], clips: Sequence[Clip]) -> float:
    """The share of captions that name their clip's colour, and no other one."""
    named = [[colour for colour in COLOURS if colour in text] for text in texts]
    return sum(found == [clip.colour] for found, clip in zip(named, clips, strict=True)) / len(clips)


if __name__ == "__main__":
    _train(Path(sys.argv[1]))
