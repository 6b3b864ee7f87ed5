"""Boxes for sentences that mean one thing: RefCOCOg, validation of the University of Maryland's split."""

from dataclasses import replace

from tinygptv_core.evals import refcoco_val

EVAL = replace(refcoco_val.EVAL, dataset="refcocog_test", split="val")
