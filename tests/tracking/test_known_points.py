"""Which points a run has: the same answers as one who remembers all of them, from bounded memory."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from qdet.tracking import known_points
from qdet.tracking.known_points import KnownPoints


class Server:
    """Keeps every point, as MLflow does, and counts how often it is asked."""

    def __init__(self, points: dict[str, dict[int, int]]) -> None:
        self.points, self.asked = points, 0

    def get_metric_history(self, run_id: str, name: str) -> list[SimpleNamespace]:
        assert run_id == "r"
        self.asked += 1
        points = self.points.get(name, {})
        return [SimpleNamespace(step=step, timestamp=at) for step, at in points.items()]

    def known(self) -> KnownPoints:
        names = {name: 0.0 for name, points in self.points.items() if points}
        info = SimpleNamespace(run_id="r")
        return KnownPoints(self, SimpleNamespace(info=info, data=SimpleNamespace(metrics=names)))


def kept(known: KnownPoints) -> int:
    return sum(len(window.steps) + len(window.stamps) for window in known._windows.values())


STEPS, NAMES = st.integers(0, 12), st.sampled_from("abcd")
POINTS = st.dictionaries(NAMES, st.dictionaries(STEPS, st.integers(0, 2), max_size=10))
ASKED = st.lists(st.tuples(st.booleans(), NAMES, STEPS, st.integers(0, 2)), max_size=40)


@given(POINTS, ASKED, st.integers(1, 4), st.integers(1, 3))
def test_answers_are_those_of_one_who_remembers_everything(points, asked, most, names):
    server = Server({name: dict(found) for name, found in points.items()})
    known_points.POINTS, known_points.NAMES, before = most, names, (known_points.POINTS, known_points.NAMES)
    try:
        known = server.known()
        for sends, name, step, at in asked:
            truth = server.points.setdefault(name, {})
            assert known.stamp(name, step) == truth.get(step)
            if sends:
                assert known.takes(name, step, at) == (truth.get(step, at) == at)
                if truth.setdefault(step, at) == at:
                    known.add(name, step, at)
            assert kept(known) <= 2 * most * names
    finally:
        known_points.POINTS, known_points.NAMES = before


def test_a_long_run_asks_no_server_and_keeps_what_is_bounded():
    server = Server({})
    known = server.known()
    for step in range(4_000):
        assert known.takes("loss", step, step)
        server.points.setdefault("loss", {})[step] = step
        known.add("loss", step, step)
    assert (server.asked, kept(known)) == (0, 2 * known_points.POINTS)
    assert known.stamp("loss", 3) == 3  # of the best checkpoint, say
    assert server.asked == 1


def test_a_resumed_run_asks_once_for_the_steps_that_it_repeats():
    server = Server({"loss": dict.fromkeys(range(100_000), 0)})
    known = server.known()
    for step in range(99_700, 100_300):
        assert known.takes("loss", step, 1) == (step >= 100_000)
        if step >= 100_000:
            server.points["loss"][step] = 1
            known.add("loss", step, 1)
    assert server.asked == 1
    assert kept(known) <= 2 * known_points.POINTS
