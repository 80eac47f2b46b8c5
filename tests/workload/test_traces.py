"""Shipped traces are what their descriptions say; names, folders and rates that are not are refused."""

from __future__ import annotations

import gzip
import math
import time
from pathlib import Path

import numpy as np
import pytest

from planner.errors import InputError
from planner.resources import resource_dir
from planner.workload import Slo, Trace, list_traces, load_trace, trace_source

SHIPPED = ("azure-code-2023", "azure-conv-2023")


def test_shipped_names() -> None:
    assert list_traces() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_traces_match_their_description(name: str) -> None:
    described, trace = trace_source(name), load_trace(name)
    assert (len(trace), trace.sha256) == (described.requests, described.sha256)
    assert described.licence == "CC-BY-4.0"
    assert "Microsoft" in described.source
    assert described.kind == "measured"
    assert trace.source == described.source


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_reproducible_gzip(name: str) -> None:
    content = (resource_dir("profiles") / "traces" / trace_source(name).file).read_bytes()
    assert content[4:8] == bytes(4), "the gzip header must carry no time"
    header = gzip.decompress(content).split(b"\n", 1)[0].decode()
    assert header.split(",") == list(trace_source(name).columns)


def test_azure_conversations_look_as_published() -> None:
    trace = load_trace("azure-conv-2023")
    figures = trace.statistics()
    assert figures["requests"] == 19_366
    assert figures["prompt_mean"] == pytest.approx(1154.7, abs=0.1)
    assert figures["prompt_p50"] == 1020
    assert figures["output_mean"] == pytest.approx(211.1, abs=0.1)
    assert figures["output_p50"] == 129
    assert figures["rate"] == pytest.approx(5.53, abs=0.01)
    assert trace.duration == pytest.approx(3501.7, abs=0.1)


def test_azure_code_arrives_in_bursts() -> None:
    assert load_trace("azure-code-2023").burstiness > 5 > 2 > load_trace("azure-conv-2023").burstiness


def test_twenty_thousand_rows_load_quickly() -> None:
    load_trace("azure-conv-2023")
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        load_trace("azure-conv-2023").summary()
        best = min(best, time.perf_counter() - start)
    assert best < 0.3


def test_scaling_changes_the_rate_and_nothing_else() -> None:
    trace = load_trace("azure-conv-2023")
    fast = trace.scaled(2.0)
    assert fast.rate == pytest.approx(2 * (trace.rate or 0))
    assert fast.burstiness == pytest.approx(trace.burstiness)
    assert fast.prompt_N is trace.prompt_N
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="rate factor"):
            trace.scaled(factor)


def test_summary_rates() -> None:
    trace = load_trace("azure-conv-2023")
    assert trace.summary().rate == trace.rate
    assert trace.summary(rate="max").rate is None
    assert trace.summary(Slo(ttft=2), rate=7).rate == 7.0
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="requests per second"):
            trace.summary(rate=rate)


def test_poisson_arrivals_have_burstiness_one() -> None:
    gaps_N = np.random.Generator(np.random.PCG64(3)).exponential(0.2, size=20_000)
    trace = Trace(
        name="poisson",
        source="generated",
        sha256="0",
        arrival_N=np.cumsum(gaps_N) - gaps_N[0],
        prompt_N=np.full(20_000, 10),
        output_N=np.full(20_000, 5),
    )
    assert trace.burstiness == pytest.approx(1.0, abs=0.03)
    assert trace.rate == pytest.approx(5.0, rel=0.03)


def test_requests_that_all_arrive_at_once_have_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n3.0,5,5\n3.0,6,6\n", encoding="utf-8")
    trace = load_trace(path)
    with pytest.raises(InputError, match="no rate"):
        trace.summary()
    assert trace.summary(rate=1.5).burstiness == 1.0


def test_names_and_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown trace 'azure-conv'") as caught:
        load_trace("azure-conv")
    assert caught.value.hint is not None and "azure-conv-2023" in caught.value.hint
    with pytest.raises(InputError, match="no such file"):
        load_trace(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a folder"):
        load_trace(tmp_path)
    with pytest.raises(InputError, match="unknown trace"):
        trace_source("absent")


def test_requests_within_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    rows = "1.0,90,10\n2.0,90,11\n4.0,10,10\n9.0,500,1\n"
    path.write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}", encoding="utf-8")
    trace = load_trace(path)
    kept = trace.within(100)
    assert kept.prompt_N.tolist() == [90, 10] and kept.output_N.tolist() == [10, 10]
    assert kept.arrival_N is not None and kept.arrival_N.tolist() == [0.0, 3.0]
    assert kept.summary().total.max == 100
    assert "100" in kept.name and "100 tokens" in kept.source and kept.sha256 == trace.sha256
    assert trace.within(501) is trace
    with pytest.raises(InputError, match="no request is left within 19 tokens") as caught:
        trace.within(19)
    assert caught.value.expected is not None and "20" in caught.value.expected
