"""Checkpoints as timm writes them, from somebody who means harm: read without running anything."""

import argparse
import io
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from castling.config import BackboneConfig, LayerChoice, RunConfig
from castling.errors import CastlingError, CheckpointError
from castling.training.teacher import load_initial
from castling.untrusted.timm_checkpoint import read_timm_checkpoint


class Malice:
    """What, once unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def written(kind: str, malice: Malice, path: Path) -> None:
    """Write a malicious checkpoint: plain, torch's legacy form, torch's own, within weights."""
    if kind == "pickle":
        path.write_bytes(pickle.dumps(malice))
    elif kind == "weights":
        torch.save({"head.weight": torch.zeros(3), "state": malice}, path)
    else:
        torch.save(malice, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip", "weights"])
def test_a_malicious_pickle_does_nothing(kind: str, suffix: str, tmp_path: Path) -> None:
    owned, path = tmp_path / "owned", tmp_path / f"weights{suffix}"
    written(kind, Malice(owned), path)
    with pytest.raises(CheckpointError, match="it is truncated or n") as caught:
        read_timm_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not owned.exists()


@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip", "weights"])
def test_the_pickle_would_have_done_something(kind: str, tmp_path: Path) -> None:
    owned, path = tmp_path / "owned", tmp_path / "weights.pth"
    written(kind, Malice(owned), path)
    if kind == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert owned.exists()


@pytest.mark.parametrize("field", ["initial", "weights"])
def test_weights_of_a_training_do_nothing(field: str, tmp_path: Path) -> None:
    owned, path = tmp_path / "owned", tmp_path / "weights.pth"
    written("zip", Malice(owned), path)
    lesson = {"teacher": "deit_tiny_patch16_224", "weights": str(path)}
    given = {"initial": str(path)} if field == "initial" else {"distill": lesson}
    run = RunConfig(
        model=BackboneConfig(
            backbone="levit_128s", image_size=64, num_classes=10, blocks=(LayerChoice(),) * 11
        ),
        train=given,
    )
    from castling.training.teacher import check_weights

    with pytest.raises(CastlingError):
        check_weights(run)
    if field == "initial":
        with pytest.raises(CheckpointError):
            load_initial(run)
    assert not owned.exists()


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_a_tensor_that_is_more_than_its_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    before = peak_mib()
    for tensor in (
        torch.zeros(1).expand(10**5, 10**5),
        torch.sparse_coo_tensor(
            torch.zeros(2, 1), torch.zeros(1), (10**5, 10**5), check_invariants=True
        ),
        torch.zeros(10**5, 10**5, device="meta"),
    ):
        torch.save({"pos_embed": tensor}, path)
        with pytest.raises(CheckpointError, match="it is no checkpoint of a model"):
            read_timm_checkpoint(path)
    assert peak_mib() - before < 100


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    whole, path = io.BytesIO(), tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(50 * 2**20)}, whole)
    with zipfile.ZipFile(whole) as plain, zipfile.ZipFile(path, "w") as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    del whole
    before = peak_mib()
    with pytest.raises(CheckpointError, match="it is compressed"):
        read_timm_checkpoint(path)
    assert peak_mib() - before < 50


def test_a_checkpoint_of_timms_own_training_is_read(tmp_path: Path) -> None:
    path = tmp_path / "last.pth.tar"
    args = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": {"head.weight": torch.ones(3)}, "args": args, "epoch": 3}, path)
    assert torch.equal(read_timm_checkpoint(path)["head.weight"], torch.ones(3))
    tied = torch.ones(3, 3)
    torch.save({"a": tied, "b": tied, "c": tied.t()}, path)
    assert set(read_timm_checkpoint(path)) == {"a", "b", "c"}
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert set(read_timm_checkpoint(tmp_path / "a.safetensors")) == {"a"}
