"""The roofline picture: lines where the data sheet says, kernels below them, hollow where nothing was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.cluster import list_devices, load_device
from planner.report.plots.roofline import kernels_of, plot_roofline

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("name", list_devices())
def test_no_kernel_is_above_the_roofline(name: str) -> None:
    device = load_device(name)
    peak = max(quantity.value for quantity in device.flops.values())
    for one in kernels_of(device):
        own = device.flops[one.dtype].value if one.dtype is not None else peak
        roof_N = np.minimum(one.intensity_N * device.memory_bandwidth.value, own)
        assert (one.rate_N > 0).all()
        # measured surfaces may beat a data sheet by the boost of clocks and by caches
        assert (one.rate_N <= 1.15 * roof_N).all(), one.name


def test_marks_say_whether_this_gpu_was_measured() -> None:
    def faces(name: str) -> set[str]:
        axes = plot_roofline(load_device(name)).axes[0]
        lines = [line for line in axes.lines if len(line.get_xdata()) > 3]  # type: ignore[arg-type]
        assert lines
        return {"hollow" if line.get_markerfacecolor() == "white" else "filled" for line in lines}

    assert faces("h100_sxm") == {"filled"}
    assert faces("l4") == {"hollow"}


def test_ridges_and_peaks_are_those_of_the_data_sheet() -> None:
    device = load_device("h100_sxm")
    axes = plot_roofline(device).axes[0]
    ridges = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))  # type: ignore[index]
        for line in axes.lines
        if len(line.get_xdata()) == 1  # type: ignore[arg-type]
    }
    bandwidth = device.memory_bandwidth.value
    peaks = [device.flops[dtype].value for dtype in ("bf16", "fp8", "fp32")]
    assert ridges == {(peak / bandwidth, peak) for peak in peaks}
    told = [text.get_text() for text in axes.texts]
    assert any("989 TFLOP/s" in text and "ridge at 295 FLOP/B" in text for text in told)


def test_picture_is_written(tmp_path: Path) -> None:
    plot_roofline(load_device("titan_rtx")).savefig(tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
