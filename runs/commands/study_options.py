"""Options shared by commands about studies. Nothing here imports torch, so usage errors are immediate."""

from __future__ import annotations

from typing import Annotated

import typer

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or a study's name.")]
Storage = Annotated[str | None, typer.Option(help="SQLite file or storage URL; default naslab-runs/naslab.db.")]
