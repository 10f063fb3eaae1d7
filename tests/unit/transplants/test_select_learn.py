"""Gates are learned with every weight frozen, in seeded minibatches, and dropped ones stay closed."""

import numpy as np
import pytest
import torch

from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example, answer_nll
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.study.schema import Learn
from cnt_pipeline.transplants.select.candidates import Space
from cnt_pipeline.transplants.select.layout import CandidateGates
from cnt_pipeline.transplants.select.learn import GateTrainer, Minibatches, Term
from cnt_pipeline.transplants.select.settings import DEFAULTS, learn_settings
from cnt_pipeline.transplants.select.units import Order
from tests.unit.models.conftest import build

torch.set_num_threads(1)
EXAMPLES = tuple(Example((5 + i, 6, 7, 3 + i, 9, 4), 3) for i in range(5))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[GatedSwap, Space]:
    target, donor = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("donor")
    build("llama", target)
    build("llama", donor, seed=1)
    architecture = read_architecture(target)
    swap = GatedSwap(load_model(target), architecture, read_index(donor), read_index(target))
    return swap, Space.of(architecture, 100_000)


def candidates(space: Space, count: int) -> Order:
    """Units of two neurons each, from all over the model."""
    numbers = np.random.default_rng(2).permutation(len(space.sizes))[: 2 * count]
    return Order(numbers, np.arange(1, count + 1) * 2)


def trainer(pair: tuple[GatedSwap, Space], count: int = 20, batch_size: int = 8, take: int = 2) -> GateTrainer:
    swap, space = pair
    return GateTrainer(
        swap,
        [Term("function", EXAMPLES, 1.0, take), Term("utility", EXAMPLES[:3], 0.5, take)],
        CandidateGates(swap, space, candidates(space, count)),
        lambda gates: gates,
        torch.full((count,), 0.5),
        rate=0.2,
        seed=4,
        batch_size=batch_size,
        bounds=(0.0, 3.0),
    )


def test_every_example_comes_once_before_any_comes_again() -> None:
    draw = Minibatches(Term("function", EXAMPLES, 1.0, 2), np.random.default_rng(0))
    drawn = [prompt for _ in range(5) for prompt in draw()]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(len(EXAMPLES)))
    assert len(Minibatches(Term("function", EXAMPLES, 1.0, 50), np.random.default_rng(0))()) == len(EXAMPLES)


@pytest.mark.parametrize("count", [6, 90], ids=["sparse", "dense"])
def test_a_unit_s_gate_is_the_gate_of_each_of_its_neurons(pair: tuple[GatedSwap, Space], count: int) -> None:
    swap, space = pair
    order = candidates(space, count)
    values = torch.linspace(0.1, 2, count)
    gates = space.gates(order.numbers, values.numpy()[order.owner], torch.device("cpu"))
    with CandidateGates(swap, space, order)(values), torch.no_grad():
        learned = answer_nll(swap.model, EXAMPLES, 8)
    with swap.gated(gates):
        assert answer_nll(swap.model, EXAMPLES, 8) == pytest.approx(learned, rel=1e-4)
    kept = np.array([1, 3, 4])
    with CandidateGates(swap, space, order, kept)(values):
        some = answer_nll(swap.model, EXAMPLES, 8)
    part = order.pick(kept)
    with swap.gated(space.gates(part.numbers, values.numpy()[kept][part.owner], torch.device("cpu"))):
        assert answer_nll(swap.model, EXAMPLES, 8) == pytest.approx(some, rel=1e-4)


def test_training_lowers_the_loss_and_touches_no_weight(pair: tuple[GatedSwap, Space]) -> None:
    before = {name: value.clone() for name, value in pair[0].model.state_dict().items()}
    learning = trainer(pair, take=5)
    learning.train(12, 0, 12)
    first, last = learning.curve.rows[0], learning.curve.rows[-1]
    assert last["function"] + last["utility"] / 2 < first["function"] + first["utility"] / 2
    assert [row["step"] for row in learning.curve.rows] == list(range(12))
    assert float(learning.values.min()) >= 0 and float(learning.values.max()) <= 3
    assert all(torch.equal(before[name], value) for name, value in pair[0].model.state_dict().items())
    assert all(parameter.grad is None for parameter in pair[0].model.parameters())


def test_a_seed_decides_the_gates_and_the_batch_size_does_not(pair: tuple[GatedSwap, Space]) -> None:
    runs = [trainer(pair), trainer(pair), trainer(pair, batch_size=1)]
    for learning in runs:
        learning.train(4, 0, 4)
    assert torch.equal(runs[0].values, runs[1].values)
    torch.testing.assert_close(runs[0].values, runs[2].values, rtol=1e-3, atol=1e-3)


def test_dropped_gates_are_closed_and_cost_nothing_from_then_on(pair: tuple[GatedSwap, Space]) -> None:
    swap, space = pair
    learning = trainer(pair)
    learning.train(2, 0, 6)
    assert learning.saliency.shape == (20,) and float(learning.saliency.max()) > 0
    kept = np.array([0, 5, 7])
    alive = torch.zeros(20, dtype=torch.bool)
    alive[torch.from_numpy(kept)] = True
    learning.keep(alive, CandidateGates(swap, space, candidates(space, 20), kept))
    learning.train(4, 2, 6)
    assert set(np.flatnonzero(learning.values.numpy())) <= set(kept)
    assert learning.curve.rows[-1]["units"] == 3
    assert len(np.flatnonzero(learning.saliency)) > 0 and set(np.flatnonzero(learning.saliency)) <= set(kept)


def test_a_preference_compares_whole_answers_and_its_gates_follow_it(pair: tuple[GatedSwap, Space]) -> None:
    swap, space = pair
    other = tuple(Example((*e.tokens[:3], 8, 8), 3) for e in EXAMPLES)
    learning = [
        GateTrainer(
            swap, [Term("function", EXAMPLES, 1.0, 5, other)], CandidateGates(swap, space, candidates(space, 60)),
            lambda gates: gates, torch.zeros(60), rate=0.1, seed=0, batch_size=batch_size,
        )
        for batch_size in (3, 64)
    ]  # fmt: skip
    for one in learning:
        one.train(6, 0, 6)
    margins = np.subtract(*(answer_nll(swap.model, answers, 8, mean=False) for answers in (EXAMPLES, other)))
    rows = learning[0].curve.rows
    assert rows[0]["function"] == pytest.approx(float(np.log1p(np.exp(margins)).mean()), rel=1e-4)
    assert rows[-1]["function"] < rows[0]["function"]
    assert rows[-1]["function"] == pytest.approx(learning[1].curve.rows[-1]["function"], rel=1e-3)
    squared = GateTrainer(
        swap, [Term("function", EXAMPLES, 1.0, 5, other, squared=True)],
        CandidateGates(swap, space, candidates(space, 60)), lambda gates: gates, torch.zeros(60), rate=0.1, seed=0,
        batch_size=64,
    )  # fmt: skip
    squared.train(1, 0, 1)
    square = float((np.log1p(np.exp(margins)) ** 2).mean())
    assert squared.curve.rows[0]["function"] == pytest.approx(square, rel=1e-4)


def test_a_price_closes_gates_that_earn_nothing(pair: tuple[GatedSwap, Space]) -> None:
    swap, space = pair
    logits = GateTrainer(
        swap, [Term("function", EXAMPLES, 0.0, 1)], CandidateGates(swap, space, candidates(space, 5)),
        lambda free: torch.sigmoid(2 * free), torch.zeros(5), rate=0.1, seed=0, batch_size=4,
        price=lambda gates, progress: (1 + progress) * gates.sum(),
    )  # fmt: skip
    logits.train(5, 0, 5)
    assert float(logits.values.max()) < 0.5


def test_a_study_overrides_the_defaults_of_its_rule_and_a_rule_names_what_it_reads() -> None:
    mask, prune = learn_settings("mask", Learn(steps=7)), learn_settings("prune", Learn(budget=0.001))
    assert (mask.steps, mask.price) == (7, DEFAULTS["mask"].price)
    assert (prune.budget, prune.steps) == (0.001, DEFAULTS["prune"].steps)
    assert "price" in mask.slice() and "price" not in prune.slice() and "budget" not in mask.slice()
