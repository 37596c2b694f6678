"""What pixels are divided by: statistics of a whole training split."""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.images import ImageSplit


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation, in pixel values 0 to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train: ImageSplit) -> "Normalization":
        """Statistics of a whole training split, validation included.

        One normalisation per data set, so that train size, validation size and seeds leave it alone.
        """
        return cls(*train.channel_statistics())

    def scale_and_offset(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`x * scale + offset` standardises; both float32 `[C, 1]`."""
        mean = torch.tensor(self.mean, dtype=torch.float64)[:, None]
        std = torch.tensor(self.std, dtype=torch.float64)[:, None]
        return (1 / std).to(device, torch.float32), (-mean / std).to(device, torch.float32)
