"""What the step that registers tells of the data behind a model."""

import json

from flows.register import register_step, trained_on
from tests.flows.test_screen_steps import ENVIRONMENT
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import NANO

CHAIN = {
    "rows": (12, {"no_caption": 2}),
    "table": (10, {"too_few_words": 3}),
    "shards": (7, {"http_404": 1}),
    "index": (6, {"duplicate": 1}),
}
"""What reads a data set in its order: rows that came in, and those dropped."""


def test_a_data_set_counts_from_its_list_on(tmp_path):
    inputs = {}
    for kind, (rows, dropped) in CHAIN.items():
        (tmp_path / kind).mkdir()
        counts = {"rows": rows, "kept": rows - sum(dropped.values()), "dropped": dropped}
        (tmp_path / kind / "counts.json").write_text(json.dumps(counts))
        inputs[f"{kind}.scenes_web"] = Artifact(kind=kind, digest="0" * 64, path=tmp_path / kind)
    told = trained_on("scenes_web", ("stage1",), inputs)
    assert (told.rows, told.kept) == (12, 5)
    assert told.dropped == {"duplicate": 1, "http_404": 1, "no_caption": 2, "too_few_words": 3}


def test_what_is_counted_is_read():
    inputs = register_step(NANO, None, ENVIRONMENT).inputs
    assert {f"{kind}.scenes_web" for kind in CHAIN} <= inputs.keys()
    assert inputs["rows.scenes_web"] == "scenes_web/rows"
