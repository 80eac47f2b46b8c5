"""`planner estimate load`: what clients of a replica see, for every combination of degrees, lengths and clients."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import typer

from planner.cli import options as opt

__all__ = ["load"]

_LOAD: Final = "Load"
_MOST_ROWS: Final = 60  # of a table for people


def _numbers(text: str) -> list[float]:
    """``"1,2,8"``, or ``"1:64"`` for powers of two from one to the other."""
    try:
        if ":" in text:
            low, high = (float(part) for part in text.split(":"))
            if not 0 < low <= high:
                raise ValueError
            found = [low]
            while found[-1] * 2 <= high:
                found.append(found[-1] * 2)
            return found
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither numbers with commas, nor LOW:HIGH in powers of two") from None


def load(
    model: opt.ModelName,
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu",
            metavar="NAME|FILE",
            help="GPU type (planner devices); replicas lie inside one node of them.",
            autocompletion=opt.names_of("device"),
            rich_help_panel="Input",
        ),
    ],
    engine: opt.EngineName = "vllm",
    tp: Annotated[str, typer.Option("--tp", metavar="N,…|LOW:HIGH", help="Tensor parallelism.")] = "1:8",
    pp: Annotated[str, typer.Option("--pp", metavar="N,…|LOW:HIGH", help="Pipeline parallelism.")] = "1",
    isl: Annotated[str, typer.Option("--isl", metavar="TOKENS,…", help="Tokens in.", rich_help_panel=_LOAD)] = "1024",
    osl: Annotated[str, typer.Option("--osl", metavar="TOKENS,…", help="Tokens out.", rich_help_panel=_LOAD)] = "256",
    concurrency: Annotated[
        str,
        typer.Option("--concurrency", metavar="N,…|LOW:HIGH", help="Requests under way.", rich_help_panel=_LOAD),
    ] = "1:256",
    arrival: Annotated[
        Literal["closed", "burst"],
        typer.Option(
            "--arrival",
            help="closed: clients that send their next request when the last is answered; burst: all at once.",
            rich_help_panel=_LOAD,
        ),
    ] = "closed",
    synchrony: Annotated[
        float,
        typer.Option(
            "--synchrony",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="0: requests are spread evenly over time; 1: they move in waves.",
            rich_help_panel=_LOAD,
        ),
    ] = 0.0,
    stream_interval: Annotated[
        float,
        typer.Option(
            "--stream-interval",
            min=0.0,
            metavar="TOKENS",
            help="Tokens streamed with the first.",
            rich_help_panel=_LOAD,
        ),
    ] = 0.0,
    slot_limit: Annotated[
        int | None,
        typer.Option("--slot-limit", min=1, metavar="N", help="Most sequences the server runs.", rich_help_panel=_LOAD),
    ] = None,
    prefix_share: Annotated[
        float,
        typer.Option(
            "--prefix-share",
            min=0.0,
            max=0.999,
            metavar="SHARE",
            help="Share of prompts in the prefix cache.",
            rich_help_panel=_LOAD,
        ),
    ] = 0.0,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    weight_dtype: opt.WeightDtype = None,
    kv_dtype: opt.KvDtype = None,
    assume: opt.Assume = None,
    json: opt.Json = False,
) -> None:
    """Price a replica under numbers of clients: mean TTFT, TPOT and throughput, with their bands.

    Every combination of the numbers given is priced. With --ttft or --tpot, what misses them is left out of the table.
    The best throughput per GPU is marked.

    [dim]planner estimate load -m llama-3.1-70b-fp8 --gpu h100_sxm --tp 2:8 --isl 1024 --osl 512 --tpot '40 ms'[/dim]
    """
    import numpy as np

    from planner.cli import inputs
    from planner.cli.output import note, print_data, print_table
    from planner.cluster import load_device
    from planner.cost.estimates import ServingEstimator
    from planner.cost.load_pattern import LoadPattern
    from planner.engine import load_engine
    from planner.report.estimates import estimate_rows, estimates_table

    estimator = ServingEstimator(
        inputs.read_model(model, weight_dtype, kv_dtype, assume), load_device(gpu), load_engine(engine)
    )
    grids = [_numbers(text) for text in (tp, pp, isl, osl, concurrency)]
    asked = dict(
        zip(
            ("tp", "pp", "isl", "osl", "concurrency"),
            (grid.ravel() for grid in np.meshgrid(*grids, indexing="ij")),
            strict=True,
        )
    )
    pattern = LoadPattern(
        arrival=arrival,
        synchrony=synchrony,
        stream_interval=stream_interval,
        slot_limit=slot_limit,
        prefix_share=prefix_share,
    )
    found = estimator(**asked, load=pattern)
    meets_B = found.feasible_B & ~(found.ttft_B > (ttft or np.inf)) & ~(found.tpot_B > (tpot or np.inf))
    if json:
        print_data(estimate_rows(asked, found, meets_B))
        return
    print_table(estimates_table(estimator, asked, found, meets_B, most=_MOST_ROWS))
    for (degree, stages), why in found.why.items():
        note(f"TP {degree}, PP {stages}: {why}")
