"""Aesthetics: random heads and a random CLIP, saved, loaded and run through the real path, against torch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_curation_embedding import expected, save_tiny, view

from curation.scorers import encoders
from curation.scorers.aesthetic import Aesthetic
from curation.scorers.embedding import Embedding
from orchestration.errors import ConfigError, RushesError

WIDTH = 24  # of the tiny CLIP's vectors


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("clip") / "tiny", 11)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    from skimage import data

    return [data.chelsea(), data.coffee(), data.astronaut()]


def improved(width: int) -> Any:
    """The network of improved-aesthetic-predictor with random weights."""
    from torch import nn

    layers = nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
    return nn.ModuleDict({"layers": layers}).eval()


def test_without_a_head_the_column_is_null_and_a_notice_says_why(pictures: list[np.ndarray]) -> None:
    scorer = Aesthetic()
    assert "scorers.aesthetic.head" in (scorer.notice() or "")
    assert scorer.setup()([view(*pictures), view(pictures[0])]) == [{"aesthetic": None}] * 2


@pytest.mark.parametrize("form", ["improved.pth", "improved.safetensors", "lightning.ckpt", "linear.pth"])
def test_scores_are_those_of_the_head_on_clips_unit_vectors(
    form: str, clip: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(5)
    head: Any = torch.nn.Linear(WIDTH, 1) if form.startswith("linear") else improved(WIDTH)
    layers = head if form.startswith("linear") else head["layers"]
    path = tmp_path / form
    if path.suffix == ".safetensors":
        save_file(head.state_dict(), path)
    else:
        torch.save({"state_dict": head.state_dict()} if path.suffix == ".ckpt" else head.state_dict(), path)
    scorer = Aesthetic(clip=clip, head=str(path), device="cpu")
    assert scorer.notice() is None
    with torch.inference_mode():
        wanted = [float(layers(torch.from_numpy(expected(clip, rgb)))) for rgb in pictures]
    assert max(wanted) - min(wanted) > 1e-3
    look = scorer.setup()
    assert [row["aesthetic"] for row in look([view(rgb) for rgb in pictures])] == pytest.approx(wanted, abs=1e-5)
    assert look([view(*pictures)])[0]["aesthetic"] == pytest.approx(np.mean(wanted), abs=1e-5)


def test_the_embeddings_network_is_shared_and_its_vectors_are_used_again(
    clip: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    import torch

    torch.save(torch.nn.Linear(WIDTH, 1).state_dict(), tmp_path / "head.pth")
    Embedding(model=clip, device="cpu").setup()([view(*pictures)])
    shared = encoders.encoder(clip, None, "cpu")
    look = Aesthetic(clip=clip, head=str(tmp_path / "head.pth"), device="cpu").setup()
    tower_runs = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: tower_runs.append(1))
    try:
        assert np.isfinite(look([view(*[rgb.copy() for rgb in pictures])])[0]["aesthetic"])
    finally:
        hook.remove()
    assert not tower_runs
    assert encoders.encoder(clip, None, "cpu") is shared


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "nowhere.pth"}, "no file nowhere.pth"),
        ({"head": "hf://owner/repository"}, "names no file"),
        ({"head": "hf://owner/repository/head.pth", "clip": "efficientnet-lite0"}, "not on those of efficientnet"),
        ({"head": "hf://owner/repository/head.pth", "clip": "ViT-L14"}, "no architecture ViT-L14; did you mean"),
        ({"head": "hf://owner/repository/head.pth", "pretrained": "no/where.pt"}, "no file no/where.pt"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Aesthetic(**settings).notice()


def test_files_that_are_no_such_head(clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    linear = torch.nn.Linear
    relu = torch.nn.ModuleDict({"layers": torch.nn.Sequential(linear(WIDTH, 8), torch.nn.ReLU(), linear(8, 1))})
    broken = improved(WIDTH).state_dict() | {"layers.2.weight": torch.zeros(128, 7)}
    for number, (state, message) in enumerate(
        (
            (relu.state_dict() | linear(2, 2).state_dict(), "is no LAION head"),
            (torch.nn.Sequential(*(linear(2, 2) for _ in range(2))).state_dict(), "is no LAION head"),
            (broken, "do not fit to make one number"),
            (linear(WIDTH, 3).state_dict(), "do not fit to make one number"),
            (linear(768, 1).state_dict(), "takes vectors of 768 numbers, tiny#.* makes 24"),
            ([1, 2], "cannot read"),
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(state, path)
        with pytest.raises(RushesError, match=message):
            Aesthetic(clip=clip, head=str(path), device="cpu").setup()
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # a pickle that would run a program
    for head, message in ((str(evil), "cannot read"), ("hf://no-owner/nothing/head.pth", r"cannot fetch .*HF_HOME")):
        with pytest.raises(RushesError, match=f"(?s){message}"):
            Aesthetic(clip=clip, head=head, device="cpu").setup()
