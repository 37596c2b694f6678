"""The vision transformer's other forms: the class token, and strong regularisation."""

from __future__ import annotations

import pytest
import torch
from nano_transformers import DEPTH, images, network
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def test_a_class_token_changes_what_is_read_and_nothing_else() -> None:
    average, token = network(""), network("cls")
    for built in (average, token):
        assert type(built) is VisionTransformer
        assert isinstance(built.norm, nn.LayerNorm)
        assert isinstance(built.fc_norm, nn.Identity)
    assert set(token.state_dict()) == set(average.state_dict()) | {"cls_token"}
    assert token.pos_embed.shape == average.pos_embed.shape  # type: ignore[union-attr]
    features = token.forward_features(images())  # type: ignore[operator]
    assert torch.equal(token(images()), token.head(features[:, 0]))  # type: ignore[operator]
    features = average.forward_features(images())  # type: ignore[operator]
    assert torch.equal(average(images()), average.head(features.mean(dim=1)))  # type: ignore[operator]


@pytest.mark.parametrize("form", ["regularized", "nopos-regularized", "relbias-cls-regularized", "every-regularized"])
def test_regularised_forms_drop_out_at_the_same_places(form: str) -> None:
    built = network(form)
    rates = {name: layer.p for name, layer in built.named_modules() if isinstance(layer, nn.Dropout)}
    expected = {"pos_drop": 0.1}
    for block in range(DEPTH):
        expected |= {f"blocks.{block}.{name}": 0.1 for name in ("attn.proj_drop", "mlp.drop1", "mlp.drop2")}
    assert {name: rate for name, rate in rates.items() if rate > 0} == expected
    depths = [getattr(block.drop_path1, "drop_prob", 0.0) for block in built.blocks]  # type: ignore[union-attr]
    assert depths == pytest.approx([0.0, 0.05, 0.1])
    quiet = built(images())
    assert torch.equal(quiet, built(images()))
    torch.manual_seed(0)
    assert not torch.allclose(built.train()(images()), quiet)


def test_tokens_are_dropped_after_the_stem_without_positions_too() -> None:
    built = network("nopos-regularized").train()
    torch.manual_seed(0)
    tokens = built._pos_embed(built.patch_embed(images()))  # type: ignore[operator]
    assert 0.05 < float((tokens == 0).double().mean()) < 0.15
