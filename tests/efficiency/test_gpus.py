"""The table is complete and consistent, names and driver names find the right card, prices are only the user's."""

import re

import pytest

from naslab.efficiency import InputError
from naslab.efficiency.gpu_table import RECALLED
from naslab.efficiency.gpus import ALIASES, GPUS, find_gpu, match_gpu, price_per_hour, prices_path

DTYPES = {"float32", "tf32", "bfloat16", "float16", "fp8", "int8"}
FIELDS = {"memory_bytes", "bandwidth_bytes_per_second", "power_watts"}


@pytest.fixture
def prices(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(text):
        prices_path().parent.mkdir(exist_ok=True)
        prices_path().write_text(text)

    return write


@pytest.mark.parametrize("spec", GPUS.values(), ids=lambda spec: spec.name)
def test_every_figure_has_a_dated_source(spec):
    assert set(spec.peak_flops) <= DTYPES
    assert set(spec.sources) == set(spec.peak_flops) | FIELDS
    assert all(re.search(r"\b20(1|2)\d\b", source) for source in spec.sources.values())


@pytest.mark.parametrize("spec", GPUS.values(), ids=lambda spec: spec.name)
def test_figures_are_of_the_right_order(spec):
    """Units slip by 1000 and sparsity by 2; both would break these relations between the figures of one card."""
    assert 2**34 <= spec.memory_bytes <= 2**38
    assert 2e11 < spec.bandwidth_bytes_per_second < 1e13
    assert 50 < spec.power_watts < 1500
    peaks = spec.peak_flops
    assert all(1e12 < peak < 1e16 for peak in peaks.values())
    half = peaks.get("float16", peaks.get("bfloat16"))
    assert peaks.get("bfloat16", half) == half
    if "tf32" in peaks:
        assert peaks["tf32"] == pytest.approx(half / 2, rel=0.03)
    for eight_bits in {"fp8", "int8"} & set(peaks):
        # GeForce cards halve what accumulates in float32, integers do not; AMD's second and TPU's fourth gain nothing
        assert round(peaks[eight_bits] / half, 1) in (1.0, 2.0, 4.0)


def test_recalled_figures_are_told_apart():
    def recalled(name):
        return {figure for figure, source in find_gpu(name).sources.items() if source.endswith(RECALLED)}

    assert not recalled("h100") | recalled("tpu-v3")
    assert recalled("rtx-3090") == {"bfloat16", "float16"}
    assert "float32" in recalled("5090")


def test_names_and_aliases():
    assert find_gpu("h100").name == "h100-sxm"
    assert find_gpu("a100").name == "a100-80"
    assert find_gpu(" RTX_4090 ").name == find_gpu("4090").name == "rtx-4090"
    assert all(find_gpu(alias).name == name for alias, name in ALIASES.items())
    assert set(ALIASES) & set(GPUS) == set()


def test_published_figures():
    h100 = find_gpu("h100-sxm")
    assert h100.peak_flops["bfloat16"] == pytest.approx(989.4e12)
    assert h100.bandwidth_bytes_per_second == pytest.approx(3.35e12)
    assert find_gpu("tpu-v3").cores_per_chip == 2


@pytest.mark.parametrize(("name", "message"), [("h1000", "near matches: h100"), ("", "use v100-16"), ("gpu", "device")])
def test_unknown_names_are_one_clear_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        find_gpu(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("cuda: NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("Tesla V100-SXM2-32GB", "v100-32"),
        ("Tesla T4", "t4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("A100-PCIE-40GB", "a100-40-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80-pcie"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_driver_names(driver, name):
    assert match_gpu(driver).name == name


@pytest.mark.parametrize(
    "driver",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H100 NVL",
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX 6000 Ada Generation",
        "Tesla V100-PCIE-16GB",
        "cpu: AMD EPYC",
        "",
    ],
)
def test_other_cards_are_not_mistaken(driver):
    assert match_gpu(driver) is None


def test_every_card_can_be_matched_by_some_driver_name():
    from naslab.efficiency.gpus import _DRIVER_NAMES

    assert set(_DRIVER_NAMES) == set(GPUS)


def test_no_price_is_built_in(prices):
    assert {price_per_hour(name) for name in GPUS} == {None}
    prices("")
    assert price_per_hour("h100") is None


def test_prices_are_the_users(prices):
    prices("h100: 2.5\na100-80: 1\nt4: 0\n")
    assert price_per_hour("h100-sxm") == 2.5
    assert price_per_hour("a100") == 1.0
    assert price_per_hour("t4") == 0.0
    assert price_per_hour("h200") is None
    with pytest.raises(InputError, match="h300"):
        price_per_hour("h300")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- h100\n", "not a list"),
        ("h100: cheap\n", "price of h100 is 'cheap'"),
        ("h100: -1\n", "price of h100 is -1"),
        ("h100: .nan\n", "price of h100 is nan"),
        ("h100: true\n", "price of h100 is True"),
        ("h10O: 2\n", "'h10O' is not in the table; near matches"),
        ("h100: [\n", "cannot be read"),
    ],
)
def test_a_bad_price_file_is_one_line_that_names_it(prices, text, message):
    prices(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        price_per_hour("t4")
    assert "prices.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
