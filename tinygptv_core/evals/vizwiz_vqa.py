"""Questions that blind people asked: VizWiz, validation (Gurari et al., 2018, arXiv:1802.08218).

The official VQA accuracy, each person left out in turn. As published: a third for every person whose answer is part of
the model's or the other way round, so that an empty answer is right.
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval, SecondaryMetric

EVAL = Eval(
    version=1,
    dataset="vizwiz_test",
    split=None,
    prompt="[vqa] Based on the image, respond to this question with a short answer: {}",
    max_new_tokens=20,
    metric="accuracy",
    score=scoring.vqa_accuracy,
    beside=(SecondaryMetric(metric="as_published", score=scoring.vizwiz_published),),
)
