"""Numbers that define the protocol. If one moves, results before and after are not comparable.

They depend on no kernel and no machine: images of the dial, subsets, orders, crops, permutations, identities. A change
that moves one of them is a new protocol version: raise `studies.protocol.PROTOCOL_VERSION`, say so in the CHANGELOG,
write the new numbers here.
"""

from __future__ import annotations

import hashlib

import numpy as np

from datamodules import DialData, PixelPermutation, StepBatches, carve_validation, index_hash, nested_subset
from studies.cell import Cell, Seeds
from studies.protocol import PROTOCOL_VERSION

LABELS = np.arange(1000) % 10


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def measured() -> dict[str, str]:
    dial = DialData(num_train=300, num_test=200, flipped_positions=4)
    train = dial.load("train", seed=3)
    pool, validation = carve_validation(LABELS, 100, seed=5)
    batches = StepBatches(
        train, np.arange(100), batch_size=16, order_seed=7, augmentation_seed=9, augmentation=("crop", "flip")
    )
    cell = Cell(
        protocol_version=PROTOCOL_VERSION,
        family="vit",
        variant="nano",
        data="dial",
        data_fingerprint="f",
        image_size=16,
        in_channels=1,
        num_classes=2,
        num_train=100,
        num_validation=50,
        num_test=200,
        permutation="none",
        augmentation=(),
        replicate=0,
        seeds=Seeds(subset=0, order=0, initialization=0, augmentation=0),
        learning_rate=0.001,
        weight_decay=0.05,
        label_smoothing=0.0,
        precision="fp32",
        batch_size=128,
        steps=480,
        branches=(0.25, 1.0),
        warmup_fraction=0.03,
        cooldown_fraction=0.2,
        forward_flops=1_294_464,
        first_layer_flops=16_384,
    )
    return {
        "dial, training images": train.checksum[:16],
        "dial, test images": dial.load("test", seed=3).checksum[:16],
        "dial, fingerprint": dial.describe().fingerprint[:16],
        "validation": index_hash(validation)[:16],
        "subset": index_hash(pool[nested_subset(LABELS[pool], 50, seed=5)])[:16],
        "order": digest(np.concatenate([batches.indices_at(step) for step in range(20)])),
        "crops": digest((batches.batch_at(11)[0] * 256).round().int().numpy()),
        "permutation": digest(PixelPermutation("pixels", 16, seed=0).table()),
        "cell id": cell.id,
    }


GOLDEN = {
    "1": {
        "dial, training images": "3b19d2930585a36a",
        "dial, test images": "ca9e5329391aea69",
        "dial, fingerprint": "706f1f9064f8546b",
        "validation": "a5edc36809bf1bb7",
        "subset": "f2f38d2c11da46a8",
        "order": "6c12f6d70b7b3f00",
        "crops": "eb24e1bcf790aa46",
        "permutation": "da8f324cc9dcd3b7",
        "cell id": "5343547eaa876ba4",
    },
}


def test_what_defines_the_protocol_has_not_moved() -> None:
    assert measured() == GOLDEN[PROTOCOL_VERSION]
