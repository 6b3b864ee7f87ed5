from dataclasses import replace

import pytest
import torch

from tests.core import tiny
from tests.core.tiny_run import OPTIONS, STAGE, tiny_spec
from tinygptv_core.batch import IGNORED
from tinygptv_core.engine import load_scaler, micro_batches, scaler_tensor, step_scaler
from tinygptv_core.loader import Steps
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stage import Lora
from tinygptv_core.train import parameters_of, starting_model
from tinygptv_core.training.ddp import DDPEngine
from tinygptv_core.training.not_finite import NotFiniteError, Repeatable, first_gradient_not_finite

LORA = Lora(rank=2, alpha=4, dropout=0.0)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return tiny_spec(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def batch_of(spec):
    """The first batch that each data set gives."""
    steps = Steps(spec, starting_model(spec)[1], rank=0, world_size=1)
    return {steps.order.dataset_at(step): steps[step] for step in reversed(range(len(steps)))}


def engine_for(spec, *, stage=None, options=OPTIONS):
    spec = replace(spec, stage=stage or spec.stage)
    return DDPEngine(starting_model(spec)[0], spec.stage, options, rank=0, world_size=1)


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_loss_is_the_mean_over_all_target_tokens(spec, batch_of):
    batch = batch_of["shapes"]
    model = starting_model(spec)[0].eval()
    with torch.no_grad():
        loss_sum, num_targets = model(batch)
    assert int(num_targets) == int((batch.labels_BT != IGNORED).sum())
    result = engine_for(spec).step(batch, step=0, rate=0.0, dataset="shapes")
    assert result.loss == pytest.approx(float(loss_sum) / int(num_targets), rel=1e-6)


def test_micro_batches_have_every_sample_once(batch_of):
    parts = micro_batches(batch_of["shapes"], 2)
    assert [len(part.keys) for part in parts] == [2, 2, 1]
    assert sum((part.keys for part in parts), ()) == batch_of["shapes"].keys
    assert torch.equal(torch.cat([part.ids_BT for part in parts]), batch_of["shapes"].ids_BT)


@pytest.mark.parametrize("dataset", ["shapes", "words"])
def test_micro_batches_and_packing_give_the_step_of_the_whole_batch(spec, batch_of, dataset):
    results = []
    for most, packed in ((None, False), (2, False), (1, False), (None, True), (2, True)):
        engine = engine_for(spec, options=replace(OPTIONS, micro_batch=most, packed=packed))
        step = engine.step(batch_of[dataset], step=0, rate=1e-2, dataset=dataset)
        results.append((step.read(), parameters_of(engine)))
    whole, weights = results[0]
    for told, others in results[1:]:
        assert told == pytest.approx(whole, abs=1e-5)
        assert largest_difference(weights, others) < 1e-5


def test_a_batch_of_text_leaves_the_projections_alone(spec, batch_of):
    engine = engine_for(spec)
    before = {name: tensor.clone() for name, tensor in parameters_of(engine).items()}
    engine.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes")
    middle = {name: tensor.clone() for name, tensor in parameters_of(engine).items()}
    engine.step(batch_of["words"], step=1, rate=1e-2, dataset="words")
    after = parameters_of(engine)
    name = "projections.llama_proj.weight"
    assert not torch.equal(before[name], middle[name])
    assert torch.equal(middle[name], after[name])
    norm = "llm.model.final_layernorm.weight"
    assert not torch.equal(middle[norm], after[norm])


def test_the_first_step_of_adamw_is_the_rate_and_the_decay(spec, batch_of):
    """Adam's first step is the sign of the gradient times the rate; a matrix decays by rate * 0.05 besides."""
    engine = engine_for(spec)
    before = {name: tensor.clone() for name, tensor in parameters_of(engine).items()}
    engine.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes")
    after = parameters_of(engine)
    moved = (after["llm.model.final_layernorm.weight"] - before["llm.model.final_layernorm.weight"]).abs()
    assert moved.tolist() == pytest.approx([1e-2] * 16, rel=1e-2)
    name = "projections.llama_proj2.weight"
    moved = (after[name] - before[name] * (1 - 1e-2 * 0.05)).abs()
    assert moved.median().item() == pytest.approx(1e-2, rel=1e-3)


def test_adamw_remembers_a_tenth_of_a_gradient_and_a_thousandth_of_its_square(spec, batch_of):
    engine = engine_for(spec)
    norm = engine.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes").read()["gradient_norm"]
    state = engine.state()
    first = torch.cat([state[f"exp_avg/{name}"].flatten() for name in parameters_of(engine)])
    second = torch.cat([state[f"exp_avg_sq/{name}"].flatten() for name in parameters_of(engine)])
    assert first.norm().item() == pytest.approx(0.1 * min(norm, STAGE.clip_norm), rel=1e-4)
    torch.testing.assert_close(second, 0.001 * (first / 0.1) ** 2, rtol=1e-3, atol=1e-12)


def test_gradients_are_clipped_to_the_stages_norm(spec, batch_of):
    """After clipping to 1e-9 Adam's epsilon outweighs the gradients, so that almost nothing moves."""
    engine = engine_for(spec, stage=replace(spec.stage, clip_norm=1e-9, weight_decay=0.0))
    before = {name: tensor.clone() for name, tensor in parameters_of(engine).items()}
    result = engine.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes")
    assert result.gradient_norm is not None
    assert result.gradient_norm > 0.1  # as it was before clipping
    assert 0 < largest_difference(before, parameters_of(engine)) < 1e-3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_loss_that_is_no_number_stops_before_the_optimizer_and_names_the_layer(spec, batch_of, precision, packed):
    stage = replace(spec.stage, precision=precision)
    engine = engine_for(spec, stage=stage, options=replace(OPTIONS, packed=packed))
    parameter = engine.state()["parameter/llm.model.layers.0.input_layernorm.weight"]
    with torch.no_grad():
        parameter[0] = float("nan")
    before = {name: tensor.clone() for name, tensor in engine.state().items()}
    message = r"the loss is nan at step 5 of tiny, on shapes; .* is llm\.model\.layers\.0\.input_layernorm, .*0000000"
    with pytest.raises(NotFiniteError, match=message):
        engine.step(batch_of["shapes"], step=4, rate=1e-2, dataset="shapes")
    after = engine.state()
    assert before.keys() == after.keys()  # no moments either
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


def test_a_gradient_that_is_no_number_stops_before_the_optimizer_and_is_named(spec, batch_of):
    model = starting_model(spec)[0]
    engine = DDPEngine(model, spec.stage, OPTIONS, rank=0, world_size=1)
    projection = model.projections[0]
    hook = projection.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = projection.weight.detach().clone()
    with pytest.raises(NotFiniteError, match=r"gradients of 1 of \d+ tensors .* projections\.llama_proj\.weight"):
        engine.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes")
    hook.remove()
    assert torch.equal(projection.weight, before)


def two_layers(*, dropout=0.0):
    return TinyGPTV.from_backbones(tiny.backbones(seed=1, dropout=dropout), LORA, seed=2)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_where_the_first_infinite_gradient_arose_is_named_not_where_it_came_last(again, micro_batch):
    """It arises in layer 1 of 0 and 1, and comes to all tensors but the last norm and the layer's own on its way."""
    model = two_layers()
    if again:
        model.llm.recompute_layers()
    options = replace(OPTIONS, micro_batch=micro_batch)
    engine = DDPEngine(model, STAGE, options, rank=0, world_size=1)
    model.get_submodule("llm.model.layers.1.mlp.fc2").register_forward_hook(tiny.infinite)
    message = (
        r"the first came to the output of llm\.model\.layers\.1\.mlp\.fc2; on the way back first: "
        r"llm\.model\.layers\.1\.[\w.]+, .*Nothing was stepped"
    )
    with pytest.raises(NotFiniteError, match=message):
        engine.step(tiny.batch(), step=0, rate=1e-2, dataset="shapes")


def test_an_infinite_gradient_that_waits_for_its_turn_is_named_in_the_step_that_gave_it():
    """Of three steps, after the last of which the optimizer has its turn, the second gives it."""
    model = two_layers()
    engine = DDPEngine(model, replace(STAGE, published_accumulation=3), OPTIONS, rank=0, world_size=1)
    engine.step(tiny.batch(), step=0, rate=1e-2, dataset="words")
    model.get_submodule("llm.model.layers.1.mlp.fc2").register_forward_hook(tiny.infinite)
    message = (
        r"not finite at step 2 of tiny, on shapes; the first came to the output of llm\.model\.layers\.1\.mlp\.fc2"
    )
    with pytest.raises(NotFiniteError, match=message):
        engine.step(tiny.batch(), step=1, rate=1e-2, dataset="shapes")


def test_a_loss_on_held_out_samples_that_is_no_number_is_told_with_its_layer():
    model = two_layers()
    engine = DDPEngine(model, STAGE, OPTIONS, rank=0, world_size=1)
    with torch.no_grad():
        engine.state()["parameter/llm.model.layers.1.input_layernorm.weight"][0] = float("nan")
    message = r"the loss is nan at the held-out samples of tiny; .* is llm\.model\.layers\.1\.input_layernorm"
    with pytest.raises(NotFiniteError, match=message):
        engine.mean_loss([tiny.batch()])


def test_the_layer_is_looked_for_under_the_dropout_of_the_step():
    """A layer's output is infinite under one mask alone, that of the failing step."""
    model, masks = two_layers(dropout=0.5), []
    engine = DDPEngine(model, STAGE, OPTIONS, rank=0, world_size=1)

    def infinite(_module, _inputs, output):
        masks.append(output == 0)
        return output / 0 if torch.equal(masks[-1], masks[0]) else output

    model.get_submodule("llm.model.layers.0.resid_dropout").register_forward_hook(infinite)
    message = r"the first layer to give such a number is llm\.model\.layers\.0\.resid_dropout"
    with pytest.raises(NotFiniteError, match=message):
        engine.step(tiny.batch(), step=0, rate=1e-2, dataset="shapes")
    assert len(masks) == 4  # two of a pass
    assert not torch.equal(masks[0], masks[1])


def test_an_infinite_gradient_is_looked_for_under_the_dropout_of_the_step():
    """As above, that of a layer's output."""
    model, masks = two_layers(dropout=0.5), []
    engine = DDPEngine(model, STAGE, OPTIONS, rank=0, world_size=1)

    def infinite(module, inputs, output):
        masks.append(output == 0)
        if torch.equal(masks[-1], masks[0]):
            tiny.infinite(module, inputs, output)

    model.get_submodule("llm.model.layers.1.resid_dropout").register_forward_hook(infinite)
    with pytest.raises(NotFiniteError, match=r"the first came to the output of llm\.model\.layers\.1\.resid_dropout"):
        engine.step(tiny.batch(), step=0, rate=1e-2, dataset="shapes")


def test_gradients_are_looked_for_as_they_were_weighted():
    """Which a float16 scaler's scale may have made infinite."""
    model = two_layers()
    for weight, found in ((1.0, False), (float("inf"), True)):
        again = Repeatable(parts=[tiny.batch()], seed=1, weight=torch.tensor(weight))
        assert (first_gradient_not_finite(model, again, packed=False) is not None) == found


def test_a_state_restores_the_next_step_to_the_last_bit(spec, batch_of):
    ran = engine_for(spec)
    ran.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes")
    state = {name: tensor.clone() for name, tensor in ran.state().items()}
    ran.step(batch_of["shapes"], step=1, rate=1e-2, dataset="shapes")
    anew = engine_for(spec)
    anew.load_state(state)
    anew.step(batch_of["shapes"], step=1, rate=1e-2, dataset="shapes")
    assert largest_difference(ran.state(), anew.state()) == 0


def test_the_state_of_other_parameters_is_refused(spec):
    state = engine_for(spec).state()
    del state["parameter/projections.llama_proj.bias"]
    with pytest.raises(ValueError, match=r"other parameters: \['projections\.llama_proj\.bias'\]"):
        engine_for(spec).load_state(state)
    more = engine_for(spec).state() | {"parameter/more": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"other parameters: \['more'\]"):
        engine_for(spec).load_state(more)


def test_dropout_is_drawn_from_seed_step_and_process_and_nothing_else(tmp_path):
    spec = tiny_spec(tmp_path, dropout=0.5)
    model, tokenizer = starting_model(spec)
    batch = Steps(spec, tokenizer, rank=0, world_size=1)[0]

    def loss(*, seed: int = 11, step: int = 3, rank: int = 0) -> float:
        engine = DDPEngine(model, replace(spec.stage, seed=seed), OPTIONS, rank=rank, world_size=1)
        return float(engine.step(batch, step=step, rate=0.0, dataset="shapes").loss)

    losses = loss(), loss(step=4), loss(seed=12), loss(rank=1)
    assert len(set(losses)) == 4 and loss() == losses[0]


def test_bfloat16_is_near_float32(spec, batch_of):
    exact = engine_for(spec).step(batch_of["shapes"], step=0, rate=0.0, dataset="shapes")
    rough = engine_for(spec, stage=replace(spec.stage, precision="bfloat16"))
    told = rough.step(batch_of["shapes"], step=0, rate=0.0, dataset="shapes").read()
    assert told["loss"] == pytest.approx(exact.read()["loss"], rel=2e-2)


def test_float16_skips_steps_until_its_scale_fits_then_goes_on_and_is_restored(spec, batch_of):
    stage = replace(spec.stage, precision="float16")
    engine = engine_for(spec, stage=stage)
    scale, growth = engine.state()["scaler"].tolist()
    assert (scale, growth) == (65_536, 0)
    engine.load_state(engine.state() | {"scaler": torch.tensor([2.0**40, 0.0], dtype=torch.float64)})
    before = {name: tensor.clone() for name, tensor in parameters_of(engine).items()}
    skipped = engine.step(batch_of["shapes"], step=0, rate=1e-2, dataset="shapes")
    assert skipped.read()["gradient_norm"] is None
    assert largest_difference(before, parameters_of(engine)) == 0
    assert engine.state()["scaler"].tolist() == [2.0**39, 0]
    engine.load_state(engine.state() | {"scaler": torch.tensor([256.0, 0.0], dtype=torch.float64)})
    stepped = engine.step(batch_of["shapes"], step=1, rate=1e-2, dataset="shapes")
    exact = engine_for(spec).step(batch_of["shapes"], step=1, rate=0.0, dataset="shapes")
    assert stepped.read()["gradient_norm"] == pytest.approx(exact.read()["gradient_norm"], rel=5e-2)
    assert engine.state()["scaler"].tolist() == [256, 1]
    resumed = engine_for(spec, stage=stage)
    resumed.load_state({name: tensor.clone() for name, tensor in engine.state().items()})
    resumed.step(batch_of["shapes"], step=2, rate=1e-2, dataset="shapes")
    assert resumed.state()["scaler"].tolist() == [256, 2]


def test_the_mean_loss_is_weighted_by_tokens_and_changes_nothing(spec, batch_of):
    engine = engine_for(spec)
    model = starting_model(spec)[0].eval()
    with torch.no_grad():
        sums = [model(batch_of[name]) for name in ("shapes", "words")]
    expected = sum(float(loss) for loss, _ in sums) / sum(int(number) for _, number in sums)
    assert engine.mean_loss([batch_of["shapes"], batch_of["words"]]) == pytest.approx(expected, rel=1e-6)
    assert engine.mean_loss([]) is None


def test_the_published_accumulation_steps_with_the_undivided_sum_of_its_steps_gradients(spec, batch_of):
    """Two steps over one batch give twice its gradient; what an epoch of three leaves over counts in the next."""
    schedule = replace(spec.stage.schedule, published_epoch_steps=3)
    plain_stage = replace(spec.stage, clip_norm=None)
    stage = replace(plain_stage, published_accumulation=2, schedule=schedule)
    batch = batch_of["shapes"]
    once = engine_for(spec, stage=plain_stage).step(batch, step=0, rate=0.0, dataset="shapes").read()["gradient_norm"]
    engine = engine_for(spec, stage=stage)
    results = [engine.step(batch, step=step, rate=0.0, dataset="shapes") for step in (0, 1, 2, 3, 4)]
    norms = [result.read()["gradient_norm"] for result in results]
    assert [norm is None for norm in norms] == [True, False, True, True, False]
    assert norms[1] == pytest.approx(2 * once, rel=0.2)
    assert norms[4] == pytest.approx(3 * once, rel=0.2)


def test_gradients_not_yet_stepped_with_are_part_of_the_state(spec, batch_of):
    stage = replace(spec.stage, published_accumulation=2)
    whole, killed, resumed = (engine_for(spec, stage=stage) for _ in range(3))
    for engine in (whole, killed):
        engine.step(batch_of["shapes"], step=0, rate=1e-3, dataset="shapes")
    resumed.load_state({name: tensor.clone() for name, tensor in killed.state().items()})
    for engine in (whole, resumed):
        engine.step(batch_of["shapes"], step=1, rate=1e-3, dataset="shapes")
    state = whole.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in resumed.state().items())


def test_the_scale_of_the_loss_grows_and_shrinks_as_torchs_own():
    """It doubles after 2,000 steps that did not overflow, and halves after one that did."""
    scaler, told = torch.amp.GradScaler("cpu"), []
    load_scaler(scaler, torch.tensor([256.0, 1998.0]))
    for overflowed in (False, False, False, True):
        step_scaler(scaler, overflowed=overflowed)
        told.append(scaler_tensor(scaler).tolist())
    assert told == [[256, 1999], [512, 0], [512, 1], [256, 0]]
