"""The profiler's own logic, on devices that only count: readings, journals, curves, doubts, CUDA's order of calls."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from planner.cluster import load_device
from planner.cost.device import DeviceOperators
from planner.cost.kernels import chosen_surface
from planner.errors import InputError
from planner.profiling.measure import FAMILIES, Options, measure
from planner.profiling.measure.backend import DeviceFacts, Work, open_backend
from planner.profiling.measure.cuda import CudaBackend
from planner.profiling.measure.gemm import TINY
from planner.profiling.measure.journal import Entry, Journal
from planner.profiling.measure.plausible import doubts
from planner.profiling.measure.points import Point, UnmeasurableError
from planner.profiling.measure.profile import profile_data, write_profile
from planner.profiling.measure.results import tables_of
from planner.profiling.measure.shapes import shapes_of
from planner.profiling.measure.timing import TimeBudget, sampled
from planner.profiling.tables import read_measured
from tests.profiling.fake_device import FakeBackend, FakeTorch

FACTS = {"device": "d", "software": "s", "sizes": "quick"}


class Ticks:
    """A clock that the operation moves."""

    def __init__(self, cold: float, warm: float) -> None:
        self.now, self.cold, self.warm, self.runs = 0.0, cold, warm, 0

    def reading(self, inner: int) -> float:
        start = self.now
        for _ in range(inner):
            self.now += self.cold if self.runs < 2 else self.warm
            self.runs += 1
        return (self.now - start) / inner


def test_readings_are_warm_and_keep_to_the_budget() -> None:
    ticks = Ticks(cold=0.1, warm=1e-5)
    sample = sampled(ticks.reading, TimeBudget(seconds=0.5, least=5, most=50, reading=1e-3), lambda: ticks.now)
    assert sample.seconds == pytest.approx(1e-5)
    assert sample.repeats == 50 and ticks.runs > 50 * 90  # a reading spans 1 ms
    slow = Ticks(cold=3.0, warm=2.0)
    sample = sampled(slow.reading, TimeBudget(seconds=0.5, least=3, most=50), lambda: slow.now)
    assert sample.repeats == 3 and sample.seconds == 2.0


def replaced(monkeypatch: pytest.MonkeyPatch, answer) -> list[str]:
    """Let products be "measured" by a function, and count the calls."""
    calls: list[str] = []

    def counted(point: Point, setup: object):
        calls.append(point.key)
        return answer(len(calls), point)

    monkeypatch.setitem(FAMILIES, "gemm", dataclasses.replace(FAMILIES["gemm"], measure=counted))
    return calls


def options(folder: Path, **more) -> Options:
    return Options(quick=True, only=("gemm",), output=folder, **more)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(number: int, point: Point):
        if number == 4:
            raise KeyboardInterrupt
        return {"seconds": 1e-3 * number, "spread": 0.1}

    first = replaced(monkeypatch, interrupted)
    out = measure(options(tmp_path), backend=FakeBackend())
    assert out.interrupted and out.now == 3 and len(first) == 4
    assert len(read_measured(tmp_path / "gemm.csv")) == 3
    second = replaced(monkeypatch, lambda number, point: {"seconds": 5e-4, "spread": 0.1})
    told: list[tuple[int, int]] = []
    out = measure(
        options(tmp_path), backend=FakeBackend(), progress=lambda done, total, what: told.append((done, total))
    )
    assert not out.interrupted and out.before == 3 and out.left == 0
    assert len(second) == out.total - 3 and not set(second) & set(first[:3])
    assert told[0] == (3, out.total) and told[-1] == (out.total, out.total)
    table = read_measured(tmp_path / "gemm.csv")
    assert len(table) == out.total and sorted(table["seconds"])[-3:] == [1e-3, 2e-3, 3e-3]
    third = replaced(monkeypatch, lambda number, point: pytest.fail("measured twice"))
    assert measure(options(tmp_path), backend=FakeBackend()).before == out.total and third == []


def test_a_time_limit_leaves_the_rest_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replaced(monkeypatch, lambda number, point: {"seconds": 1e-3, "spread": 0.0})
    clock = iter(range(100))
    out = measure(options(tmp_path, time_limit=4), backend=FakeBackend(), clock=lambda: next(clock))
    assert len(calls) == 3 and out.left == out.total - 3


def test_what_a_device_cannot_run_is_told_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int, point: Point):
        if number == 1:
            raise UnmeasurableError("no kernel")
        if number == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB\nmore")
        return {"seconds": 1e-3, "spread": 0.0}

    replaced(monkeypatch, refuse)
    out = measure(options(tmp_path), backend=FakeBackend())
    assert list(out.not_measurable.values()) == ["no kernel", "CUDA out of memory. Tried to allocate 1 GiB"]
    assert replaced(monkeypatch, refuse) == [] and measure(options(tmp_path), backend=FakeBackend()).now == 0


def test_another_device_or_size_is_refused_unless_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, lambda number, point: {"seconds": 1e-3, "spread": 0.0})
    measure(options(tmp_path), backend=FakeBackend())
    with pytest.raises(InputError, match="was measured with device 'Fake Processor', this run has 'Other'"):
        measure(options(tmp_path), backend=FakeBackend("Other"))
    with pytest.raises(InputError, match="was measured with sizes"):
        measure(dataclasses.replace(options(tmp_path), quick=False), backend=FakeBackend())
    assert measure(options(tmp_path, restart=True), backend=FakeBackend("Other")).before == 0


def test_a_line_that_was_cut_short_is_measured_again_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, FACTS)
    points = [Point.of("gemm", "gemm", dtype="bf16", m=m, n=8, k=8) for m in (1, 2)]
    for point in points:
        journal.add(Entry(point, {"seconds": 1e-3}))
    text = path.read_text()
    path.write_text(text[:-7])
    again = Journal(path, FACTS)
    assert list(again.entries) == [points[0].key] and again.cut_short
    again.add(Entry(points[1], None, "why"))
    assert Journal(path, FACTS).entries[points[1].key].why == "why"
    lines = text.splitlines(keepends=True)
    path.write_text(lines[0] + "{}\n" + lines[2])
    with pytest.raises(InputError, match=r"journal.jsonl:2: is no measurement"):
        Journal(path, FACTS)
    path.write_text("something else\n")
    with pytest.raises(InputError, match="is no journal"):
        Journal(path, FACTS)


def entries_of(name: str) -> list[Entry]:
    """What a machine would measure that is exactly as the cost model says."""
    # Under another name, as it is the curves that must come back, not the surfaces that ship for this GPU.
    device = load_device(name).model_copy(update={"name": "made_up"})
    model = DeviceOperators(device)
    entries = []

    def add(family: str, table: str, seconds: float, **settings) -> None:
        entries.append(Entry(Point.of(family, table, **settings), {"seconds": float(seconds), "spread": 0.01}))

    add("gemm", "gemm", device.efficiency.gemm_floor.value, dtype="bf16", m=TINY, n=TINY, k=TINY)
    for m in (1, 16, 256, 4096):
        for n, k in ((4096, 4096), (8192, 2048)):
            add("gemm", "gemm", model.gemm(np.array(m), n, k, "bf16", "bf16"), dtype="bf16", m=m, n=n, k=k)
    heads = {"heads": 32, "kv_heads": 8, "head_dim": 128}
    for tokens in (128, 1024, 8192):
        seconds = model.prefill_attention(np.array(tokens), np.array(tokens / 2), 32 * 256)
        add("attention", "prefill_attention", seconds, dtype="bf16", batch=1, tokens=tokens, **heads)
    for context in (1024, 8192, 65536):
        seconds = model.decode_attention(np.array(16), np.array(context), 2 * 8 * 128 * 2, 1)
        add("attention", "decode_attention", seconds, dtype="bf16", batch=16, context=context, **heads)
    moved = 2 * 4096 * 4096 * 2
    add(
        "elementwise",
        "elementwise",
        model.elementwise(np.array(moved)),
        operation="rms_norm",
        dtype="bf16",
        tokens=4096,
        width=4096,
    )
    for size in (2**14, 2**20, 2**30):
        reduce = device.efficiency.all_reduce[8]
        seconds = reduce.latency.value + 2 * 7 / 8 * size / reduce.bandwidth.value
        add("collectives", "collective", seconds, operation="all_reduce", gpus=8, nodes=1, bytes=size, library="nccl")
    return entries


def test_the_cost_model_gives_back_what_was_measured(tmp_path: Path) -> None:
    """Oracle: measurements made up from a profile give that profile's times back through tables, YAML and costs."""
    known = load_device("h100_sxm")
    facts = DeviceFacts("h100_sxm", known.title, "NVIDIA", 2**36, 132, "torch", "9.0", "h100_sxm")
    entries = entries_of("h100_sxm")
    tables = tables_of(entries, facts, date="2026-11-25", note="n")
    data = profile_data(facts, "cuda", tables, date="2026-11-25", note="n", quick=False)
    device = write_profile(data, tmp_path / "mine.yaml")
    assert device.name == "h100_sxm_measured" and tables["gemm"].origin.device == "h100_sxm"
    assert device.flops == known.flops and device.flops["bf16"].kind == "spec"
    assert device.efficiency.gemm["bf16"].kind == "measured" and device.price_per_hour == known.price_per_hour
    assert chosen_surface(known, "gemm", "bf16", None) is not None
    assert chosen_surface(device, "gemm", "bf16", None) is None  # what was measured counts, not what ships
    model = DeviceOperators(device)
    for entry in entries:
        at, seconds = dict(entry.point.settings), entry.results["seconds"]
        if entry.point.table == "gemm" and at["m"] != TINY:
            found = model.gemm(np.array(at["m"]), at["n"], at["k"], "bf16", "bf16")
        elif entry.point.table == "prefill_attention":
            found = model.prefill_attention(np.array(at["tokens"]), np.array(at["tokens"] / 2), 32 * 256)
        elif entry.point.table == "decode_attention":
            found = model.decode_attention(np.array(16), np.array(at["context"]), 2 * 8 * 128 * 2, 1)
        elif entry.point.table == "elementwise":
            found = model.elementwise(np.array(2 * 4096 * 4096 * 2))
        else:
            continue
        assert float(found) == pytest.approx(seconds, rel=2e-3), entry.point.key
    reduce, truth = device.efficiency.all_reduce[8], known.efficiency.all_reduce[8]
    assert reduce.bandwidth.value == pytest.approx(truth.bandwidth.value, rel=2e-3)
    assert reduce.latency.value == pytest.approx(truth.latency.value, rel=2e-3)


def test_a_part_that_was_not_measured_says_what_stands_in(tmp_path: Path) -> None:
    facts = DeviceFacts("mine", "Mine", "Nobody", 2**34, 4, "torch")
    entries = [entry for entry in entries_of("h100_sxm") if entry.point.table == "gemm"]
    # a small copy out of a cache, ten times as fast, is not the memory's bandwidth
    for size, threads, seconds in ((2**26, 1, 3e-3), (2**26, 4, 1e-3), (2**20, 4, 1e-3 / 640)):
        point = Point.of("copy", "copy", direction="host", bytes=size, threads=threads)
        entries.append(Entry(point, {"seconds": seconds, "spread": 0.0}))
    tables = tables_of(entries, facts, date="2026-11-25", note="")
    device = write_profile(
        profile_data(facts, "cpu", tables, date="2026-11-25", note="", quick=True), tmp_path / "a.yaml"
    )
    assert device.memory_bandwidth.value == pytest.approx(2**27 / 1e-3, rel=1e-3)
    assert device.efficiency.gemm["bf16"].error == 0.3
    assert device.efficiency.prefill_attention.kind == "estimated"
    assert "aiconfigurator" in device.efficiency.prefill_attention.source


def test_doubts_name_peaks_units_noise_and_low_clocks() -> None:
    known = load_device("h100_sxm")
    facts = DeviceFacts("h100_sxm", known.title, "NVIDIA", 2**36, 132, "torch", "9.0", "h100_sxm")

    def told(seconds: float, copy: float, spread: float = 0.0, state: str = "") -> str:
        entries = [
            Entry(
                Point.of("gemm", "gemm", dtype="bf16", m=4096, n=4096, k=4096), {"seconds": seconds, "spread": spread}
            ),
            Entry(
                Point.of("copy", "copy", direction="device", bytes=2**30, threads=0),
                {"seconds": copy, "spread": spread},
            ),
        ]
        return "\n".join(doubts(facts, tables_of(entries, facts, date="2026", note=""), state))

    good = 2 * 4096**3 / 700e12, 2 * 2**30 / 2.5e12
    assert told(*good) == ""
    assert "above the peak of its data sheet" in told(good[0] / 2, good[1])
    assert "a wrong unit" in told(good[0], good[1] * 1000)
    assert "of that of its data sheet: low clocks" in told(good[0], good[1] * 5)
    assert "2 of 2 points vary" in told(*good, spread=0.5)
    assert "slowed by power cap" in told(*good, state="SM clock 900 MHz, slowed by power cap")


def test_short_kernels_run_in_a_graph_after_a_flush() -> None:
    torch = FakeTorch()
    backend = CudaBackend(torch, 1, quick=False)
    assert torch.log == ["set_device 1"] and torch.backends.cuda.matmul.allow_tf32 is False
    assert backend.dtypes == ("bf16", "fp16", "fp32", "fp8") and backend.facts.registered == "h100_sxm"
    sample = backend.time(Work(torch.kernel(5e-6), sets=3), TimeBudget(seconds=0.01, least=5, most=5))
    assert sample.seconds == pytest.approx(5e-6)  # without its launch
    runs = [entry for entry in torch.log if entry.startswith("run")]
    assert runs[-3:] != ["run 0"] * 3 and {"run 0", "run 1", "run 2"} <= set(runs)
    at = [index for index, entry in enumerate(torch.log) if entry == "replay"]
    assert len(at) >= 5 and all(torch.log[index - 1] == "flush" for index in at)
    assert all(torch.log[index + 1] == "synchronize" for index in at) and torch.log[-1] == "reset"


@pytest.mark.parametrize("why", ["long", "refused", "unwanted"])
def test_other_kernels_are_launched_from_the_host(why: str) -> None:
    torch = FakeTorch(name="Some GPU", capability=(7, 5))
    torch.refuse_capture = why == "refused"
    backend = CudaBackend(torch, 0, quick=True)
    assert backend.dtypes == ("fp16", "fp32") and backend.facts.registered is None
    seconds = 2e-3 if why == "long" else 5e-6
    work = Work(torch.kernel(seconds), sets=2, graph=why != "unwanted")
    sample = backend.time(work, TimeBudget(seconds=0.01, least=3, most=3, reading=1e-6))
    assert "replay" not in torch.log
    assert sample.seconds == pytest.approx(seconds + 20e-6)
    assert ("device synchronize" in torch.log) == (why == "refused")


def test_shapes_of_a_model_are_divided_by_tp() -> None:
    shapes = shapes_of("llama-3.1-8b", quick=False)
    assert {(6144, 4096), (768, 4096), (4096, 512), (28672, 4096), (4096, 1792), (16032, 4096)} <= set(shapes.gemms)
    assert shapes.heads == ((4, 1, 128), (8, 2, 128), (16, 4, 128), (32, 8, 128))
    assert [layer.tp for layer in shapes.layers] == [1, 2, 4, 8]
    routed = shapes_of("deepseek-v3", quick=False)
    assert any("routed experts" in why for why in routed.left_out) and any("latent" in why for why in routed.left_out)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"hetplan\[profile\]"):
        open_backend("cpu", quick=True)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1"])
def test_an_unknown_device_is_refused_before_torch_is_needed(device: str) -> None:
    with pytest.raises(InputError, match="expected: cpu, cuda or cuda:N"):
        open_backend(device, quick=True)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown measurement 'gemms'"):
        measure(Options(only=("gemms",), output=tmp_path), backend=FakeBackend())
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"
