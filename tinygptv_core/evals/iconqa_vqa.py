"""Drawings and a few texts to choose from: IconQA, choose_txt, validation (Lu et al., 2021, arXiv:2110.13214).

The likeliest choice is the answer: that with the lowest mean loss of its tokens, ranked for each question by itself.
The paper's score is the same accuracy, but its code takes the mean over all questions of a batch, so that they are
ranked alike (`answering/rank.py`); there is nothing to compare that with.
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval

EVAL = Eval(
    version=1,
    dataset="iconqa_test",
    split=None,
    prompt="{}",
    max_new_tokens=20,
    metric="accuracy",
    score=scoring.exact,
)
