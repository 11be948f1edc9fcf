"""Known accelerators: peak rates, memory, bandwidth and power as published, each figure with its source.

Peaks are dense (no structured sparsity) and a multiply-add is 2. Tensor-core peaks accumulate in float32, as training
does, so GeForce cards stand at half of their advertised figure. A source names the publication; "as quoted by" says
where it was read when not in the original, and "(recalled)" marks a figure that was not looked up at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RECALLED = "(recalled)"


@dataclass(frozen=True)
class DeviceSpec:
    """One accelerator as its maker describes it.

    `peak_flops` is by number format: float32 (plain, without TF32), tf32, bfloat16, float16, fp8, int8. A maker's GB
    of memory is taken as 2^30 bytes, which is what drivers report but for a few per cent. `power_watts` is the most
    that the board may draw. `cores_per_chip` says into how many devices software may divide the chip; all figures are
    for the whole. `sources` has one entry for each figure, by number format or field.
    """

    name: str
    label: str
    peak_flops: Mapping[str, float]
    memory_bytes: int
    bandwidth_bytes_per_second: float
    power_watts: float
    sources: Mapping[str, str]
    cores_per_chip: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the published schema."""
        return {**vars(self), "peak_flops": dict(self.peak_flops), "sources": dict(self.sources)}


# The publications, and where they were read when not in the original.
_LIGHTNING = "as quoted by Lightning Fabric 2.6, utilities/throughput.py"
_PYTORCH = "as quoted by PyTorch 2.15, _inductor/analysis/device_info.py"
_ML_ENGINEERING = "as quoted by S. Bekman, Machine Learning Engineering, 2024"
_V100 = "NVIDIA V100 data sheet, 2020"
_V100_16 = "NVIDIA Tesla V100 announcement, 2017, as quoted by El Chapuzas Informático, 2017"
_V100_32 = f"{_V100}, as quoted by Ozyphus, GPU architectural foundations"
_T4 = "NVIDIA T4 data sheet, 2019"
_A10 = "NVIDIA A10 data sheet, 2021"
_A100 = "NVIDIA A100 data sheet, 2021"
_A100_FORMS = f"{_A100}, as quoted by Thunder Compute, A100 specifications, 2026"
_GA102 = "NVIDIA Ampere GA102 GPU architecture white paper 2.0, 2021"
_A6000_CARD = "NVIDIA RTX A6000 data sheet, 2020, as quoted by ServeTheHome, 2020"
_RTX_3090_CARD = "NVIDIA GeForce RTX 3090 specifications, 2020, as quoted by Cutting Edge Gamer, 2022"
_ADA = "NVIDIA Ada GPU architecture white paper 2.1, 2023"
_RTX_4090 = f"{_ADA}, as quoted by WareDB, GeForce RTX 4090"
_L4 = "NVIDIA L4 data sheet, 2023"
_L4_CARD = f"{_L4}, as quoted by Grokipedia, L4 vs L40S"
_L40S = "NVIDIA L40S data sheet, 2023, as reproduced by Mullet, L40/L40S"
_H100 = "NVIDIA H100 Tensor Core GPU architecture white paper, 2022"
_H100_SXM = f"{_H100}, as quoted by G. K. Lockwood, H100"
_H100_PCIE_BRIEF = "NVIDIA H100 PCIe GPU product brief PB-11133-001_v02, 2022"
_H200 = "NVIDIA H200 data sheet, 2023"
_H200_CARD = f"{_H200}, as quoted by ITKB, H200 vs B300, 2026"
_B200 = "NVIDIA Blackwell data sheet (HGX B200), 2025, as reproduced by zdszero, Hardware; half of the sparse figure"
_B200_CARD = "NVIDIA Blackwell data sheet (HGX B200), 2025, as reproduced by zdszero, Hardware"
_RTX_5090 = "NVIDIA RTX Blackwell GPU architecture white paper, 2025"
_RTX_5090_CARD = "NVIDIA GeForce RTX 5090 specifications, 2025, as quoted by Linux Format, May 2025"
_MI250X = "AMD Instinct MI200 announcement, 2021, as quoted by Zexron, 2021"
_MI300X = f"AMD Instinct MI300X data sheet, 2023, {_PYTORCH}"
_TPU = "Google Cloud TPU documentation, {}"


def _spec(
    name: str,
    label: str,
    teraflops: Mapping[str, tuple[float, str]],
    memory_gib: tuple[int, str],
    gigabytes_per_second: tuple[float, str],
    power_watts: tuple[float, str],
    cores_per_chip: int = 1,
) -> DeviceSpec:
    """An entry from figures in data-sheet units, each with its source."""
    card = {"memory_bytes": memory_gib, "bandwidth_bytes_per_second": gigabytes_per_second, "power_watts": power_watts}
    return DeviceSpec(
        name,
        label,
        {dtype: figure * 1e12 for dtype, (figure, _) in teraflops.items()},
        memory_gib[0] * 2**30,
        gigabytes_per_second[0] * 1e9,
        power_watts[0],
        {figure: source for figure, (_, source) in {**teraflops, **card}.items()},
        cores_per_chip,
    )


def _rates(source: str, **teraflops: float) -> dict[str, tuple[float, str]]:
    return {dtype: (figure, source) for dtype, figure in teraflops.items()}


_V100_RATES = _rates(f"{_V100}, {_LIGHTNING}", float32=15.7, float16=125)
_A100_RATES = _rates(f"{_A100}, {_LIGHTNING}", float32=19.5, tf32=156, bfloat16=312, float16=312, int8=624)

GPUS: dict[str, DeviceSpec] = {
    spec.name: spec
    for spec in (
        _spec(
            "v100-16",
            "NVIDIA V100 SXM2 16 GB",
            _V100_RATES,
            (16, _V100_16),
            (900, _V100_16),
            (300, _V100_16),
        ),
        _spec(
            "v100-32",
            "NVIDIA V100 SXM2 32 GB",
            _V100_RATES,
            (32, _V100_32),
            (900, _V100_32),
            (300, _V100_32),
        ),
        _spec(
            "t4",
            "NVIDIA T4",
            _rates(f"{_T4}, {_LIGHTNING}", float32=8.1, float16=65, int8=130),
            (16, f"{_T4}, as quoted by Sysrqmts, Tesla T4"),
            (320, f"{_T4}, as quoted by Sysrqmts, Tesla T4"),
            (70, f"{_T4}, as quoted by Sysrqmts, Tesla T4"),
        ),
        _spec(
            "a10",
            "NVIDIA A10",
            _rates(f"{_A10}, {_LIGHTNING}", float32=31.2, tf32=62.5, bfloat16=125, float16=125, int8=250),
            (24, f"{_A10}, as quoted by Baseten, A10 vs A10G"),
            (600, f"{_A10}, as quoted by Baseten, A10 vs A10G"),
            (150, f"{_A10} {RECALLED}"),
        ),
        _spec(
            "a6000",
            "NVIDIA RTX A6000",
            _rates(f"{_GA102}, {_LIGHTNING}", float32=38.7, tf32=77.4, int8=309.7)
            | _rates(f"{_GA102}, as quoted by LLMPerf, A6000 GPUs", bfloat16=154.8, float16=154.8),
            (48, _A6000_CARD),
            (768, _A6000_CARD),
            (300, _A6000_CARD),
        ),
        _spec(
            "a100-40", "NVIDIA A100 SXM4 40 GB", _A100_RATES, (40, _A100_FORMS), (1555, _A100_FORMS), (400, _A100_FORMS)
        ),
        _spec(
            "a100-40-pcie",
            "NVIDIA A100 PCIe 40 GB",
            _A100_RATES,
            (40, _A100_FORMS),
            (1555, _A100_FORMS),
            (250, _A100_FORMS),
        ),
        _spec(
            "a100-80", "NVIDIA A100 SXM4 80 GB", _A100_RATES, (80, _A100_FORMS), (2039, _A100_FORMS), (400, _A100_FORMS)
        ),
        _spec(
            "a100-80-pcie",
            "NVIDIA A100 PCIe 80 GB",
            _A100_RATES,
            (80, _A100_FORMS),
            (1935, _A100_FORMS),
            (300, _A100_FORMS),
        ),
        _spec(
            "l4",
            "NVIDIA L4",
            _rates(f"{_ADA}, {_LIGHTNING}", float32=30.3, tf32=60, bfloat16=121, float16=121, int8=242)
            | _rates(f"{_L4}, {_PYTORCH}; half of the sparse figure", fp8=242.5),
            (24, _L4_CARD),
            (300, _L4_CARD),
            (72, _L4_CARD),
        ),
        _spec(
            "l40s",
            "NVIDIA L40S",
            _rates(_L40S, float32=91.6, tf32=183, bfloat16=362.05, float16=362.05, fp8=733)
            | _rates(f"NVIDIA L40S data sheet, 2023, {_ML_ENGINEERING}", int8=733),
            (48, _L40S),
            (864, _L40S),
            (350, _L40S),
        ),
        _spec(
            "h100-pcie",
            "NVIDIA H100 PCIe",
            _rates(f"{_H100}, {_LIGHTNING}", float32=51.2, tf32=378, bfloat16=756, float16=756, int8=1513)
            | _rates(f"{_H100}, {_ML_ENGINEERING}", fp8=1513),
            (80, f"{_H100}, as quoted by Hmc-tech, H100 vs H200"),
            (2000, _H100_PCIE_BRIEF),
            (350, _H100_PCIE_BRIEF),
        ),
        _spec(
            "h100-sxm",
            "NVIDIA H100 SXM5",
            _rates(_H100_SXM, float32=66.9, tf32=494.7, bfloat16=989.4, float16=989.4, fp8=1978.9, int8=1978.9),
            (80, _H100_SXM),
            (3350, _H100_SXM),
            (700, _H100_SXM),
        ),
        _spec(
            "h200",
            "NVIDIA H200 SXM",
            _rates(
                f"{_H200}, {_ML_ENGINEERING}", float32=67, tf32=494.5, bfloat16=989, float16=989, fp8=1979, int8=1979
            ),
            (141, _H200_CARD),
            (4800, _H200_CARD),
            (700, _H200_CARD),
        ),
        _spec(
            "b200",
            "NVIDIA B200 SXM (HGX)",
            _rates(_B200_CARD, float32=75) | _rates(_B200, tf32=1100, bfloat16=2250, float16=2250, fp8=4500, int8=4500),
            (180, _B200_CARD),
            (7700, _B200_CARD),
            (1000, _B200_CARD),
        ),
        _spec(
            "rtx-3090",
            "NVIDIA GeForce RTX 3090",
            _rates(f"{_GA102}, {_LIGHTNING}", float32=35.6, tf32=35.6, int8=284)
            | _rates(f"{_GA102} {RECALLED}", bfloat16=71, float16=71),
            (24, _RTX_3090_CARD),
            (936, _RTX_3090_CARD),
            (350, _RTX_3090_CARD),
        ),
        _spec(
            "rtx-4090",
            "NVIDIA GeForce RTX 4090",
            _rates(_RTX_4090, float32=82.6, tf32=82.6, bfloat16=165.2, float16=165.2, fp8=330.3, int8=660.6),
            (24, _RTX_4090),
            (1008, _RTX_4090),
            (450, "NVIDIA GeForce RTX 4090 announcement, 2022, as quoted by a review at opflan.blogg.se, 2023"),
        ),
        _spec(
            "rtx-5090",
            "NVIDIA GeForce RTX 5090",
            _rates(f"{_RTX_5090} {RECALLED}", float32=104.8, tf32=104.8, bfloat16=209.5, float16=209.5, fp8=419)
            | _rates(
                "NVIDIA GeForce RTX 50 page, 2026, as quoted by Castromedia; a quarter of the sparse FP4 figure",
                int8=838,
            ),
            (32, _RTX_5090_CARD),
            (1792, _RTX_5090_CARD),
            (575, _RTX_5090_CARD),
        ),
        _spec(
            "mi250x",
            "AMD Instinct MI250X (both dies)",
            _rates(_MI250X, float32=95.7, bfloat16=383, float16=383, int8=383),
            (128, _MI250X),
            (3200, _MI250X),
            (560, _MI250X),
            cores_per_chip=2,
        ),
        _spec(
            "mi300x",
            "AMD Instinct MI300X",
            _rates(_MI300X, float32=163.4, tf32=653.7, bfloat16=1307.4, float16=1307.4, fp8=2614.9, int8=2614.9),
            (192, _MI300X),
            (5300, _MI300X),
            (750, "AMD Instinct MI300X data sheet, 2023, as quoted by Awesome Agents and CodeSOTA, 2026"),
        ),
        _spec(
            "tpu-v3",
            "Google TPU v3 (chip of two cores)",
            _rates(_TPU.format("TPU v3, 2026"), bfloat16=123),
            (32, _TPU.format("TPU v3, 2026")),
            (900, _TPU.format("TPU v3, 2026")),
            (262, _TPU.format("TPU v3, 2026, largest measured")),
            cores_per_chip=2,
        ),
        _spec(
            "tpu-v4",
            "Google TPU v4 (chip of two cores)",
            _rates(_TPU.format("TPU v4, 2026"), bfloat16=275, int8=275),
            (32, _TPU.format("TPU v4, 2026")),
            (1200, _TPU.format("TPU v4, 2026")),
            (192, _TPU.format("TPU v4, 2026, largest measured")),
            cores_per_chip=2,
        ),
    )
}
"""Every known accelerator by name."""
