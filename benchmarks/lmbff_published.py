"""What the authors' own code answers on small inputs, as the expected values of the tests of `search_spaces/lmbff`.

Usage: git clone https://github.com/princeton-nlp/LM-BFF; python benchmarks/lmbff_published.py LM-BFF

Runs their few-shot splits, prompts with demonstrations, label-word search and template generation unchanged, but for
modules and methods that today's libraries no longer have, and writes `tests/search_spaces/lmbff_published.json`; the
scores of their templates go to `benchmarks/lmbff_templates.tsv` (both MIT, Princeton Natural Language Processing).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import sys
import tempfile
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "search_spaces"))
from lmbff_small import LABELS, SENTENCES, WORDS, bert_tokenizer, infiller, roberta_tokenizer

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = ROOT / "tests" / "search_spaces" / "lmbff_published.json"
TABLE = ROOT / "benchmarks" / "lmbff_templates.tsv"
SEEDS = (13, 21, 42, 87, 100)
MANUAL = "*cls**sent_0*_It_was*mask*.*sep+*"
PAIR = "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"


@dataclass
class Example:
    """Theirs, of transformers."""

    text_a: str
    label: str | None
    text_b: str | None = None
    guid: str = ""


def stand_ins() -> None:
    """Names that their modules import and today's transformers lacks, and a GPU that is this processor."""
    features = make_dataclass("InputFeatures", [("input_ids", list)], frozen=True)
    processors = ModuleType("src.processors")
    for name in ("processors", "num_labels", "output_modes", "compute_metrics", "median"):
        setattr(processors, f"{name}_mapping", {})
    utils = ModuleType("transformers.data.processors.utils")
    utils.InputFeatures = features  # type: ignore[attr-defined]
    sys.modules["src.processors"], sys.modules["transformers.data.processors.utils"] = processors, utils
    transformers: Any = importlib.import_module("transformers")
    transformers.DataProcessor, transformers.InputExample = object, Example
    torch.Tensor.cuda = lambda self: self  # type: ignore[method-assign,assignment]


def splits() -> dict[str, Any]:
    """Rows of training and validation of each seed, of a table of 90 rows in three classes of unlike size."""
    module = importlib.import_module("tools.generate_k_shot_data")
    labels = [i % 7 % 3 for i in range(90)]
    found: dict[str, Any] = {"labels": labels}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "original", "trec")
        data.mkdir(parents=True)
        for split in ("train", "test"):
            with (data / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([label, f"text {i}"] for i, label in enumerate(labels))
        sys.argv = [
            "",
            "--k",
            "8",
            "--task",
            "trec",
            "--data_dir",
            f"{folder}/original",
            "--output_dir",
            f"{folder}/out",
        ]
        module.main()
        for seed in SEEDS:
            parts = {}
            for split in ("train", "dev"):
                path = Path(folder, "out", "k-shot", "trec", f"8-{seed}", f"{split}.csv")
                parts[split] = [int(text.split()[1]) for _, text in csv.reader(path.read_text().splitlines())]
            found[str(seed)] = parts
    return found


def expanded(template: str, labels: int) -> str:
    """A template with its demonstrations, as their `run.py` joins them before training."""
    source = (Path(sys.path[0]) / "run.py").read_text()
    start = source.index("                old_template = data_args.template\n                new_template")
    block = source[start : source.index("                logger.info", start)]
    code = "\n".join(line[16:] for line in block.splitlines())
    names: dict[str, Any] = {"data_args": SimpleNamespace(template=template), "num_labels": labels}
    exec(code, names)
    return str(names["new_template"])


def prompts() -> list[dict[str, Any]]:
    """Token numbers and mask of every validation prompt, under both kinds of tokenizer."""
    dataset = importlib.import_module("src.dataset")
    rng = np.random.RandomState(7)
    vectors = rng.randn(len(SENTENCES), 12)
    found = []
    for kind, tokenizer in (("wordpiece", bert_tokenizer()), ("byte_pairs", roberta_tokenizer())):
        for pairs, template in ((False, MANUAL), (False, "*cls*_A*mask*_one.*+sentu_0**sep+*"), (True, PAIR)):
            for rate in (None, 0.5):
                for mode in ("train", "dev"):
                    case = {"tokenizer": kind, "pairs": pairs, "template": template, "rate": rate, "mode": mode}
                    rows = one(dataset, tokenizer, vectors, case)
                    found.append({**case, "rows": rows})
    return found


def one(dataset: Any, tokenizer: Any, vectors: Any, case: dict[str, Any]) -> list[list[int]]:
    half = len(SENTENCES) // 2
    seconds = [SENTENCES[-1 - i] if case["pairs"] else None for i in range(len(SENTENCES))]
    examples = [Example(text, str(label), b) for text, label, b in zip(SENTENCES, LABELS, seconds, strict=True)]
    processor = SimpleNamespace(
        get_labels=lambda: ["0", "1"],
        get_train_examples=lambda folder: list(examples[:half]),
        get_dev_examples=lambda folder: list(examples[half:]),
    )
    dataset.processors_mapping["few"] = processor
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/train_given.npy", vectors[:half])
        np.save(f"{folder}/dev_given.npy", vectors[half:])
        args = SimpleNamespace(
            task_name="few", prompt=True, mapping=str({"0": "terrible", "1": "great"}), num_sample=2,
            template_list=None,
            template=expanded(case["template"], 2), data_dir=folder, overwrite_cache=True, max_seq_length=64,
            demo_filter=case["rate"] is not None, demo_filter_rate=case["rate"], demo_filter_model="given",
            debug_mode=False, gpt3_in_context_head=False, gpt3_in_context_tail=False, double_demo=True,
            first_sent_limit=12, other_sent_limit=5, truncate_head=False,
        )  # fmt: skip
        np.random.seed(42)
        made = dataset.FewShotDataset(args, tokenizer, mode=case["mode"], use_demo=True)
        rows = [made[i] for i in range(len(made))]
    length = [sum(row.attention_mask) for row in rows]
    return [[row.mask_pos[0], *row.input_ids[:n]] for row, n in zip(rows, length, strict=True)]


def mappings() -> list[dict[str, Any]]:
    """The whole ranking of label words of random logits: the pairings by score."""
    module = importlib.import_module("src.label_search")
    found = []
    for classes, likely, neighbours in ((2, 12, None), (3, 6, None), (2, 20, 5)):
        rng = np.random.RandomState(classes + likely)
        logits, labels = rng.randn(10 * classes, 60).astype(np.float32), np.arange(10 * classes) % classes
        vectors = rng.randn(60, 8).astype(np.float32)
        vocab = [("" if i % 3 else "Ġ") + f"w{i}" for i in range(60)]
        weight = SimpleNamespace(decoder=SimpleNamespace(weight=torch.from_numpy(vectors)))
        seeds = [f"Ġw{3 * i}" for i in range(classes)] if neighbours else None
        pairings = module.find_labels(
            SimpleNamespace(lm_head=weight), logits, labels, seeds, likely, neighbours, None, vocab
        )
        module.init(logits, labels)
        scores = [[*map(int, pairing), float(module.eval_pairing_acc(pairing))] for pairing in pairings]
        found.append({"classes": classes, "likely": likely, "neighbours": neighbours, "ranking": scores})
    return found


def generated() -> list[dict[str, Any]]:
    """What their beam writes with a small random T5, of each form."""
    module = importlib.import_module("tools.generate_template")
    model, tokenizer = infiller()
    tokenizer.sep_token = "</s>"
    found = []
    single = [{"label": label, "text": [text]} for text, label in zip(SENTENCES[:6], LABELS, strict=False)]
    double = [{**item, "text": [*item["text"], SENTENCES[-1 - i]]} for i, item in enumerate(single)]
    forms = {
        "after": (single, "*cls**sentu_0**<extra_id_0>**label**<extra_id_1>**sep+*", "head"),
        "before": (single, "*cls*.*<extra_id_0>**label**<extra_id_1>**+sentu_0**sep+*", "tail"),
        "between": (double, "*cls**sent-_0**<extra_id_0>**label**<extra_id_1>**+sentl_1**sep+*", None),
    }
    for form, (items, template, cut) in forms.items():
        texts = module.generate(items, template, model, tokenizer, 2, dict(enumerate(WORDS)), 6, truncate=cut)
        found.append({"form": form, "beam": 6, "texts": texts})
    return found


def table(repository: Path) -> str:
    """Writes the scores of all templates; the digest of what their tokenizer makes of each template."""
    dataset, tokenizer = importlib.import_module("src.dataset"), roberta_tokenizer()
    rows = [["task", "seed", "place", "score", "template"]]
    digest = hashlib.sha256()
    for task in sorted(path.name for path in (repository / "auto_template").iterdir()):
        for seed in SEEDS:
            lines = (repository / "auto_template" / task / f"16-{seed}.txt").read_text().splitlines()
            scored: dict[str, list[str]] = {}
            for line in (repository / "auto_template" / task / f"16-{seed}.score.txt").read_text().splitlines():
                score, _, template = line.partition(" ")
                scored.setdefault(template, []).append(score)
            for place, template in enumerate(lines):
                if scored.get(template):
                    rows.append([task, str(seed), str(place), scored[template].pop(0), template])
                    if "_" in template.split("*"):
                        continue  # a space alone is unknown to them
                    made = dataset.tokenize_multipart_input(
                        SENTENCES[:2], 200, tokenizer, prompt=True, template=template
                    )
                    ids = made["input_ids"][: sum(made["attention_mask"])]
                    digest.update(" ".join(map(str, [*made["mask_pos"], *ids, "\n"])).encode())
    TABLE.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repository", type=Path)
    repository = parser.parse_args().repository.resolve()
    sys.path.insert(0, str(repository))
    stand_ins()
    document = {"prompts": prompts(), "mappings": mappings(), "generated": generated(), "templates": table(repository)}
    document = {"source": "princeton-nlp/LM-BFF", "splits": splits(), **document}
    EXPECTED.write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
