"""Where a study's trials run, as its file says under `executor`: it decides no result, and may change between runs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from naslab.search_spaces import Options


def _whole_or_part(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus:g} GPUs a trial; use a whole number, or a fraction of one")
    return gpus


Gpus = Annotated[float, AfterValidator(_whole_or_part)]


class _Executor(Options):
    packages: ClassVar[tuple[str, ...]] = ()
    """What its extra installs, which has its name."""

    processes: int = Field(1, ge=1)
    """So many train each trial together (torchrun, one machine), a GPU each where it trains on GPUs."""

    parallel: Literal["ddp", "fsdp2"] = "ddp"
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
    gpus: Gpus | None = Field(None, gt=0)
    """Of each trial, or the fraction of one; by default slots are dealt out over all GPUs, and may share them."""


class Ray(_Executor):
    """Actors of a Ray cluster, each a warm worker."""

    packages: ClassVar = ("ray",)
    kind: Literal["ray"]
    address: str | None = None
    """Of the cluster; by default what RAY_ADDRESS or this machine has, else a Ray of this machine's own."""
    cpus: float = Field(1.0, gt=0)
    """Cores of each trial."""
    gpus: Gpus | None = Field(None, ge=0)
    """Of each trial, or the fraction of one; by default one for each process where `device` is cuda, else none."""
    memory_gb: float | None = Field(None, gt=0)
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Custom resources of Ray that each trial needs, such as a kind of node."""
    environment: dict[str, str] = {}
    """Variables of the workers, such as where their machines have the data."""


class Slurm(_Executor):
    """Jobs of a Slurm cluster, one a trial; those that begin together are one array."""

    packages: ClassVar = ("submitit",)
    kind: Literal["slurm"]
    cluster: Literal["slurm", "local"] = "slurm"
    """`local` runs the jobs as processes of this machine, to try a study out."""
    partition: str | None = None
    account: str | None = None
    hours: float = Field(1.0, gt=0)
    """The longest that a job may take; what is cut off goes on from its checkpoint in the next."""
    cpus: int = Field(1, ge=1)
    gpus: Annotated[int | None, Field(ge=0)] = None
    """As for `ray`, in whole ones."""
    memory_gb: float | None = Field(None, gt=0)
    sbatch: dict[str, Any] = {}
    """Further options of sbatch, such as constraint or qos."""
    environment: dict[str, str] = {}


def _local_by_default(value: Any) -> Any:
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
