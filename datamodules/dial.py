"""The dial: procedural images whose best architecture is known, because their locality and symmetry are settings.

After the Dynamic Signal Distribution of Lahoti et al., "Role of Locality and Weight Sharing in Image-Based Tasks"
(arXiv 2403.15707): an image is white noise except for one small patch, at a random position, that carries the class
signal. An equivariant, local learner needs few images for it, a fully connected one many. Further settings break the
symmetry: inside a fixed region the label can flip, so that an exactly translation-invariant classifier has an error
floor, and the label can be a relation of several patches far apart.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from datamodules.cache import CacheUnavailableError, SplitShape, cache_folder, cached_numbers, cached_split
from datamodules.images import ImageSplit, Int64Array, UInt8Array
from datamodules.info import DataError, DataInfo
from datamodules.source import DataSource, Split, fingerprint

Float64Array = npt.NDArray[np.float64]

MAX_CLIPPING_PROBABILITY = 1e-9
_FORMAT = "dial-1"  # part of the fingerprint: a change of the generator below must change it
_BLOCK = 1024  # images generated together; a block is the unit of randomness
_MID_GREY = 127.5
_LEAST_CACHED_BYTES = 1 << 20  # below, a split is generated as fast as it is opened (4,096 images: 16 ms)
_MOST_CACHED_BYTES = 1 << 28  # above, replicates would fill the disk
_MOTIF_KEY, _IMAGE_KEY = 0x6D6F746966, 0x696D616765  # separate the random streams of motifs and of images


class BayesError(NamedTuple):
    """Lowest error any classifier can reach, and the standard error of its Monte Carlo estimate."""

    error: float
    standard_error: float


class DialData(DataSource):
    """Settings of the dial; every image is a pure function of these, the replicate seed and its index.

    With noise of standard deviation 1, motif `w` of unit norm and amplitude `a`, the patch at the drawn position
    receives `+a w` or `-a w` (two classes) or `a w_k` with orthonormal motifs (more classes); `a` is therefore the
    signal-to-noise ratio of the matched filter. Position and label are uniform.

    With `flipped_positions` of P positions the label flips there (for K classes: moves on by one), which is position
    dependence lambda = flipped_positions / P. A classifier that is exactly translation-invariant sees the same patch
    with both labels and cannot do better than lambda; the position-aware Bayes error stays where it was: .0004
    to .0008 for 49 positions at amplitude 6, depending on the motif that `seed` draws; `bayes_error` computes it.

    With `relation_order` m the grid of positions is cut into m bands of columns far apart, each band holds one
    patch of random sign, and the label is the product of the signs.

    Attributes:
        kind: "dial".
        image_size: Height and width in pixels.
        patch_size: Height and width of the signal patch; its dimension d is the square of it.
        stride: Grid step of the patch position (q); equal to a network's patch size it aligns with its grid, 1 makes
            every offset occur.
        amplitude: Signal over noise of the matched filter.
        num_classes: 2 (one motif, two signs) or up to d orthogonal motifs.
        flipped_positions: Positions, a compact block at the centre of the grid, where the label flips.
        relation_order: Number of patches whose signs multiply to the label (m).
        grey_levels: Grey levels per noise standard deviation in the uint8 images, which centre on 127.5. At 10, noise
            alone is clipped beyond 12.7 standard deviations and rounding adds 1/1,200 to the noise variance. Settings
            under which a pixel would be clipped with a probability above 1e-9 are refused.
        num_train: Images of the training split, validation included.
        num_test: Images of the test split, fresh for every replicate.
        seed: Draws the motif: the task. Replicate seeds draw the images.
    """

    fresh_per_replicate: ClassVar[bool] = True

    kind: Literal["dial"] = "dial"
    image_size: int = Field(default=16, ge=4, le=256)
    patch_size: int = Field(default=4, ge=1)
    stride: int = Field(default=2, ge=1)
    amplitude: float = Field(default=6.0, gt=0)
    num_classes: int = Field(default=2, ge=2)
    flipped_positions: int = Field(default=0, ge=0)
    relation_order: int = Field(default=1, ge=1)
    grey_levels: float = Field(default=10.0, gt=0)
    num_train: int = Field(default=40_000, ge=1)
    num_test: int = Field(default=10_000, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check(self) -> "DialData":
        dimension = self.patch_size**2
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} exceeds image_size {self.image_size}")
        if self.num_classes > max(2, dimension):
            raise ValueError(
                f"num_classes {self.num_classes}: a patch of {self.patch_size}x{self.patch_size} pixels has only "
                f"{dimension} orthogonal motifs; enlarge patch_size or lower num_classes"
            )
        if self.relation_order > 1 and self.num_classes != 2:
            raise ValueError(f"relation_order {self.relation_order} multiplies signs and needs num_classes 2")
        if self.relation_order > 1 and self._band_spacing() * self.stride < self.patch_size:
            raise ValueError(
                f"relation_order {self.relation_order}: {self.grid_size} columns of positions have no room for so many "
                f"bands that do not overlap; lower relation_order or stride, or enlarge image_size"
            )
        if 2 * self.flipped_positions > self.num_positions:
            raise ValueError(
                f"flipped_positions {self.flipped_positions} is more than half of the {self.num_positions} positions; "
                "flipping the others is the same task"
            )
        if self.clipping_probability > MAX_CLIPPING_PROBABILITY:
            raise ValueError(
                f"amplitude {self.amplitude} with grey_levels {self.grey_levels} clips the brightest pixel with "
                f"probability {self.clipping_probability:.1g}, above {MAX_CLIPPING_PROBABILITY:.0g}; lower grey_levels"
            )
        if self.label_preserving:
            raise ValueError(
                f"label_preserving {list(self.label_preserving)}: no augmentation keeps the dial's labels true (a crop "
                "moves the patch off its grid or out of the image, a flip mirrors the motif)"
            )
        return self

    @property
    def grid_size(self) -> int:
        """Positions along one side of the image: 7 by default."""
        return (self.image_size - self.patch_size) // self.stride + 1

    @property
    def num_positions(self) -> int:
        """Positions of the first patch: 49 by default."""
        return self.grid_size * self._band_width()

    @property
    def position_dependence(self) -> float:
        """Probability lambda that the label is flipped; the error floor of a translation-invariant classifier."""
        return self.flipped_positions / self.num_positions

    @property
    def motifs(self) -> Float64Array:
        """Patterns of the classes, `[K, patch_size, patch_size]`, each of unit norm; opposite for two classes."""
        return _draw_motifs(self.seed, self.num_classes, self.patch_size)

    @property
    def flipped_region(self) -> npt.NDArray[np.bool_]:
        """Where the first patch flips the label, `[grid rows, band columns]`: a compact block in the middle.

        In the middle because a zero-padded convolution can tell the border from the inside.
        """
        return _central_block(self.grid_size, self._band_width(), self.flipped_positions)

    @property
    def clipping_probability(self) -> float:
        """Largest probability of any pixel to fall outside 0 .. 255."""
        bound = _MID_GREY / self.grey_levels
        peak = self.amplitude * float(np.abs(self.motifs).max())
        return (math.erfc((bound - peak) / math.sqrt(2)) + math.erfc((bound + peak) / math.sqrt(2))) / 2

    def describe(self) -> DataInfo:
        """The facts of the generated data; nothing is generated."""
        return DataInfo(
            name="dial",
            num_train=self.num_train,
            num_test=self.num_test,
            image_size=self.image_size,
            in_channels=1,
            num_classes=self.num_classes,
            class_names=tuple(f"motif {label}" for label in range(self.num_classes)),
            fingerprint=fingerprint(format=_FORMAT, **self.model_dump(mode="json")),
        )

    def load(self, split: Split, *, seed: int = 0, cache: Path | None = None) -> ImageSplit:
        """The split of replicate `seed`: generated by the first process that asks, read by all others.

        Small splits are generated faster than read, and large ones would fill the disk with replicates: both stay in
        memory, as does everything where the cache folder cannot be written.
        """
        info = self.describe()
        count = self.num_train if split == "train" else self.num_test
        shape = SplitShape(count, info.image_size, info.in_channels, info.class_names)
        if _LEAST_CACHED_BYTES <= shape.pixel_bytes <= _MOST_CACHED_BYTES:
            folder = cache_folder(cache) / f"{info.name}-{info.fingerprint[:16]}" / f"{split}-{seed}"
            with suppress(CacheUnavailableError):
                return cached_split(folder, shape, lambda: self._blocks(split, seed))
        images, labels = (np.concatenate(parts) for parts in zip(*self._blocks(split, seed), strict=True))
        return ImageSplit.from_arrays(images, labels, info.class_names)

    def images(self, seed: int, indices: npt.ArrayLike, *, split: Split = "train") -> tuple[UInt8Array, Int64Array]:
        """Images and labels at any indices, equal to those of `load` wherever both exist.

        Args:
            seed: The replicate.
            indices: Non-negative indices `[n]` in any order; there is no upper end.
            split: The stream to draw from; the two are disjoint.

        Returns:
            uint8 images `[n, H, W, 1]` and int64 labels `[n]`.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        images = np.empty((len(wanted), self.image_size, self.image_size, 1), dtype=np.uint8)
        labels = np.empty(len(wanted), dtype=np.int64)
        for block in np.unique(wanted // _BLOCK):
            rows = np.flatnonzero(wanted // _BLOCK == block)
            block_images, block_labels = self._block(split, seed, int(block))
            images[rows] = block_images[wanted[rows] % _BLOCK]
            labels[rows] = block_labels[wanted[rows] % _BLOCK]
        return images, labels

    def log_posterior(self, images: UInt8Array) -> Float64Array:
        """Log-probability of each class given an image, for one who knows motif, amplitude and flipped region.

        The image model gives `log p(x | position, motif) - log p(noise) = a <w, x_position> - a^2 / 2`, which is summed
        over the positions of each band; the bands' sign posteriors then multiply.

        Args:
            images: uint8 `[n, H, W, 1]`.

        Returns:
            float64 `[n, K]`.
        """
        noise_units = (images[..., 0].astype(np.float64) - _MID_GREY) / self.grey_levels
        windows = np.lib.stride_tricks.sliding_window_view(noise_units, (self.patch_size, self.patch_size), axis=(1, 2))
        windows = windows[:, :: self.stride, :: self.stride]
        scores = self.amplitude * np.einsum("nrcij,kij->nkrc", windows, self.motifs, optimize=True)
        width = self._band_width()
        posterior: Float64Array | None = None
        for band, start in enumerate(self._band_starts()):
            evidence = scores[..., start : start + width].reshape(len(images), self.num_classes, -1)
            if band == 0:  # inside the region, label k shows motif k + 1
                shown = np.roll(evidence, -1, axis=1)
                evidence = np.where(self.flipped_region.reshape(1, 1, -1), shown, evidence)
            sums = np.logaddexp.reduce(evidence, axis=2)
            sums -= np.logaddexp.reduce(sums, axis=1, keepdims=True)
            if posterior is None:
                posterior = sums
            else:  # class 0 is sign +1: the product is +1 where the signs agree
                same = np.logaddexp(posterior[:, 0] + sums[:, 0], posterior[:, 1] + sums[:, 1])
                different = np.logaddexp(posterior[:, 0] + sums[:, 1], posterior[:, 1] + sums[:, 0])
                posterior = np.stack([same, different], axis=1)
        if posterior is None:  # pragma: no cover - relation_order is at least 1
            raise DataError("the dial has no patch")
        return posterior

    def bayes_error(self, num_samples: int = 200_000, seed: int = 0, cache: Path | None = None) -> BayesError:
        """Error of the optimal classifier by Monte Carlo: the mean of one minus the largest posterior.

        It takes seconds, so it is kept in the cache folder, for these settings and this very source file.

        Args:
            num_samples: Images drawn from the test stream.
            seed: Replicate seed of that stream.
            cache: Cache folder; see `datamodules.cache.cache_folder`.
        """
        source = sha256(Path(__file__).read_bytes()).hexdigest()
        asked = fingerprint(source=source, num_samples=num_samples, replicate=seed, **self.model_dump(mode="json"))
        path = cache_folder(cache) / "bayes_error" / f"{asked}.json"
        return BayesError(*cached_numbers(path, lambda: self._bayes_error(num_samples, seed)))

    def _bayes_error(self, num_samples: int, seed: int) -> BayesError:
        losses = []
        for start in range(0, num_samples, _BLOCK):
            images, _ = self._block("test", seed, start // _BLOCK)
            posterior = self.log_posterior(images[: num_samples - start])
            # -expm1(largest) cancels when it is near 0; the sum of the others does not.
            losses.append(np.exp(np.sort(posterior, axis=1)[:, :-1]).sum(axis=1))
        loss = np.concatenate(losses)
        return BayesError(float(loss.mean()), float(loss.std(ddof=1) / math.sqrt(len(loss))))

    def _band_width(self) -> int:
        """Columns of positions in a band: the grid is cut into m bands and m - 1 gaps of equal width."""
        return max(1, self.grid_size // (2 * self.relation_order - 1))

    def _band_starts(self) -> list[int]:
        """First column of each band, spread over the whole grid."""
        if self.relation_order == 1:
            return [0]
        room = self.grid_size - self._band_width()
        return [round(band * room / (self.relation_order - 1)) for band in range(self.relation_order)]

    def _band_spacing(self) -> int:
        """Smallest distance, in grid steps, between positions of two neighbouring bands."""
        starts = self._band_starts()
        return min(b - a for a, b in pairwise(starts)) - self._band_width() + 1

    def _blocks(self, split: Split, seed: int) -> Iterator[tuple[UInt8Array, Int64Array]]:
        """The images of a whole split, block by block."""
        count = self.num_train if split == "train" else self.num_test
        for block in range(math.ceil(count / _BLOCK)):
            images, labels = self._block(split, seed, block)
            kept = count - block * _BLOCK
            yield images[:kept], labels[:kept]

    def _block(self, split: Split, seed: int, block: int) -> tuple[UInt8Array, Int64Array]:
        """Images `1024 block .. 1024 block + 1023` of a stream, from the counter (block, split) under the key seed."""
        region = self.flipped_region
        counter = [0, 0, block, 0 if split == "train" else 1]
        generator = np.random.Generator(np.random.Philox(key=[seed, _IMAGE_KEY], counter=counter))
        order, size = self.relation_order, self.patch_size
        labels = generator.integers(self.num_classes, size=_BLOCK)
        rows = generator.integers(self.grid_size, size=(order, _BLOCK))
        columns = generator.integers(self._band_width(), size=(order, _BLOCK))
        signs = generator.integers(2, size=(order - 1, _BLOCK))
        pixels = generator.standard_normal((_BLOCK, self.image_size, self.image_size), dtype=np.float32)

        first = (labels + signs.sum(axis=0) + region[rows[0], columns[0]]) % self.num_classes
        patches = (self.amplitude * self.motifs).astype(np.float32)
        offset = np.arange(size)
        for band, start in enumerate(self._band_starts()):
            shown = first if band == 0 else signs[band - 1]
            down = rows[band, :, None] * self.stride + offset
            right = (columns[band, :, None] + start) * self.stride + offset
            pixels[np.arange(_BLOCK)[:, None, None], down[:, :, None], right[:, None, :]] += patches[shown]
        pixels *= np.float32(self.grey_levels)
        pixels += np.float32(_MID_GREY)
        np.rint(pixels, out=pixels)
        np.clip(pixels, 0, 255, out=pixels)
        return pixels.astype(np.uint8)[..., None], labels


@lru_cache
def _draw_motifs(seed: int, num_classes: int, size: int) -> Float64Array:
    generator = np.random.Generator(np.random.Philox(key=[seed, _MOTIF_KEY]))
    if num_classes == 2:
        pattern = generator.standard_normal(size**2)
        pattern /= np.linalg.norm(pattern)
        patterns = np.stack([pattern, -pattern])
    else:
        orthonormal, triangular = np.linalg.qr(generator.standard_normal((size**2, num_classes)))
        patterns = (orthonormal * np.sign(np.diag(triangular))).T
    motifs = patterns.reshape(num_classes, size, size)
    motifs.flags.writeable = False
    return motifs


@lru_cache
def _central_block(grid_rows: int, grid_columns: int, count: int) -> npt.NDArray[np.bool_]:
    """Marks `count` positions: an almost square block in the middle, grown by shells around its top left corner."""
    side = math.isqrt(max(count - 1, 0)) + 1
    rows, columns = np.mgrid[:grid_rows, :grid_columns]
    down, right = rows - (grid_rows - side) // 2, columns - max(0, (grid_columns - side) // 2)
    before = (down < 0) | (right < 0)
    shell = np.where(before, grid_rows + np.abs(down) + np.abs(right), np.maximum(down, right))
    order = np.lexsort((right.ravel(), down.ravel(), shell.ravel()))
    marked = np.zeros(grid_rows * grid_columns, dtype=np.bool_)
    marked[order[:count]] = True
    block = marked.reshape(grid_rows, grid_columns)
    block.flags.writeable = False
    return block
