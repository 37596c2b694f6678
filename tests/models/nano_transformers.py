"""ViT and hybrid of the nano tier at 16 px in float64, sharpened so that everything that can show does."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from models.registry import build_network
from models.transformer_form import form_names

IMAGE_SIZE, PATCH_SIZE, GRID, WIDTH, HEADS, DEPTH = 16, 4, 4, 32, 2, 3  # the nano tier at 16 px
IMAGES = {"image_size": IMAGE_SIZE, "in_channels": 1, "num_classes": 3}
PLACES = [name for name in form_names() if "cls" not in name and "regularized" not in name]


def network(form: str = "", family: str = "vit", *, random_head: bool = True) -> nn.Module:
    """A nano network in float64 with sharp attention and large tables and classifier, so that everything shows."""
    torch.manual_seed(0)
    built = build_network(family, f"nano-{form}".removesuffix("-"), **IMAGES).double()
    if random_head:
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if "position" in name or name.startswith(("head", "pos_embed", "cls_token")):
                    parameter.normal_()
                if name.endswith("qkv.weight"):
                    parameter.mul_(10)
    return built.eval()


def images(number: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)


def shuffled(pictures: torch.Tensor) -> torch.Tensor:
    """The same images with their patches in another order."""
    patches = F.unfold(pictures, PATCH_SIZE, stride=PATCH_SIZE)
    order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(2))
    return F.fold(patches[..., order], IMAGE_SIZE, PATCH_SIZE, stride=PATCH_SIZE)
