"""What can be wrong with the prompts of a study, and what shows only at work."""

from pathlib import Path

from tests.hostile.breaking import (
    changed_row,
    copied_target,
    gap_without_choices,
    key,
    one_row_for_three_roles,
    other_prompt_file,
    prompt_file,
    shared_prompt,
    swapped_models,
)
from tests.hostile.fault import HEADERS, WORK, Fault

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPT_SOURCES = [
    Fault("missing prompt file", prompt_file(Path.unlink), ("function.score.jsonl does not exist", "correct `file:`")),
    Fault(
        "unknown packaged set",
        key("prompts.function", {"packaged": "harm.score"}),
        ("no packaged prompt set 'harm.score'", "harmful.score"),
    ),
    Fault(
        "missing prompt file in a package",
        key("prompts.function", {"package": "cnt_pipeline", "file": "none.jsonl"}),
        ("'cnt_pipeline' holds no none.jsonl", "correct it"),
    ),
    Fault(
        "dataset without revision",
        key("prompts.function", {"hub": "org/data"}),
        ("study.yaml:prompts.function", "40-digit commit hash"),
    ),
]
PROMPTS = [
    Fault(name, break_it, words, HEADERS, step="prompt_sets/roles")
    for name, break_it, words in (
        (
            "empty prompt file",
            prompt_file(lambda p: p.write_text("")),
            ("prompts.function", "holds no rows", "has prompts"),
        ),
        (
            "unknown kind of prompt file",
            other_prompt_file("prompts.xlsx", b"PK"),
            ("prompts.xlsx is none of", ".jsonl", "convert"),
        ),
        (
            "bad JSON line",
            prompt_file(lambda p: p.write_text(p.read_text() + '{"text": \n')),
            ("line 13 is not JSON", "correct"),
        ),
        (
            "a line without names",
            prompt_file(lambda p: p.write_text('"only text"\n')),
            ("line 1 is not a JSON object",),
        ),
        (
            "broken CSV",
            other_prompt_file("prompts.csv", b'text,answers\n"one" two,\n'),
            ("prompts.csv, line 2 is not CSV", "quoting"),
        ),
        (
            "CSV with unquoted commas",
            other_prompt_file("prompts.csv", b"text\none, two\n"),
            ("more fields than the header", "quote"),
        ),
        (
            "corrupt Parquet",
            other_prompt_file("prompts.parquet", b"PAR1" + bytes(64) + b"PAR1"),
            ("prompts.parquet is not a readable Parquet file", "write it again"),
        ),
        (
            "prompt file of other bytes",
            other_prompt_file("prompts.jsonl", b"\xff\xfe{}"),
            ("prompts.jsonl cannot be read", "check the file"),
        ),
        (
            "missing text column",
            other_prompt_file("prompts.csv", b"question\nWhat now?\n"),
            ("no column 'text' (it has question)", "columns"),
        ),
        (
            "empty text",
            changed_row("utility.test", text="  "),
            ("prompts.test.utility: row 4", "empty", "fill or remove"),
        ),
        ("no row left by a filter", key("prompts.function.where", {"id": "nobody"}), ("no row that `where:` keeps",)),
        (
            "filter on an absent column",
            key("prompts.function.where", {"language": "en"}),
            ("no column 'language'", "it has"),
        ),
        (
            "one prompt in two roles",
            shared_prompt,
            ("prompts.function and prompts.test.function share a prompt (ids ", "remove it from one"),
        ),
        (
            "too few rows for three roles",
            one_row_for_three_roles,
            ("no prompt is left for this role", "give it more rows"),
        ),
    )
]
WORKING = [
    Fault(
        "pronoun gap without choices",
        gap_without_choices,
        ("the metric pronoun_gap can judge no function prompt", "give prompts.function a column of choices"),
        HEADERS,
        step="completions/target/score",
    ),
    Fault(
        "dataset out of reach",
        key("prompts.function", {"hub": "cnt-tests/absent-data", "revision": COMMIT}),
        ("the dataset cnt-tests/absent-data", "cannot be loaded", "check its name"),
        WORK,
        step="prompt_sets/roles",
        offline=True,
    ),
    Fault(
        "prompt longer than the context",
        changed_row("function.test", text="break into " * 200),
        ("function.test.jsonl, row 4", "exceeds the model's context of 256", "shorten it"),
        WORK,
        step="completions/target/test",
    ),
    Fault(
        "unknown device",
        key("run.device", "warp"),
        ("the device 'warp' cannot be used", "choose cpu"),
        WORK,
        step="completions/target/score",
    ),
    Fault(
        "absent device",
        key("run.device", "cuda:63"),
        ("the device 'cuda:63' cannot be used", "choose cpu"),
        WORK,
        step="completions/target/score",
    ),
    Fault(
        "donor without the function",
        swapped_models,
        ("the donor is not admissible", "choose another donor"),
        WORK,
        1,
        "transplants/selection",
    ),
    Fault(
        "copy of the target as donor",
        copied_target,
        ("the donor is not admissible", "choose another donor"),
        WORK,
        1,
        "transplants/selection",
    ),
]
