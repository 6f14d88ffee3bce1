"""Backbones and their weights files."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from retrieval_db import encoder
from retrieval_db.encoder.names import BACKBONES
from retrieval_db.encoder.networks import backbones, weights
from retrieval_db.errors import EncoderUnavailable, FormatError, UsageError


def test_the_backbones_are_all_that_torchvision_has_of_these_families() -> None:
    families = ("resnet", "vgg", "alexnet", "convnext")
    there = {
        name
        for name in torchvision.models.list_models(module=torchvision.models)
        if name.startswith(families)
    }
    assert set(BACKBONES) == there | {"mobilenet_v2"}


@pytest.mark.parametrize("name", BACKBONES)
def test_each_gives_features_of_its_dimension(name: str) -> None:
    module, dim, _ = backbones.skeleton(name)
    with torch.inference_mode():
        features = module.eval()(torch.empty(2, 3, 224, 224, device="meta"))
    assert features.shape == (2, dim)


def test_dimensions() -> None:
    names = ["mobilenet_v2", "resnet18", "resnet50", "alexnet", "vgg16", "convnext_tiny"]
    dims = [backbones.skeleton(name)[1] for name in names]
    assert dims == [1280, 512, 2048, 4096, 4096, 768]


def test_features_are_those_before_the_classifier(mobilenet: Path) -> None:
    backbone, _ = backbones.load("mobilenet_v2", mobilenet)
    whole = torchvision.models.mobilenet_v2()
    whole.load_state_dict(load_file(mobilenet))
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = whole.eval().features(x).mean(dim=(2, 3))
        torch.testing.assert_close(backbone.module(x), expected)
    assert backbone.sha256 == hashlib.sha256(mobilenet.read_bytes()).hexdigest()
    assert backbone.published is None


def test_torch_files_without_classifier_or_counters_or_in_half_precision(
    mobilenet: Path, tmp_path: Path
) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in load_file(mobilenet).items()
        if not key.startswith("classifier") and not key.endswith("num_batches_tracked")
    }
    path = tmp_path / "net.pth"
    torch.save({"state_dict": state, "epoch": 3}, path)
    backbone, _ = backbones.load("mobilenet_v2", path)
    assert {value.dtype for value in backbone.module.parameters()} == {torch.float32}


def test_weights_are_remembered_by_their_sha256(mobilenet: Path, home: Path) -> None:
    backbone, _ = backbones.load("mobilenet_v2", mobilenet)
    assert backbone.sha256
    cached = home / "weights" / f"{backbone.sha256}.safetensors"
    assert cached.read_bytes() == mobilenet.read_bytes()
    again = backbones.restore(backbone.to_config())
    assert again.to_config() == backbone.to_config()
    cached.write_bytes(b"damaged")
    with pytest.raises(EncoderUnavailable, match=backbone.sha256):
        backbones.restore(backbone.to_config())
    # Giving the file again repairs the cache.
    backbones.restore(backbone.to_config(), mobilenet)
    backbones.restore(backbone.to_config())


def test_another_cache_folder(mobilenet: Path, tmp_path: Path, home: Path) -> None:
    backbone, _ = backbones.load("mobilenet_v2", mobilenet, tmp_path)
    assert [path.stem for path in (tmp_path / "weights").iterdir()] == [backbone.sha256]
    assert not (home / "weights").exists()
    backbones.restore(backbone.to_config(), cache_dir=tmp_path)


def test_the_cache_is_below_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRIEVAL_DB_HOME")
    assert weights.cache_folder().parts[-2:] == ("retrieval-db", "weights")


def test_a_cache_that_cannot_be_written_does_not_stop_the_work(
    mobilenet: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    backbones.load("mobilenet_v2", mobilenet, blocked)


def test_other_weights_are_refused(mobilenet: Path, tmp_path: Path) -> None:
    backbone, _ = backbones.load("mobilenet_v2", mobilenet)
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(EncoderUnavailable, match="is not the weights file") as caught:
        backbones.restore(backbone.to_config(), other)
    assert str(backbone.sha256) in str(caught.value)


def test_settings_come_from_the_file_beside_and_options_overrule_them(
    mobilenet: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(mobilenet.read_bytes())
    _, preset = backbones.load("mobilenet_v2", path)
    assert (preset.input_size, preset.mean[0], preset.interpolation) == (224, 0.485, "bilinear")
    assert preset.crop == 1.0
    path.with_name("net.safetensors.json").write_text(json.dumps({"input_size": 96, "mean": 0.5}))
    made = encoder.create("lsh64", weights=path, mean=0.4)
    assert not isinstance(made, encoder.PerceptualHash)
    assert made.preprocess == preset.changed(input_size=96, mean=0.4)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run by a pickle",))


def test_damaged_and_foreign_files(
    mobilenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(mobilenet.read_bytes()[:-100])
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(Evil()))
    numbers = tmp_path / "numbers.pth"
    torch.save({"a": 3}, numbers)
    empty = tmp_path / "empty.pth"
    empty.touch()
    for path in (cut, evil, numbers, empty):
        with pytest.raises(FormatError, match=str(path)):
            backbones.load("mobilenet_v2", path)
    assert capsys.readouterr().out == ""
    with pytest.raises(FormatError, match=r"does not hold the weights of torchvision's resnet18"):
        backbones.load("resnet18", mobilenet)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        backbones.load("mobilenet_v2", tmp_path / "no.pth")


def test_no_weights_and_no_network_names_the_ways_out(home: Path) -> None:
    with pytest.raises(EncoderUnavailable) as caught:
        encoder.create("itq128")
    message = str(caught.value)
    for part in (
        "--weights FILE",
        "--encoder phash64",
        "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
        str(home / "torch" / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"),
    ):
        assert part in message
    assert not list(home.rglob("*.pth*"))


def test_a_stored_encoder_on_published_weights_without_network() -> None:
    config = {"name": "resnet18", "published": "IMAGENET1K_V1", "sha256": "0" * 64}
    with pytest.raises(EncoderUnavailable, match=r"--weights FILE"):
        backbones.restore(config)
    with pytest.raises(EncoderUnavailable, match="upgrade torchvision"):
        backbones.restore({**config, "published": "IMAGENET9K"})


def test_a_damaged_published_file_is_noticed(home: Path) -> None:
    path = home / "torch" / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of it")
    with pytest.raises(FormatError, match="delete it"):
        backbones.load("mobilenet_v2")


def test_unknown_backbone_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"'resnet9'.*mobilenet_v2, resnet18"):
        encoder.create("itq", backbone="resnet9")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a web server shows it."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_download_checks_what_comes(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    content = b"weights" * 1000
    good = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / good).write_bytes(content)
    (folder / "net-00000000.pth").write_bytes(content)
    target = tmp_path / "cache" / "net.pth"
    weights.download(f"{url}/{good}", target)
    assert target.read_bytes() == content
    target.unlink()
    with pytest.raises(FormatError, match="not the published file"):
        weights.download(f"{url}/net-00000000.pth", target)
    with pytest.raises(OSError, match="404"):
        weights.download(f"{url}/absent-00000000.pth", target)
    assert not list(target.parent.iterdir())
