"""The whole, as the order of its steps: data, four stages, evaluation, registry."""

from collections.abc import Sequence

from flows.data import dataset_steps, pictures_step, source_steps
from flows.evaluate import evaluate_step
from flows.features import aids, evaluation_features, training_features
from flows.inputs import picture_sets
from flows.place import Place
from flows.register import register_step
from flows.screen import screen_steps
from flows.train import backbones_step, train_step
from tasks.request import Request
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Preset


def steps(preset: Preset, place: Place, init: str | None = None) -> tuple[Request, ...]:
    """Everything that `preset` wants, each step after those whose artifacts it reads; the last is the registration.

    Args:
        init: the stage whose checkpoint is given (`--init`), the preset's first.
    """
    order = [*source_steps(preset), backbones_step(preset.backbones, place.store)]
    order += [pictures_step(pictures, place) for pictures in picture_sets(preset.data).values()]
    for name in preset.data:
        order += [*dataset_steps(name, preset, place), *screen_steps(preset, name, place)]
    asked, seen = evaluation_features(preset, place), training_features(preset, place)
    first = preset.stages[0]
    order += [*asked[first.name], evaluate_step(first, None, aids(asked[first.name]), place)]
    for number, stage in enumerate(preset.stages):
        earlier, found = preset.stages[:number], seen[stage.name]
        order += [*found, train_step(stage, earlier, aids(found), preset.backbones, place)]
        order += [*asked[stage.name], evaluate_step(stage, stage.name, aids(asked[stage.name]), place)]
    order.append(register_step(preset, init, place))
    return in_order(order)


def in_order(requests: Sequence[Request]) -> tuple[Request, ...]:
    """`requests` as they stand, what stages share once, each after those whose artifacts it reads.

    Raises:
        ConfigError: a step reads what none of them makes: scenes of a preset without `scenes`, say.
    """
    named = {request.name: request for request in requests}
    placed: dict[str, Request] = {}

    def place(request: Request) -> None:
        if request.name in placed:
            return
        for source in (*request.inputs.values(), *request.aids.values()):
            if isinstance(source, str):
                if source not in named:
                    raise ConfigError(f"{request.name} reads {source}, which no step of this preset makes")
                place(named[source])
        placed[request.name] = request

    for request in requests:
        place(request)
    return tuple(placed.values())
