"""One cell trained by timm's parts in a process of its own: `python -m studies.bench.timm_cell JOB`.

It stands in for timm's `train.py` where that script is not at hand: images are decoded from PNG files by timm's folder
reader, trained for the cell's steps and evaluated once on the test folder. JOB is JSON: `workload`, `folder`, `steps`,
`threads`, `workers`, `mean` and `std`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from timm.utils.metrics import AverageMeter, accuracy
from torch import nn

from datamodules import Normalization

from .timm_loop import TimmFlags, TimmLoop, fractions
from .workload import Workload

EVALUATION_BATCH = 512


def train_cell(job: dict[str, Any]) -> dict[str, float]:
    """Trains and evaluates; `images` trained on, the last `loss`, and `test_error`."""
    workload = Workload.from_json(job["workload"])
    normalization = Normalization(tuple(job["mean"]), tuple(job["std"]))
    mode = "L" if workload.in_channels == 1 else "RGB"
    images = create_dataset("", root=job["folder"], split="train", is_training=True, input_img_mode=mode)
    loop = TimmLoop(workload, "cpu", TimmFlags(workers=job["workers"]), (images, normalization))
    span = loop.steps(job["steps"])
    test = create_dataset("", root=job["folder"], split="test", input_img_mode=mode)
    loader = create_loader(
        test,
        input_size=(workload.in_channels, workload.image_size, workload.image_size),
        batch_size=EVALUATION_BATCH,
        mean=fractions(normalization.mean),
        std=fractions(normalization.std),
        num_workers=job["workers"],
        crop_pct=1.0,
        device=torch.device("cpu"),
    )
    return {"images": span.images, "loss": span.loss, "test_error": 1 - evaluate(loop.network, loader) / 100}


def evaluate(network: nn.Module, loader: Any) -> float:  # noqa: ANN401  # timm's prefetching loader
    """Accuracy in percent."""
    top1: Any = AverageMeter()  # type: ignore[no-untyped-call]
    network.eval()
    with torch.inference_mode():
        for images, target in loader:
            (correct,) = accuracy(network(images), target, topk=(1,))  # type: ignore[no-untyped-call]
            top1.update(correct.item(), images.shape[0])
    return float(top1.avg)


if __name__ == "__main__":
    _job = json.loads(sys.argv[1])
    torch.set_num_threads(_job["threads"])
    print(json.dumps(train_cell(_job)))
