"""Reconstructions: samples decoded and put beside what they were made of, and what their latents are like."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from captioning.job import FramePlan, Pictures
from captioning.prefetch import Prefetcher
from curation.sandbox import SandboxBroken
from latents.config import LatentsConfig
from latents.dataset import LatentDataset, LatentSample
from latents.report.survey import Candidate, SetSurvey
from latents.show import RATE, psnr
from latents.vae import VideoEncoder
from latents.windows import Row
from orchestration.errors import RushesError
from orchestration.report import data_uri
from orchestration.storage import Storage

LONGER_SIDE = 480  # px, of a picture in the page
QUALITY = 90  # of its JPEG


@dataclass(frozen=True)
class Shown:
    """A sample beside its source. Pictures are of the middle frame, psnr (dB) of all frames."""

    key: str
    bucket: str
    caption: str
    rate: float | None  # fps
    frame: int = 0  # which one is shown
    source: str = ""  # data URI; empty: not in the page
    made: str = ""
    psnr: float | None = None
    reason: str = ""  # why it was not decoded


@dataclass
class Channels:
    """Moments of scaled latents, summed up over samples."""

    samples: int = 0
    values: int = 0  # of each channel
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [C]
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [C]

    def add(self, latents: np.ndarray) -> None:
        """[C, F, h, w], scaled."""
        flat = latents.reshape(len(latents), -1).astype(np.float64)
        self.sums = flat.sum(1) + (self.sums if self.samples else 0)
        self.squares = (flat**2).sum(1) + (self.squares if self.samples else 0)
        self.samples, self.values = self.samples + 1, self.values + flat.shape[1]

    @property
    def rows(self) -> list[tuple[float, float]]:
        """(mean, standard deviation) of each channel."""
        means = self.sums / max(1, self.values)
        deviations = np.sqrt(np.maximum(0, self.squares / max(1, self.values) - means**2))
        return list(zip(means.tolist(), deviations.tolist(), strict=True))

    @property
    def whole(self) -> tuple[float, float]:
        """(mean, standard deviation) of all channels together."""
        count = max(1, self.values * len(self.sums))
        mean = float(self.sums.sum()) / count
        return mean, math.sqrt(max(0.0, float(self.squares.sum()) / count - mean**2))


@dataclass
class Gallery:
    """What is shown of a set."""

    fingerprint: str
    samples: list[Shown] = field(default_factory=list)
    why: str = ""  # nothing was decoded
    damaged: list[str] = field(default_factory=list)  # samples that cannot be read
    channels: Channels = field(default_factory=Channels)

    @property
    def psnr(self) -> float | None:
        """Mean of the samples, dB; without those that came back as they were, unless all did."""
        found = [one.psnr for one in self.samples if one.psnr is not None]
        finite = [value for value in found if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else found[0] if found else None


class Decoder:
    """Makes galleries with the configuration's VAE, until `seconds` or `room` (bytes of pictures) are used up."""

    def __init__(self, config: LatentsConfig, scratch: str, seconds: float, room: int):
        self._config, self._scratch = config, scratch
        self._storage = Storage(config.dataset)
        self._vae = VideoEncoder(config.vae)
        self._ends, self._seconds, self._room = math.inf, seconds, room
        self._why: str | None = None  # the VAE cannot be used; empty: it can

    def __call__(self, one: SetSurvey, chosen: Sequence[Candidate], rows: Mapping[str, Row]) -> Gallery:
        """Never raises for what the set, its samples or the VAE are like: the gallery says it."""
        gallery = Gallery(one.fingerprint)
        samples = list(self._samples(one, chosen, gallery))
        scale = one.vae.get("scaling_factor")
        for sample in samples:
            gallery.channels.add(sample.mean.float().numpy() * (1.0 if scale is None else float(scale)))
        gallery.why = self._unfit(one) if samples else ""
        if samples and not gallery.why:
            try:
                gallery.samples = list(self._shown(samples, rows))
            except SandboxBroken as error:
                gallery.why = f"this machine decodes no video: {error}"
        return gallery

    def _samples(self, one: SetSurvey, chosen: Sequence[Candidate], gallery: Gallery) -> Iterator[LatentSample]:
        if not chosen:
            return
        try:
            dataset = LatentDataset(self._config.dataset, sorted(one.buckets), one.fingerprint, text=None)
        except RushesError as error:
            gallery.damaged.append(str(error))
            return
        for candidate in chosen:
            try:
                yield dataset[dataset.find(candidate.key)]
            except RushesError as error:
                gallery.damaged.append(str(error))
            except KeyError:
                gallery.damaged.append(f"no index names the sample {candidate.key}")

    def _unfit(self, one: SetSurvey) -> str:
        """Why the set cannot be decoded."""
        if self._why is None:
            self._why = self._loaded()
            self._ends = time.monotonic() + self._seconds
        if self._why:
            return self._why
        if one.vae.get("weights") != self._vae.facts["weights"]:
            made, named = one.vae.get("model"), self._vae.facts["model"]
            return f"it was made by the VAE {made}, and the configuration names {named}"
        return ""

    def _loaded(self) -> str:
        try:
            self._vae.setup()
        except (RushesError, MemoryError, RuntimeError, OSError) as error:
            return f"the VAE cannot be loaded: {error}"
        return ""

    def _shown(self, samples: Sequence[LatentSample], rows: Mapping[str, Row]) -> Iterator[Shown]:
        plans = [_plan(sample, rows) for sample in samples]
        with Prefetcher(self._config.dataset, self._config.prefetch, self._scratch) as prefetcher:
            for sample, (_, pictures) in zip(samples, prefetcher(plans), strict=True):
                yield self._beside(sample, pictures)

    def _beside(self, sample: LatentSample, pictures: Pictures) -> Shown:
        facts = sample.facts
        known: dict[str, Any] = {"key": sample.key, "bucket": sample.bucket, "rate": facts.get("fps")}
        known["caption"] = str(facts.get("caption") or "")
        if pictures.reason:
            return Shown(**known, reason=pictures.reason)
        if time.monotonic() > self._ends:
            return Shown(**known, reason=f"not decoded: the {self._seconds:.0f} s for decoding were over")
        source = np.stack(list(pictures.frames))
        try:
            made = self._vae.decode(sample.mean)
        except (RushesError, MemoryError, ValueError, RuntimeError) as error:
            return Shown(**known, reason=f"not decoded: {error}")
        if made.shape != source.shape:
            return Shown(**known, reason=f"it became {list(made.shape)}, its source is {list(source.shape)}")
        middle = len(source) // 2
        both = [_jpeg(frames[middle]) for frames in (source, made)]
        self._room -= sum(map(len, both))
        uris = [data_uri("image/jpeg", data) for data in both] if self._room >= 0 else ["", ""]
        return Shown(**known, frame=middle, source=uris[0], made=uris[1], psnr=psnr(source, made))


def _plan(sample: LatentSample, rows: Mapping[str, Row]) -> tuple[Row, FramePlan | Pictures]:
    facts = sample.facts
    row = rows.get(str(facts.get("clip_id")))
    if row is None:
        return {}, Pictures(reason="its clip is no longer in the clips table")
    count, height, width = map(int, sample.bucket.split("x"))
    rate = facts.get("fps") or RATE
    seconds = tuple(facts["seconds"] + step / rate for step in range(count))
    return row, FramePlan(tuple(facts["frames"]), seconds, (height, width))


def _jpeg(frame: np.ndarray) -> bytes:
    """[H, W, 3] uint8 RGB."""
    scale = LONGER_SIDE / max(frame.shape[:2])
    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert ok
    return data.tobytes()
