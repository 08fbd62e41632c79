"""Optuna's TPE with Hyperband, as a strategy: what most people would write, on the same engine and the same judgement.

TPE proposes settings one after another (Bergstra et al., NeurIPS 2011), and Hyperband stops those that are behind at a
share of the budget (Li et al., JMLR 18, 2018). Optuna's study is kept in memory and played again from its start at each
decision, with a seeded sampler; so the strategy stays a pure function of the measurements.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna

from rung.search.strategy import Conclusions, Decision, Exclusion, Script, Stage, best, replay
from rung.types import Candidate, LeverSpace, Measurement, Scores


class Tpe:
    """See `Strategy`.

    Args:
        space: ranks, targets and alphas to choose from; rates are drawn between the lowest and the highest, or from
            those named where they are pinned.
        budget: how much may be trained in all, in full budgets of one candidate. The trial that goes over it is ended.
        startup: how many trials are drawn at random before TPE begins.
        shares: of the budget, at which Hyperband looks; each is the same factor of the next.
        seed: the sampler's.
    """

    def __init__(
        self,
        space: LeverSpace,
        budget: float,
        startup: int = 3,
        shares: Sequence[float] = (1 / 4, 1 / 2, 1.0),
        seed: int = 0,
    ) -> None:
        self.space, self.budget, self.startup, self.seed = space, budget, startup, seed
        self.shares = tuple(shares)

    def decide(self, baseline: Scores, history: Sequence[Measurement]) -> Decision:
        return replay(self._script, history)

    def _script(self, conclusions: Conclusions) -> Script:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.startup, multivariate=True, seed=self.seed
            )
        steps = [round(share / self.shares[0]) for share in self.shares]
        factor = max(2, round(self.shares[1] / self.shares[0])) if len(steps) > 1 else 2
        pruner = optuna.pruners.HyperbandPruner(1, steps[-1], factor)
        study = optuna.create_study(sampler=sampler, pruner=pruner, study_name="tpe")
        finished: list[Measurement] = []
        seen: dict[tuple[Candidate, float], Measurement] = {}
        spent = 0.0
        while spent < self.budget:
            trial = study.ask()
            candidate, last = self._suggested(trial), None
            for share, step in zip(self.shares, steps, strict=True):
                if (candidate, share) not in seen and candidate in conclusions.excluded:
                    break  # proposed again after Hyperband has stopped it
                if (candidate, share) not in seen:
                    answer = yield Stage("tpe", (candidate,), share, self.budget - spent)
                    seen[candidate, share] = measurement = answer[candidate]
                    spent += measurement.spent / max(1, measurement.tokens) * share
                last = seen[candidate, share]
                if not last.scores:
                    break
                trial.report(last.loss, step)
                if trial.should_prune():
                    conclusions.excluded[candidate] = Exclusion("stopped_early", share)
                    break
            assert last is not None
            if not last.scores:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                spent += 1e-3  # so that a space in which all diverge comes to an end
            elif last.fraction < 1:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                conclusions.excluded.pop(candidate, None)
                study.tell(trial, last.loss)
                finished.append(last)
            # A setting that is proposed again costs nothing, so proposals have an end of their own.
            if trial.number + 1 >= 20 * max(1.0, self.budget):
                break
        if not finished:
            # Hyperband has let none through: the best of what it has seen is trained to its end.
            reached = best(seen.values()).candidate
            answer = yield Stage("tpe", (reached,))
            finished = list(answer.values())
        return best(finished).candidate

    def _suggested(self, trial: optuna.Trial) -> Candidate:
        space = self.space
        rank = trial.suggest_categorical("rank", space.ranks)
        targets = trial.suggest_categorical("targets", space.targets)
        alpha = trial.suggest_categorical("alpha", space.alphas)
        low, high = space.learning_rates[0], space.learning_rates[-1]
        rate: float
        if space.pinned or low == high:
            rate = trial.suggest_categorical("learning_rate", space.learning_rates)
        else:
            rate = float(f"{trial.suggest_float('learning_rate', low, high, log=True):.6g}")
        return Candidate(space.setting(rank, rate, targets, alpha))
