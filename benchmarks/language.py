"""What adapting the output head gains if the output is in another language.

The rows are 1,000 names of countries, languages and currencies, from English to another language,
from the CLDR data in the package babel. Each set of target modules is trained with the head and
without it, at the same rank and learning rates, with the same seeds, and scored on the same
validation rows, which are a tenth of the names. The spread is over the seeds.

    pip install -c constraints.txt babel
    python benchmarks/language.py [--language ko] [--passes 0.8] [--rates 1e-3 2e-3] [--seeds 3] \\
        [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from packed import machine

from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.search.stats import gain_estimate
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Candidate, Scores, Setting

ROWS = 1000
TARGETS = ("all-linear", "attention")
RANK = 16


@dataclass(frozen=True)
class HeadGain:
    """What the head gains beside one set of target modules, at one learning rate.

    Attributes:
        without_head, with_head: the validation loss of each seed, in nats a token.
        gain: the mean over the seeds of the share of the loss that the head saves.
        gain_by_seed: that share for each seed.
        nats: the 95 % interval of the gain, in nats a token, from the choice of rows alone.
    """

    targets: str
    rate: float
    without_head: list[float]
    with_head: list[float]
    gain: float
    gain_by_seed: list[float]
    nats: tuple[float, float]

    @classmethod
    def of(
        cls, targets: str, rate: float, without_head: list[Scores], with_head: list[Scores]
    ) -> HeadGain:
        pairs = zip(without_head, with_head, strict=True)
        gains = [1 - after.mean / before.mean for before, after in pairs]
        interval = gain_estimate(without_head, with_head).interval(0.95)
        return cls(
            targets,
            rate,
            [scores.mean for scores in without_head],
            [scores.mean for scores in with_head],
            statistics.mean(gains),
            gains,
            (interval.low, interval.high),
        )


def write_rows(language: str, path: Path) -> None:
    """Write the names that are another word in the other language, shuffled."""
    from babel import Locale

    english, other = Locale("en"), Locale.parse(language)
    names: dict[str, str] = {}
    for kind in ("territories", "languages", "currencies"):
        english_names, other_names = getattr(english, kind), getattr(other, kind)
        for key in sorted(english_names.keys() & other_names.keys()):
            if english_names[key] != other_names[key]:
                names.setdefault(english_names[key], other_names[key])
    pairs = sorted(names.items())
    random.Random(0).shuffle(pairs)
    asked = english.languages[language]
    rows = [
        {"prompt": f"{name} in {asked}:", "completion": f" {word}"} for name, word in pairs[:ROWS]
    ]
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")


def measure(runner: LocalRunner, rate: float, seeds: int) -> list[HeadGain]:
    """Train all sets of target modules at one learning rate, with the head and without it."""
    candidates = {
        targets: [
            Candidate(Setting(RANK, 2 * RANK, targets, rate), seed=seed) for seed in range(seeds)
        ]
        for targets in (*TARGETS, *map(plus_head, TARGETS))
    }
    by_seed = zip(*candidates.values(), strict=True)
    stage = Stage("head", tuple(candidate for some in by_seed for candidate in some), 1.0)
    scores = {m.candidate: m.scores for m in runner.run(stage, lambda _: None)}
    gains = []
    for targets in TARGETS:
        pairs = zip(candidates[targets], candidates[plus_head(targets)], strict=True)
        # A seed counts if neither candidate diverged.
        finished = [
            (before, after)
            for one, other in pairs
            if (before := scores[one]) and (after := scores[other])
        ]
        without, with_ = [before for before, _ in finished], [after for _, after in finished]
        gains.append(HeadGain.of(targets, rate, without, with_))
    return gains


def plus_head(targets: str) -> str:
    return f"{targets}+lm_head"


def main() -> None:
    """Train, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", default="ko")
    parser.add_argument("--passes", type=float, default=0.8)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(options.language, rows)
        recipe = Recipe(
            data=str(rows),
            passes=options.passes,
            targets=TARGETS,
            learning_rates=tuple(options.rates),
        )
        base = load_base(DEFAULT_MODEL, recipe.quantization)
        data = prepare(recipe, base.tokenizer)
        runner = LocalRunner(base, data, recipe, StudyFolder(Path(folder) / "study"))
        untuned = runner.baseline().mean
        gains = [gain for rate in options.rates for gain in measure(runner, rate, options.seeds)]
    where = machine(base.dtype)
    if options.json:
        document = {
            "machine": where,
            "untuned": untuned,
            "steps": runner.steps,
            "gains": [asdict(gain) for gain in gains],
        }
        print(json.dumps(document, indent=2))
        return
    print(where)
    print(
        f"untuned {untuned:.3f} nats a token; {runner.steps} steps, "
        f"{len(runner.validation)} validation rows"
    )
    for gain in gains:
        by_seed = ", ".join(f"{one:+.2%}" for one in gain.gain_by_seed)
        print(
            f"{gain.targets} at {gain.rate:g}: the head gains {gain.gain:+.2%} of the loss "
            f"({by_seed})"
        )


if __name__ == "__main__":
    main()
