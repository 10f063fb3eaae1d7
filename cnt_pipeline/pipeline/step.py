"""What a step is: one artifact to make, its slice of the study and the files that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnt_pipeline import (
    activation_caches,
    completions,
    evaluations,
    models,
    neuron_rankings,
    prompt_sets,
    reports,
    transplants,
)
from cnt_pipeline.study.schema import AdapterSource, Judge, ModelSource, Part, Prompts, PromptSource, Study

VERSIONS = {
    "models": models.VERSION,
    "prompt_sets": prompt_sets.VERSION,
    "completions": completions.VERSION,
    "activation_caches": activation_caches.VERSION,
    "neuron_rankings": neuron_rankings.VERSION,
    "transplants": transplants.VERSION,
    "evaluations": evaluations.VERSION,
    "reports": reports.VERSION,
}
"""Version of every stage, bumped by hand when what it computes changes; in the order of the chain."""

MATCHED = "models/matched"
"""The donor with its channels and heads in the target's order, where the study pairs them by activation."""

SUBJECTS = ("target", "donor", "transplant", "control_random", "control_largest_delta")
"""Models that the report compares, in its order."""


@dataclass(frozen=True)
class Input:
    """Files of an earlier step: names or patterns; the whole artifact where empty."""

    step: str
    files: tuple[str, ...] = ()


External = ModelSource | AdapterSource | Prompts | tuple[PromptSource, ...] | tuple[Part, ...] | Judge
"""What a step may read from outside the store; parts of a suite stand for the files of their tasks."""


@dataclass(frozen=True)
class Step:
    """One artifact to make. `builder` names a function in `cnt_pipeline.pipeline.builders`; `external` is read
    from outside."""

    key: str
    builder: str
    slice: Mapping[str, Any]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    external: External | None = None
    resumable: bool = False
    names_inputs: bool = False
    """Its artifact names its inputs' fingerprints, so they count beside their content."""
    after: tuple[str, ...] = ()
    """Steps that judge its inputs: it reads nothing of theirs, but starts only when they did not refuse."""

    @property
    def stage(self) -> str:
        """Stage, asset group and folder of the store."""
        return self.key.split("/")[0]

    @property
    def version(self) -> int:
        """Version of the stage's code."""
        return VERSIONS[self.stage]


def pair() -> dict[str, Input]:
    """Target and donor as inputs."""
    return {name: model_input(name) for name in ("target", "donor")}


def model_input(name: str) -> Input:
    """A model of the study as input: the digests of all its files are its identity, wherever they lie."""
    return Input(f"models/{name}", ("model.json",))


def speech(study: Study) -> dict[str, Any]:
    """The slice of whatever generates."""
    return {"generation": study.generation.model_dump(mode="json"), "dtype": study.dtype}


def tested_speech(study: Study) -> dict[str, Any]:
    """The slice of whatever answers the test prompts, where the study asks for it with the distance from the target."""
    return {**speech(study), **({"target_kl": True} if "target_kl" in study.evaluate else {})}


def prompts_of(split: str, *kinds: str) -> Input:
    """Prompt files of one split; all kinds by default."""
    return Input("prompt_sets/roles", tuple(f"{split}.{kind}.parquet" for kind in kinds or ("*",)))


def said_by(subject: str, split: str, *kinds: str) -> Input:
    """Completion files of a subject on one split; all kinds by default."""
    return Input(f"completions/{subject}/{split}", tuple(f"{kind}.parquet" for kind in kinds))
