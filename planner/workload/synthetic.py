"""Workloads without a trace: all requests alike, or lengths from a distribution."""

from __future__ import annotations

import json
import math
from typing import Literal

import numpy as np

from planner.errors import InputError
from planner.resources import sha256_of
from planner.workload.spec import QUANTILE_LEVELS, LengthDistribution, Slo, Workload, check_rate

__all__ = ["fixed_workload", "lognormal_workload"]

_SAMPLES = 20_000


def fixed_workload(
    isl: int,
    osl: int,
    *,
    rate: float | Literal["max"] = "max",
    slo: Slo | None = None,
) -> Workload:
    """Describe requests that are all alike, arriving as a Poisson process.

    Parameters
    ----------
    isl, osl
        Tokens in and out of every request, at least 1.
    rate
        Requests per second, or ``"max"`` for as many as the cluster can serve.
    slo
        What each request is promised; None promises nothing.

    Raises
    ------
    InputError
        If a length or the rate is not what it must be.

    Examples
    --------
    >>> workload = fixed_workload(1024, 128, rate=4)
    >>> workload.mean_decode_context, workload.mean_total
    (1088.0, 1152.0)
    """
    _check_length("ISL", isl)
    _check_length("OSL", osl)
    return Workload(
        name=f"fixed-{isl}-{osl}",
        source=f"every request has {isl} tokens in and {osl} out",
        sha256=_hash({"kind": "fixed", "isl": isl, "osl": osl}),
        kind="fixed",
        rate=_demand(rate),
        prompt=_constant(isl),
        output=_constant(osl),
        total=_constant(isl + osl),
        mean_decode_context=isl + osl / 2,
        requests=1,
        duration=0.0,
        slo=Slo() if slo is None else slo,
    )


def lognormal_workload(
    *,
    prompt_mean: float,
    output_mean: float,
    prompt_cv: float = 1.0,
    output_cv: float = 1.0,
    max_context: int = 131_072,
    rate: float | Literal["max"] = "max",
    slo: Slo | None = None,
    seed: int = 0,
) -> Workload:
    """Describe requests with independent log-normal lengths, arriving as a Poisson process.

    The summary is taken over 20,000 seeded samples, rounded to whole tokens and cut off, so its moments are
    near the ones asked for (within 3 % in the mean at a coefficient of variation of 1), not equal to them.

    Parameters
    ----------
    prompt_mean, output_mean
        Mean tokens in and out, at least 1.
    prompt_cv, output_cv
        Standard deviation over mean, 0 or more.
    max_context
        Longest prompt and answer together, at least 2; longer prompts are cut, then longer answers.
    rate
        Requests per second, or ``"max"`` for as many as the cluster can serve.
    slo
        What each request is promised; None promises nothing.
    seed
        Of the sampling; the same seed gives the same workload.

    Raises
    ------
    InputError
        If a mean, a coefficient, the context or the rate is not what it must be.

    Examples
    --------
    >>> lognormal_workload(prompt_mean=1000, output_mean=200).prompt.quantile(0.5) < 1000
    True
    """
    _check_length("prompt mean", prompt_mean)
    _check_length("output mean", output_mean)
    for name, cv in (("prompt CV", prompt_cv), ("output CV", output_cv)):
        if not (math.isfinite(cv) and cv >= 0):
            raise InputError(f"{name} {cv}", expected="standard deviation over mean, 0 or more")
    if max_context < 2 or max_context < prompt_mean + output_mean:
        raise InputError(
            f"max context {max_context}",
            expected=f"at least the mean lengths together, {prompt_mean + output_mean:g} tokens",
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    prompt_N = np.minimum(_sample(generator, prompt_mean, prompt_cv), max_context - 1)
    output_N = np.minimum(_sample(generator, output_mean, output_cv), max_context - prompt_N)
    decode_context = (np.mean(prompt_N * output_N) + np.mean(output_N**2) / 2) / output_N.mean()
    recipe = {
        "kind": "lognormal",
        "prompt": [prompt_mean, prompt_cv],
        "output": [output_mean, output_cv],
        "max_context": max_context,
        "seed": seed,
    }
    return Workload(
        name=f"lognormal-{prompt_mean:g}-{output_mean:g}",
        source=f"log-normal lengths: mean {prompt_mean:g} in (CV {prompt_cv:g}), {output_mean:g} out"
        f" (CV {output_cv:g}), at most {max_context} together, seed {seed}",
        sha256=_hash(recipe),
        kind="distribution",
        rate=_demand(rate),
        prompt=LengthDistribution.of(prompt_N),
        output=LengthDistribution.of(output_N),
        total=LengthDistribution.of(prompt_N + output_N),
        mean_decode_context=float(decode_context),
        requests=_SAMPLES,
        duration=0.0,
        slo=Slo() if slo is None else slo,
    )


def _sample(generator: np.random.Generator, mean: float, cv: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Draw whole token counts of at least 1 with this mean and coefficient of variation, before rounding."""
    variance = math.log1p(cv**2)
    values_N = np.exp(math.log(mean) - variance / 2 + math.sqrt(variance) * generator.standard_normal(_SAMPLES))
    return np.maximum(1.0, np.rint(values_N))


def _constant(tokens: int) -> LengthDistribution:
    return LengthDistribution(mean=tokens, second_moment=tokens**2, quantiles=(float(tokens),) * len(QUANTILE_LEVELS))


def _check_length(name: str, tokens: float) -> None:
    if not (math.isfinite(tokens) and tokens >= 1):
        raise InputError(f"{name} {tokens}", expected="1 token or more")


def _demand(rate: float | Literal["max"]) -> float | None:
    return None if rate == "max" else check_rate(rate)


def _hash(recipe: dict[str, object]) -> str:
    return sha256_of(json.dumps(recipe, sort_keys=True))
