"""Wrapped borders equal PyTorch's circular padding, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_network
from models.circular import CircularConv2d, wrap_borders


@pytest.mark.parametrize(("size", "border"), [((5, 4), 1), ((4, 6), 3), ((1, 1), 1), ((3, 3), 3)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_borders_equal_pytorchs(size: tuple[int, int], border: int, memory_format: torch.memory_format) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    expected = F.pad(maps, (border,) * 4, mode="circular")
    padded = wrap_borders(maps, border)
    torch.testing.assert_close(padded, expected, rtol=0, atol=0)
    assert padded.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(expected)
    (found,) = torch.autograd.grad((padded * weights).sum(), maps)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), maps)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_second_derivatives_are_right() -> None:
    maps = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: wrap_borders(x, 1).square(), maps)


def test_a_border_wider_than_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="border 3 of maps of 4 x 2"):
        wrap_borders(torch.zeros(1, 1, 4, 2), 3)


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, False), (3, 2, True), (7, 2, False)])
def test_convolution_equals_pytorchs(kernel: int, stride: int, bias: bool) -> None:
    options = {
        "groups": 2,
        "kernel_size": kernel,
        "stride": stride,
        "padding": kernel // 2,
        "bias": bias,
        "dtype": torch.float64,
    }
    expected = nn.Conv2d(4, 6, padding_mode="circular", **options)
    wrapped = CircularConv2d.like(expected)
    assert wrapped.state_dict().keys() == expected.state_dict().keys()
    assert wrapped.weight is expected.weight
    images = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(wrapped(images), expected(images), rtol=1e-12, atol=1e-12)


def test_the_circular_resnet_trains_under_autocast() -> None:
    network = build_network("resnet", "nano-circular", image_size=16, in_channels=1, num_classes=2)
    assert sum(isinstance(module, CircularConv2d) for module in network.modules()) == 7
    with torch.autocast("cpu", torch.float16):  # bf16 products kill some processors; the types mix in the same way
        loss = network(torch.randn(4, 1, 16, 16)).float().square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())
