"""Short answers about held-out scenes whose colours and shapes were all met together in training.

Scored strictly: the answer is right when it is the reference, but for case, marks and articles. (The paper's own score
counts an answer as right that merely holds the reference; arXiv:2312.16862 and its public evaluation.)
"""

from tinygptv_core.answering.scoring import same_words
from tinygptv_core.evals import Eval

EVAL = Eval(
    version=1,
    dataset="scenes_test",
    split="vqa",
    prompt="[vqa] Based on the image, respond to this question with a short answer: {}",
    max_new_tokens=6,
    metric="accuracy",
    score=same_words,
)
