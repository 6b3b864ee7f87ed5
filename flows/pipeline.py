"""The whole, as the order of its steps: data, four stages, evaluation, registry."""

from flows.data import dataset_steps, source_steps
from flows.evaluate import evaluate_step, register_step
from flows.place import Place
from flows.train import backbones_step, train_step
from tasks.build import Request
from tinygptv_core.presets import Preset


def steps(preset: Preset, place: Place) -> tuple[Request, ...]:
    """Everything that `preset` wants, each step after those whose artifacts it reads."""
    order = [*source_steps(preset, place), backbones_step(preset.backbones, place.store)]
    for name, settings in preset.data.items():
        order += dataset_steps(name, settings, place)
    order.append(evaluate_step(preset.stages[0], None, place))
    before = None
    for stage in preset.stages:
        order.append(train_step(stage, before, place))
        order.append(evaluate_step(stage, stage.name, place))
        before = stage.name
    order.append(register_step(preset, place))
    return tuple(order)
