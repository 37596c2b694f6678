"""Masked patch prediction: what is hidden stays hidden, colours are exact, costs are what the formula says."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from models import (
    MaskedPatchNetwork,
    backbone_state,
    build_network,
    build_optimizer,
    masked_patch_flops,
    why_no_lanes,
    why_no_masked_patches,
)
from models.masked_patches import (
    Corruption,
    colour_classes,
    corruption_of,
    count_masked_patch_flops,
    num_corrupted,
    num_draws,
)
from models.optimizer import param_groups_weight_decay

GREY = {"image_size": 16, "in_channels": 1}
COLOUR = {"image_size": 32, "in_channels": 3}
T = 16


def draws(num_images: int, num_patches: int = T, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1 << 62, (num_draws(num_patches), num_images), generator=generator)


def masked_vit(variant: str = "nano", family: str = "vit", **images: int) -> MaskedPatchNetwork:
    """A network whose every weight is drawn, so that nothing is equal by being zero."""
    network = MaskedPatchNetwork(build_network(family, variant, num_classes=10, **(images or GREY)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return network


class TestCorruption:
    def test_half_of_the_patches_of_every_image_are_corrupted_each_once(self) -> None:
        places = corruption_of(draws(500), T).places
        assert places.shape == (500, 8)
        assert all(len(set(row)) == 8 for row in places.tolist())
        counts = torch.bincount(places.flatten(), minlength=T) / 500
        assert (counts - 0.5).abs().max() < 0.1, "every patch is as likely"

    def test_an_odd_patch_is_spared(self) -> None:
        assert corruption_of(draws(3, 9), 9).places.shape == (3, num_corrupted(9)) == (3, 4)

    def test_of_ten_eight_are_masked_one_is_another_one_is_left(self) -> None:
        corruption = corruption_of(draws(4000), T)
        masked = corruption.masked.gather(1, corruption.places)
        exchanged = corruption.sources.gather(1, corruption.places) != corruption.places
        shares = [float(part.float().mean()) for part in (masked, exchanged, ~masked & ~exchanged)]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.008)  # 32,000 draws: 5 standard errors
        assert not (masked & exchanged).any()

    def test_nothing_happens_to_the_other_half(self) -> None:
        corruption = corruption_of(draws(200), T)
        spared = torch.ones(200, T, dtype=torch.bool).scatter(1, corruption.places, value=False)
        assert not corruption.masked[spared].any()
        assert torch.equal(corruption.sources[spared], torch.arange(T).expand(200, T)[spared])

    def test_every_other_patch_is_as_likely_and_none_is_taken_twice(self) -> None:
        corruption = corruption_of(draws(8000), T)
        places, themselves = corruption.places, torch.arange(T)
        sources = corruption.sources.gather(1, places)
        taken = sources[sources != places]
        distance = (taken - places[sources != places]) % T
        counts = torch.bincount(distance, minlength=T)[1:] / len(distance)
        assert (counts * 15 - 1).abs().max() < 0.2
        for row in corruption.sources[:500]:
            moved = row[row != themselves].tolist()
            assert len(moved) == len(set(moved))

    @pytest.mark.parametrize("num_patches", [2, 5, T])
    def test_another_patch_is_never_the_patch_itself(self, num_patches: int) -> None:
        random = draws(500, num_patches)
        corruption = corruption_of(random, num_patches)
        fates = random[num_patches : num_patches + num_corrupted(num_patches)].T % 10
        exchanged = corruption.sources.gather(1, corruption.places) != corruption.places
        assert torch.equal(exchanged, fates == 8)

    def test_an_image_is_corrupted_the_same_in_any_company(self) -> None:
        whole, alone = corruption_of(draws(6), T), corruption_of(draws(6)[:, 4:5], T)
        for some, one in zip(whole, alone, strict=True):
            assert torch.equal(some[4:5], one)


class TestColours:
    def test_they_are_those_of_the_paper_written_in_numpy(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 12)).astype(np.float32)
        means = pixels.reshape(5, 3, 2, 4, 3, 4).mean(axis=(3, 5), dtype=np.float64).reshape(5, 3, 6)
        bins = np.floor(means / 32).astype(int)
        expected = bins[:, 0] * 64 + bins[:, 1] * 8 + bins[:, 2]
        np.testing.assert_array_equal(colour_classes(torch.from_numpy(pixels), (4, 4)).numpy(), expected)

    def test_rows_and_columns_of_a_patch_may_differ(self) -> None:
        pixels = torch.zeros(1, 1, 4, 6)
        pixels[0, 0, 2:, 3:] = 255
        assert colour_classes(pixels, (2, 3)).tolist() == [[0, 0, 0, 7]]

    @pytest.mark.parametrize(("mean", "level"), [(0.0, 0), (31.9375, 0), (32.0, 1), (127.9375, 3), (128, 4), (255, 7)])
    def test_a_mean_at_an_edge_falls_into_the_upper_bin(self, mean: float, level: int) -> None:
        patch = torch.full((16,), float(int(mean)))
        patch[: round((mean - int(mean)) * 16)] += 1
        assert float(patch.mean()) == mean
        assert colour_classes(patch.view(1, 1, 4, 4), (4, 4)).item() == level


class TestNetwork:
    def test_before_training_all_colours_are_equally_likely(self) -> None:
        network = MaskedPatchNetwork(build_network("vit", "nano", num_classes=10, **COLOUR))
        logits = network(torch.randn(2, 3, 32, 32), corruption_of(draws(2, 64), 64))
        assert logits.shape == (2 * 32, 512)
        assert not logits.any()

    @pytest.mark.parametrize("variant", ["nano", "nano-nopos"])
    def test_a_masked_patch_is_predicted_without_its_pixels_and_a_spared_one_with_them(self, variant: str) -> None:
        network = masked_vit(variant)
        corruption = corruption_of(draws(1, seed=3), T)
        images = torch.randn(1, 1, 16, 16, requires_grad=True)
        logits = network(images, corruption)
        hidden = []
        for row, place in enumerate(corruption.places[0].tolist()):
            (gradient,) = torch.autograd.grad(logits[row].square().sum(), images, retain_graph=True)
            patches = gradient.view(4, 4, 4, 4).transpose(1, 2).flatten(2).abs().sum(dim=2).flatten()
            seen = corruption.sources[0][~corruption.masked[0]].unique().tolist()
            assert [bool(patches[patch] > 0) for patch in range(T)] == [patch in seen for patch in range(T)]
            hidden.append(place not in seen)
        assert sum(hidden) >= 5

    def test_the_embedding_of_another_patch_stands_where_it_was_put(self) -> None:
        network, images = masked_vit("nano-nopos"), torch.randn(1, 1, 16, 16)
        themselves = torch.arange(T)[None]
        places, nothing = torch.tensor([[2, 5]]), torch.zeros(1, T, dtype=torch.bool)
        exchanged = themselves.clone()
        exchanged[0, 2], exchanged[0, 5] = 5, 2
        plain = network(images, Corruption(places, themselves, nothing))
        swapped = network(images, Corruption(places, exchanged, nothing))
        torch.testing.assert_close(swapped, plain.flip(0), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain[0], plain[1], atol=1e-3)

    def test_uncorrupted_it_is_the_classifiers_features(self) -> None:
        network, images = masked_vit(), torch.randn(2, 1, 16, 16)
        themselves = torch.arange(T).expand(2, T)
        nothing = torch.zeros(2, T, dtype=torch.bool)
        logits = network(images, Corruption(themselves, themselves, nothing))
        expected = network.predictor(network.backbone.forward_features(images).flatten(0, 1))  # type: ignore[operator]
        assert torch.equal(logits, expected)
        assert not network.backbone.patch_embed._forward_hooks, "the corruption ends with the call"  # type: ignore[union-attr]

    def test_the_mask_begins_as_small_as_position_embeddings_do(self) -> None:
        torch.manual_seed(0)
        networks = [MaskedPatchNetwork(build_network("vit", "nano", num_classes=2, **GREY)) for _ in range(16)]
        values = torch.cat([network.mask_embedding for network in networks]).detach()
        assert len(values) > 400
        assert float(values.std()) == pytest.approx(0.02, rel=4 * (2 * len(values)) ** -0.5)

    def test_a_copy_uses_its_own_mask(self) -> None:
        network = masked_vit()
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.mask_embedding.neg_()
        corruption, images = corruption_of(draws(2), T), torch.randn(2, 1, 16, 16)
        assert not torch.allclose(network(images, corruption), other(images, corruption), atol=1e-3)

    def test_class_tokens_and_a_norm_before_the_classifier_are_no_patches(self) -> None:
        """A timm model with a class token; and one that pools and has its norm after that."""
        for family in ("timm:vit_tiny_patch16_224", "timm:test_vit2"):
            size = 224 if "tiny" in family else 64
            network = masked_vit("", family, image_size=size, in_channels=3)
            num_patches = (size // 16) ** 2
            assert network.num_patches == num_patches
            logits = network(torch.randn(1, 3, size, size), corruption_of(draws(1, num_patches), num_patches))
            assert logits.shape == (num_patches // 2, 512)
            loss = logits.logsumexp(dim=1).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            assert all(p.grad is not None for p in network.parameters())

    def test_embeddings_kept_on_their_grid_are_corrupted_alike(self) -> None:
        """timm's networks for images of any size keep patches as rows and columns until positions are added."""
        torch.manual_seed(0)
        plain = timm.create_model("test_vit", img_size=64, num_classes=2)
        on_grid = timm.create_model("test_vit", img_size=64, num_classes=2, dynamic_img_size=True)
        on_grid.load_state_dict(plain.state_dict())
        first, second = MaskedPatchNetwork(plain).eval(), MaskedPatchNetwork(on_grid).eval()
        second.load_state_dict(first.state_dict())
        nn.init.normal_(first.predictor.weight)
        second.predictor.weight = first.predictor.weight
        images, corruption = torch.randn(2, 3, 64, 64), corruption_of(draws(2, seed=5), T)
        assert second.backbone.patch_embed(images).ndim == 4  # type: ignore[operator]
        expected = first(images, corruption)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(second(images, corruption), expected)

    def test_the_mask_takes_the_precision_of_the_embeddings(self) -> None:
        """Else `torch.where` would turn all that follows into fp32."""
        network, told = masked_vit(), []
        embed = network.backbone.patch_embed

        def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
            told.append(output.dtype)

        forward = network.backbone.forward_features

        def watched(images: Tensor) -> Tensor:
            with embed.register_forward_hook(watch):  # type: ignore[union-attr]  # behind the corruption's own hook
                return forward(images)  # type: ignore[operator, no-any-return]

        network.backbone.forward_features = watched
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(torch.randn(1, 1, 16, 16), corruption_of(draws(1), T))
        assert told == [torch.bfloat16]

    def test_every_weight_learns(self) -> None:
        network = masked_vit()
        network(torch.randn(2, 1, 16, 16), corruption_of(draws(2), T)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())

    def test_mask_and_position_embeddings_are_not_decayed(self) -> None:
        network = masked_vit()
        exempt = param_groups_weight_decay(network, 0.1, no_weight_decay_list=network.no_weight_decay())[0]["params"]
        for parameter in (network.mask_embedding, network.backbone.pos_embed):
            assert any(parameter is one for one in exempt)
        groups = build_optimizer(network, 1e-3, 0.1).param_groups
        assert sorted(len(group["params"]) for group in groups) == sorted(
            [len(exempt), len(list(network.parameters())) - len(exempt)]
        )

    def test_it_trains_alone(self) -> None:
        assert "masked patch prediction" in str(why_no_lanes(masked_vit(), (1, 16, 16)))


class TestBackboneState:
    def test_it_is_that_of_a_classifier_without_its_head(self) -> None:
        network = masked_vit()
        classifier = build_network("vit", "nano", num_classes=10, **GREY)
        outcome = classifier.load_state_dict(network.backbone_state(), strict=False)
        assert outcome.unexpected_keys == []
        assert outcome.missing_keys == ["head.weight", "head.bias"]
        assert torch.equal(classifier.blocks[1].attn.qkv.weight, network.backbone.blocks[1].attn.qkv.weight)  # type: ignore[index, union-attr]

    def test_other_weights_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no mask_embedding among their"):
            backbone_state(build_network("vit", "nano", num_classes=10, **GREY).state_dict())


class TestRefusals:
    @pytest.mark.parametrize(
        ("family", "said"),
        [
            ("resnet", "has no patch embeddings"),
            ("mixer", "has no patch embeddings"),
            ("lstm", "has no patch embeddings"),
            ("mlp", "has no patch embeddings"),
            ("hybrid", "see pixels of neighbouring patches"),
        ],
    )
    def test_networks_without_maskable_patches(self, family: str, said: str) -> None:
        images = {"image_size": 64, "in_channels": 3} if ":" in family else GREY
        with pytest.raises(ValueError, match=said):
            MaskedPatchNetwork(build_network(family, "nano", num_classes=10, **images))
        if ":" not in family:
            with pytest.raises(ValueError, match=said):
                masked_patch_flops(family, "nano", **images)

    def test_too_many_colours(self) -> None:
        with pytest.raises(ValueError, match=r"5 channels make 8\^5 colours; expected at most 4"):
            masked_patch_flops("vit", "nano", image_size=16, in_channels=5)
        assert why_no_masked_patches(build_network("vit", "nano", image_size=16, in_channels=4, num_classes=2)) is None

    @pytest.mark.parametrize(("kernel", "stride", "padding"), [(6, 4, 0), (3, 4, 0), (4, 3, 0), (4, 4, 1)])
    def test_a_projection_that_is_not_of_each_patch_alone(self, kernel: int, stride: int, padding: int) -> None:
        network = build_network("vit", "nano", num_classes=10, **GREY)
        width = network.patch_embed.proj.out_channels  # type: ignore[union-attr]
        network.patch_embed.proj = nn.Conv2d(1, width, kernel, stride, padding)  # type: ignore[union-attr, arg-type]
        assert "see pixels of neighbouring patches" in str(why_no_masked_patches(network))

    def test_an_image_of_one_patch(self) -> None:
        network = timm.create_model("test_vit", img_size=16, num_classes=2)
        assert network.patch_embed.num_patches == 1
        assert "an image has 1 patches; expected 2 or more" in str(why_no_masked_patches(network))

    def test_patches_that_are_dropped_in_training_only(self) -> None:
        network = timm.create_model("test_vit", img_size=64, num_classes=2, patch_drop_rate=0.5)
        assert "expected a token for every patch" in str(why_no_masked_patches(network.eval()))

    def test_patch_embeddings_without_tokens(self) -> None:
        network = nn.Module()
        network.patch_embed = build_network("vit", "nano", num_classes=10, **GREY).patch_embed
        assert "has no patch embeddings that it could fill in" in str(why_no_masked_patches(network))

    def test_features_that_are_no_tokens_or_come_of_several_embeddings(self) -> None:
        for change in ("grid", "twice"):
            network = build_network("vit", "nano", num_classes=10, **GREY)

            class Changed(type(network)):  # type: ignore[misc]
                change = ""

                def forward_features(self, images: Tensor) -> Tensor:
                    if self.change == "twice":
                        self.patch_embed(images)
                    tokens: Tensor = super().forward_features(images)
                    return tokens if self.change == "twice" else tokens.unflatten(1, (4, 4))

            network.__class__, network.change = Changed, change  # type: ignore[assignment]
            assert "expected a token for every patch" in str(why_no_masked_patches(network)), change

    def test_a_network_that_drops_patches(self) -> None:
        class Dropping(nn.Module):
            def forward(self, tokens: Tensor) -> Tensor:
                return tokens[:, ::2]

        network = build_network("vit", "nano", num_classes=10, **GREY)
        network.patch_drop = Dropping()
        assert "expected a token for every patch" in str(why_no_masked_patches(network))

    def test_asking_changes_nothing(self) -> None:
        network = build_network("vit", "nano", num_classes=10, **GREY)
        before = torch.get_rng_state()
        assert why_no_masked_patches(network) is None
        assert torch.equal(torch.get_rng_state(), before)
        assert next(network.parameters()).device.type == "cpu"
        assert network.head.out_features == 10  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("variant", "image_size", "in_channels"),
    [("nano", 16, 1), ("nano", 32, 3), ("nano-nopos", 28, 1), ("tiny", 64, 3), ("small", 224, 3)],
)
def test_flops_by_formula_are_those_counted(variant: str, image_size: int, in_channels: int) -> None:
    images = {"image_size": image_size, "in_channels": in_channels}
    with torch.device("meta"):
        network = MaskedPatchNetwork(build_network("vit", variant, num_classes=7, **images))
    assert masked_patch_flops("vit", variant, **images) == count_masked_patch_flops(network, **images)


def test_flops_of_networks_from_outside_are_counted() -> None:
    flops = masked_patch_flops("timm:test_vit", "", image_size=160, in_channels=3)
    assert flops.first_layer == 2 * 3 * 16 * 16 * 64 * 100
    assert flops.total > flops.first_layer
