"""Settings by Optuna's tree-structured Parzen estimator (TPE), from what a sweep's record says of its trials.

Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011. Optuna keeps nothing here: its
study is made again from the record for every trial, so a sweep that is started again asks for the same.
"""

import math
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from qdet.errors import ConfigError
from qdet.job import Sweep
from qdet.launching.runs.sweeps.record import Trial
from qdet.launching.runs.sweeps.settings import as_json, decode, draw_settings
from qdet.search import LogUniform, Plain, Uniform, combine, is_searched, plain
from qdet.trials import values_to_try

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STARTUP = 10
"""Trials with a result before the estimator is asked; those before them are drawn."""
ATTEMPTS = 20
"""Times that it is asked for settings that no trial had."""


def require_optuna() -> None:
    """Raise a ConfigError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--sweep.search tpe is Optuna's, which is not installed here: run pip install 'qdet[sweep]', or "
            "give --sweep.search random"
        ) from error


def propose(sweep: Sweep, trials: Mapping[int, Trial], number: int, *, seed: int) -> dict[str, Any]:
    """Return what trial `number` tries and no trial before it; that follows from the arguments alone.

    Args:
        sweep: Its space, metric and mode.
        trials: Those that have begun, by number.
        number: Of the trial, at least 1.
        seed: Of the sweep.

    Raises:
        ConfigError: Optuna is not installed.
    """
    others = {other: trial for other, trial in sorted(trials.items()) if other != number}
    asked = [trial.settings for trial in others.values()]
    for settings in _candidates(sweep, others, number, seed):
        if as_json(settings) not in asked:
            return settings
    return draw_settings(sweep, number, seed=seed)  # every combination has been tried


def _candidates(
    sweep: Sweep, trials: Mapping[int, Trial], number: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield what to try, the most promising first, and at last all that is left of a finite space."""
    learned = sum(_score(trial, sweep.metric) is not None for trial in trials.values()) >= STARTUP
    for attempt in range(ATTEMPTS):
        draws = random.Random(f"{seed} {number} {attempt}").getrandbits(32)
        if learned:
            yield _ask(sweep, trials, draws)
        else:
            yield draw_settings(sweep, number, seed=draws if attempt else seed)
    if not any(isinstance(plain(one), Uniform | LogUniform) for one in sweep.space.values()):
        left = combine(sweep.space, values_to_try)
        yield from random.Random(f"{seed} {number}").sample(left, len(left))


def _ask(sweep: Sweep, trials: Mapping[int, Trial], seed: int) -> dict[str, Any]:
    """Ask the estimator once; conditional settings are asked for where their conditions are met."""
    trial = _study(sweep, trials, seed).ask()
    settings: dict[str, Any] = {}
    for path, one in sweep.space.items():
        if is_searched(one, settings):
            settings[path] = _suggest(trial, path, plain(one))
    return settings


def _study(sweep: Sweep, trials: Mapping[int, Trial], seed: int) -> "Study":
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `constant_liar` is experimental since 2021
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
    direction = "maximize" if sweep.mode == "max" else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials([_freeze(sweep, trial) for trial in trials.values()])
    return study


def _freeze(sweep: Sweep, trial: Trial) -> "FrozenTrial":
    """Return a trial as Optuna knows it: one that was stopped is compared with those stopped as late."""
    from optuna.trial import TrialState, create_trial

    settings, score = decode(sweep.space, trial.settings), _score(trial, sweep.metric)
    state = TrialState.RUNNING if trial.state in ("running", "paused") else TrialState.PRUNED
    if trial.state == "finished" and score is not None:
        state = TrialState.COMPLETE
    elif trial.state in ("failed", "cannot run here") or (score is None and state != TrialState.RUNNING):
        state = TrialState.FAIL
    found = [(entry.epoch, entry.metrics.get(sweep.metric)) for entry in trial.reports]
    return create_trial(
        state=state,
        value=score if state == TrialState.COMPLETE else None,
        params={path: _encode(plain(sweep.space[path]), value) for path, value in settings.items()},
        distributions={path: _distribution(plain(sweep.space[path])) for path in settings},
        intermediate_values={epoch: value for epoch, value in found if value is not None},
    )


def _score(trial: Trial, metric: str) -> float | None:
    """Return the value of the last evaluation; None without one that is finite, or of a failed trial."""
    last = max(trial.reports, key=lambda entry: entry.epoch, default=None)
    value = math.nan if last is None else last.metrics.get(metric, math.nan)
    return value if math.isfinite(value) and trial.state not in ("failed", "running") else None


def _suggest(trial: Any, path: str, one: Plain) -> Any:
    if isinstance(one, Uniform | LogUniform):
        return trial.suggest_float(path, float(one.low), float(one.high), log=isinstance(one, LogUniform))
    return one.options[trial.suggest_categorical(path, range(len(one.options)))]


def _distribution(one: Plain) -> "BaseDistribution":
    """Return what Optuna draws from; of options it sees the index, which may be of any type."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(one, Uniform | LogUniform):
        return FloatDistribution(float(one.low), float(one.high), log=isinstance(one, LogUniform))
    return CategoricalDistribution(range(len(one.options)))


def _encode(one: Plain, value: Any) -> Any:
    return value if isinstance(one, Uniform | LogUniform) else one.options.index(value)
