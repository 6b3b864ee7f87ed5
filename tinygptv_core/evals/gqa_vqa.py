"""GQA's balanced test-dev questions (Hudson and Manning, 2019, arXiv:1902.09506).

Right when it is, after VQA's normalization, the answer. As published: when the answer holds the reference
(arXiv:2312.16862 and its public evaluation).
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval, SecondaryMetric

EVAL = Eval(
    version=1,
    dataset="gqa_test",
    split=None,
    prompt="[vqa] Based on the image, respond to this question with a short answer: {}",
    max_new_tokens=20,
    metric="accuracy",
    score=scoring.exact,
    beside=(SecondaryMetric(metric="as_published", score=scoring.holds),),
)
