"""The libraries themselves: whether each can be imported, tried in another process, where a crash is but a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .children import MARK, PATIENCE_SECONDS, ask
from .finding import Finding, broken, fine, some
from .packages import malicious

LIBRARIES: Mapping[str, str] = {
    "numpy": "numpy",
    "scipy": "scipy.optimize",
    "pandas": "pandas",
    "pyarrow": "pyarrow.parquet",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "pillow": "PIL.Image",
    "matplotlib": "matplotlib.figure",
    "hydra-core": "hydra",
    "torch": "torch",
    "torchvision": "torchvision",
    "safetensors": "safetensors.torch",
    "torchmetrics": "torchmetrics",
    "timm": "timm",
    "pytorch-lightning": "pytorch_lightning",
    "datasets": "datasets",
}
"""Distribution -> what of it is imported. Those after torch need it; wandb is optional: `studies.doctor.mirror`."""
NEED_TORCH = ("torchvision", "safetensors", "torchmetrics", "timm", "pytorch-lightning")
NEED_TORCHVISION = ("timm",)

_PROGRAM = f"""
import importlib, json, os, sys
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.modules["wandb"] = None  # timm looks for it, which takes seconds
for name in sys.argv[1:]:
    print({MARK!r} + json.dumps({{"name": name}}), file=answer, flush=True)
    try:
        importlib.import_module(name)
        problem = ""
    except BaseException as error:
        problem = f"{{type(error).__name__}}: " + (str(error).strip().splitlines() or [""])[0][:300]
    print({MARK!r} + json.dumps({{"name": name, "problem": problem}}), file=answer, flush=True)
answer.flush()
os._exit(0)
"""

ADVICE = "install the versions that were tested: `make install` in the checkout, or pip install -r requirements.lock"
TORCHVISION_ADVICE = (
    "torch and torchvision were built for different versions of each other: install both at once and from one index, "
    "such as pip install --upgrade torch torchvision"
)


def libraries(names: Mapping[str, str] = LIBRARIES, patience: float = PATIENCE_SECONDS) -> Iterator[Finding]:
    """Imports every library of the package; what needs a broken one is not tried, nor what is known to be malicious."""
    check = "installation: imports"
    bad = {name for name, _ in malicious()}
    wanted = [name for name in names if name not in bad]
    problems = imports([names[name] for name in wanted], patience)
    faults = {name: problems[names[name]] for name in wanted if problems[names[name]]}
    because = {name: "torch" for name in NEED_TORCH if "torch" in faults}
    because |= {name: "torchvision" for name in NEED_TORCHVISION if "torchvision" in faults and "torch" not in faults}
    for name, problem in faults.items():
        if name not in because:
            advice = TORCHVISION_ADVICE if name == "torchvision" else ADVICE
            yield broken(check, f"{name} cannot be imported ({problem})", advice)
    if hidden := [name for name in faults if name in because]:
        root = because[hidden[0]]
        yield broken(check, f"{some(hidden, 9)} cannot be imported either", f"mend {root} first")
    if not faults:
        yield fine(check, f"all {len(wanted)} libraries can be imported")


def imports(modules: Sequence[str], patience: float = PATIENCE_SECONDS) -> dict[str, str]:
    """Module -> why it cannot be imported, empty where it can. One that kills its process costs no other its trial."""
    problems: dict[str, str] = {}
    left = list(modules)
    while left:
        answer = ask(_PROGRAM, *left, patience=patience)
        for line in answer.lines:
            if "problem" in line:
                problems[line["name"]] = line["problem"]
        untold = [name for name in left if name not in problems]
        if untold:  # the process ended while it imported the first of them
            problems[untold[0]] = f"the process that imports it ends: {answer.problem or 'no message'}"
        left = untold[1:]
    return problems
