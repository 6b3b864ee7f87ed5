"""That the benchmark for a GPU steps the same model on the same batches both ways, here at toy size on the CPU."""

import re
from dataclasses import replace

import bitsandbytes.nn
import pytest
import torch

from benchmarks import gpu, gpu_answers
from benchmarks.gpu import HEAD, PLANS, TOY_WORDS, How, conventional_step, main, our_step
from benchmarks.gpu_work import FULL, STAGE4, TOY, new_model, work_of_stage
from tinygptv_core.quantize import large_linears, lowering
from tinygptv_core.stages import PAPER_STAGE4
from tinygptv_core.trainable import trainable_parameters
from tinygptv_core.training.flops import vision_flops

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


def without_adapters(work):
    """Nothing in it drops out, so that two ways can be compared."""
    return replace(work, stage=replace(work.stage, lora=None))


def test_it_runs_at_toy_size_where_there_is_no_gpu_and_says_so(capsys):
    assert main(["--toy", "--stage", "2", "--micro-batch", "64", "--micro-batch", "32", "--seconds", "0.01"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == TOY_WORDS
    rows = printed[printed.index(HEAD[1]) + 1 :]
    assert [row.split(" | ")[3] for row in rows] == [
        "conventional",
        "ours, micro-batch 4",
        "ours, micro-batch 4, packed",
        "ours, micro-batch 4, packed, kept vision tokens",
        "ours, micro-batch 2",
        "ours, micro-batch 2, packed",
        "ours, micro-batch 2, packed, kept vision tokens",
    ]
    assert all(row.count("|") == HEAD[0].count("|") and float(row.split(" | ")[4]) > 0 for row in rows)


@pytest.mark.parametrize("number", [1, 4])
def test_both_ways_give_the_same_loss(number):
    """In bfloat16, whose numbers have 8 bits: 1 in 256."""
    work = without_adapters(work_of_stage(number, None, 2, TOY, "bfloat16"))
    wanted = conventional_step(work, CPU)(0)
    assert 5 < wanted < 9  # of 1,024 tokens nothing is known: about log 1024
    for how in (How(), How(micro_batch=1, packed=True, gradient_checkpointing=True)):
        assert float(our_step(work, how, CPU)(0)) == pytest.approx(wanted, rel=1 / 256)


def test_kept_tokens_spare_the_tower_and_nothing_else():
    work = work_of_stage(4, None, 3, TOY, "bfloat16")
    spared = work.flops(kept=False) - work.flops(kept=True)
    assert spared == vision_flops(TOY.sizes, work.samples, 112).forward


def test_batches_are_as_long_as_is_said():
    """Stage 3: ###Human: <Img> picture </Img> 12 words ###Assistant:, 60 to 140 words and the end symbol."""
    work = work_of_stage(3, 64, 1, FULL, "bfloat16")
    (batch,) = work.batches(kept=True)
    targets = (batch.labels_BT != -100).sum(dim=1)
    assert (work.stage.image_size, len(targets), batch.images_B3HW) == (224, 64, None)
    assert 60 < int(targets.min()) < 70 < 130 < int(targets.max()) < 150
    assert batch.queries_BQE is not None and batch.queries_BQE.shape == (64, 32, 768)


def test_stage_4_has_all_that_the_paper_mixes_but_text_alone():
    assert PAPER_STAGE4.mix.keys() - STAGE4.keys() == {"unnatural_instruction"}
    work = work_of_stage(4, None, 32, FULL, "bfloat16")
    assert {len(said) for said in work.spoken} == {1, 2, 3}
    assert (work.stage.image_size, len(work.images_B3HW)) == (448, 3)


def test_every_weight_is_there_and_the_trained_ones_are_float32():
    work = work_of_stage(2, None, 1, TOY, "bfloat16")
    model = new_model(work, CPU)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    trained = trainable_parameters(model)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in trained.values())
    assert model.llm.lm_head.weight.dtype == torch.bfloat16
    assert float(model.llm.lm_head.weight.float().std()) == pytest.approx(0.02, rel=0.05)
    assert set(model.llm.model.final_layernorm.weight.tolist()) == {1.0}


def test_a_row_without_enough_memory_says_so_and_the_next_one_follows(capsys, monkeypatch):
    def too_large(work, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "conventional_step", too_large)
    assert main(["--toy", "--stage", "1", "--micro-batch", "64", "--seconds", "0.01"]) == 0
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert rows[0] == "| 1 | 56 | 4 | conventional | out of memory |  |  |  |  |"
    assert [row.split(" | ")[5] for row in rows[1:]] == [""] * 3  # there is nothing to compare with


def test_the_plans_are_the_papers_batches():
    assert {number: list(plan.micro_batches) for number, plan in PLANS.items()} == {
        1: [64],
        2: [64],
        3: [6, 64],
        4: [None],
    }


def test_one_way_of_one_stage_can_be_asked_for(capsys):
    assert main(["--toy", "--stage", "4", "--way", "plain", "--seconds", "0.01"]) == 0
    (row,) = capsys.readouterr().out.splitlines()[5:]
    assert row.split(" | ")[3:6:2] == ["ours", ""]  # there is nothing to compare with


def test_answers_run_at_toy_size_in_each_precision_and_the_quantized_linears_are(capsys):
    assert gpu_answers.main(["--toy"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "TOY SIZES ON THE CPU: memory is not measured"
    assert [row.split(" | ")[0] for row in printed[3:]] == ["| 16 bit", "| 8 bit", "| 4 bit"]
    work = work_of_stage(4, 1, 1, TOY, "float16")
    names = large_linears(new_model(work, CPU))
    model = new_model(work, CPU, lowering(4, "cpu"))
    assert {type(model.get_submodule(name)) for name in names} == {bitsandbytes.nn.Linear4bit}
    assert all(parameter.dtype == torch.float32 for parameter in trainable_parameters(model).values())


def test_without_a_compiler_it_says_which_ways_need_none(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "TOY", FULL)  # as where there is a GPU, but that it ends before anything is made
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["--toy"]) == 2
    assert re.search(
        r"no-such-compiler.*\n.*\n.*\n.*--way conventional --way plain --way packed", capsys.readouterr().err
    )
