"""Files of tensors are read one tensor at a time; what could run code, or is cut off, is refused in words."""

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core import brought
from tests.core.brought import compress
from tinygptv_core.plain import ConfigError
from tinygptv_core.tensor_files.pickled_names import MOST_BYTES
from tinygptv_core.tensor_files.weight_files import in_memory, open_weights, read_pickle, write_tensors
from tinygptv_core.tensor_files.weight_folders import check_pins, files_of


class Hostile:
    """What a pickle runs when it is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def saved_otherwise(path: Path, held: object, form: str, protocol: int) -> Path:
    """As torch saves it now, as before 1.6, or by Python's pickle alone."""
    if form == "bare":
        path.write_bytes(pickle.dumps(held, protocol=protocol))
    else:
        torch.save(held, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "archive")
    return path


def in_archive(path: Path, data: bytes) -> Path:
    """An archive of torch's with another pickle in it."""
    torch.save({"a": torch.ones(2)}, path.with_suffix(".pt"))
    with zipfile.ZipFile(path.with_suffix(".pt")) as plain, zipfile.ZipFile(path, "w") as other:
        for name in plain.namelist():
            other.writestr(name, data if name.endswith("data.pkl") else plain.read(name))
    return path


@pytest.mark.parametrize("form", ["archive", "legacy", "bare"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_says_what_it_wants(tmp_path, form, protocol):
    path, payload = tmp_path / "eva_vit_g.pth", tmp_path / "pwned"
    saved_otherwise(path, {"model": Hostile(payload), "weight": torch.ones(2)}, form, protocol)
    with pytest.raises(ConfigError, match=r"a pickle that wants .*(getattr|pathlib\.).*, and could run any code"):
        open_weights(path)
    assert not payload.exists()
    pickle.loads(pickle.dumps(Hostile(payload)))
    assert payload.exists()  # it would have worked


OPCODES = {
    "GLOBAL": (b"cos\nsystem\n(S'touch %s'\ntR.", "os.system"),
    "INST": (b"(S'touch %s'\nios\nsystem\n.", "os.system"),
    "OBJ": (b"(cos\nsystem\nS'touch %s'\no.", "os.system"),
    "STACK_GLOBAL": (b"\x8c\x02os\x8c\x06system\x93(S'touch %s'\ntR.", "os.system"),
    "STACK_GLOBAL of a name that is remembered": (b"\x8c\x02os\x940\x8c\x06systemh\x00\x85R0\x93.", "STACK_GLOBAL"),
    "EXT1": (b"\x82\x01.", "EXT1"),
}


@pytest.mark.parametrize("opcode", OPCODES)
@pytest.mark.parametrize("form", ["archive", "bare"])
@pytest.mark.parametrize("start", [b"", b"\x80\x02"])
def test_whatever_opcode_a_pickle_imports_with_it_is_refused_as_hostile(tmp_path, opcode, form, start):
    path, payload, (data, wanted) = tmp_path / "a.pth", tmp_path / "pwned", OPCODES[opcode]
    data = start + data.replace(b"%s", str(payload).encode())
    in_archive(path, data) if form == "archive" else path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"a pickle that wants {wanted}, and could run any code"):
        open_weights(path)
    assert not payload.exists()


def test_a_pickle_too_long_to_look_through_is_refused_as_hostile(tmp_path):
    in_archive(tmp_path / "a.pth", b"\x80\x02" + b"N0" * 600_000 + b"(ios\nsystem\n.")
    with pytest.raises(ConfigError, match="is none of torch's, and could run any code"):
        open_weights(tmp_path / "a.pth")


def test_a_large_file_that_is_no_pickle_is_not_called_hostile(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x1f\x8b" + bytes(MOST_BYTES))
    with pytest.raises(ConfigError, match="is cut off, or no file that torch saved"):
        open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("form", ["archive", "legacy"])
@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_a_harmless_file_in_another_protocol_is_not_called_hostile(tmp_path, form, protocol):
    held = OrderedDict(a=torch.nn.Parameter(torch.ones(2)), b=torch.ones(2, dtype=torch.bfloat16))
    path = saved_otherwise(tmp_path / "a.pth", held, form, protocol)
    with pytest.raises(ConfigError, match=r"saved in another pickle protocol .*\n.* save it again without"):
        open_weights(path)


@pytest.mark.parametrize(("data", "said"), [(b"}" * 99, "it ends too soon"), (b"X\x09", "unpack requires a buffer")])
def test_what_torch_says_of_a_file_is_told_without_its_advice(tmp_path, data, said):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02" + data)
    with pytest.raises(ConfigError, match=rf"cut off, or no file that torch saved \({said}[\w ]*\)"):
        open_weights(tmp_path / "a.pth")


def test_torchscript_is_code_and_no_advice_of_torch_is_told_of_it(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "a.pth"))
    with pytest.raises(ConfigError, match=r"wants __torch__.torch.nn.modules.linear.Linear, and could run") as refusal:
        open_weights(tmp_path / "a.pth")
    assert "In PyTorch" not in str(refusal.value)


BROKEN = {
    "empty.pth": (b"", "is empty"),
    "page.pth": (b"<!DOCTYPE html><html>403</html>", "a web page"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "text.pth": (b"hello, weights", "cut off, or no file that torch saved"),
    "text.safetensors": (b"hello, weights", "cut off, or no safetensors file"),
    "page.safetensors": (b"<html>", "a web page"),
    "weights.gguf": (b"GGUF", "no file of weights"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_foreign_file_is_refused(tmp_path, name):
    data, said = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        open_weights(tmp_path / name)


@pytest.mark.parametrize("kind", ["meta", "sparse", "nested"])
def test_tensors_without_all_their_values_in_order_are_refused(tmp_path, kind):
    tensors = {
        "meta": lambda: torch.ones(2, device="meta"),
        "sparse": lambda: torch.ones(2).to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }
    torch.save({"a": tensors[kind]()}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="holds a as a meta, sparse or nested tensor"):
        open_weights(tmp_path / "a.pth")


def test_a_name_that_is_no_text_is_refused_and_no_tensor_lost(tmp_path):
    torch.save({"1": torch.ones(2), 1: torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="holds a tensor by the name 1, which is no text"):
        open_weights(tmp_path / "a.pth")


def test_what_is_no_file_of_its_kind_says_what_it_is(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=r"a.pth is a safetensors file by another name; rename it to a.safetensors"):
        open_weights(tmp_path / "a.pth")
    os.mkfifo(tmp_path / "b.pth")
    with pytest.raises(ConfigError, match="is neither a file nor a folder"):
        open_weights(tmp_path / "b.pth")


@pytest.mark.parametrize("part", [10, 100, 1000, -100])
@pytest.mark.parametrize("form", ["archive", "legacy", "safetensors"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, form, part):
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    tensors = {f"tensor{number}": torch.ones(100) for number in range(9)}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "archive")
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(ConfigError, match="cut off"):
        open_weights(path)


def test_an_archive_that_somebody_compressed_holds_the_same_tensors(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(1000.0), "b": torch.ones(3, 4)}, path)
    whole = path.stat().st_size
    compress(path)
    assert path.stat().st_size < whole
    found = open_weights(path)
    assert torch.equal(found["a"].read(), torch.arange(1000.0)) and torch.equal(found["b"].read(), torch.ones(3, 4))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_whose_pickle_is_damaged_is_refused(tmp_path, method):
    path = tmp_path / "a.pth"
    torch.save({f"tensor{number}": torch.ones(3) for number in range(20)}, path)
    compress(path, method)
    with zipfile.ZipFile(path) as archive:
        member = next(one for one in archive.infolist() if one.filename.endswith("data.pkl"))
    data = bytearray(path.read_bytes())
    middle = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    data[middle : middle + 8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="cut off, or no file that torch saved"):
        open_weights(path)


@pytest.mark.parametrize("held", [{"epoch": 3}, {}, [1, 2], torch.ones(2)])
def test_a_pickle_without_tensors_by_name_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="it must hold tensors by their names"):
        open_weights(tmp_path / "a.pth")


def test_a_folder_that_lacks_a_shard_names_it(tmp_path):
    folder = brought.hf_blip2(tmp_path / "blip2", "5KB")
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(ConfigError, match=r"(?s)model-00002-of-.* a download may have been cut short"):
        open_weights(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd"])
def test_an_index_cannot_point_out_of_its_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match="not beside it"):
        open_weights(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"none of model.safetensors.index.json"):
        open_weights(tmp_path)
    with pytest.raises(ConfigError, match="there is no file or folder"):
        open_weights(tmp_path / "nothing.pth")


def test_a_pinned_file_must_be_that_file(tmp_path):
    path = brought.eva(tmp_path / "eva_vit_g.pth")
    digests = {path: "a" * 64}
    check_pins(files_of(path), {"eva_vit_g.pth": "A" * 64}, digests.__getitem__)
    with pytest.raises(ConfigError, match="is not the file that is pinned\n  found   a{64}\n  wanted  b{64}"):
        check_pins(files_of(path), {"eva_vit_g.pth": "b" * 64}, digests.__getitem__)
    with pytest.raises(ConfigError, match="pinned for eva.pth, but there is eva_vit_g.pth"):
        check_pins(files_of(path), {"eva.pth": "b" * 64}, digests.__getitem__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_written_tensor_by_tensor_is_what_safetensors_writes(tmp_path, dtype):
    tensors = {"b": torch.randn(3, 4), "a.x": torch.randn(2).to(dtype), "c": torch.tensor(2.5), "ids": torch.arange(3)}
    for metadata in (None, {"format": "pt"}):
        save_file(tensors, tmp_path / "theirs.safetensors", metadata=metadata)
        write_tensors(tmp_path / "ours.safetensors", {n: in_memory(t) for n, t in tensors.items()}, metadata)
        assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_a_checkpoint_of_tens_of_megabytes_is_mapped_and_not_read(tmp_path):
    torch.save({"model": {"a": torch.ones(10)}, "optimizer": {"b": torch.ones(1000, 1000)}}, tmp_path / "a.pth")
    assert read_pickle(tmp_path / "a.pth")["optimizer"]["b"].untyped_storage().nbytes() >= 4_000_000
    assert list(open_weights(tmp_path / "a.pth")) == ["a"]
