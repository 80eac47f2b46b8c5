"""Every layout reads its own files, is told from the others, and names the row that is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from planner.errors import InputError
from planner.workload import LAYOUTS, load_trace
from planner.workload.layouts import read_rows

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:03.9799601,110,27
"""
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n5.0,374,44\n9.5,396,109\n"
BURST_OLD = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
BURST_NEW = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,a,1.0,ChatGPT,472,18,490,Conversation log
6,b,1.0,ChatGPT,100,20,120,Conversation log
45,a,2.0,ChatGPT,1087,30,1117,Conversation log
118,,3.0,GPT-4,417,276,693,API log
"""
MOONCAKE = (
    '{"timestamp": 1000, "input_length": 1024, "output_length": 50, "hash_ids": [1, 2]}\n'
    "\n"
    '{"timestamp": 3500, "input_length": 1500, "output_length": 9, "hash_ids": [1, 2, 3]}\n'
    '{"timestamp": 3500, "input_length": 1024, "output_length": 9, "hash_ids": [1, 2]}\n'
)
LENGTHS = "prompt_tokens,output_tokens\n142,137\n140,214\n"
SAMPLES = {"azure": AZURE, "vidur": VIDUR, "burstgpt": BURST_NEW, "mooncake": MOONCAKE, "lengths": LENGTHS}


def _write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_azure_parses_seven_fractional_digits_and_sorts(tmp_path: Path) -> None:
    trace = load_trace(_write(tmp_path, AZURE))
    assert trace.prompt_N.tolist() == [4808, 110, 3180]
    assert trace.arrival_N is not None
    assert trace.arrival_N == pytest.approx([0, 0, 0.052], abs=1e-6)


def test_azure_accepts_time_zones() -> None:
    text = AZURE.splitlines()[0] + "\n2024-05-10 00:00:00.009930+00:00,1,2\n2024-05-10 00:00:01.009930+00:00,3,4\n"
    arrival_N = read_rows(text, "x").arrival_N
    assert arrival_N is not None
    assert arrival_N.tolist() == [0.0, 1.0]


def test_vidur_starts_at_zero(tmp_path: Path) -> None:
    trace = load_trace(_write(tmp_path, VIDUR))
    assert trace.arrival_N is not None
    assert trace.arrival_N.tolist() == [0.0, 4.5]
    assert (trace.name, trace.rate) == ("trace", 1 / 4.5)


@pytest.mark.parametrize("text", [BURST_OLD, BURST_NEW])
def test_burstgpt_goes_by_column_names(tmp_path: Path, text: str) -> None:
    trace = load_trace(_write(tmp_path, text))
    assert trace.prompt_N[-1] == 417
    assert trace.output_N[-1] == 276
    assert (trace.output_N > 0).all()


def test_burstgpt_counts_failures_and_numbers_sessions(tmp_path: Path) -> None:
    assert load_trace(_write(tmp_path, BURST_OLD)).dropped == 1
    session_N = load_trace(_write(tmp_path, BURST_NEW)).session_N
    assert session_N is not None
    assert session_N.tolist() == [0, 1, 0, -1]


def test_mooncake_counts_the_blocks_seen_before(tmp_path: Path) -> None:
    trace = load_trace(_write(tmp_path, MOONCAKE, "trace.jsonl"))
    assert trace.arrival_N is not None
    assert trace.arrival_N.tolist() == [0.0, 2.5, 2.5]
    # 1024 of the second prompt, and all but one token of the third, which must compute at least one.
    assert trace.prefix_share == pytest.approx((1024 + 1023) / (1024 + 1500 + 1024))


def test_lengths_have_no_rate_of_their_own(tmp_path: Path) -> None:
    trace = load_trace(_write(tmp_path, LENGTHS))
    assert trace.arrival_N is None
    with pytest.raises(InputError, match="no rate") as caught:
        trace.summary()
    assert caught.value.hint is not None and "requests per second" in caught.value.hint
    assert trace.summary(rate=2).rate == 2
    assert trace.summary(rate="max").rate is None
    assert trace.summary(rate=2).burstiness == 1


def test_vidur_names_without_arrivals_are_lengths() -> None:
    rows = read_rows("num_prefill_tokens,num_decode_tokens,num_total_tokens\n3772,54,3826\n", "x")
    assert rows.arrival_N is None
    assert rows.prompt_N.tolist() == [3772]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_each_layout_is_told_from_the_others(name: str) -> None:
    matching = {layout.name for layout in LAYOUTS.values() if _matches(layout.name, SAMPLES[name])}
    assert matching == {name}


def _matches(layout: str, text: str) -> bool:
    try:
        read_rows(text, "x", layout)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_gzip_changes_nothing(tmp_path: Path, name: str) -> None:
    plain = load_trace(_write(tmp_path, SAMPLES[name]))
    packed_path = tmp_path / "trace.csv.gz"
    packed_path.write_bytes(gzip.compress(SAMPLES[name].encode()))
    packed = load_trace(packed_path)
    assert (packed.name, packed.sha256) == (plain.name, plain.sha256)
    assert np.array_equal(packed.prompt_N, plain.prompt_N)


@pytest.mark.parametrize(
    ("text", "place", "field", "value"),
    [
        (VIDUR + "12.0,abc,3\n", "trace.csv:4", "num_prefill_tokens", "'abc'"),
        (VIDUR + "12.0,-7,3\n", "trace.csv:4", "num_prefill_tokens", "'-7'"),
        (VIDUR + "12.0,7,0\n", "trace.csv:4", "num_decode_tokens", "'0'"),
        (VIDUR + "12.0,7.5,3\n", "trace.csv:4", "num_prefill_tokens", "'7.5'"),
        (VIDUR + "nan,7,3\n", "trace.csv:4", "arrived_at", "'nan'"),
        (VIDUR + "inf,7,3\n", "trace.csv:4", "arrived_at", "'inf'"),
        (VIDUR + "\n\n12.0,,3\n", "trace.csv:6", "num_prefill_tokens", "an empty field"),
        (AZURE + "yesterday,1,2\n", "trace.csv:5", "TIMESTAMP", "'yesterday'"),
        (AZURE + "2023-11-16 18:17:05,0,2\n", "trace.csv:5", "ContextTokens", "'0'"),
        (BURST_OLD + "200,GPT-4,x,7,8,API log\n", "trace.csv:5", "Request tokens", "'x'"),
        (BURST_OLD + "200,GPT-4,1,-2,8,API log\n", "trace.csv:5", "Response tokens", "'-2'"),
        (LENGTHS + "1,1e400\n", "trace.csv:4", "output_tokens", "'1e400'"),
        (
            MOONCAKE + '{"timestamp": 1, "input_length": 0, "output_length": 1}',
            "trace.csv:5",
            "input_length",
            "0",
        ),
        (
            MOONCAKE + '{"timestamp": NaN, "input_length": 1, "output_length": 1}',
            "trace.csv:5",
            "timestamp",
            "nan",
        ),
        (MOONCAKE + '{"timestamp": 1, "input_length": 1}', "trace.csv:5", "output_length", "missing"),
        (
            MOONCAKE + '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": ["a"]}',
            "trace.csv:5",
            "hash_ids",
            "['a']",
        ),
        (MOONCAKE + "{oops}", "trace.csv:5", None, "not JSON"),
        (MOONCAKE + "[1]", "trace.csv:5", None, "'[1]'"),
        (VIDUR + "12.0,7\n", "trace.csv:4", None, "2 fields where the header has 3"),
        (VIDUR + '12.0,"7,3\n', "trace.csv:4", None, "not CSV"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, place: str, field: str | None, value: str) -> None:
    with pytest.raises(InputError) as caught:
        load_trace(_write(tmp_path, text))
    message = str(caught.value)
    assert place in message
    assert value in message
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n \n", "is empty"),
        (b"arrived_at,num_prefill_tokens,num_decode_tokens\n", "no requests"),
        (b"time,in,out\n1,2,3\n", "which no trace layout has"),
        (b"{broken\n", "not JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (gzip.compress(VIDUR.encode(), mtime=0)[:-12], "damaged or cut short"),
        (gzip.compress(VIDUR.encode(), mtime=0)[:20], "damaged or cut short"),
        (BURST_OLD.replace(",18,", ",0,").replace(",276,", ",0,").encode(), "no request with an answer"),
    ],
)
def test_a_file_that_is_no_trace(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_trace(path)
    assert str(path) in str(caught.value)


def test_unknown_columns_list_every_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_trace(_write(tmp_path, "time,in,out\n1,2,3\n"))
    for layout in LAYOUTS.values():
        assert f"{layout.name}: {', '.join(layout.columns)}" in str(caught.value)


def test_a_layout_can_be_forced_but_must_fit(tmp_path: Path) -> None:
    path = _write(tmp_path, VIDUR)
    assert len(load_trace(path, layout="splitwise")) == 2
    with pytest.raises(InputError, match="layout azure"):
        load_trace(path, layout="azure")
    with pytest.raises(InputError, match="unknown trace layout 'vidor'"):
        load_trace(path, layout="vidor")
