"""Weight files and names that want to do harm, or are damaged, end in a refusal: no code runs, and nothing big is allocated."""

import collections
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from lewm.checkpoint import load_checkpoint
from lewm.commands.convert_weights import convert_weights
from lewm.errors import CheckpointError
from lewm.models.weight_files import read_tensors
from official_files import STATISTICS, official_state, small_model, write_folder, write_weights


class Trap:
    """Unpickled, it would make a directory."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (self.place,)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return official_state(small_model())


def convert(source: object, out: Path) -> None:
    convert_weights([str(source), str(out), *STATISTICS])


def rewritten(file: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive of torch with another pickle in it."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, content if name.endswith("data.pkl") else data)
    return file


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def row(*values: int) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def pickle_of(size: bytes, stride: bytes, *, num_stored: int = 4) -> bytes:
    """What torch pickles for ``{"w": tensor}``, with any size, stride and number of stored elements, as opcodes."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(num_stored) + b"tQ"
    arguments = b"(" + storage + whole(0) + size + stride + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"encoder.layernorm.bias": trap}, lambda trap: {"state_dict": {}, "hyper": trap}])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, suffix: str, wrap):
    file, place = tmp_path / f"weights{suffix}", tmp_path / "trap"
    torch.save(wrap(Trap(place)), file)
    with pytest.raises(CheckpointError, match="which is never unpickled, because it could run code"):
        read_tensors(file)
    assert not place.exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path):
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    with pytest.raises(CheckpointError, match="older files and bare pickles are not read"):
        read_tensors(tmp_path / "weights.pt")
    assert not (tmp_path / "trap").exists()


def test_a_checkpoint_of_before_torch_1_6_is_refused(tmp_path: Path):
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"no archive of torch 1.6 or later"):
        read_tensors(tmp_path / "weights.pt")


def test_a_pickle_of_other_objects_than_tensors_is_refused(tmp_path: Path):
    torch.save({"w": torch.ones(2), "config": collections.Counter("ab")}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"must hold a dictionary of tensors by name; 'config' is Counter|never unpickled"):
        read_tensors(tmp_path / "weights.pt")


def test_a_dictionary_with_something_beside_tensors_is_refused(tmp_path: Path):
    torch.save({"w": torch.ones(2), "epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="must hold a dictionary of tensors by name; 'epoch' is int"):
        read_tensors(tmp_path / "weights.pt")


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.empty(10**9, device="meta"), torch.ones(2, dtype=torch.complex64)])
def test_tensors_that_are_no_ordinary_ones_are_refused(tmp_path: Path, tensor: torch.Tensor):
    torch.save({"w": tensor}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"is not an ordinary tensor|never unpickled"):
        read_tensors(tmp_path / "weights.pt")


def test_a_small_archive_that_unfolds_into_much_is_refused(tmp_path: Path):
    torch.save({"w": torch.zeros(2**21)}, tmp_path / "weights.pt")
    with zipfile.ZipFile(tmp_path / "weights.pt") as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    rewritten(tmp_path / "weights.pt", content, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "weights.pt").stat().st_size < 50_000
    with pytest.raises(CheckpointError, match=r"would unpack to 8,388,\d+: torch writes archives without compression"):
        read_tensors(tmp_path / "weights.pt")


def test_an_archive_whose_entries_claim_more_than_the_file_has_is_refused(tmp_path: Path):
    torch.save({"w": torch.ones(4)}, tmp_path / "weights.pt")
    raw = bytearray((tmp_path / "weights.pt").read_bytes())
    at = raw.rindex(b"PK\x01\x02", 0, raw.index(b"weights/data/0", raw.index(b"PK\x01\x02")))
    raw[at + 24 : at + 28] = struct.pack("<I", 2**31)  # the uncompressed size in the directory
    (tmp_path / "weights.pt").write_bytes(raw)
    with pytest.raises(CheckpointError, match="would unpack to 2,147,"):
        read_tensors(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "content",
    [
        pickle_of(row(10**9), row(1)),
        pickle_of(row(10**9), row(1), num_stored=10**9),
        pickle_of(row(10**9), row(0)),
        pickle_of(row(-1), row(1)),
        pickle_of(row(2**63 - 1), row(1), num_stored=2**63 - 1),
        pickle_of(row(10**20), row(1)),
        pickle_of(row(4), row(1), num_stored=-4),
    ],
    ids=["size", "size and storage", "stride 0", "negative", "largest", "beyond 64 bits", "negative storage"],
)
def test_a_pickled_tensor_that_claims_absurd_sizes_is_refused(tmp_path: Path, content: bytes):
    torch.save({"w": torch.ones(4)}, tmp_path / "weights.pt")
    rewritten(tmp_path / "weights.pt", content)
    with pytest.raises(CheckpointError, match=r"never unpickled|claims 1,000,000,000 numbers"):
        read_tensors(tmp_path / "weights.pt")


def test_the_pickle_that_these_tests_write_is_one_that_can_be_read(tmp_path: Path):
    torch.save({"w": torch.arange(4.0)}, tmp_path / "weights.pt")
    rewritten(tmp_path / "weights.pt", pickle_of(row(2, 2), row(2, 1)))
    assert read_tensors(tmp_path / "weights.pt")["w"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, None),
        ({"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, None),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 2**63),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 10**9),
    ],
)
def test_a_safetensors_header_that_does_not_fit_its_file_is_refused(tmp_path: Path, header: dict, length: int | None):
    text = json.dumps(header).encode()
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        read_tensors(tmp_path / "weights.safetensors")


def test_a_safetensors_header_that_nests_for_ever_is_refused(tmp_path: Path):
    text = b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        read_tensors(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, suffix: str):
    complete = write_weights(tmp_path / f"whole{suffix}", {"w": torch.ones(3), "b": torch.ones(2)}).read_bytes()
    read_anyway = []
    for length in [*range(0, len(complete), 5), *range(len(complete) - 60, len(complete))]:
        file = tmp_path / f"cut{suffix}"
        file.write_bytes(complete[:length])
        try:
            read_tensors(file)
            read_anyway.append(length)
        except CheckpointError:
            pass
    assert read_anyway == []


def test_bytes_changed_at_random_lead_to_tensors_or_to_a_refusal_and_to_nothing_else(tmp_path: Path):
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3), "b": torch.ones(2)}, buffer)
    complete, dice = buffer.getvalue(), torch.Generator().manual_seed(0)
    outcomes = collections.Counter()
    for _ in range(300):
        changed = bytearray(complete)
        for at in torch.randint(len(complete), (3,), generator=dice).tolist():
            changed[at] = int(torch.randint(256, (1,), generator=dice))
        (tmp_path / "weights.pt").write_bytes(changed)
        try:
            read_tensors(tmp_path / "weights.pt")
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    assert set(outcomes) == {"read", "refused"}


def test_absurd_sizes_of_real_tensors_are_refused_before_a_model_is_built(state: dict[str, torch.Tensor], tmp_path: Path):
    wide = state | {"projector.net.0.weight": torch.zeros(1, 24).expand(10**7, 24)}
    torch.save(wide, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"'projector.net.0.weight' claims 240,000,000 numbers of which the file holds fewer"):
        convert(tmp_path / "weights.pt", tmp_path / "converted")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["encoder"].update(image_size=10**9), r"encoder.image_size is 1000000000, the tensors say 28"),
        (lambda d: d["predictor"].update(depth=10**9), r"predictor.depth is 1000000000, the tensors say 2"),
        (lambda d: d["predictor"].update(dim_head=10**12), r"predictor.dim_head must be a whole number in \[1, 1048576\]"),
        (lambda d: d["predictor"].update(dim_head="8"), r"predictor.dim_head must be a whole number"),
        (lambda d: d["predictor"].update(dropout="import os"), r"predictor.dropout must be in \[0, 1\)"),
        (lambda d: d["encoder"].update(num_attention_heads=7), r"encoder.width \(24\) must be a multiple of encoder.num_heads \(7\)"),
        (lambda d: d.update(encoder="../../../etc/passwd"), r"config.json: encoder must be an object, got str"),
        (lambda d: d["action_encoder"].update(input_dim=25), r"action_encoder.input_dim is 25, the tensors say 10"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(state: dict[str, torch.Tensor], tmp_path: Path, change, sentence: str):
    folder = write_folder(tmp_path / "official", state, change=change)
    with pytest.raises(CheckpointError, match=sentence):
        convert(folder, tmp_path / "converted")


def test_classes_and_paths_that_a_config_names_are_never_looked_up(state: dict[str, torch.Tensor], tmp_path: Path):
    def change(description: dict) -> None:
        description["_target_"] = "os.system"
        description["encoder"]["_target_"] = "../../trap.py"
        description["weights"] = "../../../etc/passwd"

    convert(write_folder(tmp_path / "official", state, change=change), tmp_path / "converted")
    assert set(load_checkpoint(tmp_path / "converted").provenance["source_sha256"]) == {"config.json", "weights.pt"}


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b'{"a": "' + b"x" * 2**20 + b'"}', b"\xff\xfe"])
def test_a_config_that_is_no_small_json_object_is_refused(state: dict[str, torch.Tensor], tmp_path: Path, content: bytes):
    folder = write_folder(tmp_path / "official", state)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a JSON object of at most 1,048,576 bytes"):
        convert(folder, tmp_path / "converted")


@pytest.mark.parametrize(
    "source", ["hf://../../etc", "hf:///etc/passwd", "hf://a/..", "hf://a/b/../../c", "hf://a/.b", "hf://a\\b/c", "hf://", "nowhere"]
)
def test_repository_names_that_lead_elsewhere_are_refused(tmp_path: Path, source: str):
    with pytest.raises(CheckpointError, match="is neither a local path nor a repository of the hub, which is called owner/name"):
        convert(source, tmp_path / "converted")


def test_a_folder_without_weights_says_which_files_would_be_some(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds no weights: no file ends in .safetensors, .pt"):
        convert(tmp_path, tmp_path / "converted")
