"""Tables say everything, at any width, and take data for what it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from planner.api import estimate, plan_training
from planner.cluster import Cluster, load_cluster
from planner.engine import load_engine
from planner.engine.chunks import chunk_layers
from planner.model import load_model
from planner.plan import Figure, Plan, ServingPlan, TrainingPlan, certify
from planner.report.certificate import certificate_report, format_gap
from planner.report.compare import comparison, comparison_data
from planner.report.findings import findings_report
from planner.report.serving import idle_line, serving_report
from planner.report.terminal import FALLBACK_WIDTH, block, console_for, data_table, figure_table, provenance_legend
from planner.report.training import training_report
from planner.report.words import format_layers
from planner.report.workload import workload_report
from planner.verifier.findings import Finding
from planner.workload import Slo, fixed_workload

MODEL = "llama-3.1-8b"
CLUSTER = "a100-l40s-l4-24"


def rendered(what: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster(CLUSTER)


@pytest.fixture(scope="module")
def plan(cluster: Cluster) -> ServingPlan:
    workload = fixed_workload(1024, 256, rate=3.0, slo=Slo(ttft=2.0, tpot=0.2))
    replicas = [
        [(["a100-0/0"], 22), (["l40s-0/0"], 10)],
        [(["l4-0/0", "l4-0/1"], 16), (["l4-1/0", "l4-1/1"], 16)],
    ]
    return estimate(MODEL, cluster, workload, replicas)


@pytest.fixture(scope="module")
def training() -> TrainingPlan:
    return plan_training("opt-350m", "4xt4", global_batch=8, sequence_length=512)


def test_serving_report_names_every_gpu_layer_and_figure(plan: ServingPlan, cluster: Cluster) -> None:
    text = rendered(serving_report(plan, load_model(MODEL), cluster, load_engine("vllm")))
    for shown in ("a100-0/0", "l40s-0/0", "l4-0/0-1", "l4-1/0-1", "0-21 (22)", "22-31 (10)", "0-15 (16)", "16-31 (16)"):
        assert shown in text, shown
    for shown in ("a100_sxm_80", "TTFT 2.00 s for 90 % of the requests, mean TPOT 200.0 ms", "ISL 1,024, OSL 256"):
        assert shown in text, shown
    for replica in plan.replicas:
        assert f"{replica.share * 100:.1f} %" in text
    limit = plan.replicas[0].stages[0].memory_limit / 2**30
    assert f" of {limit:.1f}" in text
    assert "idle GPUs: 7 of 8 a100_sxm_80, 7 of 8 l40s, 4 of 8 l4" in text
    assert "nothing was searched" in words(text)
    assert "the demand is not met" not in text
    assert "searched for 1 s" in rendered(
        serving_report(plan, load_model(MODEL), cluster, load_engine("vllm"), searched="searched for 1 s")
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_no_width_cuts_a_number(width: int, plan: ServingPlan, cluster: Cluster) -> None:
    text = rendered(serving_report(plan, load_model(MODEL), cluster, load_engine("vllm")), width)
    assert "…" not in text
    numbers = ["1234567890123456", "2345678901234567", "3456789012345678"]
    table = rendered(data_table(["one", ">two", "three"], [numbers]), width)
    assert sorted(c for c in table if c.isdigit()) == sorted("".join(numbers))


def test_replica_that_cannot_serve_says_so(plan: ServingPlan, cluster: Cluster) -> None:
    first = plan.replicas[0].model_copy(update={"predicted": {}})
    broken = plan.model_copy(update={"replicas": (first,), "predicted": {"gpus": plan.predicted["gpus"]}})
    text = rendered(serving_report(broken, load_model(MODEL), cluster, load_engine("vllm")))
    assert "none" in text
    assert "the demand is not met: 0 of 3 requests/s" in text


def test_training_report(training: TrainingPlan) -> None:
    text = rendered(training_report(training, load_model("opt-350m"), load_cluster("4xt4"), load_engine("megatron")))
    name, virtual = training.schedule.name, training.schedule.virtual_stages
    for shown in ("8 sequences of 512 tokens per step, adam, ZeRO 1", "MFU", name, "Stages (", "Certificate"):
        assert shown in text, shown
    for chunks in chunk_layers([stage.layers[1] - stage.layers[0] for stage in training.stages], virtual):
        for chunk in chunks:
            assert format_layers(chunk) in text


def test_brackets_are_data_and_no_markup() -> None:
    nasty = "[bold]x[/bold] [/] [0, 3)"
    assert nasty in rendered(data_table([f">{nasty}", "b"], [[nasty, nasty]]))
    assert nasty in rendered(block({nasty: nasty}))
    assert nasty in rendered(findings_report(nasty, [Finding("code", nasty, nasty)]))


def test_figures_come_in_order_with_error_and_provenance() -> None:
    figures = {
        "unheard_of": Figure(value=3.0, unit="requests/s", error=0.0, provenance="spec"),
        "tpot": Figure(value=0.05, unit="s", error=0.125, provenance="measured"),
        "mfu": Figure(value=0.421, unit="fraction", error=0.3, provenance="fitted"),
    }
    lines = [words(line) for line in rendered(figure_table({"mfu": "MFU", "tpot": "TPOT"}, figures)).splitlines()]
    assert lines[3:6] == [
        "MFU 42.1 % ± 30 % fitted",
        "TPOT 50.0 ms ± 12 % measured",
        "unheard of 3 requests/s exact spec",
    ]
    legend = words(rendered(provenance_legend({"tpot": figures["tpot"]})))
    assert "measured: " in legend and "spec: " not in legend


@pytest.mark.parametrize(
    ("value", "bound", "proven", "said"),
    [
        (10.0, 10.0, True, "0 %, proven optimal"),
        (9.0, 10.0, False, "at most 10 % from the best of the family"),
        (9.9999999, 10.0, True, "under 0.01 %, proven optimal"),
    ],
)
def test_certificate_says_gap_and_proof(value: float, bound: float, proven: bool, said: str) -> None:
    certificate = certify(
        objective="goodput",
        sense="max",
        unit="requests/s",
        value=value,
        bound=bound,
        proven=proven,
        method="a method",
        family="a family " * 30,
    )
    assert format_gap(certificate) == said
    text = words(rendered(certificate_report(certificate)))
    for shown in ("greatest goodput", "10 requests/s; no plan of the family has more", said, "a method"):
        assert shown in text, shown


def test_certificate_of_a_cost_is_the_other_way_round() -> None:
    certificate = certify(
        objective="cost_per_hour",
        sense="min",
        unit="USD/h",
        value=20.0,
        bound=16.0,
        proven=False,
        method="a method",
        family="a family",
    )
    text = words(rendered(certificate_report(certificate)))
    for shown in (
        "least cost per hour",
        "16.00 USD/h; no plan of the family has less",
        "at most 25 % from the best of the family",
    ):
        assert shown in text, shown


def test_comparison_tells_differences_against_the_first(plan: ServingPlan) -> None:
    goodput = plan.predicted["goodput"]
    twice = goodput.model_copy(update={"value": 2 * goodput.value})
    better = plan.model_copy(update={"predicted": plan.predicted | {"goodput": twice}})
    costless = {name: figure for name, figure in plan.predicted.items() if not name.startswith("cost")}
    named: list[tuple[str, Plan]] = [
        ("a.json", plan),
        ("b.json", better),
        ("c.json", plan.model_copy(update={"predicted": costless})),
    ]
    text = rendered(comparison(named), 160)
    (line,) = [line for line in text.splitlines() if line.strip().startswith("goodput")]
    assert line.count("(+100 %)") == 1
    (cost,) = [line for line in text.splitlines() if line.strip().startswith("cost ")]
    assert "not known" in cost
    data = comparison_data(named)
    assert data["kind"] == "serving"


def test_idle_gpus(cluster: Cluster) -> None:
    assert idle_line(cluster, list(cluster.gpus)).plain == "idle GPUs: none"


def test_workload_report_of_fixed_lengths() -> None:
    text = rendered(workload_report(fixed_workload(100, 10)))
    assert "as many requests as the cluster can serve" in text
    assert "no arrival times" in text


def test_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "")
    assert console_for(stderr=False).width == FALLBACK_WIDTH
    monkeypatch.setenv("COLUMNS", "77")
    assert console_for(stderr=True).width == 77
