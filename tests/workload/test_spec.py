"""What a workload's summary promises: moments, quantiles, and an exact trip through JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.errors import InputError
from planner.workload import (
    QUANTILE_LEVELS,
    LengthDistribution,
    Slo,
    Trace,
    Workload,
    fixed_workload,
    load_trace,
    lognormal_workload,
)

lengths = st.lists(st.integers(1, 200_000), min_size=1, max_size=60)


@settings(deadline=None, max_examples=200)
@given(tokens=lengths, level=st.floats(0, 1), other=st.floats(0, 1))
def test_quantiles_are_monotone_within_range_and_exact_where_stored(
    tokens: list[int], level: float, other: float
) -> None:
    distribution = LengthDistribution.of(tokens)
    low, high = sorted((level, other))
    slack = 1 + 1e-12
    assert distribution.quantile(low) <= distribution.quantile(high) * slack
    assert min(tokens) <= distribution.quantile(level) * slack
    assert distribution.quantile(level) <= max(tokens) * slack
    for stored in QUANTILE_LEVELS:
        assert distribution.quantile(stored) == float(np.quantile(np.array(tokens, dtype=float), stored))


def test_quantile_between_stored_levels_interpolates_the_logarithm() -> None:
    distribution = LengthDistribution(
        mean=30, second_moment=2000, quantiles=(1, 1, 1, 1, 1, 10, 100, 100, 100, 100, 100)
    )
    assert distribution.quantile(0.375) == pytest.approx(math.sqrt(10))
    assert distribution.quantile(0.625) == pytest.approx(10 * math.sqrt(10))


@pytest.mark.parametrize("level", [-0.01, 1.01, math.nan])
def test_quantile_outside_its_range(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        LengthDistribution.of([1, 2]).quantile(level)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantiles": (1.0, 2.0)}, "2 quantiles"),
        ({"quantiles": tuple(float(11 - i) for i in range(11))}, "must not decrease"),
        ({"mean": 99.0}, "lies outside"),
        ({"second_moment": 1.0}, "second moment"),
        ({"mean": math.nan}, "finite"),
        ({"extra": 1}, "Extra inputs"),
    ],
)
def test_inconsistent_distributions_are_refused(change: dict[str, object], message: str) -> None:
    good = LengthDistribution.of(range(1, 12)).model_dump()
    with pytest.raises(ValidationError, match=message):
        LengthDistribution.model_validate(good | change)


@pytest.mark.parametrize(
    "fields",
    [
        {"ttft": 0},
        {"tpot": -0.1},
        {"percentile": 0},
        {"percentile": 1},
        {"ttft": math.inf},
        {"ttft": "2 parsecs"},
    ],
)
def test_slo_refuses_what_cannot_be_promised(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Slo.model_validate(fields)


def test_slo_reads_units() -> None:
    assert Slo(ttft="2 s", tpot="100 ms") == Slo(ttft=2.0, tpot=0.1, percentile=0.9)


def _trace(prompts: list[int], outputs: list[int], gaps: list[float]) -> Trace:
    arrival_N = np.cumsum([0.0, *gaps[1:]])
    return Trace(
        name="t",
        source="t",
        sha256="0",
        arrival_N=arrival_N,
        prompt_N=np.array(prompts),
        output_N=np.array(outputs),
    )


rows = st.lists(st.tuples(st.integers(1, 50_000), st.integers(1, 5_000), st.floats(1e-3, 100)), min_size=2, max_size=40)


@settings(deadline=None, max_examples=100)
@given(rows=rows)
def test_summary_survives_json_exactly_and_keeps_the_joint_lengths(
    rows: list[tuple[int, int, float]],
) -> None:
    prompts, outputs, gaps = (list(column) for column in zip(*rows, strict=True))
    summary = _trace(prompts, outputs, gaps).summary(Slo(ttft=2, tpot=0.1))
    assert Workload.model_validate_json(summary.model_dump_json()) == summary
    assert Workload.model_validate(json.loads(json.dumps(summary.model_dump(mode="json")))) == summary
    steps = sum(outputs)
    midpoints = sum(o * (p + o / 2) for p, o in zip(prompts, outputs, strict=True))
    assert summary.mean_decode_context == pytest.approx(midpoints / steps)
    assert summary.mean_total == pytest.approx((sum(prompts) + steps) / len(rows))


def test_shipped_summary_survives_json_exactly() -> None:
    summary = load_trace("azure-conv-2023").summary(Slo(ttft=2, tpot=0.1), rate=3.3)
    assert Workload.model_validate_json(summary.model_dump_json()) == summary


def test_with_rate_and_with_slo_change_nothing_else() -> None:
    workload = fixed_workload(100, 10, rate=2)
    assert workload.with_rate(None).with_rate(2) == workload
    assert workload.with_slo(Slo(ttft=1)).with_slo(Slo()) == workload
    with pytest.raises(InputError, match="rate inf"):
        workload.with_rate(math.inf)


def test_workloads_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        fixed_workload(100, 10).rate = 3


def test_fixed_workload_has_no_spread() -> None:
    workload = fixed_workload(1024, 128, rate=4, slo=Slo(ttft=1))
    assert (workload.kind, workload.rate, workload.burstiness) == ("fixed", 4.0, 1.0)
    assert workload.prompt.std == 0
    assert {workload.output.quantile(level) for level in (0, 0.33, 0.5, 1)} == {128.0}
    assert workload.mean_decode_context == 1024 + 64
    assert workload.total.max == 1152


@settings(deadline=None, max_examples=20)
@given(mean=st.floats(20, 5_000), cv=st.floats(0, 1), seed=st.integers(0, 100))
def test_lognormal_is_deterministic_and_near_its_moments(mean: float, cv: float, seed: int) -> None:
    def make() -> Workload:
        return lognormal_workload(prompt_mean=mean, output_mean=mean / 2, prompt_cv=cv, output_cv=cv, seed=seed)

    workload = make()
    assert make() == workload
    assert workload.prompt.mean == pytest.approx(mean, rel=0.03, abs=0.5)
    assert workload.output.mean == pytest.approx(mean / 2, rel=0.03, abs=0.5)
    assert workload.prompt.std / workload.prompt.mean == pytest.approx(cv, rel=0.1, abs=0.03)


def test_lognormal_keeps_within_the_context() -> None:
    workload = lognormal_workload(prompt_mean=900, output_mean=300, prompt_cv=2, output_cv=2, max_context=2048)
    assert workload.total.max <= 2048
    assert workload.output.min >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"isl": 0, "osl": 1}, "ISL 0"),
        ({"isl": 1, "osl": 0}, "OSL 0"),
        ({"isl": 1, "osl": 1, "rate": 0.0}, "rate 0.0"),
        ({"isl": 1, "osl": 1, "rate": math.inf}, "rate inf"),
        ({"isl": 1, "osl": 1, "rate": "trace"}, "rate 'trace'"),
    ],
)
def test_fixed_workload_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fixed_workload(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_mean": 0.5, "output_mean": 1}, "prompt mean"),
        ({"prompt_mean": 5, "output_mean": math.nan}, "output mean"),
        ({"prompt_mean": 5, "output_mean": 5, "output_cv": -1}, "output CV"),
        ({"prompt_mean": 5, "output_mean": 5, "max_context": 9}, "max context 9"),
    ],
)
def test_lognormal_refuses(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lognormal_workload(**arguments)  # type: ignore[arg-type]
