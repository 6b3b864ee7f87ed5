"""Short answers about shapes in a colour that no training picture or text has shown them in."""

from dataclasses import replace

from tinygptv_core.evals import scenes_vqa

EVAL = replace(scenes_vqa.EVAL, split="vqa_unseen")
