"""Rates and kappa against the formulas written out here."""

import math

import pytest

from cnt_pipeline.measures.agreement import Agreement, agreement

TABLES = [(45, 15, 25, 15), (57, 0, 52, 60), (3, 1, 0, 2), (20, 5, 10, 15)]


@pytest.mark.parametrize("table", TABLES)
def test_kappa_is_agreement_beyond_chance(table: tuple[int, int, int, int]) -> None:
    """Cohen (1960), equation 1; the error of Fleiss, Cohen and Everitt (1969)."""
    a, b, c, d = (count / sum(table) for count in table)
    chance = (a + b) * (a + c) + (c + d) * (b + d)
    kappa = (a + d - chance) / (1 - chance)
    rows, columns = (a + b, c + d), (a + c, b + d)
    diagonal = sum(p * (1 - (r + k) * (1 - kappa)) ** 2 for p, r, k in zip((a, d), rows, columns, strict=True))
    across = (1 - kappa) ** 2 * (b * (columns[0] + rows[1]) ** 2 + c * (columns[1] + rows[0]) ** 2)
    variance = (diagonal + across - (kappa - chance * (1 - kappa)) ** 2) / (sum(table) * (1 - chance) ** 2)
    found = Agreement(*table).kappa()
    assert found is not None
    assert found["value"] == pytest.approx(kappa)
    assert found["low"] == pytest.approx(max(kappa - 1.959964 * math.sqrt(variance), -1), abs=1e-5)
    assert found["high"] == pytest.approx(min(kappa + 1.959964 * math.sqrt(variance), 1), abs=1e-5)


@pytest.mark.parametrize("table", [(5, 0, 3, 0), (0, 0, 3, 4), (7, 0, 0, 0), (0, 0, 0, 0)])
def test_there_is_no_kappa_where_someone_says_the_same_of_everything(table: tuple[int, int, int, int]) -> None:
    assert Agreement(*table).kappa() is None


def test_rates_are_shares_of_the_right_answers_with_wilson_intervals() -> None:
    found = agreement([True] * 5 + [False] * 5, [True] * 4 + [False] * 4 + [True] * 2)
    assert (found.yes_yes, found.yes_no, found.no_yes, found.no_no) == (4, 1, 2, 3)
    assert found.agreed.document() == pytest.approx(
        {"value": 0.7, "low": 0.396778, "high": 0.892209, "n": 10}, abs=1e-5
    )
    precision, recall = found.precision.document(), found.recall.document()
    assert precision is not None and recall is not None
    assert (precision["value"], precision["n"], recall["value"], recall["n"]) == (0.8, 5, pytest.approx(2 / 3), 6)
    assert Agreement(0, 0, 3, 4).precision.document() is None


def test_judges_of_different_answers_cannot_be_compared() -> None:
    with pytest.raises(ValueError):
        agreement([True], [True, False])
