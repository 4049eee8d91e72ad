"""Where models run: ONNX Runtime sessions and torch devices, one thread a worker, a GPU where there is one.

Imports are inside the functions: configurations are read on machines and in processes that load no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestration.errors import ConfigError


def onnx_session(path: str | Path, device: str = "auto") -> Any:
    """An ONNX Runtime session of one thread, on the GPU where the runtime has CUDA."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    available = onnxruntime.get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in available:
        raise ConfigError("device: cuda needs onnxruntime-gpu in place of onnxruntime; install it, or set device: auto")
    wanted = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a worker a CPU
    return onnxruntime.InferenceSession(str(path), options, providers=[name for name in wanted if name in available])


def torch_device(device: str = "auto") -> Any:
    """The torch device, with one thread on a CPU. Raises ConfigError where CUDA is asked for and absent."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda, but torch sees no CUDA device; set ray.worker_gpus, or device: auto")
    if device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")


def allow_torchvision() -> None:
    """Call before the first import of torchvision (open_clip and timm do it).

    Its published wheel is built for CUDA: beside a CPU build of torch its import fails, because two operators that only
    the CUDA build registers are looked up. Naming them is enough; nothing here calls them.
    """
    import torch

    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # a library's operators go with it
