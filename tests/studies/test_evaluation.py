"""What a network is worth does not depend on how many images are shown to it at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from datamodules import DialData, StepBatches
from studies.evaluation import predict
from studies.objective import Classification

DIAL = DialData(num_train=300, num_test=200)


class Small(nn.Module):
    """A network whose device holds only so many images at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.most, self.sizes = nn.Linear(256, 2), most, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.layer(images.flatten(1))
        return logits


@pytest.fixture
def batches() -> StepBatches:
    return StepBatches(DIAL.load("train"), batch_size=16, order_seed=0)


def test_a_batch_too_large_for_the_device_is_halved(batches: StepBatches) -> None:
    expected = predict(Small(1000), batches, Classification(2), "fp32", split=DIAL.load("test"))
    network = Small(60)
    found = predict(network, batches, Classification(2), "fp32", split=DIAL.load("test"))
    torch.testing.assert_close(found.log_probability, expected.log_probability, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.truth, expected.truth)
    assert network.sizes == [200, 128, 64, 32, 32, 32, 32, 32, 32, 8]
    assert network.training


def test_a_single_image_too_large_is_told(batches: StepBatches) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        predict(Small(0), batches, Classification(2), "fp32", split=DIAL.load("test"))
