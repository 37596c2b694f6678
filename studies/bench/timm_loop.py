"""timm's training loop on the same work, built from the parts timm ships.

timm's `train.py` is no part of its package. This loop takes the same parts in the order of work of `train_one_epoch`
there (timm 1.0.31): loader with uint8 collation and a prefetcher that normalises, `ClassificationTask`, backward,
`dispatch_clip_grad`, optimiser, loss read every step, scheduler stepped every update. Crop and flip are torchvision's,
at the sizes of the other contenders. What depends on the machine is a flag, and the fastest is chosen by measurement.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data.loader import create_loader
from timm.data.transforms import MaybePILToTensor
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.task.classification import ClassificationTask
from timm.utils.clip_grad import dispatch_clip_grad
from timm.utils.metrics import AverageMeter
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms  # type: ignore[import-untyped]

from datamodules import Normalization, nested_subset

from .loops import CLIP_NORM, Span, Stopwatch
from .workload import Workload

CROP_PADDING = 4
FULL_EPOCHS = 1_000_000  # of the schedule: the learning rate is constant


@dataclass(frozen=True)
class TimmFlags:
    """What `train.py` lets its user choose for speed.

    Attributes:
        workers: processes of the loader; 0 loads in the training process.
        channels_last: memory format of network and images.
        fused: AdamW as a single kernel (`--opt-kwargs fused=True`).
        compile: `torch.compile` in this mode, or not at all.
    """

    workers: int = 0
    channels_last: bool = False
    fused: bool = False
    compile: Literal["", "default", "reduce-overhead"] = ""


class ArrayImages(Dataset[tuple[Any, int]]):
    """Decoded images as a timm data set: no file is opened, which is more than its script is given.

    Attributes:
        transform: set by `create_loader`.
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels
        self.mode = "L" if images.shape[3] == 1 else "RGB"
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[:, :, 0] if self.mode == "L" else pixels, self.mode)
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


class TimmLoop:
    """timm's loop over a workload; one endless run whose loader and workers live as long as it does.

    Args:
        images: a data set for `create_loader` and its statistics; the workload's own arrays if None.
    """

    def __init__(
        self,
        workload: Workload,
        device: str,
        flags: TimmFlags | None = None,
        images: tuple[Dataset[tuple[Any, int]], Normalization] | None = None,
    ) -> None:
        self.workload, self.device = workload, torch.device(device)
        if images is None:
            split = workload.source().load("train")
            rows = nested_subset(split.labels, workload.num_train, seed=workload.replicate)
            images = ArrayImages(split.images[rows], split.labels[rows]), Normalization.of(split)
        self._images, self._normalization = images
        self._watch = Stopwatch(self.device)
        self.set_flags(flags or TimmFlags())

    def set_flags(self, flags: TimmFlags) -> None:
        """Builds loader, task, optimiser and scheduler anew; training starts from the untrained network."""
        self.flags = flags
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        self._network = self.workload.classifier().network.to(self.device)
        if flags.channels_last:
            self._network.to(memory_format=torch.channels_last)
        self._loader = training_loader(self._images, self.workload, self._normalization, self.device, flags.workers)
        self._task = ClassificationTask(self._network, nn.CrossEntropyLoss(), device=self.device, verbose=False)
        fused: dict[str, Any] = {"fused": True} if flags.fused else {}
        self._optimizer = create_optimizer_v2(
            self._network,
            opt="adamw",
            lr=self.workload.learning_rate,
            weight_decay=self.workload.weight_decay,
            **fused,
        )
        if flags.compile:
            self._task.compile(backend="inductor", mode=None if flags.compile == "default" else flags.compile)
        self._scheduler, _ = create_scheduler_v2(
            self._optimizer,
            sched="constant",
            num_epochs=FULL_EPOCHS,
            step_on_epochs=False,
            updates_per_epoch=len(self._loader),
        )
        self._amp: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        if self.workload.precision == "bf16":
            self._amp = partial(torch.autocast, device_type=self.device.type, dtype=torch.bfloat16)
        self._losses: Any = AverageMeter()  # type: ignore[no-untyped-call]
        self._updates = 0
        self._endless = self._batches()
        self._network.train()
        self._optimizer.zero_grad()

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self._network

    @property
    def options(self) -> dict[str, Any]:
        """The flags."""
        return dataclasses.asdict(self.flags)

    def steps(self, count: int) -> Span:
        """The next `count` updates."""
        images = 0
        self._watch.begin()
        for _ in range(count):
            batch, target = next(self._endless)
            images += self.update(batch, target)
        self._watch.end()
        return Span(self._watch.start, self._watch.stop, images, self._losses.val)

    def update(self, images: Tensor, target: Tensor) -> int:
        """One update in the order of timm's `train_one_epoch`; returns the number of images."""
        if self.flags.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._amp():
            loss = self._task(images, target)["loss"]
        loss.backward(create_graph=False)
        dispatch_clip_grad(self._task.get_clip_parameters(), value=CLIP_NORM, mode="norm")
        self._optimizer.step()
        self._losses.update(loss.item(), images.shape[0])
        self._updates += 1
        self._optimizer.zero_grad()
        self._task.update_ema(step=self._updates)
        self._scheduler.step_update(num_updates=self._updates, metric=self._losses.avg)
        return images.shape[0]

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self._loader


def training_loader(
    images: Dataset[tuple[Any, int]],
    workload: Workload,
    normalization: Normalization,
    device: torch.device,
    workers: int,
) -> Any:  # noqa: ANN401  # timm's prefetching loader
    """timm's training loader with this workload's crop and flip in place of its ImageNet transform."""
    loader = create_loader(
        images,  # type: ignore[arg-type]  # any data set with a transform will do
        input_size=(workload.in_channels, workload.image_size, workload.image_size),
        batch_size=workload.batch_size,
        is_training=True,
        mean=fractions(normalization.mean),
        std=fractions(normalization.std),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
        use_prefetcher=True,
    )
    images.transform = augmentation(workload)  # type: ignore[attr-defined]
    return loader


def fractions(pixel_values: tuple[float, ...]) -> tuple[float, ...]:
    """Statistics in pixel values as timm wants them, between 0 and 1."""
    return tuple(value / 255 for value in pixel_values)


def augmentation(workload: Workload) -> Callable[[Image.Image], Tensor]:
    """The workload's augmentation of one PIL image, giving a uint8 tensor for the prefetcher."""
    steps: list[Any] = []
    if "crop" in workload.augmentation:
        steps.append(transforms.RandomCrop(workload.image_size, padding=CROP_PADDING))
    if "flip" in workload.augmentation:
        steps.append(transforms.RandomHorizontalFlip())
    composed: Callable[[Image.Image], Tensor] = transforms.Compose([*steps, MaybePILToTensor()])
    return composed


def fastest_flags(
    loop: TimmLoop, seconds: float, worker_counts: tuple[int, ...], compiled: tuple[str, ...] = ()
) -> tuple[TimmFlags, list[dict[str, Any]]]:
    """Chooses flags one after another, each by its images per second; leaves the loop with the fastest.

    Args:
        loop: measured and changed.
        seconds: length of one measurement.
        worker_counts: numbers of loader processes to try.
        compiled: modes of `torch.compile` to try.

    Returns:
        The flags, and what was measured: flags and `images_per_second`, or the `error` of what did not run.
    """
    tried: list[dict[str, Any]] = []
    best, best_rate = TimmFlags(), 0.0

    def attempt(flags: TimmFlags) -> None:
        nonlocal best, best_rate
        try:
            loop.set_flags(flags)
            rate = brief_rate(loop, seconds)
        except Exception as error:  # a mode that this network or machine cannot do
            tried.append(dataclasses.asdict(flags) | {"error": f"{type(error).__name__}: {error}"[:300]})
            return
        tried.append(dataclasses.asdict(flags) | {"images_per_second": rate})
        if rate > best_rate:
            best, best_rate = flags, rate

    for workers in worker_counts:
        attempt(TimmFlags(workers=workers))
    attempt(dataclasses.replace(best, fused=True))
    attempt(dataclasses.replace(best, channels_last=True))
    for mode in compiled:
        attempt(dataclasses.replace(best, compile=mode))  # type: ignore[arg-type]
    loop.set_flags(best)
    return best, tried


def brief_rate(loop: TimmLoop, seconds: float) -> float:
    """Images per second over about `seconds`, after a warm-up."""
    loop.steps(3)
    span = loop.steps(3)
    count = max(3, round(3 * seconds / max(span.seconds, 1e-6)))
    span = loop.steps(count)
    return span.images / span.seconds
