"""What the output head is worth where the output is in another language: names of CLDR, from English to one of them.

The rows are 1,000 names of countries, languages and currencies from the package babel. Each set of target modules is
trained with the head and without, at the same rank and rates, with the same seeds, and scored on the same validation
rows, as many as a tenth of the names are. The spread is over the seeds.

    pip install -c constraints.txt babel
    python benchmarks/language.py [--language ko] [--passes 0.8] [--rates 1e-3 2e-3] [--seeds 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from packed import machine

from rung.data.prepare import prepare
from rung.defaults import DEFAULT_MODEL
from rung.model.load import load_base
from rung.recipe import Recipe
from rung.runner.local import LocalRunner
from rung.search.stats import gain_estimate
from rung.search.strategy import Stage
from rung.study.folder import StudyFolder
from rung.types import Candidate, Setting

ROWS = 1000
TARGETS = ("all-linear", "attention")
RANK = 16


def write_rows(language: str, path: Path) -> None:
    """The names that are another word in that language, shuffled."""
    from babel import Locale

    here, there = Locale("en"), Locale.parse(language)
    names: dict[str, str] = {}
    for kind in ("territories", "languages", "currencies"):
        english, other = getattr(here, kind), getattr(there, kind)
        for key in sorted(english.keys() & other.keys()):
            if english[key] != other[key]:
                names.setdefault(english[key], other[key])
    pairs = sorted(names.items())
    random.Random(0).shuffle(pairs)
    asked = here.languages[language]
    rows = [
        {"prompt": f"{name} in {asked}:", "completion": f" {word}"} for name, word in pairs[:ROWS]
    ]
    path.write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", default="ko")
    parser.add_argument("--passes", type=float, default=0.8)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
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
        runner = LocalRunner(
            base, prepare(recipe, base.tokenizer), recipe, StudyFolder(Path(folder) / "study")
        )
        untuned = runner.baseline().mean
        for rate in options.rates:
            runs: dict[str, list[Candidate]] = {}
            for targets in (*TARGETS, *(f"{targets}+lm_head" for targets in TARGETS)):
                seeds = range(options.seeds)
                runs[targets] = [
                    Candidate(Setting(RANK, 2 * RANK, targets, rate), seed=seed) for seed in seeds
                ]
            stage = Stage(
                "head", tuple(one for some in zip(*runs.values(), strict=True) for one in some), 1.0
            )
            scores = {m.candidate: m.scores for m in runner.run(stage, lambda _: None)}
            for targets in TARGETS:
                pairs = zip(runs[targets], runs[f"{targets}+lm_head"], strict=True)
                both = [
                    (a, b) for one, other in pairs if (a := scores[one]) and (b := scores[other])
                ]
                gains = [1 - b.mean / a.mean for a, b in both]
                rows_alone = gain_estimate([a for a, _ in both], [b for _, b in both]).interval(
                    0.95
                )
                found.append(
                    {
                        "targets": targets,
                        "rate": rate,
                        "without": [a.mean for a, _ in both],
                        "with": [b.mean for _, b in both],
                        "gain": statistics.mean(gains),
                        "gain_by_seed": gains,
                        "nats": [rows_alone.low, rows_alone.high],
                    }
                )
    where = machine(base.dtype)
    if options.json:
        print(
            json.dumps(
                {"machine": where, "untuned": untuned, "steps": runner.steps, "found": found},
                indent=2,
            )
        )
        return
    print(
        f"{where}\nuntuned {untuned:.3f} nats a token; {runner.steps} steps, {len(runner.validation)} validation rows"
    )
    for one in found:
        by_seed = ", ".join(f"{gain:+.2%}" for gain in one["gain_by_seed"])
        print(
            f"{one['targets']} at {one['rate']:g}: the head gains {one['gain']:+.2%} of the loss ({by_seed})"
        )


if __name__ == "__main__":
    main()
