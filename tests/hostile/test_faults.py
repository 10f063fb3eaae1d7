"""Whatever is wrong, `cnt` says so in one sentence, exits with the right code and leaves nothing half-made."""

import pytest

from tests.hostile.command_faults import OTHER_COMMANDS, STORES
from tests.hostile.conftest import Answer, Bench
from tests.hostile.fault import RUN, Fault
from tests.hostile.model_faults import ADAPTER_FILES, MODEL_FILES, MODEL_PAIR, MODEL_SOURCES
from tests.hostile.prompt_faults import PROMPT_SOURCES, PROMPTS, WORKING
from tests.hostile.study_faults import STUDY_FILE

FAULTS = [
    *STUDY_FILE, *MODEL_SOURCES, *ADAPTER_FILES, *MODEL_FILES, *MODEL_PAIR, *PROMPT_SOURCES, *PROMPTS, *WORKING,
    *STORES, *OTHER_COMMANDS,
]  # fmt: skip


def test_the_table_has_forty_faults() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40


def says_it_once(answer: Answer, code: int, words: tuple[str, ...]) -> None:
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err + answer.out
    assert len(answer.sentences) == 1, answer.err
    assert answer.sentences[0].startswith("cnt: "), answer.err
    for word in words:
        assert word in answer.err


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(bench: Bench, fault: Fault) -> None:
    fault.break_it(bench)
    for command in fault.commands:
        answer = bench.cnt_process(*command) if fault.offline else bench.cnt(*command)
        says_it_once(answer, fault.code, fault.words)
    assert not bench.leftovers()
    if RUN in fault.commands and fault.step is not None:
        assert fault.step not in bench.artifacts()
    elif not bench.store.startswith("warp:") and bench.store_folder.is_dir():
        assert not bench.artifacts()
