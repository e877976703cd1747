"""Names: ./checkpoints, the hub's cache, and downloads from a hub that sometimes misbehaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import openglm
from openglm.checkpoints import published
from openglm.checkpoints.convert import convert
from openglm.checkpoints.find import EMBEDDED, find_folder
from openglm.checkpoints.formats import HUGGINGFACE
from openglm.checkpoints.hub import needed
from openglm.checkpoints.native import save_model
from openglm.checkpoints.published import PublishedModel
from openglm.cli.main import main
from openglm.errors import ModelNotFoundError
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

from .hub_stand_in import Hub, Repository, serving

NAME = "THUDM/glm-large-chinese"
OTHER_COMMIT = "f" * 40


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    home = tmp_path / "work"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def files(flagai: Path, tmp_path: Path) -> dict[str, bytes]:
    """The tiny model as a repository, with what else is usually there."""
    folder = convert(flagai, tmp_path / "hub", to=HUGGINGFACE, shard_bytes=60_000).folder
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len([name for name in content if name.endswith(".safetensors")]) >= 2
    extra = {"modeling_glm.py": b"raise SystemExit('executed')", "pytorch_model.bin": b"x" * 999, "tf.h5": b"x"}
    return {**content, **extra, ".gitattributes": b"", "README.md": b"hello"}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({NAME: Repository(dict(files))})) as served:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield served


def fetched(hub: Hub) -> set[str]:
    return {file for file, _ in hub.gets}


def test_the_embedded_model() -> None:
    assert find_folder("default") == EMBEDDED


@pytest.mark.parametrize("name", ["GLM-large-ch", "glm-large-chinese", NAME])
def test_published_names_are_downloaded_once(hub: Hub, tiny_model: GLMModel, name: str) -> None:
    model = openglm.load(name, device="cpu").model
    for key, tensor in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
    weights = {file for file in hub.repositories[NAME].files if file.startswith("model")}
    assert fetched(hub) & weights == weights - {"modeling_glm.py"}
    assert not fetched(hub) & {"pytorch_model.bin", "modeling_glm.py", "README.md", "tf.h5"}
    hub.gets.clear()
    hub.repositories.clear()
    for other in ("glm-LARGE-ch", NAME):
        assert openglm.load(other, device="cpu").model.config == model.config
    assert not hub.gets, "the second time it is in the cache"


def test_any_repository_and_revision(hub: Hub, files: dict[str, bytes]) -> None:
    changed = {**files, "config.json": files["config.json"].replace(b"\n}", b',\n  "note": 1\n}')}
    hub.repositories["someone/else"] = Repository(changed, {"main": "a" * 40, "v2": OTHER_COMMIT})
    folder = find_folder("someone/else@v2")
    assert folder.name == OTHER_COMMIT
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["note"] == 1
    assert find_folder("someone/else", revision="v2") == folder
    assert find_folder(f"someone/else@{OTHER_COMMIT}") == folder
    assert find_folder("someone/else").name == "a" * 40
    with pytest.raises(ModelNotFoundError, match=r"no revision 'v3'"):
        find_folder("someone/else@v3")


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    file = next(name for name in hub.repositories[NAME].files if name.endswith(".safetensors"))
    hub.cut[file] = 20_000
    find_folder(NAME)
    assert [first for name, first in hub.gets if name == file] == [0, 20_000]


def test_a_failed_download_is_finished_by_the_next(hub: Hub) -> None:
    """The vocabulary fails: what has arrived is kept, and not taken for a model."""
    hub.failing.add("cog-pretrain.model")
    with pytest.raises(ModelNotFoundError, match=rf"{NAME} is not on this machine and cannot be downloaded"):
        find_folder(NAME)
    hub.failing.clear()
    before = [file for file, _ in hub.gets if file == "config.json"]
    folder = find_folder(NAME)
    assert (folder / "cog-pretrain.model").is_file()
    assert len([file for file, _ in hub.gets if file == "config.json"]) == max(1, len(before)), (
        "kept, not fetched again"
    )


def test_no_such_repository(hub: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"someone/nothing: the hub has no such repository"):
        find_folder("someone/nothing")
    hub.repositories["someone/empty"] = Repository({"README.md": b""})
    with pytest.raises(ModelNotFoundError, match="no model there"):
        find_folder("someone/empty")
    hub.repositories["someone/bare"] = Repository({"config.json": b"{}", "merges.txt": b""})
    with pytest.raises(ModelNotFoundError, match="no complete model"):
        find_folder("someone/bare")


def test_without_network_the_place_for_the_files_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match=r"cog-pretrain\.model.*checkpoints/GLM-large-ch"):
        openglm.load("GLM-large-ch")
    with pytest.raises(ModelNotFoundError, match=r"glm-410m is not on this machine, nor on the hub.*vocab\.txt"):
        openglm.load("glm-1.25-generation")


def test_folders_come_before_the_hub(flagai: Path, elsewhere: Path) -> None:
    shutil.copytree(flagai, elsewhere / "checkpoints" / "GLM-large-ch")
    for name in ("GLM-large-ch", "glm-large-chinese", NAME):
        assert find_folder(name).resolve() == elsewhere / "checkpoints" / "GLM-large-ch"
    shutil.copytree(flagai, elsewhere / "mine")
    assert find_folder("mine") == Path("mine")
    assert find_folder(str(elsewhere / "mine")) == elsewhere / "mine"


def test_an_incomplete_folder_is_said_to_be_so(flagai: Path, elsewhere: Path) -> None:
    shutil.copytree(flagai, elsewhere / "checkpoints" / "GLM-large-ch")
    (elsewhere / "checkpoints" / "GLM-large-ch" / "pytorch_model.bin").unlink()
    with pytest.raises(ModelNotFoundError, match=r"GLM-large-ch: no weights there.*Complete it"):
        find_folder("GLM-large-ch")


def test_names_that_nobody_knows(flagai: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean 'GLM-large-ch'.*openglm models"):
        find_folder("GLM-large-hc")
    with pytest.raises(ModelNotFoundError, match="give the folder it lies in"):
        find_folder(str(flagai / "config.json"))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-this-name/model", "no/such/folder"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no folder and no known model"):
        find_folder(name)


def test_a_download_is_listed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = find_folder(NAME)
    assert main(["models", "--json"]) == 0
    paths = {entry["name"]: entry["path"] for entry in map(json.loads, capsys.readouterr().out.splitlines())}
    assert Path(paths["glm-large-chinese"]) == folder
    assert paths["glm-base"] is None


def test_weights_in_one_form_are_chosen() -> None:
    files = ["config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin", "x.py", "onnx/model.onnx"]
    assert needed(files) == ["config.json", "vocab.txt", "model.safetensors"]
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    assert needed(["config.json", *shards]) == ["config.json", *shards]
    assert needed(["config.json", "model.safetensors.index.json", "pytorch_model.bin"])[1:] == ["pytorch_model.bin"]


def test_sizes_decide_for_one_model_each() -> None:
    """Models of the same sizes must agree in everything that is told by sizes."""
    told: dict[tuple[int, int, int], list[PublishedModel]] = {}
    for model in published.PUBLISHED:
        told.setdefault((model.layers, model.width, model.rows), []).append(model)
    for models in told.values():
        assert len({(m.heads, m.context, m.vocabulary, m.blanks, m.layout) for m in models}) == 1


def test_the_folder_of_a_run_stands_for_its_model(
    tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer
) -> None:
    save_model(tmp_path / "run" / "model", tiny_model, tokenizer)
    assert find_folder(str(tmp_path / "run")) == tmp_path / "run" / "model"
    assert find_folder(str(tmp_path / "run" / "model")) == tmp_path / "run" / "model"
