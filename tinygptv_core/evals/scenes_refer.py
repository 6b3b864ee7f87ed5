"""Boxes for phrases about held-out scenes: right when they overlap the true box by more than half.

IoU > 0.5, the measure of RefCOCO (Yu et al., 2016, arXiv:1608.00272). An answer that is no box counts as wrong; some
evaluations leave it out.
"""

from tinygptv_core.answering.scoring import box_hit
from tinygptv_core.evals import Eval

EVAL = Eval(
    version=1,
    dataset="scenes_test",
    split="refer",
    prompt="[refer] give me the location of {}",
    max_new_tokens=14,
    metric="iou50",
    score=box_hit,
)
