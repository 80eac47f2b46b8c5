"""What an engine can be told to run, and the time and memory that it takes for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from planner.errors import UnsupportedError

__all__ = ["Count", "EngineProfile", "Evidence", "Figure", "Overheads", "ServingDefaults", "Task", "TrainingTimes"]

Task = Literal["serving", "training"]
Evidence = Literal["spec", "measured", "fitted", "estimated"]

_STRICT: Final = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(BaseModel):
    """A number with where it comes from and how far off it may be.

    Parameters
    ----------
    value
        SI: seconds, bytes, or a fraction.
    kind
        ``"spec"`` (the vendor or the source code says so), ``"measured"``, ``"fitted"`` or ``"estimated"``.
    source, date
        Who says so, and when (``YYYY-MM`` or ``YYYY-MM-DD``).
    error
        Relative error, where known; for a fitted constant, that of the predictions it enters (the source says
        which).
    """

    model_config = _STRICT

    value: float = Field(ge=0)
    kind: Evidence
    source: str = Field(min_length=3)
    date: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    error: float | None = Field(default=None, ge=0)

    @field_validator("date", mode="before")
    @classmethod
    def _plain_date(cls, value: object) -> object:
        return str(value)  # YAML reads 2026-11-01 as a date


class Count(Figure):
    """A whole number with where it comes from."""

    value: int = Field(ge=1)


_NEUTRAL: Final = Figure(
    value=1.0, kind="estimated", source="not known: kernels count as they were measured", date="2026-11"
)


class Overheads(BaseModel):
    """Time an engine spends outside the kernels that the cost model counts, in seconds.

    Parameters
    ----------
    iteration
        Per iteration of a stage: scheduling and the CPU's turn-around.
    layer
        Per layer and iteration: launches and small kernels.
    eager
        Per layer of an iteration that carries a prompt, beside that: its sizes vary, so that no captured graph fits and
        the host launches each kernel.
    sequence
        Per running sequence and iteration: sampling, detokenising, bookkeeping.
    prompt
        Per request: tokenising, scheduling and admitting its prompt; occupies the engine.
    first_token
        Per request: delay of its first token that keeps nobody else waiting (HTTP, streaming).
    kernels, collectives
        Time of kernels, and of all-reduces, inside the engine over their time alone: what a kernel waits for or gains
        among others. 1 where nothing is known.
    quantise
        What quantising activations adds to the time of elementwise kernels, relative; 0 where nothing is known.
    """

    model_config = _STRICT

    iteration: Figure
    layer: Figure
    eager: Figure = _NEUTRAL.model_copy(update={"value": 0.0})
    sequence: Figure
    prompt: Figure
    first_token: Figure
    kernels: Figure = _NEUTRAL
    collectives: Figure = _NEUTRAL
    quantise: Figure = _NEUTRAL.model_copy(update={"value": 0.0})


class TrainingTimes(BaseModel):
    """How kernels and collectives fare inside a training run, relative to their time alone; 1 where nothing is known.

    Parameters
    ----------
    gemm, gemm_fp8, gemm_fp4
        Matrix products in 16 bit, in fp8 (MXFP8 too) and in nvfp4, against the rate of large products on the GPU.
    attention, elementwise
        Attention, and what else runs between matrix products.
    quantise, quantise_blocks
        Casting, against the bytes that a cast in each direction moves: to fp8 with a factor per matrix, and to MXFP8
        or nvfp4 with one per block.
    tensor_parallel, gradient_sync, hops
        Share of collectives that stays in view where the run overlaps them with kernels.
    sharding
        The same of weights gathered by fully sharded data parallelism.
    straggling
        Waiting for the slowest GPU, relative to the iteration, per doubling of the GPUs beyond eight.
    """

    model_config = _STRICT

    gemm: Figure = _NEUTRAL
    gemm_fp8: Figure = _NEUTRAL
    gemm_fp4: Figure = _NEUTRAL
    attention: Figure = _NEUTRAL
    elementwise: Figure = _NEUTRAL
    quantise: Figure = _NEUTRAL
    quantise_blocks: Figure = _NEUTRAL
    tensor_parallel: Figure = _NEUTRAL
    gradient_sync: Figure = _NEUTRAL
    hops: Figure = _NEUTRAL
    sharding: Figure = _NEUTRAL
    straggling: Figure = _NEUTRAL.model_copy(update={"value": 0.0})

    def with_values(self, values: Mapping[str, float]) -> TrainingTimes:
        """The same with other values of some constants."""
        known = {name: value for name, value in values.items() if name in type(self).model_fields}
        changed = {name: getattr(self, name).model_copy(update={"value": value}) for name, value in known.items()}
        return self.model_copy(update=changed)


class ServingDefaults(BaseModel):
    """What a server does where it is told nothing.

    Parameters
    ----------
    chunk_tokens
        Most tokens in one iteration, prefill and decode together.
    max_sequences
        Most sequences running at once.
    block_tokens
        Tokens in one page of the KV cache.
    reserved_output
        Share of its output that a running request takes up in the KV cache beside its prompt, when the cache is what
        limits how many run; None: all of it, from the start.
    """

    model_config = _STRICT

    chunk_tokens: Count
    max_sequences: Count
    block_tokens: Count
    reserved_output: Figure | None = None


class EngineProfile(BaseModel):
    """One engine: what it can run, what it does by default, and what it costs.

    Parameters
    ----------
    name, title
        Registry name, and name for people.
    version, source, date, kind
        The release that the rest was read from, where, when, and as what (see `Figure`).
    tasks
        What it is offered for.
    tensor_parallel
        ``"uniform"``: every stage of an instance has the same TP; ``"per_stage"``: each its own.
    pipeline, max_pipeline
        Whether it has pipeline stages, and how many at most (None: no limit known).
    uneven_layers
        Whether it can be told how many layers each stage holds.
    default_split
        What it does with the layers left over where it is told nothing; see `planner.engine.default_split`.
    mixed_gpu_types
        Whether the stages of one instance may run on different GPU types.
    vendors, min_compute_capability
        Makers of the GPUs it runs on, and the oldest of NVIDIA's; None: any.
    data_parallel, expert_parallel, disaggregation
        Whether it has data parallelism within one deployment, expert parallelism, and prefill and decode
        apart.
    interleaving, context_parallel
        Whether it trains with several model chunks on each stage, and with sequences divided over GPUs.
    zero_stages, pipelined_zero_stages
        What of the training state it can divide over data parallelism (`planner.plan.TrainingJob.zero_stage`), and
        what of that in a pipeline of several stages.
    memory_fraction, memory_fraction_of
        Share of a GPU's memory it uses, and of what: ``"total"`` (weights, activations and KV within that
        share of all memory), ``"static"`` (weights and KV within it, activations outside) or ``"free"`` (KV
        alone, within that share of what weights and activations leave). `planner.engine.memory_budget` is
        this rule.
    reserved_memory
        Bytes per GPU for the CUDA context, graphs and communication buffers.
    serving
        Defaults of a server; None where it does not serve.
    overhead
        Its own time; in the file also the name of a fit in ``profiles/fits``, as ``fit/engine`` with the constants of
        another engine.
    offline_overhead
        The same in batch runs, where requests lie ready in its process; None: the same.
    training
        How kernels fare in its training runs; in the file the name of a fit.
    arguments
        Names of the flags and variables that tell it a plan.
    notes
        What else a reader should know.
    loaded_from
        Path of one's own profile, as it was given; None for a shipped one. No part of the file.
    """

    model_config = _STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    title: str
    version: str
    source: str = Field(min_length=3)
    date: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    kind: Evidence
    tasks: tuple[Task, ...] = Field(min_length=1)
    tensor_parallel: Literal["uniform", "per_stage"]
    pipeline: bool
    max_pipeline: int | None = Field(default=None, ge=1)
    uneven_layers: bool
    default_split: Literal["remainder_before_last", "remainder_last", "remainder_first", "even_only"]
    mixed_gpu_types: bool
    vendors: tuple[str, ...] | None = None
    min_compute_capability: float | None = None
    data_parallel: bool
    expert_parallel: bool
    disaggregation: bool
    interleaving: bool = False
    context_parallel: bool = False
    zero_stages: tuple[int, ...] = (0, 1)
    pipelined_zero_stages: tuple[int, ...] = (0, 1)
    memory_fraction: Figure
    memory_fraction_of: Literal["total", "static", "free"]
    reserved_memory: Figure
    serving: ServingDefaults | None = None
    overhead: Overheads
    offline_overhead: Overheads | None = None
    training: TrainingTimes = Field(default_factory=TrainingTimes)
    arguments: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    loaded_from: str | None = Field(default=None, exclude=True)

    @field_validator("date", "version", mode="before")
    @classmethod
    def _plain_text(cls, value: object) -> object:
        return str(value)  # YAML reads 2026-11-01 as a date and 1.2 as a number

    @field_validator("memory_fraction")
    @classmethod
    def _is_a_fraction(cls, figure: Figure) -> Figure:
        if not 0 < figure.value <= 1:
            raise ValueError(f"{figure.value:g} is not a fraction in (0, 1]")
        return figure

    @property
    def default_zero_stage(self) -> int:
        """How training state is divided where nothing is said: 1, or else the most that the engine has."""
        return 1 if 1 in self.zero_stages else max(self.zero_stages)

    def serving_defaults(self) -> ServingDefaults:
        """Defaults of the server.

        Raises
        ------
        UnsupportedError
            If the engine does not serve.
        """
        if self.serving is None:
            raise UnsupportedError(f"engine {self.name!r} does not serve; it is offered for {self.tasks[0]}")
        return self.serving
