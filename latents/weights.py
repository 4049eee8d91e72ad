"""What both encoders need: where they compute and in which type, what identifies their weights, equal bits each time.

Imports are inside the functions: configurations are read on machines and in processes that load no model.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from orchestration.config import Config

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
BLOCK = 1 << 24
_NO_MEMORY = ("out of memory", "can't allocate memory")  # what CUDA says, and torch on a CPU


class EncoderConfig(Config):
    """Where an encoder computes, and in which type."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: DType = "auto"  # of the computation: bfloat16 on a GPU, float32 on a CPU
    store: DType = "auto"  # of what is kept: as computed

    def resolved(self, gpu: bool) -> Self:
        """With nothing left to the machine that it runs on: fingerprints are needed before, and elsewhere."""
        device = ("cuda" if gpu else "cpu") if self.device == "auto" else self.device
        dtype = ("bfloat16" if device == "cuda" else "float32") if self.dtype == "auto" else self.dtype
        store = dtype if self.store == "auto" else self.store
        return self.model_copy(update={"device": device, "dtype": dtype, "store": store})

    def here(self) -> Self:
        """`resolved` for this machine."""
        import torch

        return self.resolved(torch.cuda.is_available())


def torch_dtype(name: str) -> torch.dtype:
    """Of a resolved setting."""
    import torch

    return getattr(torch, name)


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def identity(name: str, folder: Path, weights: str, settings: str) -> str:
    """`NAME@COMMIT` of a hub name; `FOLDER#HASH` of a folder, over its weights and the settings beside them.

    Args:
        name: as configured.
        folder: where the weights lie: in the folder of that name, or in the hub's cache.
        weights, settings: hashes of both.
    """
    own = Path(name).expanduser()
    if own.is_dir():
        both = hashlib.sha256(f"{weights}\n{settings}".encode()).hexdigest()
        return f"{own.resolve().name}#{both[:16]}"
    parts = folder.parts  # …/snapshots/COMMIT/…
    return f"{name}@{parts[parts.index('snapshots') + 1]}"


@contextlib.contextmanager
def reproducible(device: Any) -> Iterator[None]:
    """Without gradients, and so that equal input gives equal bits on this machine.

    On a CPU with one thread: matrix products and convolutions round otherwise with more. On a GPU with deterministic
    kernels and full float32. What does not fit into memory raises MemoryError.
    """
    import torch

    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        with torch.no_grad(), cudnn if device.type == "cuda" else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise MemoryError(str(error).partition("\n")[0]) from error
        raise
    finally:
        torch.set_num_threads(threads)
