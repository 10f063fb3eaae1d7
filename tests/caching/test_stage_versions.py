"""A stage whose code changed says so in its version, or somebody accepted that its results stay the same."""

import json

import pytest

from tests.caching.stage_digests import ACCEPTED, current

STAGES = current()


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_the_accepted_one(stage: str) -> None:
    accepted = json.loads(ACCEPTED.read_text()).get(stage)
    assert STAGES[stage] == accepted, (
        f"the code of {stage} changed: if it computes something else, bump VERSION in "
        f"cnt_pipeline/{stage}/__init__.py; "
        "then run `python -m tests.caching.stage_digests` to accept it"
    )
