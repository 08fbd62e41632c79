"""The summary of a study: what to use, why, at what cost, and what it does not cover."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.report.render import printed, words
from tests.report.results import (
    BEST,
    MATCHED,
    ONE_SEED,
    RACE,
    RANK_ABOVE,
    RESULTS,
    RSLORA,
    SETTINGS,
    STANDINGS,
    UNDECIDED,
    UNTUNED,
    full_climb,
    grid_with_one_seed,
    judged_by_metric,
    setting,
    setting_result,
    with_a_diverged_lever,
)
from tests.report.studies import study
from tests.search.worlds import SPACE, hill

from rung.metrics.report import MetricGain
from rung.report.format import fixed
from rung.report.tune import lora_config, summary
from rung.search.climb import Climb
from rung.search.effort import Effort
from rung.search.grid import Grid, Random
from rung.search.strategy import Strategy
from rung.search.tpe import Tpe
from rung.tuning.result import StudyResult, TrivialAnswer
from rung.types import LeverSpace

FOLDER = Path("studies/pronounce")


def shown(result: StudyResult, width: int = 80) -> str:
    return printed(summary(result, FOLDER), width=width)


def line_of(text: str, start: str) -> str:
    (line,) = (line for line in text.splitlines() if line.lstrip("▸ ").startswith(start))
    return line


# In this order.


def test_it_answers_in_the_order_in_which_people_ask() -> None:
    text = shown(full_climb())
    parts = [
        "Use rank 32, alpha 64, all-linear, learning rate 0.001",
        "What each lever was worth",
        "The rank ladder",
        "Quality on 400 test rows",
        "Finalists on 64 validation rows",
        "All settings",
        "Cost: 14 min 31 s",
        "Not covered:",
        "from peft import LoraConfig",
        "Adapter ",
        "Evidence",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_it_begins_with_the_setting_and_its_loss_against_the_untuned_model() -> None:
    lines = shown(full_climb()).strip().splitlines()
    assert lines[:3] == [
        "Use rank 32, alpha 64, all-linear, learning rate 0.001",
        "Validation loss 1.363 (1.332 to 1.394) against 8.360 untuned, in nats a token.",
        "▲ Against the untuned model: better by 6.997 (6.897 to 7.097).",
    ]


def test_an_adapter_that_is_not_shown_to_be_better_is_not_called_so() -> None:
    untold = replace(UNTUNED, outcome="undecided", reason="wide_interval", low=-0.1, gain=0.2)
    text = shown(full_climb(verdicts=(untold,)))
    assert "? Against the untuned model: undecided, a gain of −0.100 to 7.097" in text


def test_the_unit_of_losses_is_named_once_at_the_top() -> None:
    assert shown(full_climb()).count("nats a token") == 1


def test_it_ends_with_the_paths_of_the_adapter_and_of_the_evidence() -> None:
    lines = shown(full_climb()).strip().splitlines()
    adapter = FOLDER / "adapters" / f"{BEST.label}-s2"
    assert lines[-2:] == [f"Adapter   {adapter}", f"Evidence  {FOLDER / 'result.json'}"]


# Levers.


def lever_lines(result: StudyResult, lever: str) -> list[str]:
    """The lines of a lever, without its name."""
    part = shown(result).partition("What each lever was worth\n")[2].partition("\n\n")[0]
    lines = part.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"{lever}  "))
    own = [lines[start].removeprefix(lever).strip()]
    for line in lines[start + 1 :]:
        if not line.startswith(" "):
            break
        own.append(line.strip())
    return own


def test_a_lever_has_its_values_with_losses_the_best_first_and_the_recommended_marked() -> None:
    assert lever_lines(full_climb(), "target modules")[0] == (
        "▸ all-linear: 1.601 · mlp: 1.634 · attention: 1.814"
    )


def test_the_verdict_on_a_lever_stands_under_its_values() -> None:
    assert lever_lines(full_climb(), "learning rate")[-1] == (
        "▲ 0.001 over 0.0005: better by 0.160 (0.051 to 0.269)"
    )
    assert words(" ".join(lever_lines(full_climb(), "alpha"))) == (
        "▸ 64: 1.601 · 32: 1.615 · 128: 1.631 ? 128 over 64: one seed cannot tell "
        "(gain −0.120 to 0.060) not tried: rslora"
    )


def test_target_modules_are_also_compared_at_as_many_parameters() -> None:
    assert "all-linear at rank 12, as many parameters, over attention at rank 32" in words(
        " ".join(lever_lines(full_climb(), "target modules"))
    )


def test_what_one_seed_cannot_tell_is_not_called_undecided() -> None:
    race = [RACE | UNDECIDED, RACE | ONE_SEED]
    for change in race:
        text = shown(full_climb(verdicts=(replace(MATCHED, **change),), ladder=()))
        assert "undecided" not in text
        assert "cannot tell" in text or "too few runs to tell" in text


def test_values_that_were_not_tried_and_values_that_diverged_are_named() -> None:
    result = with_a_diverged_lever()
    assert lever_lines(result, "learning rate")[1] == "0.008: diverged"
    assert lever_lines(result, "target modules")[-1] == "not tried: mlp, lm_head"
    assert lever_lines(result, "alpha") == ["not tried: r, 4r, rslora"]


def test_a_value_that_the_surface_estimates_but_that_always_diverged_has_no_loss() -> None:
    losses = (*STANDINGS[0].losses, (setting(rate=8e-3), 1.9))
    result = with_a_diverged_lever(standings=(replace(STANDINGS[0], losses=losses),))
    assert "0.008: diverged" in shown(result)
    assert "1.900" not in shown(result)


def test_alpha_is_a_multiple_where_the_race_was_led_by_another_rank() -> None:
    best = replace(full_climb().recommendation, setting=setting(16))
    text = " ".join(lever_lines(full_climb(recommendation=best), "alpha"))
    assert text.startswith("▸ 2r: 1.601 · r: 1.615 · 4r: 1.631")


def test_under_rslora_the_setting_says_so_and_so_does_the_code() -> None:
    best = replace(full_climb().recommendation, setting=RSLORA)
    text = shown(full_climb(recommendation=best))
    assert "Use rank 32, alpha 16 rsLoRA, all-linear, learning rate 0.001" in text
    assert "use_rslora=True" in text


def test_a_grid_has_losses_in_full_and_no_claims() -> None:
    text = shown(grid_with_one_seed())
    assert lever_lines(grid_with_one_seed(), "learning rate") == ["▸ 0.001: 1.440 · 0.0005: 1.470"]
    assert "One seed cannot tell a gain from luck." in words(text)
    assert not re.search("▲|■|better than|undecided", text)


def test_a_verdict_of_the_ladder_is_not_told_twice() -> None:
    text = words(shown(full_climb()))
    assert text.count("0.021 to 0.081") == 1
    assert text.count("−0.032 to 0.048") == 2, "in the table and in its sentence"
    assert "64 over 32" not in text


def test_verdicts_on_several_levers_are_told_too() -> None:
    text = words(shown(full_climb()))
    assert "several levers ■ alpha 128, mlp, learning rate 0.002 over the recommended" in text
    other = replace(RANK_ABOVE, after=setting(64, 2e-3), low=-0.5)
    text = words(shown(full_climb(verdicts=(RANK_ABOVE, other))))
    assert (
        "64 over 32 (all-linear, learning rate 0.001 → 0.002, in full, 4 seeds): undecided" in text
    )


# Quality.


def test_the_test_rows_compare_the_adapter_the_untuned_model_and_the_trivial_text() -> None:
    text = shown(full_climb())
    assert line_of(text, "exact match  ").split("  ")[0] == "exact match"
    assert words(line_of(text, "exact match   ")) == (
        "exact match 21.0% 0.0% 21.0 points (17.0 to 25.0) 0.5%"
    )
    assert words(line_of(text, "loss   ")) == "loss 1.342 8.300 6.958 (6.871 to 7.045)"
    assert "Trivial: always answering 'D IY T'. All but the loss on 200 rows." in text


@pytest.mark.parametrize("generated", [0, 400])
def test_where_all_test_rows_or_none_have_texts_nothing_is_said_of_it(generated: int) -> None:
    baseline = replace(full_climb().baseline, generated_rows=generated)
    assert "All but the loss" not in shown(full_climb(baseline=baseline))


def test_a_long_trivial_text_is_cut_and_stays_on_its_line() -> None:
    trivial = TrivialAnswer("one\ntwo " * 100, {"exact_match": 0.005})
    text = shown(full_climb(baseline=replace(full_climb().baseline, trivial=trivial)))
    assert "Trivial: always answering 'one two one two one two one two one two…'." in text


def finalists(result: StudyResult) -> list[str]:
    part = shown(result).partition("Finalists on")[2].partition("\n\n")[0]
    return [words(line) for line in part.splitlines()[2:] if "all-linear" in line]


def test_finalists_are_ordered_by_the_first_metric_also_where_lower_is_better() -> None:
    assert finalists(full_climb()) == [
        "64 128 all-linear 0.0005 27.4% ± 2.0% 18.7% ± 5.0%",
        "▸ 32 64 all-linear 0.001 28.1% ± 2.0% 20.3% ± 5.0%",
        "16 32 all-linear 0.001 31.2% ± 2.0% 14.1% ± 5.0%",
    ]


@pytest.mark.parametrize(
    ("lower", "order"), [(True, ["16", "▸", "64"]), (False, ["64", "▸", "16"])]
)
def test_a_users_own_metric_is_ordered_by_the_way_that_is_better(
    lower: bool, order: list[str]
) -> None:
    report = judged_by_metric().metrics
    own = replace(report.metrics[1], lower_is_better=lower)
    result = judged_by_metric(metrics=replace(report, metrics=(own,)))
    assert [line.split()[0] for line in finalists(result)] == order


def test_the_disagreement_of_loss_and_metric_is_told() -> None:
    text = words(shown(full_climb()))
    assert "The loss prefers rank 32, alpha 64, learning rate 0.001; phoneme error rate" in text


def test_one_finalist_needs_no_table() -> None:
    assert "Finalists on" not in shown(with_a_diverged_lever())


def test_a_gain_without_a_bound_is_shown() -> None:
    best = full_climb().recommendation
    gains = {"r2": MetricGain(0.5, float("-inf"), float("inf"))}
    text = shown(
        full_climb(recommendation=replace(best, test={"loss": 1.3, "r2": 0.9}, test_gains=gains))
    )
    assert "0.500 (−inf to inf)" in line_of(text, "r2")


def test_an_error_rate_above_one_and_a_missing_metric_are_shown() -> None:
    best = full_climb().recommendation
    test = {"loss": 1.3, "phoneme_error_rate": 1.2, "r2": float("nan")}
    text = shown(full_climb(recommendation=replace(best, test=test, test_gains={})))
    assert words(line_of(text, "phoneme error rate   ")).startswith("phoneme error rate 120.0%")
    assert words(line_of(text, "r2")).startswith("r2 –")


# Settings, cost, limits.


def test_the_table_of_settings_says_how_far_each_was_trained() -> None:
    text = shown(full_climb()).partition("All settings")[2]
    assert "▸ 32     64  all-linear   0.001  100% × 4  1.363 ± 0.031  19.5M  61 s" in text
    assert words(line_of(text, "8     16")) == ("8 16 all-linear 0.001 25% 1.683 ± 0.031 4.9M 61 s")
    assert "16√" in text
    assert "Below 100 % a setting was only raced" in words(text)


def test_what_was_only_raced_stands_once_at_its_best_learning_rate() -> None:
    text = shown(full_climb()).partition("All settings")[2]
    assert "1.741" not in text


def test_a_setting_that_diverged_in_full_is_shown() -> None:
    result = full_climb(settings=(*SETTINGS, setting_result(setting(128), None)))
    assert "diverged" in line_of(shown(result).partition("All settings")[2], "128")


def test_of_very_many_settings_the_best_are_shown() -> None:
    many = tuple(setting_result(setting(8, 1e-5 * n), 1.5 + n / 100) for n in range(1, 31))
    text = shown(grid_with_one_seed(settings=many))
    assert "The best 16 settings" in text
    assert "14 more settings in result.json." in text
    assert "1.510" in text
    assert "1.700" not in text


def test_it_says_what_it_took_how_seeds_vary_and_what_is_not_covered() -> None:
    text = words(shown(full_climb()))
    assert "Cost: 14 min 31 s, at most 2.5 GB of memory, 412,400 training tokens, as many" in text
    assert "varies by 0.021 (standard deviation, 12 degrees of freedom)" in text
    assert "values of alpha that were not tried" in text
    assert "the luck of the seed" in words(shown(grid_with_one_seed()))


# The code to paste.


def pasted(text: str) -> Any:
    """The LoraConfig of the code between its import and the blank line behind it."""
    code = text[text.index("from peft import") :].partition("\n\nAdapter")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    return names["config"]


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_the_code_runs_as_it_is_printed(make: Callable[[], StudyResult]) -> None:
    best = make().recommendation
    config = pasted(shown(make()))
    assert (config.r, config.lora_alpha) == (best.setting.rank, best.setting.alpha)
    assert config.target_modules == set(best.target_modules)
    assert config.task_type == "CAUSAL_LM"


@pytest.mark.parametrize("alpha", [16, 24.5, 1_234_567])
def test_the_code_has_alpha_exactly(alpha: float) -> None:
    best = full_climb().recommendation
    best = replace(best, setting=replace(best.setting, alpha=alpha))
    assert pasted(lora_config(best)).lora_alpha == alpha


def test_the_code_has_dropout_rslora_and_names_of_any_kind() -> None:
    layers = [f"model.layers.{number}.self_attn.q_proj" for number in range(30)]
    names = (*layers, 'odd"name', "a\\b")
    best = replace(
        full_climb().recommendation,
        setting=replace(RSLORA, dropout=0.05),
        target_modules=names,
    )
    text = lora_config(best)
    assert max(map(len, text.splitlines())) <= 80
    config = pasted(text)
    assert (config.lora_dropout, config.use_rslora, config.lora_alpha) == (0.05, True, 16)
    assert config.target_modules == set(names)


# Wherever it is printed.


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_nothing_is_wider_than_the_terminal_and_no_cell_is_cut(
    make: Callable[[], StudyResult], width: int
) -> None:
    text = shown(make(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


@pytest.mark.parametrize("targets", ["all-linear", "all-linear+lm_head"])
def test_tables_have_one_line_a_row_at_80_columns(targets: str) -> None:
    own = tuple(
        replace(one, setting=replace(one.setting, targets=targets, learning_rate=1.5e-4))
        for one in SETTINGS[:6]
    )
    text = shown(full_climb(settings=own)).partition("All settings\n")[2]
    rows = text.partition("\nTrained:")[0].splitlines()[1:]
    assert len(rows) == len({one.setting.effect for one in own if one.fraction < 1}) + 4
    assert all(row.endswith("61 s") for row in rows)


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_in_a_notebook_it_is_html_with_the_same_text(make: Callable[[], StudyResult]) -> None:
    console = Console(width=80, record=True, file=io.StringIO(), force_jupyter=False)
    console.print(summary(make(), FOLDER))
    html = console.export_html()
    assert "<pre" in html
    assert "What each lever was worth" in html


STRATEGIES: dict[str, Callable[[LeverSpace, float], Strategy]] = {
    "climb": lambda space, budget: Climb(space, effort=Effort.within_budget(space, budget)),
    "grid": lambda space, budget: Grid.of(replace(space, targets=("mlp",), alphas=("2r",))),
    "random": lambda space, budget: Random(space, max(1, int(budget))),
    "tpe": lambda space, budget: Tpe(space, min(budget, 5.0)),
}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    budget=st.floats(1, 40),
    gains=st.tuples(*[st.floats(-0.1, 0.2)] * 3),
    seeds=st.floats(0.001, 0.2),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    limit=st.sampled_from([1.0, 6e-3]),
)
def test_any_result_of_a_strategy_is_shown_in_80_columns_with_its_own_numbers(
    name: str,
    budget: float,
    gains: tuple[float, float, float],
    seeds: float,
    scale: float,
    limit: float,
) -> None:
    hilly = hill(2e-3, gains)
    result = study(
        STRATEGIES[name](SPACE, budget),
        SPACE,
        lambda own, fraction: scale * hilly(own, fraction),
        row_noise=0.05 * scale,
        seed_noise=seeds * scale,
        diverges=lambda candidate: candidate.learning_rate > limit,
    )
    text = shown(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    best = result.recommendation
    assert f"Use rank {best.setting.rank}, alpha {best.setting.alpha:g}" in text
    assert best.validation_loss is not None
    decimals = len(text.partition("Validation loss ")[2].split()[0].partition(".")[2])
    assert f"Validation loss {fixed(best.validation_loss.mean, decimals)} (" in text
    for step in result.ladder:
        if step.loss is not None:
            assert fixed(step.loss, decimals) in text
    for standing in result.standings:
        value, loss = standing.losses[0]
        if standing.lever != "alpha" and value.learning_rate <= limit:
            assert f": {fixed(loss, decimals)}" in text
