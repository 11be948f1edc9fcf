"""Export: the best configurations of a ranking as folders that other tools load, each verified first."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.runs.architecture import DOCUMENT, WEIGHTS, file_digest, load_model, networks_of
from naslab.runs.architecture import SCHEMA as ARCHITECTURE_SCHEMA
from naslab.runs.past import last_score
from naslab.runs.proof import prove
from naslab.runs.ranking import Ranking, rank
from naslab.runs.rows import Row
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.search_spaces.find import told
from naslab.version import naslab_version

SCHEMA = "naslab.export/1"
EXAMPLES = 2
PARTIAL = ".partial-"
LEFT_SECONDS = 3600
"""After so long a half-made folder is left over: nobody writes it any more."""


@dataclass(frozen=True)
class Exported:
    """One exported configuration and the trial whose weights it ships."""

    row: Row
    trial: Trial
    validation: float | None
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the published schema."""
        return {
            "rank": self.row.rank,
            "name": self.row.name,
            "digest": self.row.configuration.digest,
            "folder": str(self.folder),
            "files": sorted(path.name for path in self.folder.iterdir()),
            "trial": self.trial.number,
            "seed": self.trial.job.seed,
            "validation": self.validation,
            "scores": dict(self.trial.scores),
            "verified": True,
        }


def export(study: Study, trials: Sequence[Trial], files: Path, out: Path, top: int = 1) -> tuple[Exported, ...]:
    """Write the best `top` ranked configurations of a study below `out`, one folder each.

    The weights are those of the seed with the best validation score, so that the choice never looks at the test
    split. Each folder is rebuilt in a new process and compared with the stored model bit for bit before it stands.

    Args:
        files: the study's own folder, where `trials/KEY/model.safetensors` lie.

    Raises:
        InputError: nothing is ranked, weights are missing, or a folder of that name holds something else.
        ProofFailed: the rebuilt model does not give the stored one's output; no folder is left behind.
    """
    ranking = rank(study, trials)
    rows = [row for row in ranking.rows if row.rank is not None][:top]
    if not rows:
        raise InputError(f"study {study.name}: nothing to export; no complete configuration is at or above the floor")
    task = study.make_task(torch.device("cpu"))
    inputs = told("example_input of the task", lambda: task.example_input(EXAMPLES))
    return tuple(_export_row(study, ranking, row, trials, files, out, inputs) for row in rows)


def document(study: str, exported: Sequence[Exported]) -> dict[str, Any]:
    """The document of `naslab export --json`."""
    return {"schema": SCHEMA, "study": study, "exports": [item.to_dict() for item in exported]}


def best_trial(row: Row, trials: Sequence[Trial], metric: str) -> Trial:
    """Of the row's trials the one with the best validation score; the first seed's where none was recorded."""
    candidates = sorted((t for t in trials if t.number in row.trials), key=lambda t: (t.job.seed, t.number))
    return max(candidates, key=lambda t: _or_lowest(last_score(t, metric)))


def _or_lowest(score: float | None) -> float:
    return float("-inf") if score is None else score


def _export_row(
    study: Study, ranking: Ranking, row: Row, trials: Sequence[Trial], files: Path, out: Path, inputs: Inputs
) -> Exported:
    trial = best_trial(row, trials, ranking.metric)
    weights = files / "trials" / trial.job.key / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; the weights of trial {trial.number} are needed to export it")
    target = out / slug(row.name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _clear(out)
        with tempfile.TemporaryDirectory(dir=out, prefix=PARTIAL) as scratch:
            made = Path(scratch, target.name)
            made.mkdir()
            shutil.copyfile(weights, made / WEIGHTS)
            _describe(made, study, ranking, row, trial)
            original = load_model(study.search_space, row.configuration.as_dict(), weights)
            prove(original, made, inputs)
            _keep(made, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    return Exported(row, trial, last_score(trial, ranking.metric), target)


def _clear(out: Path) -> None:
    """Remove what an export that was killed, and not one that is at work, has left."""
    for scratch in out.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(scratch)


def _keep(made: Path, target: Path) -> None:
    if not target.exists():
        made.rename(target)
    elif not _identical(made, target):
        raise InputError(f"{target}: exists and holds something else; remove it or choose another --out")


def _identical(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in a.iterdir())
    if not b.is_dir() or names != sorted(path.name for path in b.iterdir()):
        return False
    return all(file_digest(a / name) == file_digest(b / name) for name in names)


def _describe(folder: Path, study: Study, ranking: Ranking, row: Row, trial: Trial) -> None:
    facts = architecture(study, ranking, row, trial, file_digest(folder / WEIGHTS))
    (folder / DOCUMENT).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    readable = yaml.safe_dump(facts, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    (folder / "architecture.yaml").write_text(readable, encoding="utf-8")
    drawing = study.search_space.draw(row.configuration)
    (folder / "README.md").write_text(_readme(facts, bool(drawing)), encoding="utf-8")
    if drawing:
        (folder / "drawing.svg").write_text(drawing, encoding="utf-8")


def architecture(study: Study, ranking: Ranking, row: Row, trial: Trial, weights_sha256: str) -> dict[str, Any]:
    """The document `architecture.json`: what the model is, and every fact about where it came from."""
    options = study.search_space.options
    networks = networks_of(options)
    return {
        "schema": ARCHITECTURE_SCHEMA,
        "name": row.name,
        "digest": row.configuration.digest,
        "space": {
            "name": study.space.name,
            "preset": study.space.preset,
            "options": options.model_dump(mode="json"),
        },
        **({"networks": networks} if networks else {}),
        "configuration": row.configuration.as_dict(),
        "metric": ranking.metric,
        "metric_over_seeds": row.to_dict()["metric"],
        "scores": dict(trial.scores),
        "validation": last_score(trial, ranking.metric),
        "study": study.name,
        "study_digest": study.digest,
        "seeds": list(row.seeds),
        "seed": trial.job.seed,
        "trial": trial.number,
        "key": trial.job.key,
        "weights_sha256": weights_sha256,
        "versions": {"naslab": naslab_version(), "torch": str(torch.__version__), "timm": version("timm")},
    }


def slug(name: str) -> str:
    """`name` as a folder name: letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def _readme(facts: dict[str, Any], drawn: bool) -> str:
    metric, scores = facts["metric"], facts["metric_over_seeds"]
    drawing = "\n![architecture](drawing.svg)\n" if drawn else ""
    return f"""# {facts["name"]}

{metric} {scores["mean"]:.2f} on the test split, mean over seeds {", ".join(map(str, facts["seeds"]))} of study
`{facts["study"]}`. These weights are those of seed {facts["seed"]} (trial {facts["trial"]}), the seed with the best
validation score; its own test score is {facts["scores"][metric]:.2f}.
{drawing}
Build it again, weights included:

```python
from naslab import rebuild

model = rebuild("path/to/this/folder")
```
"""
