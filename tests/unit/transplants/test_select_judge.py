"""The judge finds the target at closed gates and asks nothing more than it must."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cnt_pipeline.completions.build import compare_with_itself, complete, context_length, encode_set
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import Architecture, read_architecture
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model, load_tokenizer
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import KINDS, Function, Generation, Kind
from cnt_pipeline.transplants.select.judge import Judge
from tests.unit.models.conftest import build, write_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[GatedSwap, Any, Architecture]:
    target, donor = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("donor")
    build("llama", target)
    build("llama", donor, seed=1)
    write_tokenizer(target)
    architecture = read_architecture(target)
    swap = GatedSwap(load_model(target), architecture, read_index(donor), read_index(target))
    return swap, load_tokenizer(target), architecture


def test_the_judge_finds_the_target_at_closed_gates_also_where_utility_prompts_have_no_answers(
    real: tuple[GatedSwap, Any, Architecture],
) -> None:
    swap, tokenizer, _ = real
    settings = Generation(max_new_tokens=4)
    prompts: dict[Kind, list[Prompt]] = {
        "function": [Prompt(f"{i}", (("user", f"w{5 + i} w9"),), choices=("w4", "w7")) for i in range(3)],
        "lookalike": [Prompt(f"l{i}", (("user", f"w{6 + i}"),), answers=("w3",)) for i in range(3)],
        "utility": [Prompt(f"u{i}", (("user", f"w{7 + i}"),)) for i in range(3)],
    }
    sets = {k: encode_set(tokenizer, p, settings, context_length(swap.model)) for k, p in prompts.items()}
    said = {k: compare_with_itself(complete(swap.model, tokenizer, s, settings, 2)) for k, s in sets.items()}
    function = Function(name="bias", direction="delete")
    judge = Judge(swap, tokenizer, function, sets, said, said, settings, 2)
    closed = judge.outcome({})
    assert judge.baselines.target.figures() == judge.baselines.donor.figures()
    assert closed.function == pytest.approx(judge.baselines.target.function)
    assert closed.utility == judge.baselines.target.utility == 1.0
    assert (closed.misfire, closed.coherence) == (judge.baselines.target.misfire, judge.baselines.target.coherence)
    opened = judge.outcome(swap.filled(1.0))
    assert opened.utility is not None and opened.utility < 1.0
    assert opened.function != pytest.approx(closed.function)
    nothing = {k: [replace(row, choice_loglik=()) for row in rows] for k, rows in said.items()}
    with pytest.raises(InputError, match=r"can judge no function prompt: give prompts\.function a column of choices"):
        Judge(swap, tokenizer, function, sets, nothing, said, settings, 2)
    assert set(sets) == set(KINDS)
