"""What every contender trains: one network, one data set, one recipe, said once so that the work is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from models import FAMILIES, TIERS, ForwardFlops, forward_flops
from studies.arms import parse_arm
from studies.cell import Cell, Seeds
from studies.errors import ConfigError
from studies.protocol import PROTOCOL_VERSION

if TYPE_CHECKING:
    from datamodules import DataConfig, ImageSplit, StepBatches
    from models import ImageClassifier

NUM_IMAGES = 4800
STEPS = 400_000
"""Steps of the cell that the loops train a stretch of: more than any measurement takes."""


@dataclass(frozen=True)
class Workload:
    """A training whose speed is measured: AdamW, clip at 1, cross-entropy, a constant learning rate.

    Attributes:
        arm: a family, or a family and a form, as a study names it.
        num_train: images, a subset of at least `NUM_IMAGES`; class templates in noise, so that a loss can fall.
        precision: `fp32`, or `bf16` for autocast with weights in fp32.
        replicate: the seed of order, augmentation and initial weights.
    """

    arm: str
    tier: str = "nano"
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    batch_size: int = 96
    num_train: int = NUM_IMAGES
    precision: Literal["fp32", "bf16"] = "fp32"
    augmentation: tuple[str, ...] = ("crop", "flip")
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    replicate: int = 0

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Workload:
        """The workload that `dataclasses.asdict` and JSON made of one."""
        return cls(**(dict(content) | {"augmentation": tuple(content["augmentation"])}))

    @property
    def network_name(self) -> tuple[str, str]:
        """Family and variant."""
        named = parse_arm(self.arm, self.tier)
        return named.family, named.variant

    @property
    def images_of(self) -> dict[str, Any]:
        """Shape of the images and number of classes, as `build_network` takes them."""
        return {"image_size": self.image_size, "in_channels": self.in_channels, "num_classes": self.num_classes}

    @cached_property
    def flops(self) -> ForwardFlops:
        """FLOPs per image; `train_exact` is what a training step really costs (PROTOCOL 2).

        Raises:
            ConfigError: there is no such arm in the tier, or the tier is not for such images.
        """
        try:
            return forward_flops(*self.network_name, **self.images_of)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @property
    def arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Images `[n, H, W, C]` and labels `[n]`."""
        split = _train_split(self._described)
        return split.images, split.labels

    def source(self) -> DataConfig:
        """The arrays as a data set."""
        return _source(self._described)

    @property
    def _described(self) -> tuple[int, int, int, int]:
        return self.image_size, self.in_channels, self.num_classes, max(NUM_IMAGES, self.num_train)

    def cell(self) -> Cell:
        """The same as a cell of a study: one branch, no warm-up."""
        family, variant = self.network_name
        seed = self.replicate
        return Cell(
            protocol_version=PROTOCOL_VERSION,
            family=family,
            variant=variant,
            data="arrays",
            data_fingerprint="",
            **self.images_of,
            num_train=self.num_train,
            num_validation=0,
            num_test=0,
            permutation="none",
            augmentation=self.augmentation,
            replicate=seed,
            seeds=Seeds(subset=seed, order=seed, initialization=seed, augmentation=seed),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            precision=self.precision,
            batch_size=self.batch_size,
            steps=STEPS,
            branches=(1.0,),
            warmup_fraction=0.0,
            cooldown_fraction=0.2,
            forward_flops=self.flops.total,
            first_layer_flops=self.flops.first_layer,
        )

    def batches(self, device: str, *, resident: bool = True) -> StepBatches:
        """The training batches, as a study makes them."""
        from datamodules import StepBatches, nested_subset

        split = _train_split(self._described)
        return StepBatches(
            split,
            nested_subset(split.labels, self.num_train, seed=self.replicate),
            batch_size=self.batch_size,
            order_seed=self.replicate,
            augmentation_seed=self.replicate,
            augmentation=self.augmentation,
            device=device,
            resident=resident,
        )

    def classifier(self) -> ImageClassifier:
        """The untrained network in its ordinary LightningModule; equal weights for equal replicates."""
        from models import ImageClassifier

        family, variant = self.network_name
        return ImageClassifier(
            family,
            variant,
            **self.images_of,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=0.0,
            cooldown_fraction=0.0,
            initialization_seed=self.replicate,
        )


@cache
def _source(described: tuple[int, int, int, int]) -> DataConfig:
    """Images of (size, channels, classes, number); the few test images are never looked at."""
    from datamodules import ArrayData

    size, channels, num_classes, count = described
    draws = np.random.default_rng(0)
    templates = draws.integers(0, 256, (num_classes, size, size, channels), dtype=np.uint8)
    labels = np.arange(count) % num_classes
    images = templates[labels] // 2 + draws.integers(0, 256, (count, size, size, channels), dtype=np.uint8) // 2
    return ArrayData(
        train_images=images,
        train_labels=labels,
        test_images=images[:num_classes],
        test_labels=labels[:num_classes],
        label_preserving=("crop", "flip"),
    )


@cache
def _train_split(described: tuple[int, int, int, int]) -> ImageSplit:
    """One object for all replicates, as the cells of a study share it."""
    return _source(described).load("train")


def workloads(tier: str, families: Sequence[str] | None, **settings: Any) -> tuple[Workload, ...]:  # noqa: ANN401
    """A workload per family; all that the tier has where none is named.

    Raises:
        ConfigError: the tier, a family or the image size does not exist; says which do.
    """
    if tier not in TIERS:
        raise ConfigError(f"--tier is {tier!r}; expected one of {', '.join(TIERS)}")
    image_size = settings.get("image_size", Workload.image_size)
    if image_size not in TIERS[tier].patch_sizes:
        sizes = ", ".join(map(str, TIERS[tier].patch_sizes))
        raise ConfigError(f"--image-size is {image_size}; the tier {tier} is for images of {sizes} px")
    chosen = _of_tier(tier) if families is None else families
    found = tuple(Workload(name, tier, **settings) for name in chosen)
    for workload in found:
        _ = workload.flops  # refuses what cannot be built
    return found


def as_json(workload: Workload) -> dict[str, Any]:
    """Plain values; `Workload.from_json` reads them back."""
    return dataclasses.asdict(workload)


def _of_tier(tier: str) -> Iterable[str]:
    return (name for name, family in FAMILIES.items() if tier not in dict(family.refused_tiers))
