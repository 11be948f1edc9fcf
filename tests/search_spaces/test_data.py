import gzip
import pickle
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision import datasets

from naslab.errors import InputError
from naslab.search_spaces.data import DatasetOptions, few_labels, files, load_dataset
from naslab.search_spaces.data.datasets import balanced_order
from naslab.search_spaces.data.embedded.make import first_of_each_class
from naslab.search_spaces.data.files import EMBEDDED_FILE, FASHION_MNIST_ROOT, read_embedded, read_fashion_mnist
from naslab.search_spaces.options import explain


def load(**options):
    return load_dataset(DatasetOptions(**options))


def test_embedded_data_is_what_its_rule_says():
    embedded = read_embedded()
    train, test = embedded.train, embedded.test
    assert (train.images.shape, test.images.shape) == ((10_000, 1, 28, 28), (2_000, 1, 28, 28))
    assert set(Counter(train.labels.tolist()).values()) == {1000}
    assert set(Counter(test.labels.tolist()).values()) == {200}
    assert len(embedded.classes) == 10


@pytest.mark.skipif(not FASHION_MNIST_ROOT.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_embedded_data_is_part_of_the_full_set():
    train = read_embedded().train
    images, labels = read_fashion_mnist(FASHION_MNIST_ROOT, "train")
    assert len(images) == 60_000
    assert torch.equal(train.images[:, 0], images[first_of_each_class(labels, 1000)])


def test_splits_are_disjoint_balanced_and_depend_on_the_seed_alone():
    data = load(train=3000, validation=1000, test=500)
    assert (len(data.train), len(data.validation), len(data.test)) == (3000, 1000, 500)
    for part in (data.train, data.validation, data.test):
        counts = Counter(part.labels.tolist())
        assert max(counts.values()) - min(counts.values()) <= 1
    seen = {image.numpy().tobytes() for image in data.validation.images}
    assert not any(image.numpy().tobytes() in seen for image in data.train.images)
    again, other = load(train=3000), load(train=3000, seed=1)
    assert torch.equal(again.train.images, data.train.images)
    assert not torch.equal(other.train.labels, data.train.labels)


def test_the_mean_is_of_the_images():
    data = load(train=2000)
    assert data.mean[0] == pytest.approx(data.train.images.float().mean().item() / 255, abs=1e-3)


@pytest.mark.parametrize(
    "options", [{"train": 9500}, {"validation": 10_000}, {"test": 2001}, {"train": 9000, "validation": 1001}]
)
def test_more_images_than_there_are(options):
    with pytest.raises(InputError, match=r"embedded has (10000 training|2000 test) images"):
        load(**options)


def test_balanced_order_spreads_every_prefix_and_leaves_unlabelled_last():
    labels = torch.tensor([0] * 5 + [1] * 3 + [-1] * 4)
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    chosen = labels[order].tolist()
    assert sorted(chosen[:2]) == [0, 1]
    assert sorted(chosen[:6]) == [0, 0, 0, 1, 1, 1]
    assert chosen[-4:] == [-1] * 4
    assert sorted(order.tolist()) == list(range(12))


def test_few_labels_takes_the_same_number_of_each_class():
    labels = torch.tensor([0, 1, 2] * 10 + [-1] * 5)
    chosen = few_labels(labels, per_class=4, seed=0)
    assert Counter(labels[chosen].tolist()) == {0: 4, 1: 4, 2: 4}


def write_idx(folder, name, array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def fashion_files(folder, number=40):
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        write_idx(folder, f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (number, 28, 28), np.uint8))
        write_idx(folder, f"{prefix}-labels-idx1-ubyte", np.arange(number, dtype=np.uint8) % 10)


def test_fashion_mnist_reads_idx_files(tmp_path):
    fashion_files(tmp_path)
    data = load(name="fashion_mnist", root=tmp_path, validation=10)
    assert (len(data.train), data.channels, data.image_size) == (30, 1, 28)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz: no such file; .*dataset-fashion-mnist"):
        load(name="fashion_mnist", root=tmp_path)
    fashion_files(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for damaged in (b"no gzip", path.read_bytes()[:500], gzip.compress(b"\0\0\x08\x03" + b"\0" * 7)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz: damaged"):
            load(name="fashion_mnist", root=tmp_path)
    fashion_files(tmp_path)
    write_idx(tmp_path, "train-labels-idx1-ubyte", np.zeros(7, np.uint8))
    with pytest.raises(InputError, match="40 train images but 7 labels"):
        load(name="fashion_mnist", root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_absent_colour_data_says_where_it_was_looked_for(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NASLAB_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}: {name} is not there"):
        load(name=name)


def test_cifar_files_in_their_real_format(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": None})
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {"data": rng.integers(0, 256, (20, 3072), np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    names = [f"class{i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    data = load(name="cifar10", root=tmp_path, validation=20)
    assert (len(data.train), data.channels, data.image_size) == (80, 3, 32)
    assert data.classes == tuple(names)


def test_stl10_files_in_their_real_format(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    folder, rng = tmp_path / "stl10_binary", np.random.default_rng(0)
    folder.mkdir()
    for part, number in (("train", 30), ("test", 20), ("unlabeled", 15)):
        (folder / f"{part}_X.bin").write_bytes(rng.integers(0, 256, (number, 3, 96, 96), np.uint8).tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((np.arange(number, dtype=np.uint8) % 10 + 1).tobytes())
    (folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    data = load(name="stl10", root=tmp_path, validation=10, unlabeled=True)
    assert len(data.train) == 35
    assert (data.train.labels < 0).sum() == 15
    assert (data.validation.labels >= 0).all()
    bank = data.train.labelled(12)
    assert len(bank) == 12
    assert (bank.labels >= 0).all()
    assert len(data.train.labelled()) == 20


def image_tree(root, splits=("train", "val"), number=6):
    rng = np.random.default_rng(0)
    for split in splits:
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 256, (20 + i, 30, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def test_image_folders_decode_to_squares(tmp_path):
    image_tree(tmp_path)
    data = load(name="folder", root=tmp_path, image_size=16, validation=2)
    assert (len(data.train), len(data.test), data.classes) == (10, 12, ("cat", "dog"))
    assert data.train.fetch(torch.tensor([0, 3])).shape == (2, 3, 16, 16)


def test_an_image_folder_without_splits_is_split_by_seed(tmp_path):
    image_tree(tmp_path, splits=("",), number=10)
    data = load(name="folder", root=tmp_path, image_size=16, validation=4)
    assert (len(data.train), len(data.test)) == (12, 4)


def test_broken_image_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"task.dataset.root: missing"):
        load(name="folder")
    with pytest.raises(InputError, match="no such folder"):
        load(name="folder", root=tmp_path / "absent")
    with pytest.raises(InputError, match="0 class folders"):
        load(name="folder", root=tmp_path)
    image_tree(tmp_path)
    for path in (tmp_path / "train" / "cat").iterdir():
        path.write_bytes(b"not an image")
    train = files.image_folder(tmp_path, 16, 0).train
    with pytest.raises(InputError, match=r"train/cat/\d.png: not a readable image"):
        train.fetch(torch.arange(len(train)))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"root": "there"}, "root: applies only with name ="),
        ({"image_size": 64}, "image_size: applies only with name = folder"),
        ({"unlabeled": True}, "unlabeled: applies only with name = stl10"),
        ({"name": "cifar10", "image_size": 64}, "image_size: applies only with name = folder"),
        ({"name": "folder", "unlabeled": True}, "unlabeled: applies only with name = stl10"),
    ],
)
def test_options_that_do_not_apply_are_refused(options, where):
    with pytest.raises(ValidationError) as caught:
        DatasetOptions.model_validate(options)
    assert where in explain(caught.value)


def test_a_damaged_embedded_file_is_said(tmp_path, monkeypatch):
    damaged = tmp_path / "data.npz"
    damaged.write_bytes(EMBEDDED_FILE.read_bytes()[:1000])
    monkeypatch.setattr("naslab.search_spaces.data.files.EMBEDDED_FILE", damaged)
    with pytest.raises(InputError, match="damaged"):
        load()
