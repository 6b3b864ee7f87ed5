"""Whether a picture and the text on it are hateful together: Hateful Memes (Kiela et al., 2020, arXiv:2005.04790).

Right when the answer is the one word. `auroc` is the official measure: how well the probability of "yes" tells the
hateful from the others. As published: right when there is a "yes" in the answer just if there should be.
"""

from tinygptv_core.answering import scoring
from tinygptv_core.evals import Eval, SecondaryMetric

EVAL = Eval(
    version=1,
    dataset="hateful_memes_test",
    split=None,
    prompt='The text on this picture is "{}". Is it hateful? yes or no',
    max_new_tokens=20,
    metric="accuracy",
    score=scoring.exact,
    beside=(SecondaryMetric(metric="as_published", score=scoring.says_yes),),
    probability_of=("yes", "no"),
)
