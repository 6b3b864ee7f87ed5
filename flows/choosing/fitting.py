"""What a plan can say at once that would stop a run later: pictures, a checkpoint, hosts or a device that do not do."""

from collections.abc import Sequence
from pathlib import Path

from flows.data import LIST
from flows.plan import Planned, Selection, lacking_files
from flows.recipes import recipe
from flows.run_environment import RunEnvironment
from flows.train import sizes_of
from tasks.fetch import FETCH
from tasks.fetching.guard import is_named_private
from tasks.hosts import canonical_host
from tasks.quantities import first_of
from tasks.reading.list_files import is_far
from tasks.rows import hosts_listed
from tinygptv_core.artifact import Artifact
from tinygptv_core.checkpoint_form import check_norms, read_form
from tinygptv_core.plain import ConfigError
from tinygptv_core.presets import Preset
from tinygptv_core.run import RunOptions
from tinygptv_core.stage import check_adapters

COMPUTING = ("/features", "/train", "/evaluate")
"""How the names of the steps end that compute on the device."""
MOST_HOSTS = 5
"""That are named of those in a list."""
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Files of which there is one where torch can see a GPU: NVIDIA's driver, Windows' own Linux, AMD's driver."""


def check_pictures(preset: Preset) -> None:
    """Refuse stages whose pictures the tower cannot cut into its patches.

    Raises:
        ConfigError: a side is no multiple of the patch's.
    """
    patch = sizes_of(preset.backbones).vision.patch_size
    for stage in preset.stages:
        if stage.image_size % patch:
            less = stage.image_size - stage.image_size % patch
            near = " or ".join(str(side) for side in (less, less + patch) if side)
            raise ConfigError(
                f"{stage.name}.image_size is {stage.image_size}; the tower of these backbones takes squares "
                f"whose side is a multiple of {patch} px: {near}"
            )


def check_given(preset: Preset, checkpoint: Artifact) -> None:
    """Refuse a `checkpoint` that cannot stand for what the preset's first stage trains (`--init`).

    Raises:
        ConfigError: it is another stage's, or its model or adapters are not those with which the next stage goes on.
    """
    stage, form = preset.stages[0], read_form(checkpoint.path)
    if form.name != stage.name:
        raise ConfigError(
            f"{checkpoint.path} is a checkpoint of {form.name}, not of {stage.name}.\n"
            f"  to begin with it  --init {form.name}={checkpoint.path.name}"
        )
    check_norms(checkpoint.path, form, stage)
    for following in preset.stages[1:2]:
        check_adapters(f"the given checkpoint of {form.name}", form.lora, following)


def lacking(
    preset: Preset, environment: RunEnvironment, selection: Selection, planned: Sequence[Planned], *, at_once: bool
) -> list[str]:
    """What a run has not that it needs: files of the user's, hosts that it may fetch from, a device.

    Args:
        at_once: look for the device by its driver alone: what takes no second, and may miss that it cannot be used.
    """
    device = _lacking_device(preset, environment.options, planned, at_once=at_once)
    return [*filter(None, (lacking_files(selection), _refused_hosts(environment, planned), device))]


def _refused_hosts(environment: RunEnvironment, planned: Sequence[Planned]) -> str | None:
    """That nothing of the user's own list can be fetched, because no host in it has a public address or is allowed.

    Said of a short list alone, which is read for it, and of what the URLs themselves say: no name is looked up.
    """
    lists = environment.own_lists.get(LIST, ())
    if any(map(is_far, lists)) or not any(i.action == "build" and i.step == f"{LIST}/{FETCH.name}" for i in planned):
        return None
    found = [hosts_listed(Path(path), recipe(LIST)) for path in lists]
    hosts = frozenset[str]().union(*(some or () for some in found))
    allowed = set(map(canonical_host, environment.fetching.allow_hosts))
    if None in found or not hosts or not all(is_named_private(h) and canonical_host(h) not in allowed for h in hosts):
        return None
    names = sorted(hosts)
    to_fetch = f"to fetch from {'the first of ' if len(names) > MOST_HOSTS else ''}them all the same"
    allowing = " ".join(f"--allow-host {host}" for host in names[:MOST_HOSTS])
    return (
        f"{LIST}: nothing of it can be fetched (refused_address): none of its hosts has a public address, or is "
        f"allowed: {first_of(names, MOST_HOSTS, ', ')}.\n  {to_fetch}  {allowing}"
    )


def _lacking_device(preset: Preset, options: RunOptions, planned: Sequence[Planned], *, at_once: bool) -> str | None:
    """That there is no GPU, where a step to build computes on one; told before anything is fetched for it."""
    if options.device != "cuda" or not any(i.action == "build" and i.step.endswith(COMPUTING) for i in planned):
        return None
    if (at_once and any(map(_exists, DRIVERS))) or (not at_once and _torch_sees_one()):
        return None
    asked = f"the preset {preset.name}" if preset.options.device == "cuda" else "--option device=cuda"
    return f"{asked} computes on a GPU, and torch sees none here.\n  to compute on the CPU  --option device=cpu"


def _exists(name: str) -> bool:
    return Path(name).exists()


def _torch_sees_one() -> bool:
    import torch

    return torch.cuda.is_available()
