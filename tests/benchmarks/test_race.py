"""`benchmarks.race`: curves of a certificate over steps, compute and CPU time."""

import math

import pytest

from benchmarks import race
from qdet.zoo.certificates.intervals import Interval, bootstrap
from qdet.zoo.certificates.results import Curve, Measured, Results
from qdet.zoo.certificates.tables import find


def row(macs: int, *curves: tuple[float, ...], steps: tuple[int, ...] = (10, 20)) -> Measured:
    return Measured(
        parameters=1,
        macs=macs,
        rate=1e-3,
        seeds={seed: Curve(steps=steps, ap=ap) for seed, ap in enumerate(curves)},
        machine="a machine",
        versions={},
        day="2026-12-01",
    )


def test_a_line_has_the_interval_of_every_evaluation():
    found = race.line_of("a", row(5, (0.1, 0.3), (0.2, 0.3)), images=16, seconds=0.5)
    assert found.ap == (bootstrap([0.1, 0.2]), Interval(0.3, 0.3, 0.3))
    assert (found.steps, found.macs, found.cpu) == ((10, 20), 3 * 16 * 5, 0.5)


def test_curves_are_compared_where_they_cost_what_the_cheapest_costs():
    """The dear one has made half of its steps by then: its first evaluation. From zero it rises in a line."""
    cheap = race.line_of("cheap", row(5, (0.1, 0.2)), images=1, seconds=3.0)
    dear = race.line_of("dear", row(10, (0.3, 0.5)), images=1, seconds=1.0)
    assert race.at_equal([cheap, dear], lambda line: line.macs) == pytest.approx({"cheap": 0.2, "dear": 0.3})
    by_time = race.at_equal([cheap, dear], lambda line: line.cpu)
    assert by_time == pytest.approx({"cheap": 0.1 * 20 / 3 / 10, "dear": 0.5})


def test_a_table_is_measured_and_drawn(tmp_path, capsys):
    """Denoising, its groups among the steps that are timed, and a row of one seed without a band."""
    claim = find("denoising")
    rows = {"contrastive": row(10**6, (0.1, 0.3), (0.2, 0.3)), "none": row(10**6, (0.1, 0.2))}
    Results(table="denoising", scale={"images_per_step": 2}, rows=rows).write(tmp_path / "denoising.json")
    picture = tmp_path / "denoising.png"
    race.main(table="denoising", results=tmp_path, rounds=1, picture=picture)
    _, _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("| contrastive | 0.300 [0.300, 0.300] | 0.300 | ")
    assert second.startswith("| none | 0.200 [-inf, inf] | 0.200 | ")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {one.name for one in claim.rows} > rows.keys()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("denoising", r"denoising\.json: nothing of denoising was trained yet; qdet certify denoising does"),
        ("denoisin", r"denoisin: no such table\. Did you mean denoising\?"),
        ("race", r"race\.json holds no results of a table"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(tmp_path, table, said):
    (tmp_path / "race.json").write_text("{}")
    with pytest.raises(SystemExit, match=said):
        race.main(table=table, results=tmp_path)


def test_extra_queries_take_part_in_a_step():
    with_them, without = (find("denoising").row(name).small() for name in ("contrastive", "none"))
    losses = [race.make_step(job, 2)() for job in (with_them, without)]
    assert all(map(math.isfinite, losses))
    assert losses[0] > 1.2 * losses[1]
