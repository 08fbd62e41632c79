"""Optuna's TPE with Hyperband as a strategy: what most people use, on the same runner and scores.

TPE proposes one setting after another (Bergstra et al., NeurIPS 2011), and Hyperband stops those
that are behind at a fraction of the budget (Li et al., JMLR 18, 2018). Optuna's study is kept in
memory, has a seeded sampler, and is replayed from its start at each decision. So the strategy is a
pure function of the measurements.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna

from rung.search.strategy import Conclusions, Decision, Exclusion, Script, Stage, best, replay
from rung.types import Candidate, LeverSpace, Measurement, Scores

COST_OF_DIVERGED = 1e-3
"""In full budgets, added for each trial that diverged: a space in which all diverge must end."""
PROPOSALS_PER_BUDGET = 20
"""Trials for each full budget, after which the study ends. A setting that is proposed again costs
nothing, so the budget alone would not end it."""


class Tpe:
    """See `Strategy`.

    Args:
        space: ranks, target modules and alphas to choose from. Learning rates are drawn between the
            lowest and the highest, or from the listed ones if they are fixed.
        budget: how much may be trained in all, in full budgets of one candidate. The trial that
            exceeds it is finished.
        startup: how many trials are drawn at random before TPE begins.
        fractions: of the full budget, at which Hyperband compares. Each is the same multiple of the
            one before.
        seed: of the sampler.
    """

    def __init__(
        self,
        space: LeverSpace,
        budget: float,
        startup: int = 3,
        fractions: Sequence[float] = (1 / 4, 1 / 2, 1.0),
        seed: int = 0,
    ) -> None:
        self.space, self.budget, self.startup, self.seed = space, budget, startup, seed
        self.fractions = tuple(fractions)

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return replay(self._script, history)

    def _script(self, conclusions: Conclusions) -> Script:
        study, steps = self._study()
        finished: list[Measurement] = []
        known: dict[tuple[Candidate, float], Measurement] = {}
        spent = 0.0
        while spent < self.budget:
            trial = study.ask()
            candidate, last = self._propose(trial), None
            for fraction, step in zip(self.fractions, steps, strict=True):
                if (candidate, fraction) not in known and candidate in conclusions.excluded:
                    break  # It was proposed again after Hyperband had stopped it.
                if (candidate, fraction) not in known:
                    answer = yield Stage("tpe", (candidate,), fraction, self.budget - spent)
                    known[candidate, fraction] = measurement = answer[candidate]
                    spent += measurement.spent / max(1, measurement.tokens) * fraction
                last = known[candidate, fraction]
                if not last.scores:
                    break
                trial.report(last.loss, step)
                if trial.should_prune():
                    conclusions.excluded[candidate] = Exclusion("stopped_early", fraction)
                    break
            assert last is not None
            if not last.scores:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                spent += COST_OF_DIVERGED
            elif last.fraction < 1:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                conclusions.excluded.pop(candidate, None)
                study.tell(trial, last.loss)
                finished.append(last)
            if trial.number + 1 >= PROPOSALS_PER_BUDGET * max(1.0, self.budget):
                break
        if not finished:
            # Hyperband stopped every trial. The best one is trained to the full budget.
            candidate = best(known.values()).candidate
            answer = yield Stage("tpe", (candidate,))
            finished = list(answer.values())
        return best(finished).candidate

    def _study(self) -> tuple[optuna.Study, list[int]]:
        """Optuna's study, and the step that it knows each fraction by."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.startup, multivariate=True, seed=self.seed
            )
        steps = [round(fraction / self.fractions[0]) for fraction in self.fractions]
        factor = max(2, round(self.fractions[1] / self.fractions[0])) if len(steps) > 1 else 2
        pruner = optuna.pruners.HyperbandPruner(1, steps[-1], factor)
        return optuna.create_study(sampler=sampler, pruner=pruner, study_name="tpe"), steps

    def _propose(self, trial: optuna.Trial) -> Candidate:
        space = self.space
        rank = trial.suggest_categorical("rank", space.ranks)
        targets = trial.suggest_categorical("targets", space.targets)
        alpha = trial.suggest_categorical("alpha", space.alphas)
        low, high = space.learning_rates[0], space.learning_rates[-1]
        rate: float
        if space.rates_fixed or low == high:
            rate = trial.suggest_categorical("learning_rate", space.learning_rates)
        else:
            rate = float(f"{trial.suggest_float('learning_rate', low, high, log=True):.6g}")
        return Candidate(space.setting(rank, rate, targets, alpha))
