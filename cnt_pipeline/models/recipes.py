"""Make one model from another: low-rank adapters are trained on lessons, to be merged into the base's full weights.

LoRA: Hu et al., 2021, arXiv:2106.09685; the adapters are peft's. A weight W [out, in] becomes W + (alpha / r) B A with
A [r, in] drawn at random and B [out, r] zero at first, so that the training starts at the base model. Only A and B
learn; every other tensor of the base stays byte for byte.
"""

import math
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapters import Adapters
from cnt_pipeline.models.architecture import Architecture, Matrix, read_architecture
from cnt_pipeline.models.lessons import Taught
from cnt_pipeline.models.load import load_model, quiet_transformers
from cnt_pipeline.models.teacher import Example, device_of, make_batch, pad_of, per_example, token_nll
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.study.schema import LoraSft

ADAPTER = "lora"
LARGEST_GRADIENT = 1.0
"""Norm to which the gradient of all adapters is scaled down."""


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step: `loss` in nats per answer token, mean over the batch's examples; `tokens` that were read."""

    step: int
    loss: float
    learning_rate: float
    tokens: int


def trained_matrices(architecture: Architecture, families: Sequence[str] | None) -> dict[str, Matrix]:
    """The stored matrices, by module, that hold the given families (all where None).

    Raises:
        InputError: an unknown family, or one that shares its matrix with a family that is not given.
    """
    wanted = tuple(families) if families is not None else architecture.families
    unknown = next((family for family in wanted if family not in architecture.families), None)
    if unknown is not None:
        raise InputError(
            f"`modules` names '{unknown}', but {architecture.name} has {', '.join(architecture.families)}; choose "
            "among these"
        )
    sharing: dict[str, list[str]] = {}
    for matrix in architecture.matrices:
        sharing.setdefault(matrix.module, []).append(matrix.family)
    chosen = {matrix.module: matrix for matrix in architecture.matrices if matrix.family in wanted}
    for module in chosen:
        left = [family for family in sharing[module] if family not in wanted]
        if left:
            raise InputError(
                f"{architecture.name} stores {', '.join(sharing[module])} in one matrix, which gets one adapter; add "
                f"{', '.join(left)} to `modules`"
            )
    return chosen


def fine_tune(
    base: Path,
    recipe: LoraSft,
    lessons: Sequence[Taught],
    report: Report = silent,
    what: str = "training",
    device: str = "cpu",
) -> tuple[Adapters, list[TrainingStep], float]:
    """Train adapters on the model in `base`; returns them, the training curve and the seconds it took.

    The same base, recipe and lessons give the same adapters on one machine.

    Raises:
        InputError: a lesson without an example, modules the model has not, or a loss that is not finite.
    """
    empty = next((number for number, lesson in enumerate(lessons, 1) if not lesson.examples), None)
    if empty is not None:
        raise InputError(f"lesson {empty} has no prompt with an answer; give it prompts, or remove it")
    modules = trained_matrices(read_architecture(base), recipe.modules)
    model = load_model(base, dtype="float32", device=device)
    place = device_of(model)
    _add_adapters(model, recipe, modules)
    reduced = recipe.precision == "bfloat16"
    if reduced:
        _reduce_frozen(model)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=recipe.learning_rate, weight_decay=0.0)
    curve: list[TrainingStep] = []
    began = time.perf_counter()
    report(what, 0, recipe.steps)
    for step, members in zip(range(recipe.steps), drawn(lessons, recipe.batch_size, recipe.seed), strict=False):
        rate = recipe.learning_rate * pace(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = make_batch(members, range(len(members)), place, pad_of(model))
        with torch.autocast(place.type, dtype=torch.bfloat16) if reduced else nullcontext():
            loss = per_example(token_nll(model, batch), batch).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learned, LARGEST_GRADIENT)
        optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss of step {step + 1} is not finite; lower `learning_rate`, or check the base model"
            )
        curve.append(TrainingStep(step + 1, value, rate, sum(len(example.tokens) for example in members)))
        report(what, step + 1, recipe.steps)
    return _learned(model, modules, recipe), curve, time.perf_counter() - began


def drawn(lessons: Sequence[Taught], count: int, seed: int) -> Iterator[list[Example]]:
    """Batches of `count` examples without end.

    A place in the batch goes to the lesson that is furthest behind its share, so the shares hold as exactly as whole
    examples allow; a lesson's examples come in shuffled rounds, each once a round.
    """
    total = sum(lesson.share for lesson in lessons)
    rounds = [_rounds(lesson.examples, random.Random(f"{seed}:{place}")) for place, lesson in enumerate(lessons)]
    credit = [0.0] * len(lessons)
    while True:
        batch = []
        for _ in range(count):
            credit = [owed + lesson.share / total for owed, lesson in zip(credit, lessons, strict=True)]
            place = max(range(len(lessons)), key=lambda i: (credit[i], -i))
            credit[place] -= 1
            batch.append(next(rounds[place]))
        yield batch


def _rounds(examples: Sequence[Example], lot: random.Random) -> Iterator[Example]:
    while True:
        yield from lot.sample(examples, len(examples))


def pace(recipe: LoraSft, step: int) -> float:
    """The learning rate of `step` (0, 1, ...) as a share of the highest."""
    rise = round(recipe.warmup * recipe.steps)
    if step < rise:
        return (step + 1) / rise
    gone = (step - rise) / max(recipe.steps - rise, 1)
    return {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}[recipe.schedule]


def _add_adapters(model: nn.Module, recipe: LoraSft, modules: Mapping[str, Matrix]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(modules),
        fan_in_fan_out=any(matrix.transposed for matrix in modules.values()),
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng(), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that has a new one
        torch.manual_seed(recipe.seed)
        inject_adapter_in_model(settings, model, adapter_name=ADAPTER)


def _reduce_frozen(model: nn.Module) -> None:
    """Keep frozen matrices in the format in which autocast multiplies: cast once instead of in every pass.

    What a tied head shares with the embeddings stays there as it is.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and isinstance(weight, nn.Parameter) and not weight.requires_grad:
            module.weight = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)


def _learned(model: nn.Module, modules: Mapping[str, Matrix], recipe: LoraSft) -> Adapters:
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in modules:
        layer: Any = model.get_submodule(name)
        a, b = (side[ADAPTER].weight.detach().float().cpu().clone() for side in (layer.lora_A, layer.lora_B))
        factors[name] = a, b
    return Adapters(factors, dict.fromkeys(factors, recipe.alpha))


def write_curve(curve: Sequence[TrainingStep], path: Path) -> None:
    """Write the training curve as Parquet, a row per step."""
    import polars as pl

    schema = {"step": pl.Int32, "loss": pl.Float64, "learning_rate": pl.Float64, "tokens": pl.Int32}
    pl.DataFrame([asdict(row) for row in curve], schema=schema).write_parquet(path)
