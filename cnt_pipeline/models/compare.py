"""Can this target take neurons from this donor? Answered from configs, headers and tokenizer files alone.

No torch, no weights. `check_finite` and `non_neuron_difference`, which do read weights, are in
`weight_checks` and re-exported here.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnt_pipeline.errors import InputError, MismatchError
from cnt_pipeline.models.architecture import Architecture, Role, read_architecture, tensor_roles
from cnt_pipeline.models.architecture_table import read_config, read_json, table_for
from cnt_pipeline.models.tensors import CheckpointIndex, read_index
from cnt_pipeline.models.tokenizer_files import TokenizerIdentity, read_tokenizer, short, token_differences
from cnt_pipeline.models.weight_checks import NonNeuronDifference, check_finite, non_neuron_difference

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "NonNeuronDifference",
    "check_finite",
    "compare",
    "estimate",
    "non_neuron_difference",
]

Allowance = Literal["tokenizer", "chat_template"]

SHOWN_DIFFERENCES = 12
# Words in config.json keys that change what a neuron computes while no shape tells of it.
_COMPUTATION_WORDS = (
    "rope", "rotary", "norm_eps", "layer_norm", "hidden_act", "activation", "softcap", "sliding",
    "layer_types", "query_pre_attn", "residual", "scale_attn",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One row of the diff: what differs, what the target has, what the donor has."""

    what: str
    target: str
    donor: str


@dataclass(frozen=True)
class Comparison:
    """What a target and a donor that can exchange neurons have in common.

    `agreements` and `notes` are sentences to print; `warnings` say what may spoil the result.
    """

    target: Path
    donor: Path
    architecture: Architecture
    tokenizer_digest: str
    template_digest: str | None
    agreements: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def report(self) -> str:
        """All of it as text, one line each."""
        lines = [f"{self.target} (target) and {self.donor} (donor) can exchange neurons"]
        lines += [f"  same: {line}" for line in self.agreements]
        lines += [f"  note: {line}" for line in self.notes]
        lines += [f"  warning: {line}" for line in self.warnings]
        return "\n".join(lines)


@dataclass(frozen=True)
class Estimate:
    """What a study of a pair needs. `disk_bytes`: one transplant (the target's weight files written again);
    `memory_bytes`: target and donor in float32 and one layer; `parameters`, `neurons`: of the target;
    `neuron_parameters`: those of its parameters that belong to neurons."""

    parameters: int
    neurons: int
    neuron_parameters: int
    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class _Side:
    folder: Path
    config: Mapping[str, Any]
    index: CheckpointIndex
    roles: Mapping[str, Role]
    architecture: Architecture
    tokenizer: TokenizerIdentity


def compare(target_folder: Path, donor_folder: Path, *, allow: Collection[Allowance] = ()) -> Comparison:
    """Check that neurons of the donor mean in the target what they mean at home.

    `allow` turns a difference of tokenizer or chat template into a warning (a base model and its chat model,
    say). Raises `MismatchError` with a diff and the likely cause, `InputError` when one model is unusable.
    """
    target_folder, donor_folder = Path(target_folder), Path(donor_folder)
    configs = [read_config(folder) for folder in (target_folder, donor_folder)]
    ours, theirs = (table_for(f, c) for f, c in zip((target_folder, donor_folder), configs, strict=True))
    if ours.name != theirs.name:
        rows = [Difference("architecture (model_type)", *(str(config["model_type"]) for config in configs))]
        raise _mismatch(target_folder, donor_folder, rows, "they are models of different families")
    target, donor = _read_side(target_folder), _read_side(donor_folder)
    sizes, tensors = list(_size_differences(target, donor)), list(_tensor_differences(target, donor))
    if sizes or tensors:
        cause = _size_cause(target, donor, sizes)
        raise _mismatch(target_folder, donor_folder, [*sizes, *tensors], cause)
    warnings = list(_computation_warnings(target, donor))
    words, notes = token_differences(target.tokenizer, donor.tokenizer)
    if words:
        rows = [Difference(*word) for word in words]
        if "tokenizer" not in allow:
            cause = "the donor was fine-tuned with another tokenizer, or the files come from another version"
            raise _mismatch(target_folder, donor_folder, rows, cause, "tokenizer files")
        warnings.append(f"the tokenizers differ in {', '.join(row.what for row in rows)}")
    same_template = target.tokenizer.template == donor.tokenizer.template
    if not same_template:
        rows = [Difference("chat template", *(short(s.tokenizer.template) for s in (target, donor)))]
        if "chat_template" not in allow:
            cause = "one is a base model and the other a chat model, or the template was edited later"
            raise _mismatch(target_folder, donor_folder, rows, cause, "chat_template.jinja")
        warnings.append("the chat templates differ, so the same prompt reaches the models in other words")
    size = target.architecture
    agreements = [
        f"architecture {size.name}: {size.layers} layers, {size.hidden_size} wide, {size.heads} heads, "
        f"{size.kv_heads} key/value heads, {size.ffn} FFN channels",
        f"{len(target.index.tensors)} tensors with the same names and shapes",
        f"vocabulary of {size.vocabulary} tokens",
    ]
    if not words:
        agreements.append(f"tokenizer {short(target.tokenizer.digest)}")
    if same_template:
        agreements.append(f"chat template {short(target.tokenizer.template)}")
    return Comparison(
        target=target_folder,
        donor=donor_folder,
        architecture=target.architecture,
        tokenizer_digest=target.tokenizer.digest,
        template_digest=target.tokenizer.template,
        agreements=tuple(agreements),
        notes=(*notes, *_notes(target, donor)),
        warnings=tuple(warnings),
    )


def estimate(target_folder: Path, donor_folder: Path) -> Estimate:
    """What the pair needs on disk and in memory, from headers only."""
    counts = []
    for folder in (target_folder, donor_folder):
        index = read_index(Path(folder))
        roles = tensor_roles(Path(folder), index)
        counts.append(sum(math.prod(i.shape) for name, i in index.tensors.items() if roles[name] != "unused"))
    index = read_index(Path(target_folder))
    matrices = read_architecture(Path(target_folder), index).matrices
    layers: defaultdict[int, int] = defaultdict(int)
    for matrix in matrices:
        layers[matrix.layer] += matrix.neurons * matrix.parameters_per_neuron
    return Estimate(
        parameters=counts[0],
        neurons=sum(matrix.neurons for matrix in matrices),
        neuron_parameters=sum(layers.values()),
        disk_bytes=sum(index.path(file).stat().st_size for file in index.files),
        memory_bytes=4 * (sum(counts) + max(layers.values())),
    )


def _read_side(folder: Path) -> _Side:
    index = read_index(folder)
    side = _Side(
        folder,
        read_config(folder),
        index,
        tensor_roles(folder, index),
        read_architecture(folder, index),
        read_tokenizer(folder),
    )
    largest = side.tokenizer.largest_id
    if largest is not None and largest >= side.architecture.vocabulary:
        raise InputError(
            f"{folder}: the tokenizer gives token ids up to {largest} but the model has only "
            f"{side.architecture.vocabulary} embeddings: use the tokenizer that the model was trained with"
        )
    return side


def _size_differences(target: _Side, donor: _Side) -> Iterator[Difference]:
    names = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "ffn", "vocabulary")
    for name in names:
        one, other = getattr(target.architecture, name), getattr(donor.architecture, name)
        if one != other:
            yield Difference(name, str(one), str(other))


def _tensor_differences(target: _Side, donor: _Side) -> Iterator[Difference]:
    """Tensors that differ in shape or that one model lacks; a head that is tied may or may not be stored."""
    names = dict.fromkeys([*target.index.tensors, *donor.index.tensors])
    optional = set(table_for(target.folder, target.config).tied_names)
    for name in names:
        shapes = []
        for side in (target, donor):
            info = side.index.tensors.get(name)
            shapes.append(str(list(info.shape)) if info else "absent")
        used = any(side.roles.get(name, "unused") != "unused" for side in (target, donor))
        if shapes[0] != shapes[1] and used and not ("absent" in shapes and name in optional):
            yield Difference(name, *shapes)


def _size_cause(target: _Side, donor: _Side, sizes: list[Difference]) -> str:
    if [row.what for row in sizes] == ["vocabulary"]:
        ours, theirs = target.architecture.vocabulary, donor.architecture.vocabulary
        grown, other = ("target", "donor") if ours > theirs else ("donor", "target")
        return (
            f"{abs(ours - theirs)} token(s) were added to the {grown} when it was fine-tuned (a pad token, "
            f"say): shrink its embeddings to {min(ours, theirs)} and restore the {other}'s tokenizer"
        )
    if sizes:
        return "they are models of different sizes of one family"
    return "one was saved with other tensor names or other bias switches, save both with the same transformers"


def _computation_warnings(target: _Side, donor: _Side) -> Iterator[str]:
    """Settings without a shape that both configs state and state differently."""
    ours, theirs = _flat(target.config), _flat(donor.config)
    for key in sorted(ours.keys() & theirs.keys()):
        if ours[key] != theirs[key] and any(word in key for word in _COMPUTATION_WORDS):
            yield (
                f"config.json: {key} is {ours[key]!r} in the target and {theirs[key]!r} in the donor, so the "
                "donor's neurons were trained for another computation"
            )
    if target.architecture.tied != donor.architecture.tied:
        which = "target" if target.architecture.tied else "donor"
        yield f"only the {which} ties its head to the embedding; the target's head stays as it is"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by name; rope settings are read alike at the top level and nested."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        inner = "" if key in ("rope_parameters", "rope_scaling") else f"{key}."
        leaves |= _flat(value, prefix + inner) if isinstance(value, dict) else {prefix + key: value}
    return leaves


def _notes(target: _Side, donor: _Side) -> Iterator[str]:
    pairs = Counter(
        (target.index[name].dtype, donor.index[name].dtype) for name, role in target.roles.items() if role == "neuron"
    )
    for (ours, theirs), count in sorted(pairs.items()):
        if ours != theirs:
            yield f"{count} tensors are {ours} in the target, {theirs} in the donor: written back as {ours}"
    for side, name in ((target, "target"), (donor, "donor")):
        unused = [tensor for tensor, role in side.roles.items() if role == "unused"]
        if unused:
            yield f"the {name} holds {len(unused)} tensor(s) that the model does not use, first {unused[0]}"
    ends = [
        (read_json(side.folder / "generation_config.json") or side.config).get("eos_token_id")
        for side in (target, donor)
    ]
    if ends[0] != ends[1]:
        yield f"answers end at token {ends[0]} in the target and {ends[1]} in the donor"


def _mismatch(target: Path, donor: Path, rows: list[Difference], cause: str, remedy: str = "") -> MismatchError:
    shown = [Difference("", f"target {target.name}", f"donor {donor.name}"), *rows[:SHOWN_DIFFERENCES]]
    widths = [max(len(getattr(row, field)) for row in shown) for field in ("what", "target")]
    table = [f"  {r.what:<{widths[0]}}  {r.target:<{widths[1]}}  {r.donor}" for r in shown]
    if len(rows) > SHOWN_DIFFERENCES:
        table.append(f"  and {len(rows) - SHOWN_DIFFERENCES} more")
    todo = f"give both models the same {remedy}" if remedy else "choose another donor"
    return MismatchError(
        f"{target} (target) and {donor} (donor) cannot exchange neurons: {todo}\n"
        + "\n".join(line.rstrip() for line in table)
        + f"\n  likely cause: {cause}"
    )
