"""Pictures say what the plan says: every GPU, stage, layer and byte is there, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Picture
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from planner.api import estimate
from planner.cluster import load_cluster
from planner.errors import InputError
from planner.model import load_model
from planner.plan import (
    ClusterInput,
    EngineInput,
    Figure,
    ModelInput,
    Plan,
    Schedule,
    ServingPlan,
    TrainingInputs,
    TrainingJob,
    TrainingPlan,
    TrainingStage,
    certify,
)
from planner.report.plots import plot_layers, plot_memory, plot_placement
from planner.report.plots.floorplan import floorplan
from planner.report.plots.placed import colours, fitting, groups_of, text_on

CLUSTER = load_cluster("a100-l40s-l4-24")
MODEL = load_model("llama-3.1-70b")
A100 = CLUSTER.gpus[:8]
L40S = CLUSTER.gpus[8:16]


@pytest.fixture(scope="module")
def serving() -> ServingPlan:
    replicas = [[(A100[:4], 39), (A100[4:], 41)], [(L40S[:4], 40), (L40S[4:], 40)]]
    return estimate(MODEL, CLUSTER, "azure-conv-2023", replicas, ttft=2.0, tpot=0.1, rate="max")


@pytest.fixture(scope="module")
def training() -> TrainingPlan:
    def figure(value: float, unit: str) -> Figure:
        return Figure(value=value, unit=unit, error=0.1, provenance="spec")

    def stage(devices: tuple[str, ...], layers: tuple[int, int], tp: int, shares: tuple[int, ...]) -> TrainingStage:
        return TrainingStage(
            devices=devices, layers=layers, tp=tp, dp=len(shares), microbatch_shares=shares,
            memory=figure(30 * 2**30, "bytes"), memory_limit=40 * 2.0**30,
        )  # fmt: skip

    digest = "0" * 64
    return TrainingPlan(
        generator="hetplan",
        inputs=TrainingInputs(
            model=ModelInput(name="llama-3.1-8b", sha256=digest, weight_dtype="bf16", kv_dtype="bf16"),
            cluster=ClusterInput(name=CLUSTER.name, sha256=digest),
            engine=EngineInput(name="megatron", sha256=digest),
            job=TrainingJob(global_batch=64, sequence_length=2048),
        ),
        stages=(
            stage((*A100, *L40S[:4]), (0, 20), 4, (3, 3, 1)),
            stage(L40S[4:], (20, 31), 2, (4, 3)),
            stage(CLUSTER.gpus[16:18], (31, 32), 2, (7,)),
        ),
        schedule=Schedule(microbatch_size=7, microbatches=8, recompute="full", sequence_parallel=True),
        engine_arguments={},
        predicted={"iteration_time": figure(2.0, "s")},
        certificate=certify(
            objective="iteration_time", sense="min", unit="s", value=2.0, bound=2.0, proven=True, method="", family=""
        ),
    )


def gids(picture: Picture, kind: str) -> list[str]:
    found = [artist.get_gid() or "" for artist in picture.axes[0].patches]
    return [gid.removeprefix(f"{kind}:") for gid in found if gid.startswith(f"{kind}:")]


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for text in picture.findobj(Text) if text.get_text()]


def png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def test_placement_of_a_serving_plan(serving: ServingPlan) -> None:
    picture = plot_placement(serving, CLUSTER)
    assert gids(picture, "node") == list(CLUSTER.nodes)
    assert gids(picture, "gpu") == list(CLUSTER.gpus)
    assert gids(picture, "used") == [*A100, *L40S]
    assert gids(picture, "link") == ["r0:0", "r1:0"]
    written = texts(picture)
    for label in ("r0 stage 0\nlayers 0–38", "r0 stage 1\nlayers 39–79", "r1 stage 1\nlayers 40–79", "idle: 8 GPUs"):
        assert written.count(label) == 1
    assert "llama-3.1-70b on a100-l40s-l4-24: 2 replicas on 16 of 24 GPUs" in written
    assert written.count("12.5\nGB/s") == 1  # between the L40S nodes; inside the A100 node there is none
    assert any(text.endswith("300 GB/s inside") for text in written)


def test_placement_of_a_training_plan(training: TrainingPlan) -> None:
    picture = plot_placement(training, CLUSTER)
    assert sorted(gids(picture, "used")) == sorted((*A100, *L40S, *CLUSTER.gpus[16:18]))
    assert gids(picture, "link") == [":0", ":1"]
    written = texts(picture)
    assert written.count("stage 0\nlayers 0–19\n3 seq.") == 2
    assert written.count("stage 0\nlayers 0–19\n1 seq.") == 1
    assert "stage 0: layers 0–19, DP 3 × TP 4" in written


def test_stages_have_their_own_colours(serving: ServingPlan, training: TrainingPlan) -> None:
    for plan in (serving, training):
        groups = groups_of(plan)
        palette = colours(groups)
        assert len(set(palette.values())) == len({(group.pipeline, group.stage) for group in groups})
    picture = plot_placement(serving, CLUSTER)
    painted = {artist.get_gid(): artist.get_facecolor() for artist in picture.axes[0].patches}
    assert painted[f"used:{A100[0]}"] == painted[f"used:{A100[3]}"] != painted[f"used:{A100[4]}"]


def test_a_gpu_of_another_cluster(serving: ServingPlan) -> None:
    with pytest.raises(InputError, match="has no GPU"):
        plot_placement(serving, load_cluster("4xl4"))


def test_layers_of_a_serving_plan(serving: ServingPlan) -> None:
    axes = plot_layers(serving, CLUSTER).axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 39), (39, 41), (0, 40), (40, 40)]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    shares = [f"{replica.share:.0%}".replace("%", " %") for replica in serving.replicas]
    assert rows == [f"r{index} ({share} of requests)" for index, share in enumerate(shares)]
    assert "4 × a100_sxm_80, a100-0/4-7" in [text.get_text() for text in axes.texts]
    ticks = axes.get_xticks().tolist()
    assert (ticks[0], ticks[1], ticks[-1]) == (0, 39, 80)


def test_layers_of_a_training_plan(training: TrainingPlan) -> None:
    axes = plot_layers(training, CLUSTER).axes[0]
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert spans == [(0, 20), (0, 20), (20, 31), (20, 31), (31, 32)]
    written = [text.get_text().strip() for text in axes.texts]
    assert "DP 2 × TP 4 on a100_sxm_80 (a100-0), 3 sequences of a microbatch each" in written
    assert "DP 1 × TP 2 on l4 (l4-0), 7 sequences of a microbatch each" in written


@pytest.mark.parametrize("with_model", [True, False])
def test_memory_of_a_serving_plan(serving: ServingPlan, with_model: bool) -> None:
    axes = plot_memory(serving, MODEL if with_model else None).axes[0]
    stages = [stage for replica in serving.replicas for stage in replica.stages]
    # One row of bars after the other: (weights,) rest, free.
    layers = [[bar.get_width() for bar in container] for container in axes.containers if len(container) == len(stages)]
    assert len(layers) == (3 if with_model else 2)
    for s, stage in enumerate(stages):
        parts = [layer[s] * 2**30 for layer in layers]
        assert sum(parts[:-1]) == pytest.approx(stage.memory.value)
        assert sum(parts) == pytest.approx(stage.memory_limit)
        if with_model:  # 855 MB a layer in TP 4 of two bytes a weight; the embedding or head is a third more of one
            assert parts[0] == pytest.approx((stage.layers[1] - stage.layers[0]) * 855.7e6 / 2, rel=0.05)


def test_memory_of_a_training_plan(training: TrainingPlan) -> None:
    model = load_model("llama-3.1-8b")
    axes = plot_memory(training, model).axes[0]
    state = [bar.get_width() * 2**30 for bar in axes.containers[0]]
    # 218.1e6 parameters a layer; TP 2 and DP 1: 18 bytes each, and the head's share.
    assert state[2] == pytest.approx((218.1e6 + 128256 * 4096) / 2 * 18, rel=0.01)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0", "stage 1", "stage 2"]


def test_alike_replicas_share_rows() -> None:
    """A picture of 32 replicas stays readable."""
    cluster, model = load_cluster("h100-a100-32"), load_model("llama-3.1-8b")
    plan = estimate(model, cluster, "azure-conv-2023", [[([gpu], 32)] for gpu in cluster.gpus], ttft=2.0, tpot=0.1)
    kinds = len({cluster.device_of(gpu).name for gpu in cluster.gpus})
    assert kinds < len(plan.replicas)
    assert len(plot_layers(plan, cluster).axes[0].get_yticks()) == kinds
    assert len(plot_memory(plan).axes[0].get_yticks()) == kinds
    assert any(" alike: " in text for text in texts(plot_placement(plan, cluster)))


def test_the_same_plan_gives_the_same_picture(serving: ServingPlan) -> None:
    assert png(plot_placement(serving, CLUSTER)) == png(plot_placement(serving, CLUSTER))


@pytest.mark.parametrize("name", ["serving", "training"])
def test_nothing_is_drawn_outside(name: str, request: pytest.FixtureRequest) -> None:
    plan: Plan = request.getfixturevalue(name)
    picture = plot_placement(plan, CLUSTER)
    picture.draw_without_rendering()
    page = picture.bbox
    for artist in (*picture.findobj(Text), *picture.findobj(FancyArrowPatch)):
        box = artist.get_window_extent()
        if box.width > 0:
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1


def test_floorplan_overlaps_nothing() -> None:
    for name in ("a100-l40s-l4-24", "hexgen-58", "helix-42", "sailor-128"):
        cluster = load_cluster(name)
        layout = floorplan(cluster, row_width=17.0)
        nodes = list(layout.nodes.values())
        for index, a in enumerate(nodes):
            for b in nodes[:index]:
                apart = a.x >= b.x + b.width or b.x >= a.x + a.width or a.y >= b.y + b.height or b.y >= a.y + a.height
                assert apart, name
        for gpu, cell in layout.gpus.items():
            node = layout.nodes[cluster.node_of(gpu)]
            assert node.x <= cell.x and cell.x + 1 <= node.x + node.width
            assert node.y <= cell.y and cell.y + 1 <= node.y + node.height
        assert max(node.y + node.height for node in nodes) == pytest.approx(layout.height)


def test_blocks_cover_neighbours() -> None:
    layout = floorplan(CLUSTER, row_width=17.0)
    assert [(box.width, box.height) for box in layout.blocks(A100)] == [(4, 2)]
    assert [(box.width, box.height) for box in layout.blocks(A100[2:6])] == [(2, 1), (2, 1)]
    assert len(layout.blocks((A100[0], A100[2]))) == 2


def test_text_fits_or_is_left_out() -> None:
    assert fitting(["wide text", "w"], 0.12, 0.2, largest=9, smallest=6)[0] == "w"
    assert fitting(["wide text"], 0.12, 0.2, largest=9, smallest=6)[0] == ""
    assert text_on("#000000") == "white" != text_on("#ffffff")


@pytest.mark.parametrize("function", ["plot_placement", "plot_layers", "plot_memory"])
def test_without_matplotlib(function: str, serving: ServingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"hetplan\[plot\]"):
        {
            "plot_placement": lambda: plot_placement(serving, CLUSTER),
            "plot_layers": lambda: plot_layers(serving, CLUSTER),
            "plot_memory": lambda: plot_memory(serving),
        }[function]()


def test_matplotlib_waits_until_a_picture_is_wanted() -> None:
    code = "import sys, planner.report.plots; print('matplotlib' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


def test_pyplot_is_left_alone(serving: ServingPlan) -> None:
    """Its state is global, and some of its backends want a display."""
    plot_placement(serving, CLUSTER)
    assert "matplotlib.pyplot" not in sys.modules
