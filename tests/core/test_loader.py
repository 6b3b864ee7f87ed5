import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from threading import Thread

import fsspec
import numpy as np
import pytest
import torch

from tests.core.tiny_run import (
    PROMPTS,
    STAGE,
    picture,
    shape_samples,
    tiny_spec,
    tiny_tokenizer,
    word_samples,
    write_dataset,
)
from tinygptv_core.batch import IGNORED
from tinygptv_core.draws import Order, Shuffled, drawn_places
from tinygptv_core.engine import micro_batches
from tinygptv_core.loader import SAME_SECONDS, Steps, batches, drawn_turns, prompt_for
from tinygptv_core.plain import ConfigError, from_plain, plain
from tinygptv_core.recipe import Turn
from tinygptv_core.run import DataFolders
from tinygptv_core.shards import ShardSet
from tinygptv_core.stage import Share
from tinygptv_core.train import starting_model

TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return tiny_spec(tmp_path_factory.mktemp("run"))


def steps_of(spec, rank=0, world_size=1):
    return Steps(spec, TOKENIZER, rank=rank, world_size=world_size)


def order_of(spec, **changes):
    data = {name: ShardSet(folders) for name, folders in spec.data.items()}
    return Order(replace(spec.stage, **changes), data, spec.seen)


def all_draws(order, steps=8):
    return [order.batch_at(step) for step in range(steps)]


def test_a_sample_is_read_as_it_was_written(spec):
    shapes = ShardSet(spec.data["shapes"])
    assert len(shapes) == 23
    sample = shapes[21]
    assert (sample.key, sample.picture) == ("000000021", picture(21))
    assert sample.turns == (Turn("user", "thing 21"), Turn("assistant", "it is 21"))
    assert ShardSet(spec.data["words"])[3].picture is None


def mixed_spec(spec, folder, tmp_path):
    """A data set of pictures with questions, between which stand texts alone."""
    samples = [one for pair in zip(shape_samples(8), word_samples(8), strict=True) for one in pair]
    samples = [{**sample, "key": f"{number:09d}"} for number, sample in enumerate(samples)]
    stage = replace(spec.stage, mix={"shapes": Share(weight=1, batch=6)}, held_out_samples=1)
    return replace(spec, stage=stage, data={"shapes": write_dataset(tmp_path / folder, samples, per_shard=5)})


@pytest.mark.parametrize("packed", [False, True])
def test_texts_alone_among_pictures_are_learned_as_by_themselves(spec, tmp_path, packed):
    mixed = mixed_spec(spec, "mixed", tmp_path)
    batch, model = steps_of(mixed)[0], starting_model(mixed)[0].eval()
    pictured = (batch.slot_B < batch.mask_BT.sum(dim=1) - 1).tolist()  # a slot at the very end has no picture
    assert 0 < sum(pictured) < len(pictured) == 6
    total, targets = torch.zeros(()), 0
    for row, has_picture in zip(micro_batches(batch, 1), pictured, strict=True):
        if not has_picture:
            text = {name: getattr(row, name)[:, : int(row.slot_B)] for name in ("ids_BT", "labels_BT", "mask_BT")}
            row = replace(row, images_B3HW=None, slot_B=None, **text)
        loss_sum, count = model(row, packed=packed)
        total, targets = total + loss_sum, targets + int(count)
    whole_sum, whole_targets = model(batch, packed=packed)
    torch.testing.assert_close(whole_sum, total, atol=1e-4, rtol=0)
    assert int(whole_targets) == targets


def test_a_shard_that_ends_within_a_sample_is_told(tmp_path):
    folders = write_dataset(tmp_path, shape_samples(2), per_shard=2)
    shard = folders.shards / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"00000\.tar ends within a sample"):
        ShardSet(folders)[1]


def test_the_same_step_sees_the_same_samples_whatever_was_asked_before(spec):
    forwards = all_draws(order_of(spec))
    backwards = order_of(spec)
    assert [backwards.batch_at(step) for step in reversed(range(8))] == forwards[::-1]


def test_neither_more_steps_nor_another_order_of_the_mix_change_what_a_step_sees(spec):
    longer = order_of(spec, schedule=replace(STAGE.schedule, steps=50), mix=dict(reversed(STAGE.mix.items())))
    assert all_draws(longer) == all_draws(order_of(spec))


def test_a_stage_goes_on_where_earlier_ones_ended(spec):
    """Two steps of five samples each were drawn before: it begins with what the third would have drawn."""
    mix = {"shapes": Share(weight=1, batch=5)}
    whole = all_draws(order_of(spec, mix=mix))
    assert all_draws(order_of(replace(spec, seen={"shapes": 10, "words": 3}), mix=mix))[:6] == whole[2:]


def test_another_seed_sees_other_samples(spec):
    assert all_draws(order_of(spec, seed=12)) != all_draws(order_of(spec))


def test_an_epoch_has_every_sample_once_and_the_next_one_in_another_order():
    shuffled = Shuffled(range(12), name="d", seed=1, held_out=0)
    first, second = shuffled.take(0, 12), shuffled.take(12, 12)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert shuffled.take(10, 4) == first[10:] + second[:2]


def test_a_batch_larger_than_its_data_set_repeats_it():
    shuffled = Shuffled([0, 4, 7], name="d", seed=1, held_out=0)
    assert Counter(shuffled.take(0, 9)) == {0: 3, 1: 3, 2: 3}


def test_windows_keep_reading_near(monkeypatch):
    monkeypatch.setattr("tinygptv_core.draws.WINDOW_ROWS", 4)
    order = Shuffled(range(12), name="d", seed=1, held_out=0).take(0, 12)
    windows = [position // 4 for position in order]
    assert [len(set(windows[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert windows != sorted(windows) and list(order[:4]) != sorted(order[:4])


@pytest.mark.parametrize("dead", [{3}, {0, 11, 12}, set(range(4, 8)), set(range(20)) - {6, 9}])
def test_a_dead_link_moves_no_two_others_past_each_other(monkeypatch, dead):
    """Whichever links are alive on a day, the samples that are there come in the same order, in every epoch."""
    monkeypatch.setattr("tinygptv_core.draws.WINDOW_ROWS", 4)
    alive = [row for row in range(20) if row not in dead]
    whole, rest = (Shuffled(rows, name="d", seed=1, held_out=0) for rows in (range(20), alive))
    for epoch in range(3):
        there = [alive[position] for position in rest.take(epoch * len(alive), len(alive))]
        assert there == [row for row in whole.take(epoch * 20, 20) if row not in dead]


def test_further_rows_move_no_two_others_past_each_other(monkeypatch):
    monkeypatch.setattr("tinygptv_core.draws.WINDOW_ROWS", 4)
    few, more = (Shuffled(range(count), name="d", seed=1, held_out=0).take(0, count) for count in (14, 23))
    assert list(few) == [row for row in more if row < 14]


def test_a_dead_link_puts_the_next_one_in_its_place_among_the_held_out():
    whole = Shuffled(range(1_000), name="d", seed=1, held_out=9).held_out
    alive = [row for row in range(1_000) if row != whole[4]]
    rest = Shuffled(alive, name="d", seed=1, held_out=9).held_out
    assert [alive[position] for position in rest[:8]] == [row for row in whole if row != whole[4]]


def test_the_order_is_what_it_was(monkeypatch):
    """Whoever goes on with an older run, or looks for its key, relies on it."""
    monkeypatch.setattr("tinygptv_core.draws.WINDOW_ROWS", 5)
    rows = [row for row in range(26) if row not in (5, 6, 7, 25)]
    shuffled = Shuffled(rows, name="d", seed=1, held_out=2)
    assert shuffled.held_out == (21, 0)
    first, rest = shuffled.take(0, 20), shuffled.take(20, 5)
    assert first == (18, 19, 17, 20, 13, 16, 14, 15, 12, 6, 5, 7, 8, 10, 9, 11, 3, 4, 1, 2)
    assert rest == (8, 7, 11, 10, 9)


def test_a_hundred_million_samples_take_no_memory_of_their_own():
    """105 million samples, of which one array of positions would take 840 MB."""
    tracemalloc.start()
    shuffled = Shuffled(range(105_000_000), name="laion", seed=1, held_out=64)
    assert len(set(shuffled.take(77_000_000, 64))) == 64
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 60e6


@pytest.mark.parametrize(("samples", "asked", "kept_out"), [(100, 5, 5), (100, 64, 10), (5, 64, 1), (1, 64, 0)])
def test_held_out_samples_are_few_and_never_trained_on(samples, asked, kept_out):
    shuffled = Shuffled(range(samples), name="d", seed=1, held_out=asked)
    trained = set(shuffled.take(0, 2 * samples))
    assert len(set(shuffled.held_out)) == kept_out
    assert trained == set(range(samples)) - set(shuffled.held_out)


def test_an_empty_data_set_is_named():
    with pytest.raises(ConfigError, match="the data set nothing has no samples left"):
        Shuffled([], name="nothing", seed=1, held_out=2)


def test_a_missing_index_is_named(tmp_path):
    folders = write_dataset(tmp_path, shape_samples(2), per_shard=2)
    (folders.index / "samples.npy").unlink()
    with pytest.raises(ConfigError, match=r"samples\.npy is missing"):
        ShardSet(folders)


def test_data_sets_are_drawn_by_weight(spec):
    mix = {"shapes": Share(weight=3, batch=1), "words": Share(weight=1, batch=1)}
    order = order_of(spec, mix=mix, schedule=replace(STAGE.schedule, steps=2_000))
    drawn = Counter(order.dataset_at(step) for step in range(2_000))
    assert drawn["shapes"] == pytest.approx(1_500, abs=60)  # three standard deviations: 3 * sqrt(2000 * 3/4 * 1/4)


def test_the_slices_of_the_ranks_add_up_to_the_whole_batch(spec):
    whole = steps_of(spec)
    for step in range(8):
        slices = [steps_of(spec, rank, 2)[step] for rank in range(2)]
        assert slices[0].keys + slices[1].keys == whole[step].keys
        assert sum(int((part.labels_BT != IGNORED).sum()) for part in slices) == int(
            (whole[step].labels_BT != IGNORED).sum()
        )


def test_a_rank_without_samples_gets_one_without_targets(spec):
    step = next(step for step in range(8) if steps_of(spec).order.dataset_at(step) == "words")
    last = steps_of(spec, rank=3, world_size=4)[step]
    assert len(last.keys) == 1
    assert (last.labels_BT == IGNORED).all()


def test_prompts_are_drawn_by_row_and_are_the_same_for_every_rank(spec):
    drawn = Counter(prompt_for(PROMPTS["shapes"], 11, 0, row) for row in range(200))
    assert set(drawn) == set(PROMPTS["shapes"])
    assert min(drawn.values()) > 70


def test_the_loader_gives_the_same_batches_from_any_step_with_and_without_workers(spec):
    steps = steps_of(spec)
    for workers in (0, 1):
        for step, batch in enumerate(batches(steps, 5, workers), start=5):
            assert batch.keys == steps[step].keys
            assert torch.equal(batch.ids_BT, steps[step].ids_BT)
        assert step == 7


def reading_process():
    """The only one, as soon as it is there."""
    while not (found := multiprocessing.active_children()):
        time.sleep(0.001)
    return found[0]


def test_a_process_that_reads_ahead_outlives_a_request_to_stop_from_its_beginning_on(spec):
    """When it comes, the process has not yet begun to be Python."""
    asking = Thread(target=lambda: os.kill(reading_process().pid, signal.SIGTERM))
    asking.start()
    steps = steps_of(spec)
    assert [batch.keys for batch in batches(steps, 0, 1)] == [steps[step].keys for step in range(8)]
    asking.join()


def test_requests_to_stop_at_once_are_one_and_a_later_one_ends_a_process_that_reads_ahead(spec):
    """A service manager sends one to every process, and torchrun another one on."""
    steps = steps_of(spec)
    read = batches(steps, 0, 1)
    next(read)
    reader = reading_process()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(reader.pid, number)
        time.sleep(0.05)
    assert [next(read).keys for _ in range(3)] == [steps[step].keys for step in (1, 2, 3)]
    time.sleep(SAME_SECONDS)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        os.kill(reader.pid, signal.SIGTERM)
        time.sleep(60)  # until torch hears of it


def test_steps_can_be_sent_to_another_process(spec):
    sent = pickle.loads(pickle.dumps(steps_of(spec, 1, 2)))
    assert sent[3].keys == steps_of(spec, 1, 2)[3].keys


def test_held_out_batches_have_one_for_each_data_set(spec):
    shapes, words = steps_of(spec).held_out()
    assert len(shapes.keys) == 2
    assert shapes.images_B3HW is not None
    assert len(words.keys) == 1  # a tenth of twelve
    assert words.images_B3HW is None


def test_a_broken_picture_is_named(tmp_path, spec):
    samples = [sample | {"picture": b"no picture"} for sample in shape_samples(4)]
    broken = replace(spec, data={**spec.data, "shapes": write_dataset(tmp_path, samples, per_shard=4)})
    step = next(step for step in range(8) if steps_of(broken).order.dataset_at(step) == "shapes")
    message = r"shapes is damaged: sample 00000000\d: 10 bytes that are no picture.*tinygptv run --from shapes/fetch"
    for workers in (0, 1):  # and from another process not as a stack trace
        with pytest.raises(ConfigError, match=f"(?s)^{message}$"):
            next(batches(steps_of(broken), step, workers))


def remove(tar):
    tar.unlink()


def truncate(tar):
    os.truncate(tar, 700)  # within the first sample


@pytest.mark.parametrize(("harm", "said"), [(remove, "is missing"), (truncate, "ends within a sample")])
def test_a_shard_that_is_gone_or_cut_is_named_with_what_builds_it_again(tmp_path, spec, harm, said):
    broken = replace(spec, data={**spec.data, "shapes": write_dataset(tmp_path, shape_samples(4), per_shard=4)})
    step = next(step for step in range(8) if steps_of(broken).order.dataset_at(step) == "shapes")
    (tar,) = (tmp_path / "shards").glob("*.tar")
    harm(tar)
    with pytest.raises(ConfigError, match=rf"(?s)^shapes is damaged: {tar} {said}.*the same command.*built anew"):
        next(batches(steps_of(broken), step, 0))


@pytest.mark.parametrize(("wrong", "right"), [(b'"turns"', b'"terns"'), (b'{"split', b'["split')])
def test_a_damaged_text_is_named(tmp_path, spec, wrong, right):
    folders = write_dataset(tmp_path, shape_samples(4), per_shard=4)
    shard = folders.shards / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(wrong, right))
    damaged = steps_of(replace(spec, data={**spec.data, "shapes": folders}))
    step = next(step for step in range(8) if damaged.order.dataset_at(step) == "shapes")
    with pytest.raises(ConfigError, match=r"shapes is damaged: where the index has a sample's text stands b'[{\[]"):
        damaged[step]


def test_a_missing_shard_is_named(tmp_path):
    folders = write_dataset(tmp_path, shape_samples(2), per_shard=1)
    (folders.shards / "00001.tar").unlink()
    with pytest.raises(ConfigError, match=r"shards/00001\.tar is missing"):
        ShardSet(folders).read([0, 1])


def test_shards_may_lie_elsewhere(tmp_path, spec):
    """The same batches, from a file system that is none of this machine's; and the same URL after RUN.json."""
    elsewhere = fsspec.filesystem("memory")
    elsewhere.put(str(spec.data["shapes"].shards), "/bucket/shapes", recursive=True)
    folders = replace(spec.data["shapes"], shards="memory://bucket/shapes")
    assert from_plain(DataFolders, plain(folders)) == folders
    remote = steps_of(replace(spec, data={**spec.data, "shapes": folders}))
    for step, local in enumerate(map(steps_of(spec).__getitem__, range(8))):
        assert remote[step].keys == local.keys
        assert torch.equal(remote[step].ids_BT, local.ids_BT)
    elsewhere.rm("/bucket/shapes/00000.tar")
    with pytest.raises(ConfigError, match=r"bucket/shapes/00000\.tar is missing"):
        ShardSet(folders)[0]


@pytest.mark.parametrize(("url", "message"), [("nowhere://x", "Protocol not known: nowhere"), ("gdrive://x", "gdrive")])
def test_a_url_that_nothing_here_reads_is_refused(spec, url, message):
    with pytest.raises(ConfigError, match=f"{url} cannot be used: .*{message}"):
        ShardSet(replace(spec.data["shapes"], shards=url))


def test_pictures_travel_as_bytes(spec):
    step = next(step for step in range(8) if steps_of(spec).order.dataset_at(step) == "shapes")
    images_B3HW = steps_of(spec)[step].images_B3HW
    assert (images_B3HW.dtype, images_B3HW.shape) == (torch.uint8, (5, 3, 8, 8))


def test_places_are_drawn_as_pythons_own_choices_are():
    weights = [115.0, 14.0, 3.0]
    generator, same = random.Random(42), random.Random(42)
    uniform = np.array([generator.random() for _ in range(200)])
    assert drawn_places(weights, uniform).tolist() == same.choices(range(3), weights, k=200)


def test_one_of_a_turns_texts_is_drawn_by_frequency_and_the_same_again():
    """Of ten answers seven are the same: of 1,000 draws about 700 (within four standard deviations of 14.5)."""
    turns = (Turn("user", "who?"), Turn("assistant", "he", ("he",) * 6 + ("she",) * 3))
    drawn = [drawn_turns(turns, 42, step, row) for step in range(250) for row in range(4)]
    assert {turn.also for said in drawn for turn in said} == {()}
    assert {said[0] for said in drawn} == {Turn("user", "who?")}
    assert abs(sum(said[1].text == "he" for said in drawn) - 700) < 58
    assert drawn == [drawn_turns(turns, 42, step, row) for step in range(250) for row in range(4)]
    assert drawn != [drawn_turns(turns, 43, step, row) for step in range(250) for row in range(4)]


def test_a_process_that_reads_ahead_imports_no_model():
    """It would start in twice the time."""
    code = "import sys, tinygptv_core.loader; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
