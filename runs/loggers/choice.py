"""What a study file may say of its loggers, and the logger that each choice makes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from naslab.errors import InputError
from naslab.runs.loggers.protocol import Logger
from naslab.search_spaces import Options


class TensorBoard(Options):
    """Event files, one folder a trial."""

    kind: Literal["tensorboard"]
    folder: str | None = None
    """Default: tensorboard/ in the study's folder."""

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(Path(self.folder or files / "tensorboard"))


class MLflow(Options):
    """One run a trial, in the experiment of the study's name."""

    kind: Literal["mlflow"]
    uri: str | None = None
    """Default: mlflow.db in the study's folder."""
    experiment: str | None = None

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.mlflow import MLflowLogger

        return MLflowLogger(self.uri or f"sqlite:///{files.absolute() / 'mlflow.db'}", self.experiment or study)


class WandB(Options):
    """One run a trial; offline, so that `wandb sync` sends it when it suits."""

    kind: Literal["wandb"]
    project: str | None = None
    mode: Literal["offline", "online"] = "offline"

    def make(self, study: str, files: Path) -> Logger:
        """A logger of the study of this name."""
        from naslab.runs.loggers.wandb import WandBLogger

        return WandBLogger(self.project or study, files, self.mode)


LoggerChoice: TypeAlias = Annotated[TensorBoard | MLflow | WandB, Field(discriminator="kind")]


def named_loggers(values: Any) -> Any:
    """`[tensorboard]` as `[{kind: tensorboard}]`."""
    return [{"kind": one} if isinstance(one, str) else one for one in values] if isinstance(values, list) else values


def make_loggers(choices: tuple[LoggerChoice, ...], study: str, files: Path) -> dict[str, Logger]:
    """A logger for each choice, by its kind.

    Raises:
        InputError: its package is not installed.
    """
    made = {}
    for index, choice in enumerate(choices):
        try:
            made[f"{index}: {choice.kind}"] = choice.make(study, files)
        except ImportError as error:
            raise InputError(
                f"loggers.{index}: the package {error.name or choice.kind} is not installed; "
                f"pip install 'naslab[{choice.kind}]', or leave the logger out"
            ) from None
    return made
