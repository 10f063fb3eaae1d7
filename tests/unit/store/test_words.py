"""Heads remember what a step was last built from, and `explain` says what differs."""

from collections.abc import Callable
from typing import Any

import pytest

from cnt_pipeline.store import BuildRequest, Store

Ask = Callable[..., BuildRequest]

INPUTS = {"prompt_sets": "a" * 64, "target": "b" * 64}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"slice": {"method": {"name": "cnt", "eta": [1, 2]}}},
            "method.eta changed from [1] to [1, 2]",
        ),
        (
            {"slice": {"method": {"name": "nlsr", "eta": [1]}}},
            'method.name changed from "cnt" to "nlsr"',
        ),
        ({"slice": {"method": {"eta": [1], "name": "cnt", "mu": 0.5}}}, "method.mu added (0.5)"),
        ({"slice": {"method": {"name": "cnt"}}}, "method.eta removed"),
        ({"inputs": {**INPUTS, "prompt_sets": "c" * 64}}, "input prompt_sets changed"),
        ({"inputs": {**INPUTS, "donor": "c" * 64}}, "input donor added"),
        ({"inputs": {"target": "b" * 64}}, "input prompt_sets removed"),
        ({"version": 2}, "stage version 1 -> 2"),
        (
            {"version": 2, "inputs": {**INPUTS, "target": "c" * 64}},
            "stage version 1 -> 2; input target changed",
        ),
        (
            {"slice": {"method": {f"key{n}": n for n in range(6)}, "name": "cnt"}},
            "method.eta removed; method.key0 added (0); method.key1 added (1); method.key2 added (2); and 5 more",
        ),
        (
            {"slice": {"method": {"name": "x" * 100, "eta": [1]}}},
            'method.name changed from "cnt" to "' + "x" * 56 + "...",
        ),
    ],
)
def test_what_differs_is_said_in_words(
    store: Store, builder: Any, ask: Ask, changed: dict[str, Any], words: str
) -> None:
    store.get_or_build(ask(), builder)
    assert store.explain(ask(**changed)) == words


def test_lists_of_records_are_compared_record_by_record(store: Store, builder: Any, ask: Ask) -> None:
    before = {"sets": [{"take": 1, "file": "a"}, {"take": 2, "file": "b"}]}
    now = {"sets": [{"take": 1, "file": "a"}, {"take": 3, "file": "b"}]}
    store.get_or_build(ask(slice=before), builder)
    assert store.explain(ask(slice=now)) == "sets[1].take changed from 2 to 3"


def test_the_head_follows_builds_and_hits(any_store: Store, builder: Any, ask: Ask) -> None:
    a, b = ask(), ask(version=2)
    assert any_store.head("refusal", a.key) is None
    for request in (a, b, a):
        any_store.get_or_build(request, builder)
        head = any_store.head("refusal", request.key)
        assert head and head.fingerprint == request.fingerprint
    assert any_store.explain(a) == any_store.explain(b) == "cached"


def test_each_study_and_step_has_a_head_of_its_own(any_store: Store, builder: Any, ask: Ask) -> None:
    long = "activation_caches/" + "x" * 300
    any_store.get_or_build(ask(), builder)
    any_store.get_or_build(ask(study="bias"), builder)
    any_store.get_or_build(ask(key=long), builder)
    names = [(head.study, head.key) for head in any_store.heads()]
    assert sorted(names) == [("bias", ask().key), ("refusal", long), ("refusal", ask().key)]
    assert [head.key for head in any_store.heads("bias")] == [ask().key]
    assert builder.calls == 1


def test_a_step_whose_artifact_is_gone_says_so(any_store: Store, builder: Any, ask: Ask) -> None:
    any_store.get_or_build(ask(), builder)
    assert any_store.explain(ask(study="another", version=3)) == "never built"
    any_store._place.discard("transplants", ask().fingerprint)
    assert any_store.explain(ask()) == "removed from the store"


def test_an_unreadable_head_is_no_head(store: Store, builder: Any, ask: Ask) -> None:
    store.get_or_build(ask(), builder)
    store._place.write(".heads/refusal/transplants%2Frefusal.json", b"{")
    assert store.head("refusal", ask().key) is None
    assert store.explain(ask(version=2)) == "never built"


def test_tuples_and_lists_are_the_same_setting(store: Store, builder: Any, ask: Ask) -> None:
    store.get_or_build(ask(slice={"eta": (1, 2)}), builder)
    assert store.get_or_build(ask(slice={"eta": [1, 2]}), builder).hit
