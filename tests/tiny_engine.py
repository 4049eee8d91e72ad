"""A stand-in for vLLM in Ray's engine stage: the tiny model on what the engine would be given.

A module of its own: Ray may be imported only once a session of ours has set its token.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ray.llm._internal.batch.stages.base import StatefulStageUDF

from curation.scorers.runtime import allow_torchvision


class TinyEngine(StatefulStageUDF):
    """Answers as Ray's vLLM stage does: the same keys in, the same keys out, errors in their column.

    fails: clips whose requests are refused. kills: clips whose first request ends the process; deadly: each one does.
    """

    def __init__(self, data_column: str, expected_input_keys: list[str], **settings: Any):
        super().__init__(data_column, expected_input_keys)
        allow_torchvision()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._settings = settings
        if settings.get("broken"):
            raise RuntimeError("no engine today")
        self._processor: Any = AutoProcessor.from_pretrained(settings["model"])
        self._model: Any = AutoModelForImageTextToText.from_pretrained(settings["model"]).eval()

    async def udf(self, rows: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for row in reversed(rows):  # they come back in any order
            place = row[self.IDX_IN_BATCH_COLUMN]
            try:
                said = self._one(row)
            except ValueError as error:
                said = {"generated_text": "", "generated_tokens": [], "num_input_tokens": 0, "time_taken_llm": -1}
                said["__inference_error__"] = f"ValueError: {error}"
            yield {**said, self.IDX_IN_BATCH_COLUMN: place}

    def _one(self, row: dict[str, Any]) -> dict[str, Any]:
        clip = row["key"].partition("/")[0]
        if clip in self._settings["deadly"]:
            os._exit(1)
        if clip in self._settings["kills"]:
            mark = Path(self._settings["marks"], hashlib.sha256(clip.encode()).hexdigest())
            if not mark.exists():
                mark.touch()
                os._exit(1)
        if clip in self._settings["fails"]:
            raise ValueError("The decoder prompt is longer than the maximum model length")
        began = time.perf_counter()
        given, prompt = row.pop("multimodal_data", None) or {}, row.pop("tokenized_prompt")
        text = self._processor.tokenizer.decode([int(token) for token in prompt])
        extra: dict[str, Any] = {}
        if "video" in given:
            ((frames, about),) = given["video"]
            extra = {"videos": [frames], "video_metadata": [about], **row.pop("mm_processor_kwargs")}
        elif "image" in given:
            extra = {"images": [given["image"]]}
        sampling = row.pop("sampling_params")
        inputs = self._processor(text=[text], return_tensors="pt", **extra)
        output = self._model.generate(**inputs, max_new_tokens=int(sampling["max_tokens"]), do_sample=False)
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        return {
            "generated_tokens": tokens,
            "generated_text": self._processor.tokenizer.decode(tokens, skip_special_tokens=True),
            "num_generated_tokens": len(tokens),
            "num_input_tokens": inputs["input_ids"].shape[1],
            "time_taken_llm": time.perf_counter() - began,
            "__inference_error__": "",
        }
