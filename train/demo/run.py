"""A caption of each training clip is sampled, and the samples are compared with all training clips."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from rich.console import Console

from latents.dataset import LatentDataset, LatentSample
from latents.show import RATE, source_frames
from orchestration.errors import ConfigError, RushesError
from orchestration.report import build_report, save_page
from orchestration.storage import Storage
from train import video_files
from train.checkpoints import COMPLETE
from train.config import TrainConfig
from train.demo.nearest import likeness, shuffled
from train.demo.page import training_page
from train.demo.result import FOLDER, NAME, Demonstration, Sampled
from train.sampling import SampleConfig, sample_prompts
from train.source import Trained, find

MOST = 16  # clips of a demonstration: more are not learnt by heart
SAMPLING = SampleConfig(steps=20, guidance=2.0, sampler="ddim", device="cpu")


def demonstrate(config: TrainConfig, console: Console) -> Demonstration:
    """Sample, compare, write FOLDER, and the training's page into the report of the data set.

    What was made of the same weights and samples is not made again. Raises ConfigError where there is nothing to
    compare, RushesError where too few samples look most like the clip of their own caption.
    """
    storage, output = Storage(config.dataset), Path(config.output)
    samples = _learnt(config)
    source = find(config.output, console)
    if not isinstance(source, Trained):
        raise ConfigError(f"output: {config.output} has no checkpoint; train first (rushes train)")
    settings = SAMPLING.model_copy(update={"model": config.output, "out": str(output / FOLDER / "sample.mp4")})
    complete = (source.checkpoint.folder / COMPLETE).read_text()
    parts = [complete, settings.model_dump_json(), *(f"{sample.key} {_caption(sample)}" for sample in samples)]
    made_of = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    shown = _made(output, made_of)
    if shown is None:
        sample_prompts([_caption(sample) for sample in samples], settings, console)
        shown = Demonstration(
            made_of=made_of,
            step=source.checkpoint.step,
            seconds=source.checkpoint.facts["seconds"],
            sampling=f"{settings.sampler}, {settings.steps} steps, guidance {settings.guidance:g}",
            clips=_compared(storage, settings, samples),
        )
        (output / NAME).write_text(shown.model_dump_json(indent=1))
    save_page(storage, training_page(Storage(config.output)))
    build_report(storage, "rushes", subtitle=storage.uri)
    judge(shown, storage, console)
    return shown


def _learnt(config: TrainConfig) -> Sequence[LatentSample]:
    """Raises ConfigError for what cannot be told apart."""
    data = LatentDataset(config.dataset, set=config.set)
    if not 2 <= len(data) <= MOST or len(data.buckets) != 1:
        raise ConfigError(
            f"dataset: {config.dataset} has {len(data):,} samples in {len(data.buckets)} buckets; a demonstration "
            f"takes 2 to {MOST} of one bucket: rushes latents configs/latents-demo.yaml"
        )
    samples = [data[number] for number in range(len(data))]
    captions = [_caption(sample) for sample in samples]
    if alike := next((text for text in captions if captions.count(text) > 1), None):
        raise ConfigError(f"dataset: two clips have the same caption, so that no sample can be of one: {alike}")
    return samples


def _caption(sample: LatentSample) -> str:
    return sample.facts["captions"][0]


def _made(output: Path, made_of: str) -> Demonstration | None:
    """What was made of the same before, where it is still whole."""
    try:
        found = Demonstration.model_validate_json((output / NAME).read_text())
    except (OSError, ValueError):
        return None
    files = [output / FOLDER / name for one in found.clips for name in (one.sample, one.clip)]
    return found if found.made_of == made_of and all(file.is_file() for file in files) else None


def _compared(storage: Storage, settings: SampleConfig, samples: Sequence[LatentSample]) -> list[Sampled]:
    """Reads the sampled files as they are, and writes the clips beside them."""
    count, first = len(samples), samples[0]
    made = video_files.names(settings.out, count, first.facts["bucket"][0])
    clips = [source_frames(storage, sample) for sample in samples]
    beside = [path.with_name(path.name.replace("sample", "clip")) for path in made]
    for path, clip, sample in zip(beside, clips, samples, strict=True):
        video_files.write(path, clip, sample.facts["fps"] or RATE)
    found = likeness([_pictures(path) for path in made], clips)
    own, others = found.own(range(count)), found.own(shuffled(count))
    return [
        Sampled(
            prompt=_caption(sample),
            key=sample.key,
            sample=made[at].name,
            clip=beside[at].name,
            features=found.features[at].tolist(),
            psnr=found.psnr[at].tolist(),
            own=own[at],
            shuffled=others[at],
        )
        for at, sample in enumerate(samples)
    ]


def _pictures(path: Path) -> np.ndarray:
    """[T, H, W, 3] uint8 of a file that was made here."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def judge(shown: Demonstration, storage: Storage, console: Console) -> None:
    """Says what was found. Raises RushesError where it is too little."""
    count = len(shown.clips)
    console.print(
        f"{shown.right} of {count} samples look most like the clip of their own caption; with captions shuffled "
        f"{shown.right_shuffled}\nreport: {storage.path('report/index.html')}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if shown.right < shown.needed:
        raise RushesError(
            f"{shown.needed} of {count} are needed: train for more steps, in another output folder (the report shows "
            "how the loss went)"
        )
    if shown.right_shuffled >= shown.needed:
        raise RushesError("shuffled captions are as right: the comparison says nothing")
