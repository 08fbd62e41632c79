"""What a race shows about each lever."""

from __future__ import annotations

import math

import pytest
from tests.search.race_helpers import RACE_FRACTION, run_race
from tests.search.worlds import BASELINE, PARAMETERS_PER_RANK, SPACE, hill, measure

from rung.search.race import Race
from rung.search.race_verdicts import lever_standings, race_verdicts
from rung.search.stats import shared_confidence
from rung.search.surface import INTERVAL_SHRINKAGE
from rung.search.verdicts import lever_value
from rung.types import Candidate, LeverSpace, Setting, Verdict

ERROR = 0.005


def verdicts(race: Race) -> list[Verdict]:
    return race_verdicts(race, RACE_FRACTION, ERROR)


@pytest.mark.parametrize(("count", "alphas"), [(6, {"16", "16 rsLoRA"}), (10, {"16", "64"})])
def test_nothing_is_said_about_an_alpha_that_no_setting_had(count: int, alphas: set[str]) -> None:
    """With six settings more, r and rsLoRA are tried; with ten, 4r too.

    At rank 16 the scale of 4r is that of rsLoRA.
    """
    race, _ = run_race(SPACE, hill(2e-3, (0.1, 0.0, 0.0)), (9, count))
    assert (race.leader.rank, race.leader.alpha) == (16, 32)
    (standing,) = [s for s in lever_standings(race, RACE_FRACTION) if s.lever == "alpha"]
    assert {lever_value(setting, "alpha") for setting, _ in standing.losses} == {"32", *alphas}
    (verdict,) = [v for v in verdicts(race) if v.lever == "alpha"]
    assert verdict.before is not None
    sides = {lever_value(s, "alpha") for s in (verdict.before, verdict.after)}
    assert sides <= {"32", *alphas}


def test_a_standing_has_the_values_of_one_lever_from_the_lowest_expected_loss() -> None:
    race, _ = run_race(SPACE, hill(2e-3, (0.1, 0.0, 0.0)), (9, 10))
    standings = lever_standings(race, RACE_FRACTION)
    assert {s.lever for s in standings} == {"learning_rate", "targets", "rank", "alpha"}
    for standing in standings:
        assert standing.fraction == RACE_FRACTION
        assert race.leader in dict(standing.losses)
        losses = [loss for _, loss in standing.losses]
        assert losses == sorted(losses)
        values = [lever_value(setting, standing.lever) for setting, _ in standing.losses]
        assert len(set(values)) == len(values) > 1


def test_a_verdict_on_the_race_has_its_fraction_one_seed_and_one_lever() -> None:
    race, _ = run_race(SPACE, hill(2e-3, (0.1, 0.0, 0.0)), (9, 8))
    judged = verdicts(race)
    assert {v.lever for v in judged} == {"learning_rate", "targets", "rank", "alpha"}
    for verdict in judged:
        assert (verdict.fraction, verdict.seeds) == (RACE_FRACTION, 1)
        assert race.leader in (verdict.before, verdict.after) or verdict.kind != "race"


def test_leading_modules_are_also_compared_at_as_many_parameters() -> None:
    race, _ = run_race(SPACE, hill(2e-3, (0.2, 0.2, 0.0), 0.05), (9, 8))
    (matched,) = [v for v in verdicts(race) if v.kind == "matched_parameters"]
    assert matched.before is not None
    assert matched.lever == "targets"
    assert (matched.before.targets, matched.after.targets) == ("attention", "all-linear")
    before, after = (
        s.rank * PARAMETERS_PER_RANK[s.targets] for s in (matched.before, matched.after)
    )
    assert before == pytest.approx(after, rel=0.1)
    assert matched.before.rank != matched.after.rank


def test_where_the_runs_are_too_noisy_to_tell_anything_the_verdict_says_so() -> None:
    race, _ = run_race(SPACE, hill(2e-3), (9, 8), seed_noise=0.5)
    hopeless = [v for v in verdicts(race) if v.high - v.low > 5]
    assert hopeless
    assert {(v.outcome, v.reason, v.required) for v in hopeless} == {
        ("undecided", "no_information", None)
    }


def test_a_race_of_nothing_shows_nothing() -> None:
    race, _ = run_race(SPACE, hill(), ())
    assert verdicts(race) == []
    assert lever_standings(race, RACE_FRACTION) == []


def test_a_lower_error_gives_wider_intervals_around_the_same_estimates() -> None:
    race, _ = run_race(SPACE, hill(2e-3), (9, 8))
    for strict, loose in zip(
        race_verdicts(race, RACE_FRACTION, 0.001),
        race_verdicts(race, RACE_FRACTION, 0.1),
        strict=True,
    ):
        assert strict.gain == loose.gain
        assert strict.low < loose.low < loose.high < strict.high
        assert math.isfinite(strict.high)


def test_the_error_is_shared_by_all_values_that_could_have_been_compared() -> None:
    race, _ = run_race(SPACE, hill(2e-3, (0.2, 0.2, 0.0), 0.05), (9, 8))
    standings = lever_standings(race, RACE_FRACTION)
    choices = sum(len(standing.losses) - 1 for standing in standings)
    judged = verdicts(race)
    assert any(v.kind == "matched_parameters" for v in judged)
    choices += len(race.all_targets()) - 1
    surface = race.fit_surface(INTERVAL_SHRINKAGE)
    for verdict in judged:
        assert verdict.before is not None
        gain = surface.gain(verdict.before, verdict.after)
        interval = gain.interval(shared_confidence(choices, 1 - ERROR))
        assert (verdict.low, verdict.high) == pytest.approx((interval.low, interval.high))


def test_alphas_that_were_tried_at_one_scale_have_no_verdict() -> None:
    """16 at rank 8 and 2r at rank 16 are one scale; 16 at rank 16 was not tried."""
    space = LeverSpace((8, 16), (1e-3, 2e-3, 4e-3), alphas=("16", "2r"))
    race = Race(space, 0.01, BASELINE)
    settings = [Setting(r, 2 * r, "attention", rate) for r in (8, 16) for rate in (1e-3, 2e-3)]
    world = hill(2e-3, (0.2, 0.0, 0.0))
    race.add_race([measure(world, Candidate(s), RACE_FRACTION) for s in settings])
    assert race.untried() == {}
    assert "alpha" not in {v.lever for v in verdicts(race)}
    assert "alpha" not in {s.lever for s in lever_standings(race, RACE_FRACTION)}
