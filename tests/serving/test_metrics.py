"""Sums over replicas, compared with adding up the text of each."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from qdet.serving import metrics as served
from qdet.serving.metrics import MetricsBoard, ServiceMetrics, sum_metrics, write_text

requests = st.lists(
    st.tuples(st.sampled_from(["/predict", "/health"]), st.sampled_from([200, 422]), st.floats(0, 100)),
    max_size=8,
)


def parse(text: bytes) -> dict[tuple, float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def replica(asked) -> ServiceMetrics:
    metrics = ServiceMetrics()
    for path, status, seconds in asked:
        metrics.observe_request(path, status, seconds)
        metrics.observe_batch(1 + status % 3, seconds)
    return metrics


@given(st.lists(requests, min_size=1, max_size=3))
def test_sums_are_those_of_the_samples(replicas):
    all_metrics = [replica(asked).collect() for asked in replicas]
    expected = Counter()
    for one in all_metrics:
        expected.update(parse(write_text(one)))
    summed = parse(write_text(sum_metrics(metric for one in all_metrics for metric in one)))
    assert summed.keys() == expected.keys()
    assert all(abs(summed[key] - expected[key]) <= 1e-9 * abs(expected[key]) for key in summed)


def test_of_a_replica_that_is_gone_only_its_counts_remain(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(served.time, "monotonic", lambda: now[0])
    board = MetricsBoard()
    for name in ("gone", "alive"):
        metrics = replica([("/predict", 200, 0.1)])
        metrics.waiting.set(5)
        board.report(name, metrics.collect())
    assert parse(write_text(board.collect()))[("qdet_waiting_images",)] == 10
    now[0] += served.STALE_SECONDS + 1
    board.report("alive", metrics.collect())
    board.report("alive", metrics.collect())  # replaces, does not add
    values = parse(write_text(board.collect()))
    assert values[("qdet_waiting_images",)] == 5
    assert values[("qdet_requests_total", ("path", "/predict"), ("status", "200"))] == 2
