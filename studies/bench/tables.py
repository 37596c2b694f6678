"""What `study bench train`, `study` and `gpu` print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from studies.counts import counted

from .gpu import fastest
from .timings import Spread, Timing, find, flops_per_second, ratios, utilisation
from .train_race import CONTENDERS, timings_of

BUSY_LOAD = 0.25
"""Other work, in processes per core, above which a measurement is called disturbed."""
NAMES = {"study": "this package", "lightning": "plain Lightning", "timm": "timm"}
MODES = {"machine": "whole machine", "thread": "one thread against one thread"}
PEERS = ("lightning", "timm")


def train_tables(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A table per mode: a row per family and contender."""
    machine = result["machine"]
    yield Text(f"{machine['device']}, torch {machine['torch']}, timm {machine['timm']}, {result['precision']}")
    for mode, peak in result["peaks"].items():
        yield _train_table(mode, peak, result["families"])
    if (note := disturbance(machine)) is not None:
        yield Text(note, style="yellow")


def disturbance(machine: Mapping[str, Any]) -> str | None:
    """What to think of a measurement on a machine that had other work when it began."""
    load, cores = machine["load_average"], machine["cores"]
    if load <= BUSY_LOAD * cores:
        return None
    return (
        f"The machine was busy when this began (load {load:.1f} on {cores} cores). Loops of several threads suffer "
        "most: each step waits for its slowest thread. Measure again on a quiet machine before believing a ratio."
    )


def _train_table(mode: str, peak: Mapping[str, float], families: Sequence[Mapping[str, Any]]) -> Table:
    title = f"{MODES[mode]}: matmul {peak['flops'] / 1e9:.4g} GFLOP/s, copy {peak['copy_bytes'] / 1e9:.3g} GB/s"
    table = Table("family", "loop", "images/s", "GFLOP/s", "MFU", "this package is", "memory", "start-up", "set up as",
                  title=title, title_justify="left")  # fmt: skip
    for family in families:
        timings, flops = list(timings_of(family)), family["train_flops_exact"]
        ours = find(timings, "study", mode)
        for name in CONTENDERS:
            timing = find(timings, name, mode)
            if timing is None or ours is None:
                continue
            table.add_row(
                family["arm"] if name == CONTENDERS[0] else "",
                NAMES[name],
                _spread(Spread.of(timing.rates), ",.0f"),
                f"{flops_per_second(timing, flops).median / 1e9:.4g}",
                f"{utilisation(timing, flops, peak['flops']):.1%}",
                "" if name == "study" else _spread(Spread.of(ratios(ours, timing)), ".2f") + " x",
                _memory(timing),
                f"{timing.startup_seconds:.1f} s",
                _options(timing.options),
            )
        table.add_section()
    return table


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.least:{form}}-{spread.most:{form}})"


def _memory(timing: Timing) -> str:
    on_gpu = f" + {timing.gpu_bytes / 1e9:.2f} GB GPU" if timing.gpu_bytes else ""
    return f"{timing.memory_bytes / 1e9:.2f} GB{on_gpu}"


def _options(options: Mapping[str, Any]) -> str:
    """Processes x threads, then what was switched on."""
    rest = {name: value for name, value in options.items() if name not in ("processes", "threads") and value}
    told = ", ".join(name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
                     for name, value in rest.items())  # fmt: skip
    return f"{options['processes']} x {options['threads']} threads" + (f", {told}" if told else "")


def study_tables(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The whole study against the loop over its cells."""
    table = Table("", "seconds", "of which training at steady speed", title="a whole study, start-up included",
                  title_justify="left")  # fmt: skip
    table.add_row("this package: study run", f"{result['study_seconds']:.1f}", f"{result['study_steady_seconds']:.1f}")
    table.add_row(f"{result['timm_script']}, a process per cell", f"{result['timm_seconds']:.1f}", "")
    yield table
    yield Text(
        f"{counted(result['num_cells'], 'cell')} of {result['steps']} steps: this package is {result['ratio']:.2f} x "
        f"as fast; {result['study_seconds'] / result['study_steady_seconds']:.2f} x its own steady state"
    )
    if (note := disturbance(result["machine"])) is not None:
        yield Text(note, style="yellow")


def gpu_tables(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Peaks, the fastest of each loop per family, lanes against solo runs, the full study, and what was left out."""
    for precision, peak in result["peaks"].items():
        yield Text(f"{precision}: matmul {peak['flops'] / 1e12:.4g} TFLOP/s, copy {peak['copy_bytes'] / 1e9:.4g} GB/s")
    table = Table("tier", "family", "lanes", "images/s", "TFLOP/s", "MFU", "timm's best", "faster than timm",
                  title="the fastest number of lanes, bf16", title_justify="left")  # fmt: skip
    for tier, arm in dict.fromkeys((row["tier"], row["arm"]) for row in result["lanes"]):
        ours, theirs = fastest(result["lanes"], tier, arm), fastest(result["timm"], tier, arm)
        if ours is not None:
            compared = ours["images_per_second"] / theirs["images_per_second"] if theirs else None
            table.add_row(
                tier,
                arm,
                (str(ours["lanes"] or "none")) + (", compiled" if ours.get("compiled") else ""),
                f"{ours['images_per_second']:,.0f}",
                f"{ours['flops'] / 1e12:.4g}",
                "" if ours["mfu"] is None else f"{ours['mfu']:.1%}",
                f"{theirs['images_per_second']:,.0f}" if theirs else "not measured",
                "" if compared is None else f"{compared:.1f} x",
            )
    yield table
    for row in result["equal"]:
        same = "equal to the last bit" if row["bitwise"] else f"equal within {row['largest']:.1e}"
        yield Text(f"{row['tier']} {row['arm']}: lanes and solo runs are {same} after {row['steps']} steps (fp32)")
    for how, setting in (("eager", "engine.compile=false, the default"), ("compiled", "engine.compile=true")):
        planned = result["study_minutes"].get(how, {})
        if planned.get("families"):
            of = "the full CIFAR-10 study" if planned["complete"] else f"its families {', '.join(planned['families'])}"
            yield Text(f"planned with {setting}: {planned['total']:.1f} min of training for {of}")
    for row in result["left_out"]:
        yield Text(f"left out: {row['what']}: {row['why']}", style="yellow")
