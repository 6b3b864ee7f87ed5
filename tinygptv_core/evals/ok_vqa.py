"""Questions that need knowledge of the world: OK-VQA, validation (Marino et al., 2019, arXiv:1906.00067).

The official VQA accuracy, each person left out in turn. The paper has no score for it.
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval

EVAL = Eval(
    version=1,
    dataset="ok_vqa_test",
    split=None,
    prompt="[vqa] Based on the image, respond to this question with a short answer: {}",
    max_new_tokens=20,
    metric="accuracy",
    score=scoring.vqa_accuracy,
)
