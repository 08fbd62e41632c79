"""What each lever does, in plain sentences with a model's own numbers."""

from __future__ import annotations

from rung.commands.inspect import HeadInfo, Inspection

STATE_BYTES = 18
"""What training holds for each number of an adapter: its weight, its gradient and the two moments
of AdamW in float32, and a copy of the weight in two bytes to compute with."""


def lessons(inspection: Inspection) -> list[tuple[str, str]]:
    """A title and a text for each lever."""
    return [
        ("Rank", _rank(inspection)),
        ("A lower rank does not cure out-of-memory", _memory(inspection)),
        ("Alpha", _alpha(inspection)),
        ("Target modules", _targets(inspection)),
        (
            "Learning rate",
            "It is not a lever of LoRA's own, but it matters more than those: a wrong learning "
            "rate costs more than any rank gains. LoRA takes about ten times the learning rate of "
            "full fine-tuning, and less for wider models.",
        ),
        (
            "Counting in 4 bits",
            "NF4 packs two weights into a byte, so a count of the loaded parameters says "
            f"{inspection.packed_parameters:,} where the model has {inspection.parameters:,}. "
            "Rung counts from the shapes.",
        ),
    ]


def _rank(inspection: Inspection) -> str:
    rank, numbers = inspection.adapter.setting.rank, inspection.adapter.parameters
    per_rank = numbers / rank
    share = 100 * numbers / inspection.parameters
    more_memory = _size(STATE_BYTES * per_rank * rank)
    more_time = 100 * 1.5 * per_rank * rank / inspection.multiply_adds["all-linear"]
    return (
        "It is the number of directions in which an adapter can move a layer. Rank "
        f"{rank} here is {numbers:,} numbers, {share:.2g} % of the model's; rank {2 * rank} is "
        f"twice that. In memory the step from {rank} to {2 * rank} costs {more_memory} "
        f"({STATE_BYTES} bytes a number: weight, gradient, AdamW's two moments, a copy to compute "
        f"with). The base takes {_size(inspection.held_bytes['nf4'])} in NF4, and the activations "
        "hardly depend on the rank. In time the step adds "
        f"{more_time:.2g} % to the arithmetic of a training step."
    )


def _memory(inspection: Inspection) -> str:
    rank = inspection.adapter.setting.rank
    lower = max(1, rank // 4)
    saved = STATE_BYTES * inspection.adapter.parameters / rank * (rank - lower)
    return (
        f"Going from rank {rank} to {lower} saves {_size(saved)}. Fewer rows in a pass, shorter "
        "rows and a base in 4 bits help more. Rung splits passes by itself when memory is short, "
        "with the same result."
    )


def _alpha(inspection: Inspection) -> str:
    setting = inspection.adapter.setting
    alpha, rank = setting.alpha, setting.rank
    return (
        f"The update is multiplied by alpha / rank: {alpha:g} / {rank} = {alpha / rank:g}, and not "
        f"by alpha. So alpha {alpha:g} at rank {2 * rank} multiplies it by {alpha / 2 / rank:g}. "
        "By the rule alpha = 2r the scale is 2 at every rank, and the best learning rate hardly "
        "changes with the rank. With AdamW a larger scale does much of what a higher learning rate "
        "does, so comparing one without the other tells nothing: Rung tries both together. rsLoRA "
        "divides by √rank instead, for high ranks."
    )


def _targets(inspection: Inspection) -> str:
    whole = inspection.multiply_adds["all-linear"]
    shares = [
        f"{group} {100 * part / whole:.0f} %"
        for group, part in inspection.multiply_adds.items()
        if group not in ("all-linear", "lm_head")
    ]
    return (
        "Of the frozen weights that each token is multiplied with, the groups hold: "
        f"{', '.join(shares)}. Attention first is the rule of thumb. All linear layers often do "
        "better even with as many parameters (that is, at a lower rank), and the MLP alone often "
        f"beats the attention alone. {_head(inspection.head)}"
    )


def _head(head: HeadInfo) -> str:
    if not head.name:
        return "This model has no output head."
    tied = ""
    if head.tied:
        tied = (
            " Here it is tied to the embedding, so an adapter on it makes the two differ: a merged "
            "model gets a head of its own."
        )
    return (
        "The last layer, lm_head, is for output that is far from what the model writes: another "
        f"language or format.{tied}"
    )


def _size(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
