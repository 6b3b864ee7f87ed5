"""Boxes for sentences that mean one thing: RefCOCO+, validation: no words of place."""

from dataclasses import replace

from tinygptv_core.evals import refcoco_val

EVAL = replace(refcoco_val.EVAL, dataset="refcocop_test", split="val")
