"""`rushes`: one static table from command to function. A stage is imported when its command is called, never before."""

from __future__ import annotations

import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.errors import DISK, RushesError

# command → module:function that does it; each gets the command's arguments by name
COMMANDS = {
    "curate": "curation.commands:curate",
    "select": "curation.commands:select",
    "caption": "captioning.commands:caption",
    "latents": "latents.commands:latents",
    "train": "train.commands:train",
    "train-vae": "train.commands:train_vae",
    "sample": "train.commands:sample",
    "export": "train.commands:export",
    "status": "curation.commands:status",
    "report": "curation.commands:report",
    "explain": "curation.commands:explain",
    "forget": "curation.commands:forget",
    "doctor": "curation.commands:doctor",
}

app = typer.Typer(
    help="Raw video buckets in, a trained text-to-video model out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration, see configs/")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override settings, as in cut.audio=true")
]
Target = Annotated[str, typer.Argument(metavar="CONFIG|DATASET", help="configuration, or the dataset's folder or URI")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def curate(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing; tell what would be done")] = False,
) -> None:
    """Raw videos in; scored, chosen and losslessly cut clips out."""
    _call("curate", config=config, overrides=overrides or [], dry_run=dry_run)


@app.command()
def select(config: ConfigPath, overrides: Overrides = None) -> None:
    """Decide every clip anew from its scores; no video is opened."""
    _call("select", config=config, overrides=overrides or [])


@app.command()
def caption(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[labels] CONFIG [KEY=VALUE]...", help="YAML configuration, settings over it")
    ],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="so many clips only, spread over all")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="caption them by each way that `compare` lists, side by side")
    ] = False,
) -> None:
    """Captions for kept clips; `caption labels`: what a model finds wrong with clips, as scores."""
    _call("caption", arguments=arguments, limit=limit, compare=compare)


@app.command()
def latents(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG [KEY=VALUE]... | verify DATASET | decode CONFIG KEY",
            help="YAML configuration, settings over it",
        ),
    ],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="so many clips only, spread over all")] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="with verify: remove damaged files, which the next run makes again")
    ] = False,
) -> None:
    """Shards of latents out of captioned clips; `verify`: all bytes as indexed; `decode`: a sample as mp4."""
    _call("latents", arguments=arguments, limit=limit, remove=remove)


@app.command()
def train(config: ConfigPath, overrides: Overrides = None) -> None:
    """The transformer learns from a data set's shards; resumes."""
    _call("train", config=config, overrides=overrides or [])


@app.command("train-vae")
def train_vae(config: ConfigPath, overrides: Overrides = None) -> None:
    """A VAE of your own, learnt from a curated data set; resumes, and ends with what it is worth."""
    _call("train-vae", config=config, overrides=overrides or [])


@app.command()
def sample(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT... [KEY=VALUE]...",
            help="settings: model, out (mp4, gif, png), frames, height, width, steps, guidance, dynamic, sampler, "
            "negative, seed, strength, fps, vae, text, device, dtype",
        ),
    ],
) -> None:
    """Videos from prompts, by a training's newest checkpoint, another one, or a CogVideoX pipeline."""
    _call("sample", arguments=arguments)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="a training's folder, or one checkpoint")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="a new folder, or an earlier export")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings: merge, sampler, vae, text")
    ] = None,
) -> None:
    """A checkpoint as a pipeline for diffusers; adapters (LoRA) as files for diffusers and ComfyUI."""
    _call("export", model=model, output=output, settings=settings or [])


@app.command()
def status(target: Target, overrides: Overrides = None, as_json: Json = False) -> None:
    """Counts of a dataset: videos, clips, captions, latents."""
    _call("status", target=target, overrides=overrides or [], as_json=as_json)


@app.command()
def report(config: ConfigPath, overrides: Overrides = None) -> None:
    """Make report/index.html anew."""
    _call("report", config=config, overrides=overrides or [])


@app.command()
def explain(
    target: Target,
    clip_id: Annotated[str, typer.Argument(metavar="CLIP_ID")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Why a clip was kept or dropped: source, span, every score beside its threshold, file."""
    _call("explain", target=target, clip_id=clip_id, overrides=overrides or [], as_json=as_json)


@app.command()
def forget(
    target: Target,
    video_id: Annotated[str, typer.Argument(metavar="VIDEO_ID", help="16 digits or more")],
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Take a video down: remove its rows and media, and keep it from coming back."""
    _call("forget", target=target, video_id=video_id, overrides=overrides or [], yes=yes)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """What works on this machine, and what to do about what does not."""
    _call("doctor", config=config, overrides=overrides or [], as_json=as_json)


def _call(command: str, **arguments: Any) -> None:
    module, _, function = COMMANDS[command].partition(":")
    try:
        getattr(import_module(module), function)(**arguments)
    except RushesError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        what = f"{os.strerror(error.errno or 0).lower()}{where}"
        typer.secho(f"error: {what}. When that is mended, run the same command again to go on.", err=True, fg="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.secho("stopped. Run the same command again to go on.", err=True)
        raise typer.Exit(1) from error


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
