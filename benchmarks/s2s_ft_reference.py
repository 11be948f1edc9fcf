"""What the authors' code for UniLMv2's fine-tuning computes, recorded for tests/search_spaces/test_pmlm_published.py.

Usage: python benchmarks/s2s_ft_reference.py CODE [--out tests/search_spaces/s2s_ft.json]

CODE is the folder s2s-ft of a checkout of github.com/microsoft/unilm. It was written for transformers 2, whose modules
are stood in for by those of today: only BERT's sub-layers, which did not change, come from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from transformers import modeling_utils
from transformers.models.bert import modeling_bert

OUT = Path(__file__).resolve().parents[1] / "tests" / "search_spaces" / "s2s_ft.json"
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
}
BIASES = {"none": (0, 0), "relative": (32, 128), "near": (8, 6)}


def authors_code(folder: Path) -> Any:
    """Their module `s2s_ft.modeling`."""
    for name in ("bert", "roberta", "distilbert", "xlm_roberta", "electra"):
        module = ModuleType(f"transformers.modeling_{name}")
        setattr(module, f"{name.upper()}_PRETRAINED_MODEL_ARCHIVE_MAP", {})
        module.__dict__.update(
            {k: v for k, v in vars(modeling_bert).items() if name == "bert" and k.startswith("Bert")}
        )
        sys.modules[module.__name__] = module
    files: Any = ModuleType("transformers.file_utils")
    files.WEIGHTS_NAME = "pytorch_model.bin"
    sys.modules["transformers.file_utils"] = files
    for name in ("cached_path", "WEIGHTS_NAME", "TF2_WEIGHTS_NAME", "TF_WEIGHTS_NAME"):
        vars(modeling_utils).setdefault(name, None)
    sys.modules["transformers.configuration_utils"].__dict__.setdefault(
        "PretrainedConfig", transformers.PretrainedConfig
    )
    sys.path.insert(0, str(folder))
    from s2s_ft import modeling

    return modeling


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights by name that any program can draw: numpy's legacy generator, names in order."""
    random = np.random.RandomState(7)
    drawn = {name: torch.tensor(random.standard_normal(shapes[name])) for name in sorted(shapes)}
    return {name: 1 + 0.3 * w if name.endswith("LayerNorm.weight") else 0.5 * w for name, w in drawn.items()}


def batch(steps: bool) -> dict[str, torch.Tensor]:
    """Sources and targets of several lengths; steps of single tokens, or of spans in some order."""
    random = np.random.RandomState(11)
    draw = lambda *shape: torch.tensor(random.randint(5, SIZES["vocab_size"], shape))  # noqa: E731
    sources, targets, pseudo = draw(3, 9), draw(3, 6), draw(3, 6)
    given = {
        "source_ids": sources,
        "target_ids": targets,
        "label_ids": targets.clone(),
        "pseudo_ids": pseudo,
        "num_source_tokens": torch.tensor([9, 6, 7]),
        "num_target_tokens": torch.tensor([6, 3, 5]),
    }
    if steps:
        given["target_span_ids"] = torch.tensor([[2, 2, 1, 3, 3, 3], [1, 2, 2, 3, 3, 3], [4, 3, 3, 1, 2, 5]])
    return given


def record(modeling: Any) -> list[dict[str, Any]]:
    """Mask and loss of each case."""
    from s2s_ft.config import BertForSeq2SeqConfig

    rows = []
    for name, (buckets, furthest) in BIASES.items():
        for steps in (False, True):
            config = BertForSeq2SeqConfig(label_smoothing=0.0, rel_pos_bins=buckets, max_rel_pos=furthest, **SIZES)
            for missing in ("output_attentions", "output_hidden_states"):
                config.__dict__[missing] = False
            model_class = modeling.BertForSequenceToSequenceWithPseudoMask
            model_class.init_weights = modeling.BertModel.init_weights = lambda self: None
            model = model_class(config).double().eval()
            shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
            # Tied by hand in their code: one tensor under two names.
            shapes.pop("cls.predictions.decoder_weight", None)
            model.load_state_dict(weights(shapes), strict=False)
            given = batch(steps)
            seen: list[torch.Tensor] = []
            model.bert.register_forward_pre_hook(
                lambda module, args, named, seen=seen: seen.append(named["attention_mask"]), with_kwargs=True
            )
            with torch.no_grad():
                loss = model(**given)
            rows.append(
                {
                    "bias": name,
                    "buckets": buckets,
                    "furthest": furthest,
                    "spans": steps,
                    "names": sorted(shapes),
                    "mask": ["".join(map(str, row)) for row in seen[0].flatten(0, 1).tolist()],
                    "loss": loss.item(),
                }
            )
    return rows


def main() -> None:
    """Record all cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("code", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    document = {"repository": "microsoft/unilm", "sizes": SIZES, "cases": record(authors_code(arguments.code))}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
