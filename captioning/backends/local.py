"""Captions from a model on this machine, through transformers: videos as the model takes them, in batches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from captioning.backend import Request
from captioning.backends.generation import TransformersBackend, WeightsConfig
from captioning.backends.messages import chat, video

PRESETS = {
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "tarsier2-recap": "omni-research/Tarsier2-Recap-7b",  # published with a config.json that only vLLM can read
    "skycaptioner-v1": "Skywork/SkyCaptioner-V1",
}


class LocalConfig(WeightsConfig):
    """A video-language model that transformers loads."""

    kind: Literal["local"] = "local"
    # A preset's name, a hub name, or a folder in Hugging Face's layout.
    model: str = Field(PRESETS["qwen3-vl-8b"], min_length=1)
    cap_pixels_per_frame: bool = True  # long videos: each frame at most an even share of the model's budget

    @field_validator("model")
    @classmethod
    def _preset(cls, name: str) -> str:
        return PRESETS.get(name, name)


class LocalBackend(TransformersBackend):
    """Answers questions about videos, pictures, and text."""

    HINT = (
        "Is it a folder with config.json, *.safetensors and the processor's files, or a hub name that this machine can "
        "reach or has in its cache? Without such weights set captions.kind=attributes."
    )
    config: LocalConfig

    def __init__(self, config: LocalConfig):
        super().__init__(config)
        self._processor: Any = None

    @property
    def _tokenizer(self) -> Any:
        return self._processor.tokenizer

    def _load(self, folder: str, source: dict[str, Any]) -> Any:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._processor = AutoProcessor.from_pretrained(folder, **source)
        if hasattr(self._processor.video_processor, "cap_pixels_per_frame"):
            self._processor.video_processor.cap_pixels_per_frame = self.config.cap_pixels_per_frame
        return AutoModelForImageTextToText

    def _inputs(self, requests: list[Request]) -> Any:
        conversations, metadata = [], []
        for request in requests:
            parts: list[dict[str, Any]] = []
            if len(request.frames) == 1:
                parts = [{"type": "image", "image": request.frames[0]}]
            elif request.frames:
                frames, about = video(request)
                parts = [{"type": "video", "video": frames}]
                metadata.append(about)
            conversations.append(chat(request.prompt, parts))
        given: dict[str, Any] = {"padding": True, "padding_side": "left"}
        if metadata:
            given |= {"video_metadata": metadata, "do_sample_frames": False}
        return self._processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,
            processor_kwargs=given,
        )
