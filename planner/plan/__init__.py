"""The plan as data: schema, certificate, figures, files."""

from planner.plan.certificate import Certificate, certify
from planner.plan.figure import Figure, Provenance, weakest
from planner.plan.files import load_plan, save_plan, write_atomically
from planner.plan.spec import (
    SCHEMA_VERSION,
    ClusterInput,
    EngineInput,
    ModelInput,
    Plan,
    Replica,
    Schedule,
    ServingInputs,
    ServingPlan,
    Stage,
    TrainingInputs,
    TrainingJob,
    TrainingPlan,
    TrainingStage,
    parse_plan,
    plan_schema,
    plan_to_json,
)

__all__ = [
    "SCHEMA_VERSION",
    "Certificate",
    "ClusterInput",
    "EngineInput",
    "Figure",
    "ModelInput",
    "Plan",
    "Provenance",
    "Replica",
    "Schedule",
    "ServingInputs",
    "ServingPlan",
    "Stage",
    "TrainingInputs",
    "TrainingJob",
    "TrainingPlan",
    "TrainingStage",
    "certify",
    "load_plan",
    "parse_plan",
    "plan_schema",
    "plan_to_json",
    "save_plan",
    "weakest",
    "write_atomically",
]
