"""Memory of training: against published accounts, and what each option saves."""

from __future__ import annotations

import numpy as np
import pytest

from planner.cost.training_memory import activations, end_parameters, layer_parameters_K, state_bytes
from planner.cost.training_stage import mixed_precision
from planner.model import ModelSpec, layer_table, load_model
from planner.plan import TrainingJob
from tests.search.small import tiny_model
from tests.search.training_small import config_model

GIB = 2.0**30


def gpt(hidden: int, layers: int, heads: int) -> ModelSpec:
    model = config_model(
        model_type="gpt2", n_embd=hidden, n_layer=layers, n_head=heads, n_positions=2048, vocab_size=51200
    )
    return mixed_precision(model)


# Korthikanti et al. 2023 (MLSys), figure 1: GiB per GPU of the first stage, as read off by the authors of Calculon.
# model, hidden, layers, heads, TP, PP, microbatch, parameters and optimizer, activations (sequence parallel, selective)
_FIGURE_1 = [
    ("22B", 6144, 48, 64, 8, 1, 4, 45.5625, 9.5625),
    ("1T", 25600, 128, 160, 8, 64, 1, 32.958984375, 26.5625),
]


@pytest.mark.parametrize(("name", "hidden", "layers", "heads", "tp", "pp", "micro", "state", "activation"), _FIGURE_1)
def test_published_memory(
    name: str, hidden: int, layers: int, heads: int, tp: int, pp: int, micro: int, state: float, activation: float
) -> None:
    model = gpt(hidden, layers, heads)
    job = TrainingJob(global_batch=64, sequence_length=2048, zero_stage=0)
    here = layers // pp
    parameters = float(layer_parameters_K(model, tp)[0]) * here
    assert parameters * state_bytes(job, 1) / GIB == pytest.approx(state, rel=0.002)
    held = activations(
        model,
        tp,
        sequences_B=np.array([float(micro)]),
        sequence_length=2048,
        recompute="selective",
        sequence_parallel=True,
    )
    # the first stage has one microbatch in flight for every stage
    assert pp * here * held.saved_KB[0, 0] / GIB == pytest.approx(activation, rel=1e-9)


def test_what_options_save() -> None:
    model = mixed_precision(tiny_model())

    def held(tp: int, recompute: str, parallel: bool) -> float:
        found = activations(
            model,
            tp,
            sequences_B=np.ones(1),
            sequence_length=2048,
            recompute=recompute,  # type: ignore[arg-type]
            sequence_parallel=parallel,
        )
        return float(found.saved_KB[0, 0])

    assert held(4, "none", True) == pytest.approx(held(1, "none", False) / 4)
    assert held(4, "none", True) < held(4, "none", False) < held(1, "none", False)
    assert held(1, "full", False) == 2048 * model.hidden * 2
    assert held(4, "full", False) == held(1, "full", False) == 4 * held(4, "full", True)


def test_recomputation_keeps_one_layer_whole() -> None:
    model = mixed_precision(load_model("deepseek-v2-lite"))
    found = {
        recompute: activations(
            model,
            1,
            sequences_B=np.array([1.0, 2.0]),
            sequence_length=1024,
            recompute=recompute,  # type: ignore[arg-type]
            sequence_parallel=False,
        )
        for recompute in ("none", "full")
    }
    assert found["full"].working_B == pytest.approx(found["none"].saved_KB.max(axis=0))
    assert found["none"].working_B == pytest.approx([0, 0])
    assert found["full"].logits_B == pytest.approx(6 * model.vocab * 1024 * np.array([1, 2]))


@pytest.mark.parametrize("tp", [1, 4])
def test_scores_without_flash_attention(tp: int) -> None:
    """Korthikanti et al. 2023, equation 1: 5 a s^2 / t bytes per layer and sequence, gone with recomputation."""
    model, length = gpt(4096, 4, 32), 2048

    def held(recompute: str, flash: bool) -> tuple[float, float]:
        found = activations(
            model,
            tp,
            sequences_B=np.array([3.0]),
            sequence_length=length,
            recompute=recompute,  # type: ignore[arg-type]
            sequence_parallel=True,
            flash_attention=flash,
        )
        return float(found.saved_KB[0, 0]), float(found.working_B[0])

    scores = 3 * 5 * 32 * length**2 / tp
    whole = held("none", True)[0]
    assert whole == pytest.approx(3 * 34 * length * 4096 / tp)
    assert held("none", False) == pytest.approx((whole + scores, 0))
    assert held("selective", False) == pytest.approx((whole, scores))
    assert held("selective", True) == pytest.approx((whole, 0))
    assert held("full", False) == pytest.approx((3 * 2 * length * 4096 / tp, whole + scores))


def test_expert_inputs_stay_whole_under_sequence_parallelism() -> None:
    """Top-k copies of each token, in 16 bit, whatever the group's size."""
    model = mixed_precision(load_model("mixtral-8x7b"))
    table = layer_table(model)
    copies = 2 * 2 * model.hidden
    one, four = (table.activation_bytes_per_gpu_L(tp, sequence_parallel=True)[0] for tp in (1, 4))
    assert four == pytest.approx(copies + (one - copies) / 4)


def test_parameters_add_up() -> None:
    for name in ("llama-3.1-8b", "mixtral-8x7b", "opt-13b"):
        model = mixed_precision(load_model(name))
        counts = np.bincount(np.array(model.kind_of_layer))
        total = counts @ layer_parameters_K(model, 1) + end_parameters(model, 1, first=True, last=True)
        assert total == pytest.approx(model.params, rel=1e-3)


def test_tied_head_is_a_copy_on_another_stage() -> None:
    model = gpt(2048, 4, 16)
    first = end_parameters(model, 1, first=True, last=False)
    last = end_parameters(model, 1, first=False, last=True)
    assert last >= 51200 * 2048
    assert end_parameters(model, 1, first=True, last=True) == pytest.approx(first, rel=1e-3)
    untied = mixed_precision(tiny_model())
    both = end_parameters(untied, 1, first=True, last=True)
    assert both == end_parameters(untied, 1, first=True, last=False) + end_parameters(untied, 1, first=False, last=True)


def test_tensor_parallelism_repeats_key_and_value_heads() -> None:
    model = mixed_precision(tiny_model(kv_heads=2, heads=16))
    halves = layer_parameters_K(model, 2)[0] * 2
    assert halves == pytest.approx(layer_parameters_K(model, 1)[0], rel=1e-3)
    assert layer_parameters_K(model, 8)[0] * 8 > 1.005 * halves
