"""The options of loggers in a study file, and the logger that each makes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_serializer

from naslab.runs.extras import importing
from naslab.runs.loggers.protocol import Logger
from naslab.runs.storage_url import shown
from naslab.search_spaces import Options


class TensorBoard(Options):
    """Event files, one folder a trial."""

    packages: ClassVar = ("tensorboard",)
    kind: Literal["tensorboard"]
    folder: str | None = None
    """Default: tensorboard/ in the study's folder."""

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(Path(self.folder or files / "tensorboard").expanduser())


class MLflow(Options):
    """One run a trial, in the experiment of the study's name."""

    packages: ClassVar = ("mlflow",)
    kind: Literal["mlflow"]
    uri: str | None = None
    """Default: mlflow.db in the study's folder."""
    experiment: str | None = None

    @field_serializer("uri")
    def _shown(self, uri: str | None) -> str | None:
        """What is recorded is read by all who read the study; only the driver writes there."""
        return uri and shown(uri)

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.mlflow import MLflowLogger

        return MLflowLogger(self.uri or f"sqlite:///{files.absolute() / 'mlflow.db'}", self.experiment or study)


class WandB(Options):
    """One run a trial; offline, so that `wandb sync` sends it when it suits."""

    packages: ClassVar = ("wandb",)
    kind: Literal["wandb"]
    project: str | None = None
    mode: Literal["offline", "online"] = "offline"

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.wandb import WandBLogger

        return WandBLogger(self.project or study, files, self.mode)


class Trackio(Options):
    """One run a trial, where trackio keeps its projects (TRACKIO_DIR), so that `trackio show` finds them."""

    packages: ClassVar = ("trackio",)
    kind: Literal["trackio"]
    project: str | None = None

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.trackio import TrackioLogger

        return TrackioLogger(self.project or study, files)


LoggerChoice: TypeAlias = Annotated[TensorBoard | MLflow | WandB | Trackio, Field(discriminator="kind")]


def named_loggers(values: Any) -> Any:
    """`tensorboard`, or `[tensorboard]`, as `[{kind: tensorboard}]`."""
    several = [values] if isinstance(values, str) else values
    return [{"kind": one} if isinstance(one, str) else one for one in several] if isinstance(several, list) else values


def no_logger_twice(choices: tuple[LoggerChoice, ...]) -> tuple[LoggerChoice, ...]:
    """Two would write into one place."""
    for index, choice in enumerate(choices):
        if choice in choices[:index]:
            raise ValueError(f"{choice.kind} stands twice, for the same place; one is enough")
    return choices


def make_loggers(choices: tuple[LoggerChoice, ...], study: str, files: Path) -> dict[str, Logger]:
    """A logger for each choice, by its kind.

    Raises:
        InputError: its package is not installed.
    """
    made = {}
    for index, choice in enumerate(choices):
        with importing(f"loggers.{index}", choice.kind):
            made[f"{index}: {choice.kind}"] = choice.make(study, files)
    return made
