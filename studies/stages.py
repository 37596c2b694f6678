"""A study in stages: what arms begin from is trained first, as an ordinary study of its own.

The stage is derived from the study that needs it: its networks, replicates and seeds are those of the arms that begin
from it, the rest is what `StudySpec.pretraining` declares. So its cells are trained once for all who begin from them,
in any study, and the whole is planned before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from datamodules import DataInfo

from .arms import arm_name, parse_arm
from .errors import ConfigError, PlanError
from .files import sha256_of
from .grid import Plan
from .pretraining import Pretraining
from .spec import StudySpec
from .starts import FileStart, StageStart, StartSource

SUFFIX = "-pretraining"
"""A study's first stage goes by the study's name with this, and the start's name where the study has several."""

PRETRAINING_SEED = 2**31
"""Added to the subset seed of a stage on procedural images, so that none of them is fine-tuned on afterwards."""


def stage_specs(spec: StudySpec) -> dict[str, StudySpec]:
    """The earlier stages of a study by the name of their start, each a study; those no arm begins from are left out.

    Raises:
        ConfigError: the name of a stage would be too long.
    """
    trained = [name for name in spec.starts if spec.pretraining[name].checkpoint is None]
    specs = {}
    for name in trained:
        stage_name = f"{spec.name}{SUFFIX}" + (f"-{name}" if len(trained) > 1 else "")
        if len(stage_name) > 64:
            raise ConfigError(
                f"name: {spec.name!r} is too long: its stage {stage_name!r} would have {len(stage_name)} letters of 64"
            )
        specs[name] = _stage_spec(spec, name, stage_name)
    return specs


def _stage_spec(spec: StudySpec, name: str, stage_name: str) -> StudySpec:
    declared = spec.pretraining[name]
    assert declared.budget is not None
    replicates: dict[str, int] = {}
    for arm in spec.families:
        parsed = parse_arm(arm, spec.tier)
        if parsed.start == name:
            # No two arms are one network with one start: their names would be the same.
            replicates[arm_name(parsed.family, parsed.variant, default_tier=spec.tier)] = spec.num_replicates(arm)
    counts = set(replicates.values())
    return StudySpec(
        name=stage_name,
        question=f"Weights that {spec.name} begins from: {name}.",
        data=declared.data or spec.data,
        tier=spec.tier,
        families=tuple(replicates),
        num_train=declared.num_train,
        num_validation=declared.num_validation or spec.num_validation,
        replicates=counts.pop() if len(counts) == 1 else {"default": 1, **replicates},
        seed=spec.seed,
        vary=spec.vary,
        budget=declared.budget.model_copy(update={"branches": (1.0,)}),
        recipe=declared.recipe,
        permutation=spec.permutation,
        allow_unequal_flops=spec.allow_unequal_flops,
        objective=declared.objective,
        head=declared.head,
    )


def with_own_images(stage: Plan) -> Plan:
    """The stage on images that no fine-tuning sees, where images are procedural: those of other subset seeds."""
    if not stage.spec.data.fresh_per_replicate:
        return stage
    cells = tuple(
        cell.model_copy(
            update={"seeds": cell.seeds.model_copy(update={"subset": cell.seeds.subset + PRETRAINING_SEED})}
        )
        for cell in stage.cells
    )
    return replace(stage, cells=cells)


def start_sources(spec: StudySpec, data: DataInfo, stages: Mapping[str, Plan]) -> dict[str, StartSource]:
    """Where the arms of a study find their starts, by name.

    Args:
        data: what is fine-tuned on.
        stages: the plans of `stage_specs`.

    Raises:
        ConfigError: a file of weights cannot be read.
        PlanError: the images of a stage do not suit those that are fine-tuned on.
    """
    sources: dict[str, StartSource] = {}
    for name in spec.starts:
        if name in stages:
            _check_images(spec, name, data, stages[name].data)
            sources[name] = StageStart(name, stages[name])
        else:
            sources[name] = _file_start(name, spec.pretraining[name], data)
    return sources


def _check_images(spec: StudySpec, name: str, data: DataInfo, earlier: DataInfo) -> None:
    where = f"pretraining.{name}.data"
    if earlier.in_channels != data.in_channels:
        raise PlanError(
            f"{where}: {earlier.name} has {earlier.in_channels} channels where {data.name}, which is fine-tuned on, "
            f"has {data.in_channels}: give both as many (in_channels of a folder or hub data set)"
        )
    if earlier.image_size != data.image_size and spec.permutation != "none":
        raise PlanError(
            f"permutation: {spec.permutation} of {earlier.image_size} px has nothing to do with that of "
            f"{data.image_size} px: fine-tune on images of the size of {where}"
        )


def _file_start(name: str, declared: Pretraining, data: DataInfo) -> FileStart:
    assert declared.checkpoint is not None
    path = declared.checkpoint.expanduser()
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise ConfigError(
            f"pretraining.{name}.checkpoint: {path} cannot be read: {error.strerror}; give the path of a file of "
            "weights"
        ) from None
    return FileStart(
        name=name,
        path=path.resolve(),
        sha256=digest,
        image_size=declared.image_size or data.image_size,
        objective=declared.objective,
        num_pretrain=declared.num_train[0] if declared.num_train else None,
        train_flops=declared.train_flops,
    )
