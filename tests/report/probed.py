"""What probes could have found of a study, made without a network; its numbers are a function of their names."""

from __future__ import annotations

import numpy as np
import pandas as pd

from studies.analysis.probe_answers import INITIAL, TRAINED, ProbeAnswers, ProbeArrays
from studies.grid import Plan
from studies.probes.catalogue import KINDS
from studies.probes.probe_results import PROBED, ProbeResult, StoredReading
from studies.probes.subjects import subjects
from studies.store import Store

from .synthetic import make_record

ARMS = ("resnet", "vit")
SIZES = (128, 512, 2048, 8192)


def probe_readings(*, replicates: int = 3, seed: int = 0) -> pd.DataFrame:
    """A row per reading of two arms at four sizes: trained values fall or rise by known amounts, plus small noise."""
    generator = np.random.default_rng(seed)
    rows = []

    def read(network: dict[str, object], probe: str, quantity: str, value: float, **where: object) -> None:
        rows.append(
            {"permutation": "none", "layer": "", "depth": None, "head": None, "setting": None, "unit": "", **network,
             "probe": probe, "quantity": quantity, "value": value + 0.01 * generator.standard_normal(), **where}
        )  # fmt: skip

    for arm in ARMS:
        for size in SIZES:
            for replicate in range(replicates):
                cell_id = make_record(arm, num_train=size, replicate=replicate).cell_id
                for weights in (TRAINED, INITIAL):
                    trained = weights == TRAINED
                    network: dict[str, object] = {
                        "arm": arm, "family": arm, "num_train": size, "num_pretrain": 0, "replicate": replicate,
                        "weights": weights, "cell_id": cell_id, "image_size": 16,
                    }  # fmt: skip
                    _of_network(read, network, arm, size, trained)
    return pd.DataFrame(rows).astype({"depth": float, "head": float, "setting": float})


def _of_network(read, network: dict[str, object], arm: str, size: int, trained: bool) -> None:  # noqa: ANN001
    base = 0.2 if arm == "resnet" else 0.8
    for depth in range(4):
        read(network, "equivariance", "equivariance_error", base + 0.1 * depth - 0.1 * trained, layer=f"blocks.{depth}",
             depth=depth)  # fmt: skip
        read(network, "receptive_field", "receptive_field_rms", 2.0 + depth, layer=f"blocks.{depth}", depth=depth)
    features = {"layer": "features", "depth": 4}
    read(network, "equivariance", "equivariance_error", base + 40 / size if trained else 2 * base, **features)
    read(network, "receptive_field", "receptive_field_rms", 6.0 - trained, **features)
    if trained:
        read(network, "equivariance", "equivariance_error", base + 0.05)
        for shift in range(1, 5):
            for kind in ("roll", "crop"):
                read(network, "shift_consistency", f"{kind}_consistency", 0.98 - base * 0.1 * shift, setting=shift)
        for grid in (1, 2, 4, 8):
            read(network, "patch_shuffle", "patch_shuffle_retained", 1 / grid if arm == "resnet" else 1.0, setting=grid)
        for other in (of for of in SIZES if of != size):
            value = 1 / (1 + abs(np.log2(size / other)) / 4)
            read(network, "representation_similarity", "representation_similarity", float(value), setting=other)
    read(network, "first_layer", "low_frequency_share", 0.3 + 0.2 * trained, layer="stem", depth=0)
    if arm == "vit":
        for depth in range(3):
            for head in range(2):
                read(network, "attention_distance", "attention_distance", 8.0 - (2 + 2 * head) * trained + 0.3 * depth,
                     layer=f"blocks.{depth}.attn", depth=depth, head=head, unit="px")  # fmt: skip
        read(network, "position_similarity", "position_similarity_spearman", -0.7 * trained, layer="pos_embed", depth=0)


def probe_arrays() -> tuple[ProbeArrays, ...]:
    """Arrays of the first replicates at two sizes."""
    generator = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(16, 2)
    near = np.exp(-np.linalg.norm(places[:, None] - places[None], axis=-1) / 1.5)
    rows, columns = np.indices((16, 16))
    found = []
    for size in (512, 8192):
        for weights in (TRAINED, INITIAL):
            random = generator.uniform(-0.3, 0.3, (16, 16))
            similarity = near if weights == TRAINED else np.where(np.eye(16) > 0, 1.0, random)
            of_vit = {
                "attention_distance": {
                    "uniform_attention_distance": np.full(3, 8.2),
                    "largest_attention_distance": np.full(3, 13.1),
                },
                "position_similarity": {"position_similarity": similarity[None]},
                "first_layer": {"components": generator.standard_normal((16, 1, 4, 4))},
            }
            of_resnet = {"first_layer": {"filters": generator.standard_normal((12, 3, 3, 3))}}
            for arm, of in (("vit", of_vit), ("resnet", of_resnet)):
                spread = {
                    ("patch_embed", *(f"blocks.{depth}" for depth in range(3)), "features")[depth]: np.exp(
                        -((rows - 8) ** 2 + (columns - 8) ** 2) / (2 * (1 + depth * (2 if arm == "vit" else 1)) ** 2)
                    )
                    for depth in range(5)
                }
                for probe, arrays in (of | {"receptive_field": spread}).items():
                    values = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
                    found.append(ProbeArrays(probe, arm, size, 0, weights, values))
    return tuple(found)


def probe_answers(**options: int) -> ProbeAnswers:
    """The probes of the study that `study_records` makes of the same arms and sizes."""
    return ProbeAnswers(probe_readings(**options), probe_arrays())


def write_probes(plan: Plan, store: Store) -> None:
    """Puts readings and arrays like those above into a store, as if `study probe` had been run; 2 arms, any sizes."""
    readings = probe_readings()
    arrays = probe_arrays()
    written: set[str] = set()
    for subject in subjects(plan, tuple(KINDS.values())):
        if subject.id in written:
            continue
        written.add(subject.id)
        at = {"probe": subject.kind.name, "arm": subject.cell.family, "weights": subject.weights,
              "replicate": subject.cell.replicate}  # fmt: skip
        own = readings[(readings[list(at)] == pd.Series(at)).all(axis=1)]
        own = own[own["num_train"] == min(SIZES, key=lambda size: abs(size - subject.sizes[-1]))]
        kept = tuple(
            StoredReading(
                quantity=row["quantity"],
                value=row["value"],
                unit=row["unit"],
                layer=row["layer"],
                depth=None if np.isnan(row["depth"]) else int(row["depth"]),
                head=None if np.isnan(row["head"]) else int(row["head"]),
                setting=None if np.isnan(row["setting"]) else row["setting"],
                num_images=100,
            )
            for row in own.to_dict("records")
        )
        found = [one.arrays for one in arrays if (one.probe, one.arm, one.weights) == (*list(at.values())[:3],)]
        result = ProbeResult(
            result_id=subject.id,
            identity=subject.identity,
            study=plan.study_id,
            plan_hash=plan.hash,
            outcome="measured" if kept else "inapplicable",
            reason="" if kept else "nothing to measure",
            train_checksum="train",
            evaluation_flops=0,
            seconds=0.1,
            finished_at="2026-01-01T00:00:00Z",
            environment=make_record("vit").environment,
            readings=kept,
        )
        PROBED.write(result, store, dict(found[0]) if found else None)
