"""Captions of held-out scenes, by the words they share in order with the true caption: ROUGE-L, F1.

Lin, 2004, "ROUGE: a package for automatic evaluation of summaries", section 3, with precision and recall weighed
alike. Of several references the best counts.
"""

from collections.abc import Sequence

from tinygptv_core.answering.scoring import plain_words
from tinygptv_core.evals import Eval


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest sequence that both hold in order, not necessarily without gaps."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for position, theirs in enumerate(other, start=1):
            above = lengths[position]
            lengths[position] = diagonal + 1 if word == theirs else max(above, lengths[position - 1])
            diagonal = above
    return lengths[-1]


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """F1 of the longest common sequence of words, 0..1; 0 when there is nothing in common."""
    return max(
        (_f1(plain_words(answer).split(), plain_words(reference).split()) for reference in references), default=0.0
    )


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    common = longest_common(found, wanted)
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


EVAL = Eval(
    version=1,
    dataset="scenes_test",
    split="caption",
    prompt="[caption] Describe the picture briefly.",
    max_new_tokens=40,
    metric="rouge_l",
    score=rouge_l,
)
