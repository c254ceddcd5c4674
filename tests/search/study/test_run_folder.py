import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from castling.config import DataConfig, ModelConfig
from castling.errors import ConfigError, RunFolderError, SpaceMismatchError, StorageError
from castling.training.data import load_data
from reports.manifest import Manifest
from search.config import SearchConfig
from search.study.resume import resumed_space
from search.study.run_folder import check_images, locked, make_run_folder, new_manifest
from search.study.storage import check_unused, open_storage, open_study, storage_checked


OBJECTIVES = SearchConfig().objectives


def test_a_second_driver_is_refused_and_the_lock_goes_with_the_first(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from search.study.run_folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="in use by another search"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass


def test_taken_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty"):
        make_run_folder(tmp_path)
    with pytest.raises(RunFolderError, match="is a file"):
        make_run_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_manifest_survives_the_disk(tmp_path: Path) -> None:
    config = SearchConfig(space="digits")
    manifest = new_manifest(config.context(config.build_space()), None)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert SearchConfig.from_data(manifest.recipe) == config


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"set": {"train.epochs": 3}}, "train.epochs 40, this search has 3"),
        ({"space": "fashion-mnist"}, "the dimension model.embed_width"),
        ({"budget": {"max_macs": 500_000}}, "budget"),
        ({"seed": 1}, "seed"),
        ({"sampler": "random"}, "sampler"),
    ],
)
def test_another_search_is_not_resumed(
    change: dict[str, object], what: str, tmp_path: Path
) -> None:
    config = SearchConfig(space="digits")
    manifest = new_manifest(config.context(config.build_space()), None)
    with pytest.raises(SpaceMismatchError, match=what):
        resumed_space(tmp_path, manifest, config.replace(**change))


def test_more_trials_and_other_workers_are_the_same_search(tmp_path: Path) -> None:
    config = SearchConfig(space="digits")
    manifest = new_manifest(config.context(config.build_space()), None)
    more = config.replace(trials=99, workers=7)
    assert resumed_space(tmp_path, manifest, more) == manifest.read_space(tmp_path)


def test_a_run_from_before_a_field_existed_is_the_same_search(tmp_path: Path) -> None:
    config = SearchConfig(space="digits", sampler="tpe")
    manifest = new_manifest(config.context(config.build_space()), None)
    recipe = {name: value for name, value in manifest.recipe.items() if name != "points"}
    recipe["budget"] = {"max_macs": None, "max_params": None}
    resumed_space(tmp_path, manifest.replace(recipe=recipe), config)


def test_without_a_budget_the_reference_is_the_dearest_point() -> None:
    config = SearchConfig(space="digits")
    manifest = new_manifest(config.context(config.build_space()), None)
    assert manifest.reference == {"top1": 0.0, "macs": 3_089_024.0}


def test_a_database_serves_one_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    check_unused(open_storage(tmp_path, url))
    open_study(open_storage(tmp_path, url), OBJECTIVES)
    with pytest.raises(ConfigError, match="without a study"):
        check_unused(open_storage(tmp_path, url))


def test_a_database_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_study(open_storage(tmp_path, f"sqlite:///{path}"), OBJECTIVES)
    storage = open_storage(tmp_path, f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(StorageError, match="readonly database"), storage_checked(tmp_path):
        open_study(storage, OBJECTIVES).ask()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_the_disks_faults_are_storage_errors(code: int, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=os.strerror(code)), storage_checked(tmp_path):
        raise OSError(code, os.strerror(code))


def test_other_faults_are_not_the_disks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_checked(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(RunFolderError), storage_checked(tmp_path):
        raise RunFolderError(str(tmp_path), "is mine")


@pytest.mark.parametrize("url", ["", "nonsense", "foo://bar", "sqlite:////nowhere/at/all.db"])
def test_a_bad_storage_url_is_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="storage") as caught:
        open_storage(tmp_path, url)
    assert "\n" not in str(caught.value)


def test_a_run_sees_that_its_images_changed(tmp_path: Path) -> None:
    model = ModelConfig()
    data = load_data(DataConfig(num_train=200), model)
    context = SearchConfig().context(SearchConfig().build_space(), None)
    new_manifest(context, None, data).write(tmp_path)
    manifest = Manifest.read(tmp_path)
    assert manifest.preprocessing == data.preprocessing
    check_images(tmp_path, manifest, data)
    check_images(tmp_path, manifest.replace(images={}), load_data(DataConfig(), model))
    for other in (DataConfig(num_train=190), DataConfig(num_train=200, split_seed=1)):
        with pytest.raises(RunFolderError, match="images are not those of before: train had 200"):
            check_images(tmp_path, manifest, load_data(other, model))
