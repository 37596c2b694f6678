"""The dial: its statistics are those planned, and an image depends on nothing but seed, split and index."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest

from datamodules import DialData, ImageSplit
from datamodules import dial as dial_module

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
DIALS = [
    DialData(),
    DialData(flipped_positions=4),
    DialData(relation_order=2, flipped_positions=2),
    DialData(num_classes=5, flipped_positions=10),
]


@settings(max_examples=25, deadline=None)
@given(indices=st.lists(st.integers(0, 2999), min_size=1, max_size=20), seed=st.integers(0, 2**62))
def test_an_image_does_not_depend_on_the_order_in_which_images_are_asked_for(indices: list[int], seed: int) -> None:
    dial = DialData(num_train=3000, flipped_positions=4)
    whole = dial.load("train", seed=seed)
    images, labels = dial.images(seed, indices)
    np.testing.assert_array_equal(images, whole.images[indices])
    np.testing.assert_array_equal(labels, whole.labels[indices])


def test_the_size_of_a_split_changes_none_of_its_images() -> None:
    small, large = DialData(num_train=100).load("train"), DialData(num_train=5000).load("train")
    np.testing.assert_array_equal(small.images, large.images[:100])


def test_splits_and_replicates_are_different_images_of_one_task() -> None:
    dial = DialData(num_train=1000, num_test=1000)
    streams = [dial.load(split, seed=seed) for split in ("train", "test") for seed in (0, 1)]
    rows = {image.tobytes() for stream in streams for image in stream.images}
    assert len(rows) == 4000
    assert len({stream.checksum for stream in streams}) == 4
    for stream in streams:  # one motif: the posterior of this very dial reads all of them
        assert np.mean(dial.log_posterior(stream.images).argmax(1) == stream.labels) > 0.99


def test_the_motif_follows_the_configured_seed_and_the_noise_does_not() -> None:
    first, second = DialData(seed=0), DialData(seed=1)
    assert np.abs(np.sum(first.motifs[0] * second.motifs[0])) < 0.9
    a, b = first.load("test"), second.load("test")
    np.testing.assert_array_equal(a.labels, b.labels)
    differing = np.mean(a.images != b.images)
    assert 0 < differing <= 16 / 256  # the patch and nothing else


def test_golden_images() -> None:
    # A change of the generator is a change of the protocol and of the format in the fingerprint.
    assert DialData(num_train=2000, flipped_positions=4).load("train", seed=3).checksum[:16] == "5679c89b37dc0d0e"


@pytest.mark.parametrize("dial", DIALS, ids=["plain", "position", "relation", "classes"])
def test_the_fraction_of_flipped_labels_is_lambda(dial: DialData) -> None:
    """Reads the shown motif of clean images: at amplitude 40 the strongest match is never wrong."""
    clean = dial.model_copy(update={"amplitude": 40.0, "grey_levels": 1.0})
    images, labels = clean.images(0, np.arange(20_000))
    unflipped = dial.model_copy(update={"amplitude": 40.0, "grey_levels": 1.0, "flipped_positions": 0})
    shown = unflipped.log_posterior(images).argmax(1)
    disagreements = int(np.sum(shown != labels))
    assert binomtest(disagreements, len(labels), dial.position_dependence).pvalue > 1e-4 if disagreements else True
    assert (disagreements == 0) == (dial.flipped_positions == 0)
    if dial.flipped_positions:
        np.testing.assert_array_equal((labels[shown != labels] + 1) % dial.num_classes, shown[shown != labels])


def test_the_flipped_region_is_as_large_as_planned_and_one_block() -> None:
    for count in range(25):
        region = DialData(flipped_positions=count).flipped_region
        assert region.sum() == count
        if count:
            rows, columns = np.nonzero(region)
            side = int(np.ceil(np.sqrt(count)))
            assert np.ptp(rows) < side
            assert np.ptp(columns) < side
    assert DialData(flipped_positions=4).position_dependence == pytest.approx(4 / 49)


@pytest.mark.parametrize("flipped", [0, 4])
def test_bayes_error_is_about_five_in_ten_thousand_whatever_lambda(flipped: int, tmp_path: Path) -> None:
    dials = [DialData(seed=seed, flipped_positions=flipped) for seed in range(5)]
    estimates = [dial.bayes_error(20_000, cache=tmp_path) for dial in dials]
    mean = np.mean([estimate.error for estimate in estimates])
    assert 0.0003 < mean < 0.0008
    assert all(0 < estimate.standard_error < 0.0002 for estimate in estimates)


@pytest.mark.parametrize("dial", DIALS, ids=["plain", "position", "relation", "classes"])
def test_bayes_error_is_the_error_its_classifier_makes(dial: DialData, tmp_path: Path) -> None:
    noisy = dial.model_copy(update={"amplitude": 4.0})
    images, labels = noisy.images(0, np.arange(20_000), split="test")
    mistakes = int(np.sum(noisy.log_posterior(images).argmax(1) != labels))
    estimate = noisy.bayes_error(20_000, seed=1, cache=tmp_path)
    assert estimate.error > 0.005
    assert binomtest(mistakes, len(labels), estimate.error).pvalue > 1e-4


def test_bayes_error_is_computed_once_for_what_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dial, cache = DialData(), tmp_path / "cache"
    first = dial.bayes_error(2000, cache=cache)
    (path,) = (cache / "bayes_error").iterdir()
    others = {
        dial.bayes_error(3000, cache=cache),
        dial.bayes_error(2000, seed=1, cache=cache),
        DialData(amplitude=5.0).bayes_error(2000, cache=cache),
    }
    assert len(others | {first}) == len(list(path.parent.iterdir())) == 4

    computed: list[tuple[object, ...]] = []
    original = DialData._bayes_error
    monkeypatch.setattr(DialData, "_bayes_error", lambda *told: computed.append(told) or original(*told))
    assert dial.bayes_error(2000, cache=cache) == first
    assert computed == []
    path.write_text(path.read_text().replace("[0.0", "[0.1"))
    assert dial.bayes_error(2000, cache=cache) == first, "a damaged file is not believed"
    assert dial.bayes_error(2000, cache=cache) == first
    assert len(computed) == 1
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert dial.bayes_error(2000, cache=blocked) == first, "where it cannot be kept it is computed"
    assert len(computed) == 2


def test_posterior_sums_to_one() -> None:
    for dial in DIALS:
        images, _ = dial.images(0, np.arange(50))
        np.testing.assert_allclose(np.exp(dial.log_posterior(images)).sum(1), 1, atol=1e-9)


def test_a_translation_invariant_reader_cannot_beat_lambda() -> None:
    dial = DialData(flipped_positions=4)
    images, labels = dial.images(0, np.arange(20_000), split="test")
    invariant = dial.model_copy(update={"flipped_positions": 0}).log_posterior(images).argmax(1)
    assert np.mean(invariant != labels) == pytest.approx(4 / 49, abs=0.008)
    assert np.mean(dial.log_posterior(images).argmax(1) != labels) < 0.002


def test_noise_and_amplitude_are_as_stated() -> None:
    noise, _ = DialData(amplitude=1e-9).images(0, np.arange(4000))
    assert noise.mean() == pytest.approx(127.5, abs=0.05)
    assert noise.std() == pytest.approx(10.0, abs=0.05)
    dial = DialData(amplitude=6.0)
    images, labels = dial.images(0, np.arange(4000))
    units = (images[..., 0].astype(float) - 127.5) / 10
    matched = [
        np.tensordot(units[:, 2 * r : 2 * r + 4, 2 * c : 2 * c + 4], dial.motifs[0], 2)
        for r in range(7)
        for c in range(7)
    ]
    peak = np.where(labels == 0, np.max(matched, 0), -np.min(matched, 0))
    assert np.mean(peak) == pytest.approx(6.0, abs=0.2)  # the largest of 49 exceeds 6 a little
    assert set(np.unique(labels)) == {0, 1}
    assert np.mean(labels) == pytest.approx(0.5, abs=0.03)


def test_motifs_of_several_classes_are_orthonormal() -> None:
    motifs = DialData(num_classes=16).motifs.reshape(16, -1)
    np.testing.assert_allclose(motifs @ motifs.T, np.eye(16), atol=1e-12)


def test_relation_bands_lie_apart() -> None:
    dial = DialData(relation_order=2, amplitude=40.0, grey_levels=1.0)
    images, _ = dial.images(0, np.arange(500))
    energy = (images[..., 0].astype(float) - 127.5) ** 2
    columns = energy.mean((0, 1))
    assert columns[6:10].max() < 3 < columns[[0, 3, 12, 15]].min()  # nothing but noise between the bands


def test_clipping_is_rarer_than_stated() -> None:
    assert DialData().clipping_probability < 1e-9
    images = DialData().load("train").images
    assert images.min() > 0
    assert images.max() < 255


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"num_classes": 17}, "only 16 orthogonal motifs"),
        ({"grey_levels": 20.0}, "clips the brightest pixel"),
        ({"flipped_positions": 25}, "more than half of the 49"),
        ({"patch_size": 17}, "patch_size 17 exceeds image_size 16"),
        ({"relation_order": 5}, "no room"),
        ({"relation_order": 2, "num_classes": 3}, "needs num_classes 2"),
        ({"label_preserving": ("flip",)}, "no augmentation keeps the dial's labels true"),
        ({"flip_positions": 4}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused_with_a_reason(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DialData(**settings_)


def test_planning_generates_nothing() -> None:
    info = DialData(num_train=10**9, image_size=64).describe()
    assert (info.num_train, info.image_size, info.in_channels, info.num_classes) == (10**9, 64, 1, 2)
    assert info.fingerprint != DialData(num_train=10**9, image_size=64, seed=1).describe().fingerprint


def test_a_replicate_is_generated_once_and_read_by_all_others(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dial = DialData(num_train=5000, num_test=4100, flipped_positions=4)
    first = {split: dial.load(split, seed=3) for split in SPLITS}
    folder = cache / f"dial-{dial.describe().fingerprint[:16]}"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["test-3", "train-3"]
    monkeypatch.setattr(DialData, "_block", lambda *_: pytest.fail("generated twice"))
    for split, known in first.items():
        again = dial.load(split, seed=3)
        np.testing.assert_array_equal(again.images, known.images)
        np.testing.assert_array_equal(again.labels, known.labels)
        assert again.checksum == known.checksum
        assert again.channel_statistics() == known.channel_statistics()


def test_what_is_cached_is_what_is_generated(tmp_path: Path) -> None:
    dial = DialData(num_train=5000, flipped_positions=4)
    (tmp_path / "file").write_text("")
    elsewhere = dial.load("train", seed=3, cache=tmp_path / "file")  # a cache that cannot be written
    assert elsewhere.folder is None
    for seed in (3, 4):
        images, labels = dial.images(seed, np.arange(5000))
        cached = dial.load("train", seed=seed)
        assert cached.folder is not None
        np.testing.assert_array_equal(cached.images, images)
        np.testing.assert_array_equal(cached.labels, labels)
        assert (cached.checksum == elsewhere.checksum) == (seed == 3)
        assert cached.channel_statistics() == ImageSplit.from_arrays(images, labels, ("a", "b")).channel_statistics()


def test_small_splits_and_very_large_ones_are_not_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DialData(num_train=4000).load("train")
    monkeypatch.setattr(dial_module, "_MOST_CACHED_BYTES", 5000 * 256 - 1)
    DialData(num_train=5000).load("train")
    assert not cache.exists()
    DialData(num_train=4999).load("train")
    assert cache.exists()
