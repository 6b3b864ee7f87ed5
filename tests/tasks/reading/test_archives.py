"""Pictures come out of zips and tars; what leads out of them, is no file, or unpacks to far more, does not."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks.reading.archives import Limits, pictures_in
from tinygptv_core.plain import ConfigError

MAX_BYTES = 1_000
FILES = {
    "set/b.jpg": b"second",
    "set/a.PNG": b"first",
    "set/sub/c.gif": b"third",
    "set/huge.jpg": bytes(range(256)) * 4,
    "set/readme.txt": b"text",
    "other/d.jpg": b"elsewhere",
    "settled/e.jpg": b"elsewhere, too",
}


def zipped(folder: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return folder / "set.zip"


def tarred(folder: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(folder / "set.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for other in others:
            archive.addfile(other)
    return folder / "set.tar.gz"


def read(path: Path, limits: Limits = Limits(), inside: str = "set") -> dict[str, bytes | None]:  # noqa: B008
    return {packed.name: packed.data for packed in pictures_in(path, inside, MAX_BYTES, limits)}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_the_pictures_of_the_folder_are_read_and_nothing_else(tmp_path: Path, pack):
    wanted = {"a.PNG": b"first", "b.jpg": b"second", "sub/c.gif": b"third", "huge.jpg": None}
    assert read(pack(tmp_path, FILES)) == wanted
    assert "set/a.PNG" in read(pack(tmp_path, FILES), inside="")


def test_a_zip_is_read_in_the_order_of_its_paths(tmp_path: Path):
    assert list(read(zipped(tmp_path, FILES))) == ["a.PNG", "b.jpg", "huge.jpg", "sub/c.gif"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../a.jpg", "set/../../a.jpg", "/etc/a.jpg", "set\\..\\..\\a.jpg"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, pack, name: str):
    with pytest.raises(ConfigError, match="leads out of it"):
        read(pack(tmp_path, {**FILES, name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes):
    member = tarfile.TarInfo("set/z.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(ConfigError, match=r"set/z.jpg is a link or a device"):
        read(tarred(tmp_path, FILES, member))


def test_a_link_in_a_zip_is_refused(tmp_path: Path):
    member = zipfile.ZipInfo("set/z.jpg")
    member.external_attr = 0o120777 << 16
    path = zipped(tmp_path, FILES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(ConfigError, match=r"set/z.jpg is a link or a device"):
        read(path)


def test_a_member_that_unpacks_to_far_more_is_refused(tmp_path: Path):
    """A million zeros fit in about a thousandth."""
    with pytest.raises(ConfigError, match=r"refused as a bomb: set/z.jpg has 1000000 bytes"):
        read(zipped(tmp_path, {"set/z.jpg": bytes(1_000_000)}))
    with pytest.raises(ConfigError, match="refused as a bomb"):
        read(tarred(tmp_path, {"beside.bin": bytes(1_000_000), "set/a.jpg": b"first"}))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_too_many_members_and_too_many_bytes_are_refused(tmp_path: Path, pack):
    path = pack(tmp_path, FILES)
    with pytest.raises(ConfigError, match="more than 6 members"):
        read(path, Limits(members=6))
    with pytest.raises(ConfigError, match="over 12 bytes"):
        read(path, Limits(total_bytes=12))


def test_a_zip_that_lies_about_a_size_is_not_believed(tmp_path: Path):
    """The list of members says 4 bytes, and the member has 900: what does not fit its checksum is damaged."""
    path = zipped(tmp_path, {"set/a.jpg": bytes(range(225)) * 4})
    data = path.read_bytes()
    path.write_bytes(data.replace((900).to_bytes(4, "little"), (4).to_bytes(4, "little")))
    with pytest.raises(ConfigError, match="cannot be read as a zip or tar"):
        read(path)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04", gzip.compress(b"no tar", mtime=0)])
def test_what_is_no_archive_is_the_users_to_mend(tmp_path: Path, data: bytes):
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ConfigError, match="Get it again"):
        read(tmp_path / "set.zip")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_that_is_cut_off_is_the_users_to_mend(tmp_path: Path, pack):
    path = pack(tmp_path, FILES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match="Get it again"):
        read(path)


MANY = {f"set/{number}.jpg": bytes([number]) * 300 for number in range(9)}
"""Each takes two blocks of 512 bytes in a tar, so that the header of number 3 lies at byte 3,072."""


def plain_tar() -> bytearray:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in MANY.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return bytearray(data.getvalue())


def stored(folder: Path, data: bytes | bytearray) -> Path:
    (folder / "set.tar").write_bytes(data)
    return folder / "set.tar"


END = 9 * 1024


@pytest.mark.parametrize(
    ("begin", "end", "new"),
    [
        (3072, 3073, b"x"),  # its name is not that of its checksum
        (3172, None, b""),  # cut off in a header
        (3072, None, b""),  # between two members
        (3072, 3584, bytes(512)),  # a block of zeros, which does not end a tar alone
    ],
)
def test_a_tar_that_does_not_go_on_where_it_should_is_damaged(tmp_path: Path, begin: int, end: int | None, new: bytes):
    data = plain_tar()
    data[begin:end] = new
    with pytest.raises(ConfigError, match=r"set.tar cannot be .* at set/2.jpg or after it: .* byte 3072.*Get it again"):
        read(stored(tmp_path, data))


def test_a_tar_without_an_end_is_cut(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"at set/8.jpg or after it: .*Get it again"):
        read(stored(tmp_path, plain_tar()[:END]))


@pytest.mark.parametrize("zeros", [512, 1024, 1024 + 7, 9 * 10240])
def test_how_many_zeros_end_a_tar_bears_on_nothing(tmp_path: Path, zeros: int):
    """GNU tar writes whole records of 20 blocks, and other programs two blocks."""
    assert len(read(stored(tmp_path, plain_tar()[:END] + bytes(zeros)))) == 9


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("cut", [3072, 3500, END])
def test_a_tar_that_is_packed_in_parts_is_read_to_its_end(tmp_path: Path, pack, cut: int):
    data = bytes(plain_tar())
    assert len(read(stored(tmp_path, pack(data[:cut]) + pack(data[cut:])), Limits(ratio=9_000))) == 9


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_what_a_packed_tar_says_of_itself_at_its_end_is_checked(tmp_path: Path, pack):
    """The checksum of gzip is in its last eight bytes, that of bz2 in the last five, and xz's mark ends its file."""
    data = bytearray(pack(bytes(plain_tar())))
    data[-8 if pack is gzip.compress else -4] ^= 0xFF
    for damaged in (data, data[:-8]):
        with pytest.raises(ConfigError, match="cannot be read as a zip or tar.*Get it again"):
            read(stored(tmp_path, damaged), Limits(ratio=9_000))


def test_what_follows_the_end_of_a_tar_counts_as_unpacked(tmp_path: Path):
    packed = gzip.compress(bytes(plain_tar()) + bytes(5_000_000))
    with pytest.raises(ConfigError, match="refused as a bomb"):
        read(stored(tmp_path, packed))


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_a_zip_is_the_users_to_mend(tmp_path: Path, kind: int):
    noise = random.Random(0).randbytes(900)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", kind) as archive:
        archive.writestr("set/a.jpg", noise)
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[60:75] = bytes(byte ^ 0x5A for byte in data[60:75])
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ConfigError, match=r"cannot be read as a zip or tar at set/a.jpg or after it.*Get it again"):
        read(tmp_path / "set.zip")
