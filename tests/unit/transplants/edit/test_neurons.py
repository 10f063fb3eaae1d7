"""Scores of the methods that copy neurons, against formulas written out neuron by neuron."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from cnt_pipeline.activation_caches.capture import Item, capture
from cnt_pipeline.errors import InputError
from cnt_pipeline.study.schema import KINDS
from cnt_pipeline.transplants.edit import neurons
from cnt_pipeline.transplants.edit.copying import within_budget
from cnt_pipeline.transplants.edit.probed import fit_probe, nest, standardised_weights
from cnt_pipeline.transplants.edit.rows.neurons import (
    ROWS,
    DeltaNormOptions,
    NestOptions,
    RandomOptions,
    RefusalDotOptions,
    SafeNeuronOptions,
    SafetyNeuronsOptions,
    SsahOptions,
)
from cnt_pipeline.transplants.edit.source import Edits, NeuronEdits, Source

torch.set_num_threads(1)

Array = npt.NDArray[Any]
Key = tuple[int, str]

PROMPTS = 15
"""Of each kind: together more than one shard of a cache."""
NAMES = [(kind, f"{kind}-{i}") for i in range(PROMPTS) for kind in KINDS]
OF = {kind: [n for n, (role, _) in enumerate(NAMES) if role == kind] for kind in KINDS}


@dataclass(frozen=True)
class Probed:
    """A source with activation and hidden-state caches, and the values in them, `[prompts, neurons]`."""

    source: Source
    activations: dict[str, dict[Key, Array]]
    hidden: dict[Key, Array]


def write_cache(folder: Path, values: dict[Key, Array], lengths: Sequence[int]) -> Path:
    folder.mkdir()
    items = [Item(name, kind, length) for (kind, name), length in zip(NAMES, lengths, strict=True)]
    capture(lambda members: {key: part[list(members)] for key, part in values.items()}, items, folder)
    return folder


@pytest.fixture(scope="session")
def probed(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Probed:
    lot = np.random.default_rng(5)
    harmful = np.array([kind == "function" for kind, _ in NAMES])[:, None]
    activations: dict[str, dict[Key, Array]] = {}
    probes = dict(source.probes)
    folder = tmp_path_factory.mktemp("caches")
    for role in ("target", "donor"):
        found: dict[Key, Array] = {}
        for matrix in source.architecture.matrices:
            size = (len(NAMES), matrix.neurons)
            shift = lot.normal(size=matrix.neurons) * 2 + (lot.random(matrix.neurons) < 0.05) * 5
            mean = lot.normal(size=size) + harmful * shift
            found[matrix.layer, f"{matrix.family}.mean"] = mean.astype(np.float32)
            rms = np.sqrt(mean**2 + lot.gamma(2, size=size) * lot.gamma(2, size=matrix.neurons))
            found[matrix.layer, f"{matrix.family}.rms"] = rms.astype(np.float32)
        activations[role] = found
        # Target and donor are cut into shards differently.
        probes[f"activation/{role}"] = write_cache(folder / role, found, lot.permutation(len(NAMES)).tolist())
    layers = source.architecture.layers
    hidden = {
        (n, "hidden"): (lot.normal(size=(len(NAMES), 32)) + harmful * lot.normal(size=32)).astype(np.float32)
        for n in range(layers + 1)
    }
    probes["hidden_state/donor"] = write_cache(folder / "hidden", hidden, list(range(len(NAMES))))
    return Probed(Source(source.architecture, source.models, probes), activations, hidden)


def weights(source: Source, model: str) -> dict[str, Array]:
    return load_file(source.models[model].folder / "model.safetensors")


def columns(source: Source) -> list[Any]:
    return [matrix for matrix in source.architecture.matrices if matrix.family in ("o", "down")]


def oriented(source: Source, tensor: Array) -> Array:
    """`[out, in]` in float64."""
    wide = tensor.astype(np.float64)
    return wide.T if source.architecture.name == "gpt2" else wide


def same(edits: Edits, expected: Edits) -> bool:
    return edits.keys() == expected.keys() and all(torch.equal(edits[name](), expected[name]()) for name in edits)


def neurons_of(edits: Edits, source: Source) -> dict[Key, list[int]]:
    """The neurons in which the edited tensors differ from the target's."""
    found = {}
    for matrix in source.architecture.matrices:
        if matrix.tensor in edits:
            old = weights(source, "target")[matrix.tensor]
            differ = (edits[matrix.tensor]().numpy() != old).any(1 - matrix.axis)[matrix.positions]
            if differ.any():
                found[matrix.layer, matrix.family] = np.flatnonzero(differ).tolist()
    return found


def test_the_change_of_a_neuron_is_the_least_that_means_and_sizes_allow(probed: Probed) -> None:
    found = neurons.activation_change(probed.source, "all")
    assert found.keys() == {(m.layer, m.family) for m in probed.source.architecture.matrices}
    for (layer, family), scores in found.items():
        for neuron in range(0, len(scores), 7):
            total = 0.0
            for n in OF["function"]:
                mean = [float(probed.activations[r][layer, f"{family}.mean"][n, neuron]) for r in ("target", "donor")]
                size = [float(probed.activations[r][layer, f"{family}.rms"][n, neuron]) for r in ("target", "donor")]
                spread = [max(s * s - m * m, 0) ** 0.5 for m, s in zip(mean, size, strict=True)]
                total += (mean[1] - mean[0]) ** 2 + (spread[1] - spread[0]) ** 2
            assert scores[neuron] == pytest.approx((total / PROMPTS) ** 0.5, rel=1e-5)


def test_the_change_never_exceeds_that_of_single_tokens_and_meets_it_where_tokens_agree(
    source: Source, tmp_path: Path
) -> None:
    lot = np.random.default_rng(0)
    matrix = source.architecture.matrices[0]
    tokens = {"target": lot.normal(size=(len(NAMES), 9, matrix.neurons))}
    tokens["donor"] = tokens["target"] + lot.normal(size=tokens["target"].shape)
    tokens["donor"][..., 0] = 3 * tokens["target"][..., 0] - 1
    probes = {}
    for role, values in tokens.items():
        rows = {f"{matrix.family}.mean": values.mean(1), f"{matrix.family}.rms": np.sqrt((values**2).mean(1))}
        cache = {(0, name): part.astype(np.float32) for name, part in rows.items()}
        probes[f"activation/{role}"] = write_cache(tmp_path / role, cache, [1] * len(NAMES))
    found = neurons.activation_change(Source(source.architecture, source.models, probes), (matrix.family,))[
        0, matrix.family
    ]
    exact = np.sqrt(((tokens["donor"] - tokens["target"]) ** 2).mean(1)[OF["function"]].mean(0))
    assert (found <= exact * (1 + 1e-5)).all()
    assert found[0] == pytest.approx(exact[0], rel=1e-4)
    assert (found[1:] < exact[1:]).all()


def test_activations_of_different_prompts_are_not_compared(probed: Probed, tmp_path: Path) -> None:
    other = {key: part[:12] for key, part in probed.activations["donor"].items()}
    (folder := tmp_path / "short").mkdir()
    capture(
        lambda members: {key: part[list(members)] for key, part in other.items()},
        [Item(name, kind, 1) for kind, name in NAMES[:12]],
        folder,
    )
    source = Source(
        probed.source.architecture, probed.source.models, {**probed.source.probes, "activation/donor": folder}
    )
    with pytest.raises(InputError, match="different prompts"):
        neurons.activation_change(source, "ffn")


@pytest.mark.parametrize("criterion", ["either", "both", "effect_size", "shift"])
def test_a_safety_neuron_exceeds_cohens_d_or_the_shift_of_its_layer(probed: Probed, criterion: Any) -> None:
    found = neurons.safety_margins(probed.source, SafeNeuronOptions(criterion=criterion, effect_size=2.5, shift=1.5))
    passed = 0
    for (layer, family), scores in found.items():
        values = probed.activations["donor"][layer, f"{family}.mean"].astype(np.float64)
        safe, plain = values[OF["function"]], values[OF["utility"]]
        change = [safe[:, i].mean() - plain[:, i].mean() for i in range(values.shape[1])]
        for i, score in enumerate(scores):
            pooled = (
                ((safe[:, i] - safe[:, i].mean()) ** 2).sum() + ((plain[:, i] - plain[:, i].mean()) ** 2).sum()
            ) / (2 * PROMPTS - 2)
            d = change[i] / pooled**0.5 / 2.5
            z = (change[i] - np.mean(change)) / np.std(change) / 1.5
            margin = {"either": max(d, z), "both": min(d, z), "effect_size": d, "shift": z}[criterion]
            assert score == (pytest.approx(margin, rel=1e-5) if margin > 1 else -np.inf)
            passed += margin > 1
    assert 0 < passed < sum(len(scores) for scores in found.values()) / 2


def test_a_neuron_that_never_varies_is_separated_by_any_difference_and_by_nothing_else(
    source: Source, tmp_path: Path
) -> None:
    family = source.architecture.matrices[0].family
    values = np.zeros((len(NAMES), source.architecture.matrices[0].neurons), dtype=np.float32)
    values[OF["function"], 2] = 0.5
    values[OF["function"], 3] = -0.5
    cache = {(m.layer, f"{family}.mean"): values for m in source.architecture.matrices if m.family == family}
    probes = {"activation/donor": write_cache(tmp_path / "constant", cache, [1] * len(NAMES))}
    options = SafeNeuronOptions(criterion="effect_size", families=(family,))
    scores = neurons.safety_margins(Source(source.architecture, source.models, probes), options)[0, family]
    assert np.flatnonzero(scores > -np.inf).tolist() == [2]


def test_safeneuron_copies_all_that_pass_or_the_best_within_a_budget(probed: Probed) -> None:
    options = SafeNeuronOptions()
    scores = neurons.safety_margins(probed.source, options)
    passing = {key: np.flatnonzero(part > 1).tolist() for key, part in scores.items() if (part > 1).any()}
    assert neurons_of(neurons.safeneuron(probed.source, options, 0), probed.source) == passing
    capped = neurons_of(neurons.safeneuron(probed.source, SafeNeuronOptions(budget=0.01), 0), probed.source)
    count = sum(len(part) for part in capped.values())
    assert 0 < count < sum(len(part) for part in passing.values())
    kept = [scores[key][i] for key, part in capped.items() for i in part]
    dropped = [scores[key][i] for key, part in passing.items() for i in part if i not in capped.get(key, [])]
    assert min(kept) >= max(dropped)


@pytest.mark.parametrize("standardise", [True, False])
def test_column_importance_is_variance_times_squared_norm_safety_less_utility(
    source: Source, standardise: bool
) -> None:
    found = neurons.column_importance(source, SsahOptions(standardise=standardise))
    assert found.keys() == {(m.layer, m.family) for m in columns(source)}
    donor = weights(source, "donor")
    for matrix in columns(source):
        w = oriented(source, donor[matrix.tensor])
        parts = []
        for kind in ("function", "utility"):
            moments = load_file(source.probes["moments/donor"] / f"{kind}.safetensors")
            mean, second = (moments[f"{matrix.module}.{part}"].astype(np.float64) for part in ("mean", "second"))
            part = [(second[j, j] - mean[j] ** 2) * sum(x * x for x in w[:, j]) for j in range(w.shape[1])]
            parts.append([(x - np.mean(part)) / np.std(part) for x in part] if standardise else part)
        expected = np.array(parts[0]) - np.array(parts[1])
        error = np.abs(found[matrix.layer, matrix.family] - expected).max()
        assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("layer", [None, 0, 1])
@pytest.mark.parametrize("unit", [True, False])
def test_columns_are_held_against_the_refusal_direction_behind_their_layer(
    probed: Probed, layer: int | None, unit: bool
) -> None:
    found = neurons.refusal_writing(probed.source, RefusalDotOptions(layer=layer, unit=unit))
    donor = weights(probed.source, "donor")
    for matrix in columns(probed.source):
        # Of two layers, only the state behind the first one has not passed the final norm.
        state = probed.hidden[1, "hidden"].astype(np.float64)
        r = state[OF["function"]].mean(0) - state[OF["utility"]].mean(0)
        r = r / np.sqrt((r**2).sum()) if unit else r
        w = oriented(probed.source, donor[matrix.tensor])
        expected = np.array([abs(sum(w[:, j] * r)) for j in range(w.shape[1])])
        assert found[matrix.layer, matrix.family] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_direction_comes_from_the_state_behind_the_layer_not_before_it(
    make: Callable[[str], Source], tmp_path: Path
) -> None:
    source = make("llama")
    states = {(n, "hidden"): np.zeros((len(NAMES), 32), dtype=np.float32) for n in range(3)}
    for n in range(3):
        states[n, "hidden"][OF["function"], n] = 1
    probes = {"hidden_state/donor": write_cache(tmp_path / "hidden", states, [1] * len(NAMES))}
    found = neurons.refusal_writing(Source(source.architecture, source.models, probes), RefusalDotOptions())
    name = "model.layers.{}.mlp.down_proj.weight"
    for layer in (0, 1):
        row = np.abs(weights(source, "donor")[name.format(layer)][1])
        assert found[layer, "down"] == pytest.approx(row, rel=1e-6)


def test_a_refusal_direction_of_a_layer_that_is_not_there_is_refused(probed: Probed) -> None:
    with pytest.raises(InputError, match="numbers 0 to 1"):
        neurons.refusal_dot(probed.source, RefusalDotOptions(layer=2), 0)


def test_delta_norms_hold_row_or_column_and_its_bias(source: Source) -> None:
    found = neurons.delta_norms(source, "all")
    target, donor = weights(source, "target"), weights(source, "donor")
    for matrix in source.architecture.matrices:
        delta = donor[matrix.tensor].astype(np.float64) - target[matrix.tensor].astype(np.float64)
        for i in range(0, matrix.neurons, 5):
            place = matrix.positions[i]
            part = delta[place] if matrix.axis == 0 else delta[:, place]
            square = sum(x * x for x in part)
            if matrix.bias is not None:
                square += (float(donor[matrix.bias][place]) - float(target[matrix.bias][place])) ** 2
            assert found[matrix.layer, matrix.family][i] == pytest.approx(square**0.5, rel=1e-5)


def logistic(features: Array, labels: Array, penalty: float) -> Array:
    """Weights by Newton's method on all features and an intercept."""
    inputs = np.hstack([features, np.ones((len(features), 1))])
    ridge = np.diag([penalty] * features.shape[1] + [0.0])
    w = np.zeros(inputs.shape[1])
    for _ in range(40):
        p = 1 / (1 + np.exp(-inputs @ w))
        slope = inputs.T @ (p - (labels > 0)) + ridge @ w
        w = w - np.linalg.solve(inputs.T @ (inputs * (p * (1 - p))[:, None]) + ridge, slope)
    assert np.abs(slope).max() < 1e-10
    return w[:-1]


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_probe_weights_are_those_of_a_logistic_regression_on_all_neurons_of_a_layer(
    probed: Probed, penalty: float
) -> None:
    found = standardised_weights(probed.source, NestOptions(penalty=penalty))
    ffn = [m for m in probed.source.architecture.matrices if m.family in ("gate", "up", "down")]
    assert found.keys() == {(m.layer, m.family) for m in ffn}
    rows = OF["function"] + OF["utility"]
    labels = np.array([1.0] * PROMPTS + [-1.0] * PROMPTS)
    for layer in range(probed.source.architecture.layers):
        families = [m.family for m in ffn if m.layer == layer]
        values = [probed.activations["donor"][layer, f"{f}.mean"][rows].astype(np.float64) for f in families]
        features = np.hstack(values)
        w = logistic((features - features.mean(0)) / features.std(0), labels, penalty)
        z = (w - w.mean()) / w.std()
        mine = np.concatenate([found[layer, family] for family in families])
        assert np.abs(mine - z).max() <= 1e-5 * np.abs(z).max()


@pytest.mark.parametrize("shape", [(20, 4), (6, 50)])
def test_a_probe_fits_both_few_and_many_features(shape: tuple[int, int]) -> None:
    lot = np.random.default_rng(1)
    features = lot.normal(size=shape)
    labels = np.where(lot.random(shape[0]) < 0.3, 1.0, -1.0)
    labels[:2] = 1, -1
    w = features.T @ fit_probe(features @ features.T, labels, 0.5)
    assert w == pytest.approx(logistic(features, labels, 0.5), rel=1e-5, abs=1e-7)


def test_nest_copies_the_neurons_above_its_threshold(probed: Probed) -> None:
    options = NestOptions(threshold=1.5, families="all")
    scores = standardised_weights(probed.source, options)
    passing = {key: np.flatnonzero(part > 1.5).tolist() for key, part in scores.items() if (part > 1.5).any()}
    assert neurons_of(nest(probed.source, options, 0), probed.source) == passing
    with pytest.raises(InputError, match="lower the method's thresholds"):
        nest(probed.source, NestOptions(threshold=100.0), 0)


def test_a_neuron_that_never_varies_has_no_probe_weight(source: Source, tmp_path: Path) -> None:
    lot = np.random.default_rng(2)
    matrices = [m for m in source.architecture.matrices if m.family == "down"]
    cache = {(m.layer, "down.mean"): lot.normal(size=(len(NAMES), m.neurons)).astype(np.float32) for m in matrices}
    for part in cache.values():
        part[:, 4] = 0.3
    probes = {"activation/donor": write_cache(tmp_path / "down", cache, [1] * len(NAMES))}
    found = standardised_weights(Source(source.architecture, source.models, probes), NestOptions(families=("down",)))
    for key, scores in found.items():
        assert np.isfinite(scores).all()
        varying = {key: cache[key[0], "down.mean"]}
        features = np.delete(varying[key][OF["function"] + OF["utility"]].astype(np.float64), 4, axis=1)
        w = logistic((features - features.mean(0)) / features.std(0), np.repeat([1.0, -1.0], PROMPTS), 1.0)
        w = np.insert(w, 4, 0.0)
        assert scores == pytest.approx((w - w.mean()) / w.std(), rel=1e-5, abs=1e-6)


METHODS = {
    "safety_neurons": SafetyNeuronsOptions, "ssah": SsahOptions, "refusal_dot": RefusalDotOptions,
    "delta_norm": DeltaNormOptions, "random": RandomOptions,
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_with_a_budget_copy_their_best_neurons_and_spend_it(probed: Probed, name: str) -> None:
    source = probed.source
    total = sum(tensor.size for tensor in weights(source, "target").values())
    for budget in (0.02, 0.1):
        found = neurons_of(getattr(neurons, name)(source, METHODS[name](budget=budget), 0), source)
        sizes = {(m.layer, m.family): m.parameters_per_neuron for m in source.architecture.matrices}
        spent = sum(len(part) * sizes[key] for key, part in found.items())
        assert budget * total - 2 * max(sizes.values()) < spent <= round(budget * total)


def test_the_best_are_those_with_the_highest_scores(probed: Probed) -> None:
    source = probed.source
    change = within_budget(source, neurons.activation_change(source, "ffn"), 0.1)
    edits = neurons.safety_neurons(source, SafetyNeuronsOptions(budget=0.1), 0)
    found = neurons_of(edits, source)
    assert found == {key: part.tolist() for key, part in change.items()}
    assert {family for _, family in found} <= {"gate", "up", "down"}
    assert isinstance(edits, NeuronEdits) and {key: part.tolist() for key, part in edits.neurons.items()} == found


def test_random_neurons_are_an_even_share_of_every_layer_and_family(source: Source) -> None:
    found = neurons_of(neurons.random(source, RandomOptions(budget=0.2), 0), source)
    shares = [len(found[m.layer, m.family]) / m.neurons for m in source.architecture.matrices]
    assert max(shares) - min(shares) <= 1 / min(m.neurons for m in source.architecture.matrices) + 1e-9


def test_random_neurons_can_be_spread_as_the_largest_deltas_are(source: Source) -> None:
    largest = neurons_of(neurons.delta_norm(source, DeltaNormOptions(budget=0.1), 0), source)
    drawn = neurons_of(neurons.random(source, RandomOptions(budget=0.1, like="delta_norm"), 0), source)
    assert {key: len(part) for key, part in drawn.items()} == {key: len(part) for key, part in largest.items()}
    assert drawn != largest


@pytest.mark.parametrize("like", ["even", "delta_norm"])
def test_a_seed_draws_the_same_neurons_and_another_seed_others(source: Source, like: Any) -> None:
    options = RandomOptions(budget=0.1, like=like)
    edits = neurons.random(source, options, 3)
    assert same(edits, neurons.random(source, options, 3))
    assert not same(edits, neurons.random(source, options, 4))


def test_a_cache_without_the_family_says_so(probed: Probed) -> None:
    probes = {**probed.source.probes, "activation/donor": probed.source.probes["hidden_state/donor"]}
    source = Source(probed.source.architecture, probed.source.models, probes)
    with pytest.raises(InputError, match=r"no values of .*\.mean"):
        neurons.safety_neurons(source, SafetyNeuronsOptions(), 0)
    with pytest.raises(InputError, match=r"no statistics of .*\.mean"):
        neurons.safeneuron(source, SafeNeuronOptions(), 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_names_an_edit_and_defaults_for_all_its_options(row: Any) -> None:
    module, function = row.function.split(":")
    assert callable(getattr(import_module(f"cnt_pipeline.transplants.edit.{module}"), function))
    row.options()
    assert all(field.description for field in row.options.model_fields.values())
    assert row.options(families=("q",)).families == ("q",)
    for families in ((), ("q", "q")):
        with pytest.raises(ValueError, match="each once"):
            row.options(families=families)
