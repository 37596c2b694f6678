"""Forward FLOPs as pure arithmetic: the primitives that every family adds up.

Convention, the same as ``torch.utils.flop_counter.FlopCounterMode``: a multiply-add is two FLOPs; matrix products,
convolutions and the matrix products inside an LSTM are counted; norms, activations, softmax, biases and pooling are
not. Everything is per example, as exact integers, and needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of one forward pass over one example.

    Attributes:
        total: all counted operations.
        first_layer: the part spent in the layer that reads the image. Its gradient with respect to the image is never
            computed, so this much is saved in the backward pass.
    """

    total: int
    first_layer: int

    @property
    def train(self) -> int:
        """Training FLOPs by the convention of 3 x forward (Kaplan et al. 2001.08361, section 2.1)."""
        return 3 * self.total

    @property
    def train_exact(self) -> int:
        """Training FLOPs without the gradient with respect to the image, which no optimiser needs."""
        return 3 * self.total - self.first_layer


def linear_flops(in_features: int, out_features: int, *, rows: int = 1) -> int:
    """A matrix product of ``rows`` vectors ``[in_features]`` with ``[in_features, out_features]``."""
    return 2 * rows * in_features * out_features


def convolution_flops(in_channels: int, out_channels: int, kernel_size: int, output_size: int) -> int:
    """A square convolution without groups whose output is ``[out_channels, output_size, output_size]``."""
    return 2 * in_channels * out_channels * kernel_size**2 * output_size**2


def attention_flops(num_tokens: int, width: int) -> int:
    """Queries x keys and weights x values over all heads; projections are counted as linear layers."""
    return 2 * linear_flops(num_tokens, num_tokens, rows=width)


def lstm_flops(num_steps: int, input_size: int, hidden_size: int) -> int:
    """One direction of one LSTM layer: ``2 T 4H (I + H)``.

    PyTorch's LSTM has no peepholes, so the four gates are the only matrix products.
    """
    return linear_flops(input_size + hidden_size, 4 * hidden_size, rows=num_steps)


def transformer_block_flops(num_tokens: int, width: int, mlp_width: int) -> int:
    """A pre-norm transformer block: query, key, value and output projections, attention, two-layer MLP."""
    projections = linear_flops(width, 4 * width, rows=num_tokens)
    mlp = 2 * linear_flops(width, mlp_width, rows=num_tokens)
    return projections + attention_flops(num_tokens, width) + mlp


def halved(size: int) -> int:
    """Output size of a stride-2 layer with "same" padding: ``ceil(size / 2)``."""
    return -(-size // 2)
