"""The version of the protocol and the words it gives to what can be chosen."""

from __future__ import annotations

from typing import Literal

PROTOCOL_VERSION = "1"
"""Changes whenever a golden result or a rule of the protocol does: records of different versions are never mixed."""

SeedKind = Literal["subset", "order", "initialization", "augmentation"]
Permutation = Literal["none", "within_patch", "patches", "pixels"]
ObjectiveName = Literal["classification", "masked_patches"]
"""What a network learns: the classes of images, or the colours of patches hidden from it (`models.masked_patches`)."""
