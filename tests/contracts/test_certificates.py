"""Certificates: intervals against slow literal readings, verdicts, and results that survive a restart."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qdet.errors import ConfigError
from qdet.launching.commands import certification
from qdet.launching.commands.certification import Plan, measure_table, slug
from qdet.launching.commands.certify import CertifyCommand
from qdet.recipes import Published
from qdet.training.beginning.conditions import Conditions
from qdet.training.beginning.record import Beginning
from qdet.zoo.certificates import tables
from qdet.zoo.certificates.certificate import certify
from qdet.zoo.certificates.intervals import DRAWS, bootstrap, compare, judge
from qdet.zoo.certificates.page import render, render_all
from qdet.zoo.certificates.results import Curve, Measured, Results

APS = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


def measured(aps, **changes) -> Measured:
    row = Measured(
        parameters=1_000_000,
        macs=2_000_000,
        rate=1e-3,
        seeds={seed: Curve(steps=(10, 20), ap=(ap / 2, ap)) for seed, ap in enumerate(aps)},
        machine="x86_64, Linux",
        versions={"qdet": "1"},
        day="2026-11-28",
    )
    return replace(row, **changes)


@given(values=st.lists(APS, min_size=2, max_size=4))
def test_the_interval_is_that_of_all_resamples(values):
    means = sorted(np.mean(pick) for pick in itertools.product(values, repeat=len(values)))
    count = len(values)
    tail = stats.norm.cdf(math.sqrt(count / (count - 1)) * stats.t.ppf(0.025, count - 1))
    found = bootstrap(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(means[max(math.ceil(tail * len(means)) - 1, 0)])
    assert found.high == pytest.approx(means[math.ceil((1 - tail) * len(means)) - 1])


def test_intervals_of_normal_values_hold_the_mean_about_as_often_as_they_say():
    """A plain percentile interval of five values holds it in 82 % of cases."""
    rng = np.random.default_rng(3)
    held = 0
    for values in rng.normal(size=(400, 5)):
        found = bootstrap(list(values))
        held += found.low <= 0 <= found.high
    assert 0.89 <= held / 400 <= 0.98


def test_many_seeds_are_resampled_at_random_and_alike_every_time():
    values = list(np.random.default_rng(0).normal(0.3, 0.02, 12))
    found = bootstrap(values)
    half = (found.high - found.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 11) * np.std(values, ddof=1) / math.sqrt(12), rel=0.2)
    assert bootstrap(values) == found
    assert DRAWS >= 10_000


def test_one_seed_says_nothing():
    found = bootstrap([0.4])
    assert (found.mean, found.low, found.high) == (0.4, -math.inf, math.inf)
    assert judge(found) == "undecided"


@given(pairs=st.lists(st.tuples(APS, APS), min_size=2, max_size=5), shift=APS)
def test_rows_are_compared_seed_by_seed(pairs, shift):
    """What all rows of a seed share cancels out; seeds that only one has do not count."""
    low = {seed: a for seed, (a, _) in enumerate(pairs)}
    high = {seed: b for seed, (_, b) in enumerate(pairs)}
    plain = compare(low, high)
    moved = compare({s: a + shift for s, a in low.items()}, {s: b + shift for s, b in high.items()})
    assert plain.low == pytest.approx(moved.low, abs=1e-9)
    assert plain.high == pytest.approx(moved.high, abs=1e-9)
    assert compare({**low, 99: 1.0}, high) == plain
    mirrored = compare(high, low)
    assert mirrored.low == pytest.approx(-plain.high, abs=1e-9)
    assert mirrored.high == pytest.approx(-plain.low, abs=1e-9)


PAPER = {"a": Published(ap=30.0), "b": Published(ap=40.0), "c": Published(ap=35.0), "d": Published()}
HELD = {
    "a": measured([0.10, 0.11, 0.10, 0.12, 0.11]),
    "b": measured([0.30, 0.31, 0.30, 0.32, 0.31]),
    "c": measured([0.20, 0.21, 0.20, 0.22, 0.21]),
    "d": measured([0.25, 0.21, 0.20, 0.22, 0.21]),
}


def test_an_order_that_holds_is_reproduced():
    found = certify(PAPER, HELD)
    assert [(p.lower, p.higher, p.verdict) for p in found.pairs] == [
        ("a", "c", "reproduced"),
        ("c", "b", "reproduced"),
    ]
    assert (found.verdict, found.why) == ("reproduced", "")


@pytest.mark.parametrize(
    ("name", "aps", "verdict", "why"),
    [
        ("c", [0.40, 0.41, 0.40, 0.42, 0.41], "contradicted", ""),
        ("c", [0.10, 0.31, 0.05, 0.32, 0.02], "undecided", ""),
        ("a", [0.01, 0.02, 0.01, 0.01, 0.02], "undecided", "below AP 0.05, too early to tell: a"),
        ("a", [0.10, 0.11], "undecided", "fewer than 5 seeds: a"),
    ],
)
def test_tampering_with_a_row_changes_the_verdict(name, aps, verdict, why):
    found = certify(PAPER, HELD | {name: measured(aps)})
    assert (found.verdict, found.why) == (verdict, why)


@pytest.mark.parametrize(
    "rows",
    [
        {"a": measured([0.10, 0.11]), "c": measured([0.20, 0.21])},
        {"a": measured([0.010] * 5), "c": measured([0.049] * 5)},
    ],
)
def test_a_pair_of_few_seeds_or_low_rows_is_undecided(rows):
    found = certify(PAPER, HELD | rows)
    assert next((p.lower, p.higher, p.verdict) for p in found.pairs) == ("a", "c", "undecided")


def test_a_missing_row_leaves_the_table_undecided():
    found = certify(PAPER, {name: row for name, row in HELD.items() if name != "c"})
    assert (found.verdict, found.why) == ("undecided", "not measured yet: c")
    assert [(pair.lower, pair.higher) for pair in found.pairs] == [("a", "b")]


def test_rows_of_equal_published_ap_claim_no_order():
    paper = PAPER | {"c": Published(ap=30.0)}
    assert [(p.lower, p.higher) for p in certify(paper, HELD).pairs] == [("a", "b"), ("c", "b")]


def test_results_come_back_from_their_file(tmp_path):
    results = Results(table="t", scale={"steps": 20}, rows=HELD)
    results.write(tmp_path / "t.json")
    assert Results.read(tmp_path / "t.json") == results
    assert [file.name for file in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found["rows"]["a"]["seeds"].clear(),
        lambda found: found["rows"]["a"]["seeds"]["0"].update(ap=[0.1]),
        lambda found: found["rows"]["a"]["seeds"]["0"].update(ap=["x", "y"]),
        lambda found: found["rows"]["a"].pop("rate"),
        lambda found: found["rows"]["a"].update(macs="many"),
        lambda found: found["rows"]["a"].update(hours="many"),
        lambda found: found["rows"]["a"].update(more=1),
        lambda found: found.pop("scale"),
        lambda found: found.update(rows=[]),
    ],
)
def test_damaged_results_are_refused(tmp_path, damage):
    path = tmp_path / "t.json"
    Results(table="t", scale={}, rows=HELD).write(path)
    found = json.loads(path.read_text())
    damage(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=r"t\.json holds no results"):
        Results.read(path)


def test_every_table_can_be_trained_at_demo_size():
    names = list(tables.claims())
    assert {"race", "denoising", "adamixer_r50:mixing", "deformable_detr:variants"} <= set(names)
    for name in names:
        claim = tables.find(name)
        jobs = [row.small() for row in claim.rows]
        assert len({repr(job.detector) for job in jobs}) == len(jobs), name
        assert len({repr(job.detector.backbone) for job in jobs}) == 1, name
        assert len({row.name for row in claim.rows}) == len(jobs)


def test_rows_of_a_table_differ_in_its_setting_alone():
    from qdet.config import flatten

    claim = tables.find("adamixer_r50:mixing")
    first, *others = (flatten(row.small()) for row in claim.rows)
    for other in others:
        assert {path for path in first if first[path] != other[path]} == {claim.setting}


def test_denoising_is_raced_against_the_same_detectors_without():
    race = tables.find("race")
    for name in ("dn_detr_r50", "dino_r50"):
        with_it, without = (
            race.row(f"{name}{end}").small().detector.denoising for end in ("", "-without_denoising")
        )
        assert (with_it.kind != "none", without.kind) == (True, "none")
        assert race.row(f"{name}-without_denoising").published == Published()
    tried = {row.name: row.small().detector.denoising for row in tables.find("denoising").rows}
    assert {"none", "plain", "contrastive"} == {config.kind for config in tried.values()}
    assert {None, 1, 3, 5} == {config.groups for config in tried.values()}
    assert {"image", "batch"} == {config.grouping for config in tried.values()}


def test_an_unknown_table_names_the_near_one():
    with pytest.raises(ConfigError, match=r"Did you mean adamixer_r50:mixing\?"):
        tables.find("adamixer_r50:mixin")


@pytest.fixture
def trained(monkeypatch):
    """Trainings are only counted, half an hour each time: the sweep that they are is tested elsewhere."""
    calls = []

    def train(plan, job, setting, values, *, suffix):
        calls.append((job.name, setting, tuple(values), job.optim.lr))
        monkeypatch.setattr(certification.time, "monotonic", lambda: 1800.0 * len(calls))
        if setting == "optim.lr":
            return [Curve(steps=(10,), ap=(0.2 if rate == 1e-3 else 0.1,)) for rate in values]
        return [Curve(steps=(10,), ap=(0.3 + seed / 100,)) for seed in values]

    monkeypatch.setattr(certification, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(certification, "_train", train)
    return calls


def plan(demo_shards, tmp_path, name="adamixer_r50:mixing", **changes) -> Plan:
    claim = tables.find(name)
    given = {
        "claim": replace(claim, rows=claim.rows[:2]), "steps": 10, "seeds": 2, "data": demo_shards,
        "store": str(tmp_path), "concurrent": 1, "address": None, "wait": 0.0,
    }  # fmt: skip
    return Plan(**(given | changes))


def test_rows_land_one_by_one_and_are_not_trained_again(demo_shards, tmp_path, trained):
    path, once = tmp_path / "c" / "t.json", plan(demo_shards, tmp_path)
    for count, _ in enumerate(measure_table(once, path), 1):
        assert len(Results.read(path).rows) == count
        if count == 1:
            break  # killed
    assert list(measure_table(once, path))
    assert [call[2] for call in trained] == [(0, 1), (0, 1)]
    assert [call[0][-7:] for call in trained] == ["acm-acm", "asm-asm"]
    assert not list(measure_table(once, path))
    more = list(measure_table(replace(once, seeds=3), path))[-1]
    assert [call[2] for call in trained[2:]] == [(2,), (2,)]
    assert [sorted(row.seeds) for row in more.rows.values()] == [[0, 1, 2], [0, 1, 2]]
    assert all(row.parameters > 10_000 and row.macs > 10**6 for row in more.rows.values())
    assert [row.hours for row in more.rows.values()] == [1.0, 1.0]
    assert "2.0 hours for 2 rows. Again, or further" in render_all({once.claim.name: path})


def test_hours_that_were_not_recorded_stay_unknown(demo_shards, tmp_path, trained):
    path, once = tmp_path / "t.json", plan(demo_shards, tmp_path)
    (first, _) = measure_table(once, path)
    first.put("acm-acm", replace(first.rows["acm-acm"], hours=None)).write(path)
    more = list(measure_table(replace(once, seeds=3), path))[-1]
    assert [row.hours for row in more.rows.values()] == [None, 0.5]
    assert "0.5 hours for 1 row. Again, or further" in render_all({once.claim.name: path})


def test_a_row_names_the_machines_of_its_runs(demo_shards, tmp_path, trained):
    """Cards of the cluster, not the processor of who asks; a damaged or missing record says nothing."""
    once = plan(demo_shards, tmp_path, seeds=4, claim=replace(tables.find("race"), rates=()))
    once = replace(once, claim=replace(once.claim, rows=once.claim.rows[:2]))
    conditions = Conditions(commit=None, versions={}, device="cuda", processor="NVIDIA H200", threads=0)
    begun = Beginning(
        job={}, ranks=1, hosts=("a",), conditions=conditions, plan_version=1, data={}, losses=(1.0,)
    )
    for label, record in (
        ("t01", begun.to_bytes()),
        ("t02", b"{}"),
        ("t04", replace(begun, conditions=replace(conditions, processor="AMD EPYC, AVX512")).to_bytes()),
    ):
        run = tmp_path / f"certify-race-adamixer_r50-seeds-0-3-{label}"
        run.mkdir()
        (run / "beginning.json").write_bytes(record)
    found = list(measure_table(once, tmp_path / "t" / "race.json"))[-1]
    assert [row.machine for row in found.rows.values()] == [
        "AMD EPYC, AVX512; NVIDIA H200",
        "an unknown machine",
    ]


def test_the_race_chooses_a_learning_rate_for_every_row(demo_shards, tmp_path, trained):
    found = list(measure_table(plan(demo_shards, tmp_path, "race"), tmp_path / "race.json"))[-1]
    assert [call[1] for call in trained] == ["optim.lr", "train.seed"] * 2
    assert trained[0][2] == tables.RATES
    assert [row.rate for row in found.rows.values()] == [1e-3, 1e-3]
    assert [row.hours for row in found.rows.values()] == [1.0, 1.0]
    assert [call[3] for call in trained if call[1] == "train.seed"] == [1e-3, 1e-3]


def test_a_row_that_two_tables_share_is_trained_once(demo_shards, tmp_path, trained):
    """AdaMixer as published is a row of all its tables; its neighbour without adaptivity is of one."""
    whole = {name: tables.find(f"adamixer_r50:{name}") for name in ("adaptive", "mixing")}
    first = plan(demo_shards, tmp_path, claim=replace(whole["adaptive"], rows=whole["adaptive"].rows[2:]))
    measured = list(measure_table(first, tmp_path / f"{slug(first.claim.name)}.json"))[-1]
    assert [call[0][-7:] for call in trained] == ["content", "ve-both"]
    trained.clear()
    second = plan(demo_shards, tmp_path, claim=replace(whole["mixing"], rows=whole["mixing"].rows[1:3]))
    path = tmp_path / f"{slug(second.claim.name)}.json"
    found = list(measure_table(second, path))[-1]
    assert [call[0][-7:] for call in trained] == ["asm-asm"]
    assert found.rows["acm-asm"] == replace(measured.rows["both"], source="adamixer_r50:adaptive, both")
    assert "same row: `acm-asm` (`adamixer_r50:adaptive, both`)." in render(second.claim, found)
    more = list(measure_table(replace(second, seeds=3), path))[-1].rows["acm-asm"]
    assert [call[2] for call in trained[1:]] == [(2,), (2,)]
    assert (sorted(more.seeds), more.source) == ([0, 1, 2], "adamixer_r50:adaptive, both")


def test_a_row_of_another_scale_or_learning_rate_is_trained_anew(demo_shards, tmp_path, trained):
    whole = tables.find("adamixer_r50:adaptive")
    both = plan(demo_shards, tmp_path, claim=replace(whole, rows=whole.rows[3:]))
    path = tmp_path / f"{slug(whole.name)}.json"
    list(measure_table(both, path))
    results = Results.read(path)
    mixing = tables.find("adamixer_r50:mixing")
    again = replace(both, claim=replace(mixing, rows=mixing.rows[2:3]))
    for change in (
        {"scale": {**results.scale, "steps": 20}},
        {"rows": {"both": replace(results.rows["both"], rate=1.0)}},
    ):
        replace(results, **change).write(path)
        trained.clear()
        (found,) = list(measure_table(again, tmp_path / "mixing.json"))
        assert (len(trained), found.rows["acm-asm"].source) == (1, "")
        (tmp_path / "mixing.json").unlink()


def test_rows_of_another_scale_are_refused(demo_shards, tmp_path, trained):
    path = tmp_path / "t.json"
    list(measure_table(plan(demo_shards, tmp_path), path))
    with pytest.raises(ConfigError, match="has rows with steps 10, not 20"):
        list(measure_table(plan(demo_shards, tmp_path, steps=20), path))
    with pytest.raises(ConfigError, match="holds the table adamixer_r50:mixing, not adamixer_r50:adaptive"):
        list(measure_table(plan(demo_shards, tmp_path, "adamixer_r50:adaptive"), path))


def test_the_page_has_every_row_and_pair(tmp_path, capsys):
    claim = tables.find("adamixer_r50:pyramid")
    rows = dict(zip(["fpn", "pafpn", "none"], [HELD["c"], HELD["a"], HELD["b"]], strict=True))
    scale = {"steps": 500, "images_per_step": 16, "precision": "bf16"}
    Results(table=claim.name, scale=scale, rows=rows).write(tmp_path / f"{slug(claim.name)}.json")
    shown = render(claim, Results(table=claim.name, scale=scale, rows=rows))
    assert "| fpn | 42.1 | 0.208 [0.200, " in shown
    assert "| pafpn < fpn | +0.4 | +0.100 [+0.100, +0.100] | reproduced |" in shown
    assert "**reproduced**" in shown
    command = CertifyCommand(table=claim.name, results=tmp_path, show=True)
    assert command.run(()) == 0
    assert capsys.readouterr().out == shown
    assert CertifyCommand(results=tmp_path, page=True).run(()) == 0
    page = capsys.readouterr().out
    assert page == render_all({claim.name: tmp_path / f"{slug(claim.name)}.json"})
    assert shown.strip() in page
    assert CertifyCommand(results=tmp_path).run(()) == 0
    assert "adamixer_r50:pyramid: 3 of 3 rows\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nothing of race was measured yet"):
        CertifyCommand(table="race", results=tmp_path, show=True).run(())


def test_the_page_of_the_docs_is_made_of_its_results():
    docs = Path(__file__).parents[2] / "docs"
    files = certification.paths_of(tables.claims(), docs / "certificates")
    assert (docs / "certificates.md").read_text() == render_all(files)
