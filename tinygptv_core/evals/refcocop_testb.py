"""Boxes for sentences that mean one thing: RefCOCO+, the test split with other things."""

from dataclasses import replace

from tinygptv_core.evals import refcoco_val

EVAL = replace(refcoco_val.EVAL, dataset="refcocop_test", split="testB")
