"""The whole, as the order of its steps: data, four stages, evaluation, registry."""

from collections.abc import Sequence

from flows.data import dataset_steps, picture_sets, pictures_step, source_steps
from flows.evaluate import evaluate_step, register_step
from flows.features import aids, evaluation_features, training_features
from flows.place import Place
from flows.train import backbones_step, train_step
from tasks.build import Request
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Preset


def steps(preset: Preset, place: Place, init: str | None = None) -> tuple[Request, ...]:
    """Everything that `preset` wants, each step after those whose artifacts it reads; the last is the registration.

    Args:
        init: the stage whose checkpoint is given (`--init`), the preset's first.
    """
    order = [*source_steps(preset, place), backbones_step(preset.backbones, place.store)]
    order += [pictures_step(pictures, place) for pictures in picture_sets(preset.data).values()]
    for name in preset.data:
        order += dataset_steps(name, preset, place)
    asked, seen = evaluation_features(preset, place), training_features(preset, place)
    first = preset.stages[0]
    order += [*asked[first.name], evaluate_step(first, None, aids(asked[first.name]), place)]
    before = None
    for stage in preset.stages:
        order += [*seen[stage.name], train_step(stage, before, aids(seen[stage.name]), place)]
        order += [*asked[stage.name], evaluate_step(stage, stage.name, aids(asked[stage.name]), place)]
        before = stage.name
    order.append(register_step(preset, init, place))
    _check_sources(order)
    return tuple({request.name: request for request in order}.values())  # what stages share stands once


def _check_sources(order: Sequence[Request]) -> None:
    """Refuse a preset of which a step reads what none of its steps makes: scenes without `scenes`, say."""
    names = [request.name for request in order]
    for request in order:
        for source in (*request.inputs.values(), *request.aids.values()):
            if isinstance(source, str) and source not in names:
                raise ConfigError(f"{request.name} reads {source}, which no step of this preset makes")
