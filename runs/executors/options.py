"""A study's `executor` options: where trials run, which affects no result and may change between runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from naslab.runs.storage_url import is_secret, shown
from naslab.search_spaces import Options
from naslab.search_spaces.parameters import Unless


def _whole_or_part(number: float) -> float:
    if number > 1 and number != int(number):
        raise ValueError(f"{number:g} a trial; use a whole number, or a fraction of one")
    return number


Amount = Annotated[float, AfterValidator(_whole_or_part)]
"""Of GPUs, or of what else a machine has."""


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What is recorded is read by all who read the study; the workers are told by the driver itself."""
    return {name: "***" if is_secret(name) else shown(value) for name, value in environment.items()}


def _named(environment: dict[str, str]) -> dict[str, str]:
    for name in environment:
        if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) is None:
            raise ValueError(f"{name!r} is no name of a variable; letters, digits and '_' are allowed")
    return environment


Environment = Annotated[dict[str, str], AfterValidator(_named), PlainSerializer(_without_secrets)]
"""Variables of the workers, such as where their machines have the data."""


OWN_KEYS = {"time": "hours", "partition": "partition", "account": "account", "cpus_per_task": "cpus"}
"""What a study file says of a job in words of its own, by sbatch's."""
FIXED = (
    "array",
    "error",
    "nodes",
    "no_requeue",
    "ntasks",
    "ntasks_per_node",
    "open_mode",
    "output",
    "requeue",
    "signal",
)
"""What naslab rests on: a job is one trial on one machine, and nobody starts it again but the driver."""


def _left_to_the_user(options: dict[str, Any]) -> dict[str, Any]:
    for option, value in options.items():
        name = option.replace("-", "_")
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"{option}: must be text, a number, or true, not {value!r}")
        if name in OWN_KEYS:
            raise ValueError(f"{option}: write it as executor.{OWN_KEYS[name]}")
        if name in FIXED:
            raise ValueError(f"{option}: decided by naslab, as a job is one trial, which only the driver starts again")
    return options


Sbatch = Annotated[dict[str, Any], AfterValidator(_left_to_the_user)]


def _not_of_rays_own(resources: dict[str, float]) -> dict[str, float]:
    for name, key in {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}.items():
        if name in resources:
            raise ValueError(f"{name}: write it as executor.{key}")
    return resources


Resources = Annotated[dict[str, Annotated[Amount, Field(gt=0)]], AfterValidator(_not_of_rays_own)]


class _Executor(Options):
    packages: ClassVar[tuple[str, ...]] = ()
    """What its extra installs, which has its name."""

    processes: int = Field(1, ge=1, le=256)
    """So many train each trial together (torchrun, one machine), a GPU each where it trains on GPUs."""

    parallel: Annotated[Literal["ddp", "fsdp2"], Unless("processes", (1,))] = "ddp"
    """How several processes hold a model: each the whole of it, or a part (FSDP2), which takes less memory."""

    @model_validator(mode="after")
    def _a_gpu_a_process(self) -> Self:
        gpus = getattr(self, "gpus", None)
        if gpus and self.processes > 1 and gpus != self.processes:
            raise ValueError(f"gpus: {gpus:g} for {self.processes} processes; each has one")
        return self


class Local(_Executor):
    """Processes of this machine, which has as many slots as `--slots` says."""

    kind: Literal["local"] = "local"
    gpus: Amount | None = Field(None, gt=0)
    """Of each trial, or the fraction of one; by default slots are dealt out over all GPUs, and may share them."""


class Ray(_Executor):
    """Actors of a Ray cluster, each a warm worker."""

    packages: ClassVar = ("ray",)
    kind: Literal["ray"]
    address: str | None = None
    """Of the cluster; by default what RAY_ADDRESS or this machine has, else a Ray of this machine's own."""
    cpus: Amount = Field(1.0, gt=0)
    """Cores of each trial."""
    gpus: Amount | None = Field(None, ge=0)
    """Of each trial, or the fraction of one; by default one for each process where `device` is cuda, else none."""
    memory_gb: float | None = Field(None, gt=0)
    resources: Resources = {}
    """Custom resources of Ray that each trial needs, such as a kind of node."""
    environment: Environment = {}


class Slurm(_Executor):
    """Jobs of a Slurm cluster, one a trial; those that begin together are one array."""

    packages: ClassVar = ("submitit",)
    kind: Literal["slurm"]
    cluster: Literal["slurm", "local"] = "slurm"
    """`local` runs the jobs as processes of this machine, to try a study out."""
    partition: str | None = None
    account: str | None = None
    hours: float = Field(1.0, gt=0, le=8760)
    """The longest that a job may take; what is cut off goes on from its checkpoint in the next."""
    cpus: int = Field(1, ge=1)
    gpus: Annotated[int | None, Field(ge=0)] = None
    """As for `ray`, in whole ones."""
    memory_gb: float | None = Field(None, gt=0)
    sbatch: Sbatch = {}
    """Further options of sbatch, such as constraint or qos."""
    environment: Environment = {}


def _local_by_default(value: Any) -> Any:
    """`ray` stands for `{kind: ray}`."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "local", **value} if isinstance(value, dict) else value


ExecutorChoice = Annotated[
    Annotated[Local | Ray | Slurm, Field(discriminator="kind")], BeforeValidator(_local_by_default)
]


def gpus_of(choice: Ray | Slurm, device: str) -> float:
    """GPUs of each trial of a cluster.

    Raises:
        ValueError: they do not go with the study's `device`.
    """
    if device == "cpu" and choice.gpus:
        raise ValueError(f"executor.gpus: {choice.gpus:g} a trial, and the study runs on the CPU (device: cpu)")
    if device == "cuda" and choice.gpus == 0:
        raise ValueError("executor.gpus: 0 a trial, and the study runs on GPUs (device: cuda)")
    return float(choice.processes if choice.gpus is None and device == "cuda" else choice.gpus or 0)
