"""Boxes for sentences that mean one thing: RefCOCO, validation (Yu et al., 2016, arXiv:1608.00272).

Right when the box overlaps the true one by more than half, over every sentence. As published: over one sentence of each
picture (here the first), and with both edges belonging to a box.
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval, SecondaryMetric

EVAL = Eval(
    version=1,
    dataset="refcoco_test",
    split="val",
    prompt="[refer] give me the location of {}",
    max_new_tokens=30,
    metric="iou50",
    score=scoring.box_hit,
    beside=(SecondaryMetric(metric="as_published", score=scoring.box_published, once_per_picture=True),),
)
