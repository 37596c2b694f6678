"""Moving images and maps by fractions of a pixel: a phase in the Fourier domain.

On a torus, and for what holds no frequency at or above Nyquist's, this is exact. At Nyquist's frequency itself, which
maps of an even size have, a shift cannot be told from its opposite: there the mean of both is taken (a cosine), so that
a shift and its opposite do the same and the derivative is zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def translated(maps: Tensor, pixels: float, dim: int) -> Tensor:
    """Move the content of maps along a dimension, to higher indices, wrapping around.

    Args:
        maps: float, any shape; those of half precision are moved in float32.
        pixels: how far, in steps of the map; may be a fraction.
        dim: along which dimension.
    """
    size, precision = maps.shape[dim], maps.dtype
    maps = _transformable(maps)
    frequencies = torch.fft.rfftfreq(size, dtype=maps.dtype, device=maps.device)
    phases = torch.exp(-2j * math.pi * pixels * frequencies)
    if size % 2 == 0:  # said here, not left to how a back-end's inverse transform treats an imaginary part there
        phases[-1] = math.cos(math.pi * pixels)
    shape = [1] * maps.ndim
    shape[dim] = len(phases)
    moved: Tensor = torch.fft.irfft(torch.fft.rfft(maps, dim=dim) * phases.reshape(shape), n=size, dim=dim)
    return moved.to(precision)


def band_limited(images: Tensor, band: float) -> Tensor:
    """Take from images ``[B, C, H, W]`` what varies faster than a fraction of Nyquist's frequency along either side.

    Args:
        images: float; taken as periodic.
        band: frequencies strictly below ``band / 2`` cycles per pixel stay, above 0 and at most 1.

    Raises:
        ValueError: the band is not in this range.
    """
    if not 0 < band <= 1:
        raise ValueError(f"band={band}: expected a fraction of Nyquist's frequency, above 0 and at most 1")
    precision = images.dtype
    images = _transformable(images)
    for dim in (2, 3):
        size = images.shape[dim]
        kept = torch.fft.rfftfreq(size, device=images.device) < band / 2
        spectrum = torch.fft.rfft(images, dim=dim) * kept.reshape([-1 if one == dim else 1 for one in range(4)])
        images = torch.fft.irfft(spectrum, n=size, dim=dim)
    return images.to(precision)


def _transformable(maps: Tensor) -> Tensor:
    """In float32 at least: half precision has no Fourier transform on a CPU, and on CUDA for powers of 2 alone."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
