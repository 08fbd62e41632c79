"""What is to be known of a data set before anything is trained on it, with the rows named.

Each file here is one group of checks. `audit` lists them.
"""

from __future__ import annotations

from typing import Any

from rung.data.audit.completions import check_completions
from rung.data.audit.finding import Finding, Severity, suggests_lm_head, worst_first
from rung.data.audit.leakage import (
    check_contained_rows,
    check_repeated_rows,
    check_same_questions,
)
from rung.data.audit.lengths import check_lengths
from rung.data.audit.near_duplicates import check_near_duplicates
from rung.data.audit.numbers import check_numbers
from rung.data.audit.reading import check_reading
from rung.data.audit.tokens import check_language, check_tokens
from rung.data.prepare import Data

__all__ = ["Finding", "Severity", "audit", "suggests_lm_head", "worst_first"]


def audit(data: Data, tokenizer: Any = None, numbers: str = "auto") -> list[Finding]:
    """All findings, the worst first.

    Each split is read more than once, and no split is held in memory.

    Args:
        tokenizer: the one that made the rows. Without it, tokens and languages are not checked.
        numbers: how the recipe says that numbers are read: `auto`, `point` or `comma`.
    """
    findings = [
        *check_repeated_rows(data),
        *check_contained_rows(data),
        *check_same_questions(data),
        *check_near_duplicates(data),
        *check_completions(data),
        *check_numbers(data.stats.numbers, numbers),
        *check_lengths(data),
        *check_reading(data),
    ]
    if tokenizer:
        findings += [*check_tokens(data, tokenizer), *check_language(data, tokenizer)]
    return worst_first(findings)
