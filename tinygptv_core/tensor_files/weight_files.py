"""Tensors in files, read one at a time: safetensors and torch's pickles, alone or in shards.

A pickle can run code when it is read; here it can name tensors and plain values, and nothing else.
"""

import json
import pickle
import re
import struct
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinygptv_core.plain import ConfigError
from tinygptv_core.tensor_files.pickled_names import ZIP, scan_pickle
from tinygptv_core.tensor_files.weight_folders import PICKLES, SAFETENSORS, tensor_files

WRAPPERS = ("model", "state_dict", "module")
"""Under which names a pickle may hold its tensors, if not at the top."""

POINTER = b"version https://git-lfs"
SHOWN_NAMES = 4
"""Of tensors or of what a pickle wants, in a message."""

MAPPED_BYTES = 32 << 20
"""How much of a mapped file is read before it is mapped anew."""

BROKEN = (
    *(RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)
"""What reading a pickle raises, depending on where its bytes stop making sense."""

CODES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
"""What safetensors calls them, in the order in which it writes them."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor that is read, or made of others that are read, each time it is asked for.

    Attributes:
        place: what it is called where, for people; empty if it comes from no file.
    """

    shape: torch.Size
    dtype: torch.dtype
    read: Callable[[], Tensor]
    place: str = ""

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.shape.numel() * self.dtype.itemsize

    def to(self, dtype: torch.dtype) -> "Stored":
        """The same in another dtype."""
        return replace(self, dtype=dtype, read=lambda: self.read().to(dtype))


def some_of(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + rest


def counted(faults: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each fault that is some tensors': how many, and which."""
    return [f"{len(names)} {fault}: {some_of(names)}" for fault, names in faults.items() if names]


def in_memory(tensor: Tensor, place: str = "") -> Stored:
    """A tensor that is there already, as if it were stored."""
    return Stored(shape=tensor.shape, dtype=tensor.dtype, read=lambda: tensor, place=place)


class LazyTensors(Mapping[str, Tensor]):
    """Stored tensors as tensors; each is read anew whenever it is looked up, and none is kept."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def open_weights(source: Path) -> dict[str, Stored]:
    """The tensors of a file, or of all shards of a folder, by their names there.

    What is not yet read takes no memory, and what was read is given back soon after nobody holds it. Files of before
    torch 1.6, and archives that somebody compressed, are read whole, and what is left of them is what is held here.

    Raises:
        ConfigError: a file is missing, cut off, no file of weights, or a pickle that names more than tensors.
    """
    found: dict[str, Stored] = {}
    for path in tensor_files(source):
        tensors = _open_safetensors(path) if path.suffix == SAFETENSORS else _open_pickle(path)
        twice = found.keys() & tensors.keys()
        if twice:
            raise ConfigError(f"{path} holds {min(twice)}, which another file of {source} holds as well")
        found |= tensors
    return found


def _open_safetensors(path: Path) -> dict[str, Stored]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: _lying_in(path, name, file.get_tensor(name)) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        _refuse_foreign(path)
        raise ConfigError(f"{path} is cut off, or no safetensors file: {error}") from None


def _lying_in(path: Path, name: str, tensor: Tensor) -> Stored:
    """Opened anew for each tensor: an open file keeps what was read of it in memory."""

    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return Stored(shape=tensor.shape, dtype=tensor.dtype, read=read, place=_place(path, name))


def open_checkpoint(file: Path) -> tuple[dict[str, Stored], object]:
    """The tensors of one file, and the `config` that a pickle has beside them, read at once; None if there is none.

    Raises:
        ConfigError: as `open_weights` does.
    """
    if not file.is_file() or file.suffix not in PICKLES:
        return open_weights(file), None
    told = read_pickle(file)
    return _stored(file, _tensors(file, told)), told.get("config")


def _open_pickle(path: Path) -> dict[str, Stored]:
    return _stored(path, _pickled_tensors(path))


def _pickled_tensors(path: Path) -> dict[str, Tensor]:
    return _tensors(path, read_pickle(path))


def _stored(path: Path, tensors: dict[str, Tensor]) -> dict[str, Stored]:
    if not _can_be_mapped(path):
        return {name: in_memory(tensor, _place(path, name)) for name, tensor in tensors.items()}
    mapped = _Mapped(path, tensors)
    return {
        name: Stored(shape=tensor.shape, dtype=tensor.dtype, read=partial(mapped.read, name), place=_place(path, name))
        for name, tensor in tensors.items()
    }


def _place(path: Path, name: str) -> str:
    return f"{name} in {path}"


class _Mapped:
    """A pickle's tensors, mapped. What was read of a mapping counts as memory, so from time to time it is made anew."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path = path
        self.tensors = tensors
        self.bytes_read = 0

    def read(self, name: str) -> Tensor:
        """A copy of one of them."""
        tensor = self.tensors[name].clone()
        self.bytes_read += tensor.nbytes
        if self.bytes_read > MAPPED_BYTES:
            self.tensors, self.bytes_read = _pickled_tensors(self.path), 0
        return tensor


def _tensors(path: Path, told: object) -> dict[str, Tensor]:
    """Those in what a pickle holds, at the top or below one of `WRAPPERS`."""
    for name in WRAPPERS:
        if isinstance(told, Mapping) and isinstance(told.get(name), Mapping):
            told = told[name]
            break
    if not isinstance(told, Mapping) or not told or not all(isinstance(item, Tensor) for item in told.values()):
        raise ConfigError(f"{path} holds {_described(told)}; it must hold tensors by their names")
    nameless = [name for name in told if not isinstance(name, str)]
    if nameless:
        raise ConfigError(f"{path} holds a tensor by the name {nameless[0]!r}, which is no text; names must be texts")
    odd = [name for name, tensor in told.items() if not _is_whole(tensor)]
    if odd:
        raise ConfigError(f"{path} holds {odd[0]} as a meta, sparse or nested tensor; whole ones are wanted")
    return dict(told)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested


def _described(told: object) -> str:
    if isinstance(told, Mapping):
        return f"{', '.join(map(str, list(told)[:5]))}" if told else "nothing"
    return f"a {type(told).__name__}"


def read_pickle(path: Path) -> Any:
    """What torch saved in `path`; its tensors are mapped, not read, where they can be.

    Raises:
        ConfigError: it is cut off, no such file, or names anything that could run code.
    """
    _refuse_foreign(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another pickle protocol
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except BROKEN as error:
        _refuse(path, str(error))


def _can_be_mapped(path: Path) -> bool:
    """Whether its tensors lie in it as they are: before torch 1.6 files were no archives, and others can be packed."""
    if not _start(path).startswith(ZIP) or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def _refuse(path: Path, said: str) -> NoReturn:
    seen = scan_pickle(path)
    wants = seen.wants or tuple(re.findall(r"GLOBAL (\S+)", said))
    # What a later protocol may do is not read by torch, so not known to be harmless where it was not seen to be.
    unlike = "Unsupported operand" in said
    if wants or (unlike and seen.endless):
        what = f"wants {some_of(wants)}" if wants else "is none of torch's"
        raise ConfigError(
            f"{path} was not read: it is a pickle that {what}, and could run any code. A file of weights "
            "holds tensors and plain values alone.\n"
            "  do not open it otherwise; if you made it yourself, save its state_dict as safetensors"
        ) from None
    _refuse_safetensors(path)
    if unlike and seen.whole:
        raise ConfigError(
            f"{path} was not read: it was saved in another pickle protocol than torch.save's own, and only that one "
            "can be read without running what it says.\n"
            "  if you made it, save it again without pickle_protocol, or as safetensors"
        ) from None
    raise ConfigError(
        f"{path} is cut off, or no file that torch saved ({_reason(said)}).\n  fetch it again, and compare its size"
    ) from None


def _reason(said: str) -> str:
    """The first sentence of what torch says, without its advice to read the file unsafely."""
    told = said.partition("WeightsUnpickler error:")[2] or said
    first = re.split(r"\.\s|\n", told.strip())[0]
    return textwrap.shorten(first, 160, placeholder=" ...") or "it ends too soon"


def _refuse_safetensors(path: Path) -> None:
    if _start(path)[8:10] == b'{"':  # the length of its header, and the header
        raise ConfigError(
            f"{path} is a safetensors file by another name; rename it to {path.stem}{SAFETENSORS}"
        ) from None


def _refuse_foreign(path: Path) -> None:
    """Refuse what downloads leave in the place of a file."""
    start = _start(path).lstrip()
    if not start:
        raise ConfigError(f"{path} is empty.\n  fetch it again")
    if start.startswith(POINTER):
        raise ConfigError(f"{path} is Git LFS's note about the file, not the file.\n  git lfs pull fetches it")
    if start[:1] == b"<":
        raise ConfigError(
            f"{path} is a web page, not weights: the download was refused.\n  look at it, and fetch again"
        )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def write_tensors(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, written tensor by tensor: the bytes that safetensors' own `save_file` would write.

    Args:
        metadata: what the file says beside its tensors.

    Raises:
        ConfigError: a tensor holds NaN or infinity; names it, and what it is made of.
    """
    ranks = {dtype: rank for rank, dtype in enumerate(CODES)}
    order = sorted(tensors, key=lambda name: (ranks[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        stored = tensors[name]
        start, end = end, end + stored.nbytes
        header[name] = {"dtype": CODES[stored.dtype], "shape": list(stored.shape), "data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name in order:
            file.write(_bytes_of(name, tensors[name]))


def _bytes_of(name: str, stored: Stored) -> memoryview:
    tensor = stored.read()
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        made_of = f"\n  it was read from {stored.place}" if stored.place else ""
        raise ConfigError(
            f"{name} holds a value that is not finite: the file is damaged, or the dtype too narrow{made_of}"
        )
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
