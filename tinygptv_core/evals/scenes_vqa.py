"""Short answers about held-out scenes whose colours and shapes were all met together in training.

Scored strictly: the answer is right when it is, after normalisation, the reference. (The paper's own score counts an
answer as right that merely holds the reference; arXiv:2312.16862 and its public evaluation.)
"""

import re
from collections.abc import Sequence

from tinygptv_core.evals import Eval

ARTICLES = ("a", "an", "the")


def normalized(answer: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space, as VQA's evaluation does.

    >>> normalized(" The top-left. ")
    'top left'
    """
    words = re.sub(r"[^a-z0-9]+", " ", answer.lower()).split()
    return " ".join(word for word in words if word not in ARTICLES)


def exact(answer: str, references: Sequence[str]) -> float:
    """1.0 when the answer is one of the references, both normalised, else 0.0. An empty answer is wrong."""
    found = normalized(answer)
    return float(found != "" and found in {normalized(reference) for reference in references})


EVAL = Eval(
    version=1,
    dataset="scenes_test",
    split="vqa",
    prompt="[vqa] Based on the image, respond to this question with a short answer: {}",
    max_new_tokens=6,
    metric="accuracy",
    score=exact,
)
