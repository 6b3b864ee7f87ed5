"""The whole, as the order of its steps: data, four stages, evaluation, registry."""

from collections.abc import Sequence

from flows.data import dataset_steps, pictures_step, source_steps
from flows.evaluate import evaluate_step
from flows.features import aids, evaluation_features, training_features
from flows.inputs import picture_sets
from flows.register import register_step
from flows.run_environment import RunEnvironment
from flows.screen import screen_steps
from flows.train import backbones_step, train_step
from tasks.request import Request
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Preset


def steps(preset: Preset, environment: RunEnvironment, init: str | None = None) -> tuple[Request, ...]:
    """Everything that `preset` wants, each step after those whose artifacts it reads; the last is the registration.

    Args:
        init: the stage whose checkpoint is given (`--init`), the preset's first.
    """
    order = [*source_steps(preset), backbones_step(preset.backbones, environment.store)]
    order += [pictures_step(pictures, environment) for pictures in picture_sets(preset.data).values()]
    for name in preset.data:
        order += [*dataset_steps(name, preset, environment), *screen_steps(preset, name, environment)]
    asked, seen = evaluation_features(preset, environment), training_features(preset, environment)
    first = preset.stages[0]
    order += [*asked[first.name], evaluate_step(first, None, aids(asked[first.name]), environment)]
    for number, stage in enumerate(preset.stages):
        earlier, found = preset.stages[:number], seen[stage.name]
        order += [*found, train_step(stage, earlier, aids(found), preset.backbones, environment)]
        order += [*asked[stage.name], evaluate_step(stage, stage.name, aids(asked[stage.name]), environment)]
    order.append(register_step(preset, init, environment))
    return in_order(order)


def in_order(requests: Sequence[Request]) -> tuple[Request, ...]:
    """`requests` as they stand, what stages share once, each after those whose artifacts it reads.

    Raises:
        ConfigError: a step reads what none of them makes: scenes of a preset without `scenes`, say.
    """
    named = {request.name: request for request in requests}
    placed: dict[str, Request] = {}

    def visit(request: Request) -> None:
        if request.name in placed:
            return
        for source in (*request.inputs.values(), *request.aids.values()):
            if isinstance(source, str):
                if source not in named:
                    raise ConfigError(f"{request.name} reads {source}, which no step of this preset makes")
                visit(named[source])
        placed[request.name] = request

    for request in requests:
        visit(request)
    return tuple(placed.values())
