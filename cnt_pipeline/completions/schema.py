"""One row per prompt and variant of everything that is asked of a model once and judged many times."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cnt_pipeline.study.schema import Kind


@dataclass(frozen=True)
class Completion:
    """What one model said on one prompt; no tokens where it was asked for likelihoods only.

    `variant` counts the models of a subject that stands for several (random controls); `loglik` is the summed
    log-likelihood of the greedy answer, `answer_nll` the mean NLL per token of the first reference answer,
    `choice_loglik`
    the summed log-likelihood of each choice. `target_nll`, `target_kl` and `target_agreement` compare with the target
    on the target's own answer: its mean NLL per token, KL(target || model) per token, and the share of its tokens that
    this model puts first. All in nats; None where it does not apply.
    """

    id: str
    variant: int
    text: str
    token_ids: tuple[int, ...]
    finished: bool
    loglik: float
    answer_nll: float | None = None
    choice_loglik: tuple[float, ...] = ()
    target_nll: float | None = None
    target_kl: float | None = None
    target_agreement: float | None = None

    @classmethod
    def without_answer(cls, name: str, variant: int = 0) -> "Completion":
        """The row of a prompt, by its id, to which no answer was asked for."""
        return cls(name, variant, "", (), False, 0.0)


def file_name(kind: Kind) -> str:
    """Name of a kind's file in a completions artifact."""
    return f"{kind}.parquet"


def write_completions(rows: Sequence[Completion], path: Path) -> None:
    """Write `rows` as Parquet in the order given."""
    import polars as pl

    pl.DataFrame(
        [asdict(row) for row in rows],
        schema={
            "id": pl.String,
            "variant": pl.Int32,
            "text": pl.String,
            "token_ids": pl.List(pl.Int32),
            "finished": pl.Boolean,
            "loglik": pl.Float64,
            "answer_nll": pl.Float64,
            "choice_loglik": pl.List(pl.Float64),
            "target_nll": pl.Float64,
            "target_kl": pl.Float64,
            "target_agreement": pl.Float64,
        },
    ).write_parquet(path)


def read_completions(path: Path) -> list[Completion]:
    """The rows of one kind, in file order."""
    import polars as pl

    return [
        Completion(**{**row, "token_ids": tuple(row["token_ids"]), "choice_loglik": tuple(row["choice_loglik"])})
        for row in pl.read_parquet(path, glob=False).iter_rows(named=True)
    ]
