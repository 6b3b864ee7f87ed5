"""Boxes for sentences that mean one thing: RefCOCO, the test split with people."""

from dataclasses import replace

from tinygptv_core.evals import refcoco_val

EVAL = replace(refcoco_val.EVAL, dataset="refcoco_test", split="testA")
