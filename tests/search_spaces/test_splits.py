import pytest

from naslab.search_spaces.splits import Splits, split_called


def test_parts_are_had_by_name():
    parts = Splits("a", "b", "c")
    assert [parts.of(name) for name in ("train", "validation", "test")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("VAL", "validation"), ("valid", "validation"),
        ("validate", "validation"), ("Validation", "validation"), ("dev", "validation"), ("eval", "validation"),
        ("test", "test"), ("Testing", "test"), ("train2017", "train"), ("val_images", "validation"),
        ("test-set", "test"), ("trainset", "train"),
        ("Valid (1)", "validation"), ("test.1", "test"), ("trains", None), ("train-clean", None),
        ("set", None), ("2017", None), ("testimony", None), ("", None), ("cat", None),
    ],
)  # fmt: skip
def test_splits_go_by_many_names(name, split):
    assert split_called(name) == split
