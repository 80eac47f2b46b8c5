"""The plan: what sits where, how it runs, what it is predicted to do, and how good it provably is.

Data only: a plan is written by the search, checked by `planner.verifier` and read by exporters and people. It holds
no timings of the search and no paths, so the same inputs give the same bytes.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from planner.dtypes import Dtype
from planner.plan.certificate import Certificate
from planner.plan.figure import Figure
from planner.workload import Workload

__all__ = [
    "SCHEMA_VERSION",
    "ClusterInput",
    "EngineInput",
    "ModelInput",
    "Plan",
    "Replica",
    "Role",
    "Route",
    "Schedule",
    "ServedInput",
    "ServingInputs",
    "ServingPlan",
    "Stage",
    "TrainingInputs",
    "TrainingJob",
    "TrainingPlan",
    "TrainingStage",
    "parse_plan",
    "plan_schema",
    "plan_to_json",
]

SCHEMA_VERSION: Final = "1.0"

Role = Literal["both", "prefill", "decode"]
Recompute = Literal["none", "selective", "full"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelInput(_Strict):
    """The model a plan was made for."""

    name: str = Field(description="Shipped name or path of the config.json, as given.")
    sha256: str
    weight_dtype: Dtype
    kv_dtype: Dtype


class ClusterInput(_Strict):
    """The cluster a plan was made for."""

    name: str = Field(description="Shipped name or path of the YAML file, as given.")
    sha256: str


class EngineInput(_Strict):
    """The engine a plan is restricted to."""

    name: str
    sha256: str


class ServedInput(_Strict):
    """One of several models that share a cluster, and who asks for it."""

    model: ModelInput
    workload: Workload
    weight: float = Field(default=1.0, gt=0, description="What a request of the model is worth beside the others.")


class ServingInputs(_Strict):
    """Everything a serving plan follows from; the workload's summary is held whole, to recompute from."""

    model: ModelInput
    cluster: ClusterInput
    engine: EngineInput
    workload: Workload
    further: tuple[ServedInput, ...] = Field(default=(), description="The other models that share the cluster.")
    weight: float = Field(default=1.0, gt=0, description="What a request of the model is worth beside the others.")

    @property
    def served(self) -> tuple[ServedInput, ...]:
        """Every model with its workload, in order."""
        return (ServedInput(model=self.model, workload=self.workload, weight=self.weight), *self.further)

    @model_serializer(mode="wrap")
    def _without_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of further models where there is one: such plans read as they always did."""
        fields: dict[str, Any] = written(self)
        if not self.further:
            del fields["further"], fields["weight"]
        return fields


class Stage(_Strict):
    """Consecutive layers on one tensor-parallel group."""

    devices: tuple[str, ...] = Field(description="GPUs as node/index, in rank order.")
    layers: tuple[int, int] = Field(description="[first, end): first layer, and one past the last.")
    tp: int = Field(ge=1, description="Tensor-parallel degree; equals the number of devices.")
    memory: Figure = Field(description="Bytes on each GPU at the goodput: weights, KV cache, activations, reserve.")
    memory_limit: float = Field(description="Bytes that the engine may use on each GPU.")


class Replica(_Strict):
    """One instance of the model: a pipeline of stages that serves a share of the traffic."""

    id: str
    model: str
    role: Role
    engine: str
    share: float = Field(ge=0, le=1, description="Fraction of the model's requests routed here.")
    stages: tuple[Stage, ...]
    concurrency: int = Field(ge=1, description="Requests in flight at most: the engine's sequence limit.")
    engine_arguments: dict[str, int | float | str] = Field(description="What the engine is to be told: its own flags.")
    predicted: dict[str, Figure]


class Route(_Strict):
    """Requests that one replica prefills and another decodes."""

    prefill: str = Field(description="Id of the replica that computes the prompt.")
    decode: str = Field(description="Id of the replica that its KV cache is sent to.")
    share: float = Field(gt=0, le=1, description="Fraction of the model's requests that go this way.")


class ServingPlan(_Strict):
    """Where the layers of every replica sit, and what they are predicted to serve."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    kind: Literal["serving"] = "serving"
    generator: str = Field(description="Package and version that wrote the plan.")
    inputs: ServingInputs
    replicas: tuple[Replica, ...]
    routes: tuple[Route, ...] = Field(default=(), description="From prefill to decode replicas, where they are apart.")
    predicted: dict[str, Figure]
    per_model: dict[str, dict[str, Figure]] = Field(
        default_factory=dict, description="Figures of each model by its name, where several share the cluster."
    )
    certificate: Certificate

    @model_serializer(mode="wrap")
    def _without_defaults(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of routes and models where there are none: such plans read as they always did."""
        fields: dict[str, Any] = written(self)
        for name in ("routes", "per_model"):
            if not fields[name]:
                del fields[name]
        return fields


class TrainingJob(_Strict):
    """What is to be trained, and how the state is held."""

    global_batch: int = Field(ge=1, description="Sequences per optimizer step.")
    sequence_length: int = Field(ge=1, description="Tokens per sequence.")
    optimizer: Literal["adam", "sgd"] = "adam"
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1,
        description="What is divided over data parallelism. 0: nothing; 1: optimizer state; 2: gradients too;"
        " 3: weights too, gathered layer by layer.",
    )


class TrainingInputs(_Strict):
    """Everything a training plan follows from."""

    model: ModelInput
    cluster: ClusterInput
    engine: EngineInput
    job: TrainingJob


class TrainingStage(_Strict):
    """Consecutive layers on `dp` tensor-parallel groups that share each microbatch's samples.

    With context parallelism C (`Schedule.context_parallel`) each C groups in a row share the same sequences.
    """

    devices: tuple[str, ...] = Field(description="GPUs as node/index: dp groups of tp, one group after the other.")
    layers: tuple[int, int] = Field(description="[first, end)")
    tp: int = Field(ge=1)
    dp: int = Field(ge=1, description="Tensor-parallel groups: data times context parallelism.")
    microbatch_shares: tuple[int, ...] = Field(
        description="Sequences of a microbatch that each of the dp groups takes, or takes its part of."
    )
    memory: Figure
    memory_limit: float

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if len(self.microbatch_shares) != self.dp:
            raise ValueError(f"microbatch_shares has {len(self.microbatch_shares)} entries for dp {self.dp}")
        return self


class Schedule(_Strict):
    """How the pipeline is run."""

    name: Literal["1f1b", "interleaved"] = "1f1b"
    microbatch_size: int = Field(ge=1, description="Sequences per microbatch and data-parallel group.")
    microbatches: int = Field(ge=1, description="Microbatches per iteration and data-parallel group.")
    recompute: Recompute
    sequence_parallel: bool
    virtual_stages: int = Field(
        default=1, ge=1, description="Model chunks on each stage, which then holds every S-th chunk of its order."
    )
    context_parallel: int = Field(default=1, ge=1, description="Tensor-parallel groups that share each sequence.")
    expert_parallel: int = Field(
        default=1, ge=1, description="Tensor-parallel groups of a stage that hold different experts."
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "name" not in fields and fields.get("virtual_stages", 1) != 1:
            return {"name": "interleaved", **fields}
        return fields

    @model_validator(mode="after")
    def _name_fits(self) -> Self:
        if (self.name == "interleaved") != (self.virtual_stages > 1):
            raise ValueError(f"schedule {self.name} with {self.virtual_stages} virtual stages")
        return self


class TrainingPlan(_Strict):
    """Where the layers of a training job sit, and how long an iteration is predicted to take."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    kind: Literal["training"] = "training"
    generator: str
    inputs: TrainingInputs
    stages: tuple[TrainingStage, ...]
    schedule: Schedule
    engine_arguments: dict[str, int | float | str]
    predicted: dict[str, Figure]
    certificate: Certificate


Plan = ServingPlan | TrainingPlan

_ADAPTER: TypeAdapter[Plan] = TypeAdapter(Annotated[Plan, Field(discriminator="kind")])


def plan_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a plan."""
    schema = _ADAPTER.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hetplan plan", **schema}


def plan_to_json(plan: Plan) -> str:
    """Canonical text of a plan: two-space indent, fields in declared order, one newline at the end."""
    return json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def parse_plan(text: str) -> Plan:
    """Read a plan's JSON.

    Raises
    ------
    pydantic.ValidationError
        If a field is missing, unknown or of the wrong kind. `planner.plan.load_plan` turns it into an `InputError`.
    """
    return _ADAPTER.validate_json(text)
