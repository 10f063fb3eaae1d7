"""The study's method: how neurons are scored, selected and copied, and how gates are learned."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cnt_pipeline.study.block import Block, Count, Positive, Share, Weight

Effect = Literal["path", "gradient", "contrast"]
Selection = Literal["bisect", "refine", "mask", "prune", "top_k", "top_fraction"]
UnitName = Literal["row", "ffn_channel", "head"]


class Learn(Block):
    """How gates are learned by `mask` and `prune`. What is not written has a default of the selection rule's own."""

    steps: Count | None = Field(None, description="steps of Adam")
    rate: Positive | None = Field(None, description="Adam's step: in logits for mask, in amplitude for prune")
    prompts: Count | None = Field(None, description="function prompts a step")
    others: Annotated[int, Field(strict=True, ge=2)] | None = Field(
        None, description="look-alike and utility prompts a step, half of each"
    )
    keep: Weight | None = Field(None, description="weight of the target's answers on look-alike and utility prompts")
    misfire: Weight | None = Field(
        None,
        description="weight, on look-alikes, of the target's answer being likelier than the donor's to the function",
    )
    tokens: Count | None = Field(None, description="learn the first so many tokens of an answer; all by default")
    objective: Literal["likelihood", "preference"] | None = Field(
        None,
        description="asked of function prompts: that the donor's answers be likely, or likelier than the target's "
        "(squared, so that prompts where they are not count most)",
    )
    candidates: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        None, description="share of all parameters, best-ranked first, that gets a gate"
    )
    start: Annotated[float, Field(strict=True)] | None = Field(
        None, description="where every gate starts: its logit for mask, its amplitude for prune"
    )
    price: Weight | None = Field(None, description="price of all parameters together at the last step, for mask")
    limit: Positive | None = Field(None, description="largest amplitude, for prune")
    budget: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        None, description="share of all parameters that stays, for prune"
    )
    cuts: Count | None = Field(None, description="in how many geometric cuts prune gets down to the budget")
    importance: Literal["score", "gradient"] | None = Field(
        None, description="prune drops the lowest amplitude * score, or the lowest rms of amplitude * gradient"
    )


class Method(Block):
    """How neurons are scored, selected and copied. What is not written comes from the method table (`cnt methods`)."""

    name: str = Field("cnt", description="row of the method table")
    effect: Effect | None = Field(
        None,
        description="what a neuron is scored by: its effect on the loss along the path to the donor (path) or at the "
        "target alone (gradient), or how its activation differs between the two models (contrast)",
    )
    nodes: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        8, description="Gauss-Legendre nodes of the path effect"
    )
    lookalike_weight: tuple[Weight, ...] = Field(
        (0.0, 0.5, 1.0), alias="lambda", description="weights of the look-alike effect to try"
    )
    damage_weight: Weight = Field(1.0, alias="mu", description="weight of the damage")
    selection: Selection | None = Field(
        None,
        description="which neurons: the smallest top of the ranking that holds (bisect), scored again inside it "
        "(refine), by a learned mask (mask), few with learned amplitudes (prune), or a fixed number (top_k, "
        "top_fraction)",
    )
    units: tuple[UnitName, ...] = Field(
        ("row",), description="what is taken as a whole: row (a neuron), or ffn_channel and head, alone or together"
    )
    count: Count | None = Field(None, description="number of neurons, for top_k")
    fraction: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        None, description="share of all parameters, for top_fraction"
    )
    eta: tuple[Annotated[float, Field(strict=True, gt=0, le=64)], ...] = Field(
        (1.0,), description="amplitudes to try; 1 copies the donor's neuron"
    )
    aim: Share = Field(
        0.98,
        description="recovery the search asks for on selection prompts; above accept.recovery to leave room for chance",
    )
    families: tuple[str, ...] | None = Field(None, description="only these weight families, e.g. [gate, up, down]")
    learn: Learn = Field(Learn(), description="how mask and prune learn their gates")

    @field_validator("lookalike_weight", "eta", "families", "units")
    @classmethod
    def _not_empty(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("list at least one value, each once")
        return value

    @model_validator(mode="after")
    def _amount(self) -> Self:
        if self.selection == "top_k" and self.count is None:
            raise ValueError("selection top_k needs `count:`, the number of neurons")
        if self.selection == "top_fraction" and self.fraction is None:
            raise ValueError("selection top_fraction needs `fraction:`, the share of all parameters")
        if "row" in self.units and len(self.units) > 1:
            raise ValueError("units: row stands for single neurons and excludes the other units; leave it out")
        return self
