"""What a plan says of time, memory and disk, and of keeping vision tokens."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from flows.plan import Planned
from flows.reporting.foreseen import for_machines, in_all, what_it_takes
from flows.vision_cache import kept_in_evaluation, kept_in_training, with_cache_advice
from tasks.request import Estimate, TrainingEstimate
from tasks.training.vision_cache import CacheAdvice, picture_bytes
from tinygptv_core.artifact import Artifact
from tinygptv_core.presets import NANO, PAPER, SMALL, with_list, with_settings
from tinygptv_core.sizes import PAPER_SIZES

HOUR = TrainingEstimate(seconds=3600.0, memory_bytes=2e9, disk_bytes=500_000_000, by="last run", note="")
NO_HOUR = TrainingEstimate(seconds=None, memory_bytes=2e9, disk_bytes=500_000_000, by="arithmetic", note="no time")
FETCH = Estimate(rows=10, is_bound=True, bytes=10**9, seconds=3600.0, is_measured=False)
SEEN = CacheAdvice(
    pictures="coco", datasets=("a", "b"), count=1_000, is_bound=False, reads=3.0, bytes=10**9, is_kept=False
)


ON = "--set data.{}.cached_vision=on"


def step(name="stage1/train", *, estimate=None, cache=(), action="build", artifact=None, last=None):
    return Planned(
        step=name, action=action, why="new", artifact=artifact, estimate=estimate, cache=cache, last_seconds=last
    )


def test_machines_are_told_in_hours_and_gigabytes():
    numbers = {"memory_gigabytes": 2.0, "disk_gigabytes": 0.5}
    told = for_machines(step(estimate=HOUR))
    assert told["train"] == {"hours": 1.0, **numbers, "from": "last run", "note": ""}
    told = for_machines(step(estimate=NO_HOUR))
    assert told["train"] == {"hours": None, **numbers, "from": "arithmetic", "note": "no time"}
    told = for_machines(step(estimate=FETCH))
    assert told["fetch"] == {"rows": 10, "is_bound": True, "gigabytes": 1.0, "hours": 1.0, "is_measured": False}
    assert for_machines(step()).keys() == {"step", "action", "why"}


def test_people_are_told_in_words():
    words = [*what_it_takes(step(estimate=HOUR)), *what_it_takes(step(estimate=NO_HOUR))]
    assert words == [
        "to train: 1 h 0 min, 2.0 GB of memory a process, 500.0 MB on disk (by the last run of such a stage)",
        "to train: at least 2.0 GB of memory a process for weights and optimizer, 500.0 MB on disk; no time",
    ]


def test_all_together_is_what_was_measured_of_each():
    """An hour of steps and 60 s beside them; 10 min of evaluation; what is reused takes nothing."""
    planned = [step(estimate=HOUR, last=60.0), step("stage1/evaluate", last=600.0), step("x/rows", action="reuse")]
    assert in_all(planned) == "1 h 11 min in all, steps without an estimate above as the last time"
    assert for_machines(planned[0])["hours"] == pytest.approx(61 / 60)
    assert for_machines(planned[1])["hours"] == pytest.approx(1 / 6)
    unknown = [step("a/fetch", estimate=FETCH), step(estimate=NO_HOUR, last=60.0), step("c/rows"), step("d/rows")]
    assert in_all([planned[1], *unknown]) == (
        "at least 10 min 0 s in all, steps without an estimate above as the last time; "
        "not yet measured: a/fetch, stage1/train, c/rows, and 1 more"
    )
    assert in_all(unknown) is None and in_all([step(action="reuse")]) is None
    assert in_all([step("a/fetch", estimate=replace(FETCH, is_measured=True))]).startswith("1 h 0 min in all")


def test_what_is_to_be_fetched_is_told_in_units_that_fit():
    by = "by what such lists take; nothing is measured"
    (told,) = what_it_takes(step(estimate=FETCH))
    assert told == f"to fetch: at most 10 rows, 1.0 GB on disk, 1 h 0 min ({by})"
    (told,) = what_it_takes(step(estimate=replace(FETCH, rows=1, is_bound=False, bytes=13_800, seconds=0.3)))
    assert told == f"to fetch: 1 row, 13.8 kB on disk, 0.3 s ({by})"


def test_a_setting_that_could_be_better_is_named():
    (told,) = what_it_takes(step(cache=(SEEN,)))
    assert told == (
        "vision tokens of coco: at most 1,000 pictures, each looked at 3.0 times or more, 1.0 GB; not kept, "
        "but better is --set data.a.cached_vision=on --set data.b.cached_vision=on"
    )
    assert for_machines(step(cache=(SEEN,)))["vision_cache"][0]["is_worth_it"] is True


def test_where_only_a_bound_is_known_nobody_is_told_that_keeping_them_is_not_worth_it():
    """No more than 1,000 are fetched, so each is looked at 0.7 times or more; perhaps 70 times."""
    asked = "how many there will be is not known yet"
    rare = replace(SEEN, is_bound=True, reads=0.7)
    assert (rare.is_worth_it, replace(rare, reads=3.0).is_worth_it, replace(rare, is_bound=False).is_worth_it) == (
        None, True, False,
    )  # fmt: skip
    (told,) = what_it_takes(step(cache=(rare,)))
    assert "at most 1,000 pictures, of which at least 70% are looked at, 1.0 GB; not kept" in told
    assert told.endswith(f"not kept; {asked}; to keep them {ON.format('a')} {ON.format('b')}")
    (told,) = what_it_takes(step(cache=(replace(rare, is_kept=True),)))
    assert told.endswith(f"kept; {asked}") and "not kept" not in told
    (told,) = what_it_takes(step(cache=(replace(rare, count=None, reads=None, bytes=None),)))
    assert told.startswith("vision tokens of coco: not kept; how many pictures there will be is not known yet; to keep")


def test_a_picture_of_the_paper_takes_48_kib():
    assert picture_bytes(PAPER_SIZES.qformer, "float16") == 48 * 1024 + 32


def advised(preset, *names, **artifacts):
    steps = [step(name) for name in names]
    steps += [step(name, action="reuse", artifact=artifact) for name, artifact in artifacts.items()]
    return {item.step: item.cache for item in with_cache_advice(preset, steps) if item.cache}


def of_scenes(advice):
    """That about the pictures which the project draws, for its annotations."""
    return next(item for item in advice if item.pictures == "scenes")


def test_nano_keeps_the_tokens_of_what_is_looked_at_again(tmp_path):
    """Of 4,000 pictures stage 3 draws 50 x 32 and stage 4 twice as many as there are; 5 evaluations ask about 500."""
    (tmp_path / "counts.json").write_text('{"rows": 3000, "kept": 2256, "dropped": {"x": 744}}')
    web = Artifact(kind="index", digest="a" * 64, path=Path(tmp_path))
    names = ("fresh/evaluate", *(f"stage{number}/train" for number in (1, 2, 3, 4)))
    told = advised(NANO, *names, **{"scenes_web/screen": web})
    assert told.keys() == {"fresh/evaluate", "stage1/train", "stage3/train", "stage4/train"}
    asked, third, fourth = (of_scenes(told[name]) for name in ("fresh/evaluate", "stage3/train", "stage4/train"))
    assert (asked.count, asked.reads, asked.is_kept, asked.is_worth_it) == (500, 5.0, True, True)
    assert (third.count, third.reads, third.is_kept, third.is_worth_it) == (4_000, 0.4, False, False)
    assert fourth.reads == pytest.approx(2.0, abs=0.1) and fourth.is_kept and fourth.is_worth_it
    # Stages 1 and 2 draw 230 batches of 32, of which scenes_web has 115 in 129.
    web_advice, alt_advice = told["stage1/train"]
    assert (web_advice.count, web_advice.reads) == (2_256, pytest.approx(230 * 115 / 129 * 32 / 2_256, rel=0.01))
    # A fifth of 3,000 is on the other list: 12 and 14 batches of 32.
    assert (alt_advice.count, alt_advice.reads) == (600, pytest.approx((12 + 14) * 32 / 600))
    assert web_advice.is_kept and alt_advice.is_kept


def test_nano_and_small_keep_where_it_is_worth_it_and_what_is_said_by_name_stands():
    twice = {
        "caption",
        "conversation",
        "grounding",
        "identify",
        "refer",
        "vqa",
    }  # by stage 4; stage 3 reads the details
    wanted = {"scenes_web", "scenes_alt", *(f"scenes_{name}" for name in twice)}
    assert (kept_in_training(NANO), kept_in_evaluation(NANO)) == (wanted, {"scenes_test"})
    assert (kept_in_training(SMALL), kept_in_evaluation(SMALL)) == ({"cc_sbu"}, {"ok_vqa_test"})
    typed = with_settings(NANO, ["data.scenes_web.cached_vision=off", "data.scenes_detail.cached_vision=on"])
    assert kept_in_training(typed) == wanted - {"scenes_web"} | {"scenes_detail"}


def test_what_is_kept_follows_from_the_preset_and_not_from_what_is_in_the_store(tmp_path):
    """One batch of 32 from each list of stages 1 and 2; only the plan knows by now that there were 4 pictures."""
    (tmp_path / "counts.json").write_text('{"rows": 4, "kept": 4, "dropped": {}}')
    web = Artifact(kind="index", digest="a" * 64, path=Path(tmp_path))
    short = [f"{stage}.schedule.{name}=1" for stage in ("stage1", "stage2") for name in ("warmup_steps", "steps")]
    preset = with_settings(NANO, short)
    assert kept_in_training(preset).isdisjoint({"scenes_web", "scenes_alt"})
    told, _ = advised(preset, "stage1/train", **{"scenes_web/screen": web})["stage1/train"]
    assert (told.count, told.reads, told.is_kept, told.is_worth_it) == (4, 16.0, False, True)


def test_of_ones_own_list_those_are_kept_that_are_looked_at_more_often_than_any_number_of_pictures_explains():
    """`small` fetches no more than stage 1 draws, and stage 2 draws as many again; `paper` all that it draws."""
    assert "list" in kept_in_training(with_list(SMALL)) and "list" not in kept_in_training(with_list(PAPER))


def test_the_paper_does_not_keep_what_is_fetched_to_be_read_once():
    laion, cc_sbu = advised(PAPER, "stage1/train")["stage1/train"]
    assert (laion.pictures, cc_sbu.pictures) == ("laion", "cc_sbu")
    assert laion.reads == pytest.approx(1.0, abs=0.01) and not laion.is_worth_it and not laion.is_kept
    assert laion.bytes is not None and 90e9 < laion.bytes < 120e9


def test_the_last_segment_of_a_list_counts_whole():
    """30,000 are wanted, of 2,048 segments of 6,133 rows: where one is missing, a whole segment is fetched."""
    (told,) = advised(SMALL, "stage1/train")["stage1/train"]
    assert (told.count, told.is_kept) == (30_000 + 6_133, True)
    assert told.reads == pytest.approx(2 * 450 * 64 / 36_133) and told.bytes == 36_133 * (48 * 1024 + 32)


def test_evaluations_of_two_sizes_have_tokens_of_two_sizes():
    """Stages 1 to 3 ask at 224 px, and fresh projections too; stage 4 at 448: 5 looks at 2 x 4,319 pictures."""
    told = advised(PAPER, "fresh/evaluate")["fresh/evaluate"]
    vizwiz = next(advice for advice in told if re.match("vizwiz", advice.pictures))
    assert (vizwiz.count, vizwiz.reads, vizwiz.is_worth_it) == (4_319, 2.5, True)
    assert vizwiz.bytes == 2 * 4_319 * (48 * 1024 + 32)
