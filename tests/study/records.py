"""What a study may keep: scores, texts, and measurements of a candidate."""

from __future__ import annotations

from dataclasses import replace

from rung.types import Candidate, Generation, Measurement, Scores, Setting

SCORES = Scores((1.5, 0.1 + 0.2, 3.0), (1, 2, 3))
TRIPLED = Scores(tuple(3 * loss for loss in SCORES.losses), SCORES.tokens)
TEXTS = [Generation(" 달 🌙", "", "p", "a.jsonl, line 1", "s"), Generation("\0\n", "x")]
CANDIDATE = Candidate(Setting(8, 16, "attention", 1e-3))
PART = Measurement(CANDIDATE, 1 / 3, 50, 5000, 5000, "trained", SCORES, 1000, 4000, 10**9, 12.5)
END = replace(PART, fraction=1.0, steps=150, tokens=15000)
DIVERGED = replace(
    PART,
    candidate=Candidate(Setting(8, 16, "attention", 1.0)),
    status="diverged",
    scores=None,
    steps=7,
)
