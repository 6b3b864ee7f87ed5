"""Statements on where things are, true or false: VSR's zero-shot test split (Liu et al., 2022, arXiv:2205.00363).

Right when the answer is the one word. As published: when it holds the word; "not true" holds "true".
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval, SecondaryMetric

EVAL = Eval(
    version=1,
    dataset="vsr_test",
    split=None,
    prompt="{} true or false?",
    max_new_tokens=20,
    metric="accuracy",
    score=scoring.exact,
    beside=(SecondaryMetric(metric="as_published", score=scoring.holds),),
)
