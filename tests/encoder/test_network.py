"""Encoders with a network, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from retrieval_db import encoder
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoders import Encoder
from retrieval_db.errors import EncoderError, EncoderUnavailable, FormatError, UsageError


def make(spec: str, weights: Path, **options: object) -> NetworkEncoder:
    made = encoder.create(spec, weights=weights, input_size=64, **options)  # type: ignore[arg-type]
    assert isinstance(made, NetworkEncoder)
    return made


@pytest.fixture(scope="module")
def batch(images: list[Image.Image]) -> NDArray[np.uint8]:
    preprocess = encoder.Preprocess(input_size=64)
    return np.stack([preprocess(image) for image in images])


@pytest.fixture
def fitted(mobilenet: Path, batch: NDArray[np.uint8]) -> NetworkEncoder:
    unfitted = make("lsh64", mobilenet)
    return unfitted.fit(unfitted.features(batch))


def spread(count: int, dim: int = 1280) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, dim), dtype=np.float32)


def test_the_two_phases_of_its_life(mobilenet: Path, batch: NDArray[np.uint8]) -> None:
    unfitted = make("lsh64", mobilenet)
    assert not unfitted.fitted
    assert unfitted.artifact is None
    features = unfitted.features(batch)
    assert features.shape == (12, 1280)
    assert features.dtype == np.float32
    for use in (lambda: unfitted.encode(batch), lambda: unfitted.fingerprint):
        with pytest.raises(EncoderError, match="no head yet"):
            use()
    fitted = unfitted.fit(features)
    assert fitted.fitted
    assert not unfitted.fitted
    assert isinstance(fitted, Encoder)
    again, outputs = fitted.encode(batch)
    assert np.array_equal(again, features)
    assert outputs.shape == (12, 64)
    assert outputs.dtype == np.float32
    with pytest.raises(EncoderError, match="frozen"):
        fitted.fit(features)


def test_what_is_printed_of_one_holds_no_weights(fitted: NetworkEncoder) -> None:
    assert "array(" not in repr(fitted)
    assert "Conv2d" not in repr(fitted)
    assert "mobilenet_v2" in repr(fitted)


def test_prepare_is_that_of_its_config(fitted: NetworkEncoder, images: list[Image.Image]) -> None:
    array = fitted.prepare(images[0])
    assert array.shape == (3, 64, 64)
    assert array.dtype == np.uint8


def test_an_image_gets_the_same_outputs_in_any_batch(
    fitted: NetworkEncoder, batch: NDArray[np.uint8]
) -> None:
    features, outputs = fitted.encode(batch)
    for part in (1, 5):
        pieces = [fitted.encode(batch[at : at + part]) for at in range(0, len(batch), part)]
        assert np.array_equal(np.concatenate([piece[0] for piece in pieces]), features)
        assert np.array_equal(np.concatenate([piece[1] for piece in pieces]) > 0, outputs > 0)
    reversed_features, _ = fitted.encode(batch[::-1])
    assert np.array_equal(reversed_features[::-1], features)


def test_the_number_of_threads_does_not_matter(
    fitted: NetworkEncoder, batch: NDArray[np.uint8]
) -> None:
    before = torch.get_num_threads()
    try:
        features = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            features.append(fitted.features(batch))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(features[0], features[1])
    assert np.array_equal(features[0], features[2])


def test_an_empty_batch(fitted: NetworkEncoder, batch: NDArray[np.uint8]) -> None:
    features, outputs = fitted.encode(batch[:0])
    assert (features.shape, outputs.shape) == ((0, 1280), (0, 64))


def test_arrays_that_prepare_did_not_make(fitted: NetworkEncoder) -> None:
    for wrong in (np.zeros((1, 3, 64, 64), np.float32), np.zeros((1, 3, 32, 32), np.uint8)):
        with pytest.raises(ValueError, match="expected prepared images"):
            fitted.encode(wrong)


def test_save_and_open(fitted: NetworkEncoder, batch: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    encoder.save(fitted, path)
    again = encoder.open_file(path)
    assert isinstance(again, NetworkEncoder)
    assert (again.name, again.fingerprint) == (fitted.name, fitted.fingerprint)
    assert again.artifact == fitted.artifact == path.read_bytes()
    assert np.array_equal(again.encode(batch)[1], fitted.encode(batch)[1])


def test_made_again_from_what_a_database_stores(fitted: NetworkEncoder) -> None:
    config = json.loads(json.dumps(fitted.config))
    again = encoder.from_stored("renamed", config, fitted.artifact)
    assert (again.name, again.fingerprint) == ("renamed", fitted.fingerprint)


def test_another_machine_needs_the_weights_file(
    fitted: NetworkEncoder, mobilenet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_HOME", str(tmp_path))
    stored = (fitted.name, fitted.config, fitted.artifact)
    with pytest.raises(EncoderUnavailable, match=r"--weights FILE.*" + str(tmp_path)):
        encoder.from_stored(*stored)
    encoder.from_stored(*stored, weights=mobilenet)
    assert encoder.from_stored(*stored).fingerprint == fitted.fingerprint


def test_the_fingerprint_sees_config_and_head_but_no_name_or_device(
    mobilenet: Path, batch: NDArray[np.uint8]
) -> None:
    def fit(count: int = 12, **options: object) -> str:
        unfitted = make("lsh64", mobilenet, **options)
        return unfitted.fit(unfitted.features(batch[:count])).fingerprint

    same = {fit(), fit(name="other"), fit(device="cpu")}
    assert len(same) == 1
    others = {fit(11), fit(mean=0.4), fit(seed=1), fit(precision="bfloat16")}
    assert len(same | others) == 5


def test_few_images_fall_back_to_lsh_and_say_so(mobilenet: Path) -> None:
    unfitted = make("itq64", mobilenet)
    few = unfitted.fit(spread(64))
    assert few.head is not None
    assert (few.method, few.head.method, few.bits) == ("itq", "lsh", 64)
    assert few.config["head"]["method"] == "lsh"
    assert few.advice is not None
    assert "64 images only, too few for itq, and uses lsh" in few.advice
    assert "encoders refit itq64" in few.advice
    assert make("lsh64", mobilenet).fit(spread(5)).advice is None


def test_a_fit_on_rather_few_images_advises_a_refit(mobilenet: Path) -> None:
    unfitted = make("itq64", mobilenet)
    some = unfitted.fit(spread(65))
    assert some.head is not None
    assert some.head.method == "itq"
    assert some.advice is not None
    assert "65 images only. Once there are 300" in some.advice
    assert unfitted.fit(spread(300)).advice is None


def test_without_fallback_too_few_images_are_an_error(mobilenet: Path) -> None:
    with pytest.raises(EncoderError, match="at least 129 images"):
        make("itq128", mobilenet).fit(spread(50), fallback=False)


def test_bfloat16_is_near(mobilenet: Path, batch: NDArray[np.uint8]) -> None:
    exact = make("lsh64", mobilenet).features(batch)
    rough = make("lsh64", mobilenet, precision="bfloat16").features(batch)
    assert rough.dtype == np.float32
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.99
    assert not np.array_equal(exact, rough)


def test_with_flip_mirrored_images_have_the_same_code(
    mobilenet: Path, batch: NDArray[np.uint8]
) -> None:
    mirrored = np.ascontiguousarray(batch[..., ::-1])
    plain, flipping = make("lsh64", mobilenet), make("lsh64", mobilenet, flip=True)
    one, other = plain.features(batch), plain.features(mirrored)
    assert not np.array_equal(one, other)
    features = flipping.features(batch)
    np.testing.assert_array_equal(features, (one + other) / 2)
    np.testing.assert_array_equal(flipping.features(mirrored), features)
    made = flipping.fit(features)
    assert made.fingerprint != plain.fit(features).fingerprint
    again = encoder.from_stored(made.name, made.config, made.artifact, weights=mobilenet)
    np.testing.assert_array_equal(again.encode(mirrored)[1], made.encode(batch)[1])
    with pytest.raises(UsageError, match=r"has no network: .* flip"):
        encoder.create("phash64", flip=True)


def test_damaged_config_and_weights(fitted: NetworkEncoder) -> None:
    def restore(**changes: object) -> None:
        config = {**fitted.config, **changes}
        data = encoder.checkpoint.pack("n", config, tensors)
        encoder.from_stored("n", config, data)

    assert fitted.artifact is not None
    _, _, tensors = encoder.checkpoint.unpack(fitted.artifact)
    restore()
    damages: list[dict[str, object]] = [
        {"bits": 128},
        {"head": None},
        {"preprocess": {}},
        {"backbone": {}},
        {"backbone": {**fitted.config["backbone"], "name": "resnet9"}},
        {"backbone": {**fitted.config["backbone"], "feature_dim": 3}},
        {"extra": 1},
    ]
    for changes in damages:
        with pytest.raises(FormatError):
            restore(**changes)
    with pytest.raises(EncoderUnavailable, match="upgrade retrieval-db"):
        restore(method="of tomorrow")
    tensors["head.weight"] = tensors["head.weight"].astype(np.float64)
    with pytest.raises(FormatError, match="damaged"):
        restore()


def test_devices_and_precisions(mobilenet: Path) -> None:
    with pytest.raises(UsageError, match="auto, cuda, mps, cpu"):
        make("lsh64", mobilenet, device="tpu")
    with pytest.raises(UsageError, match="float32, bfloat16"):
        make("lsh64", mobilenet, precision="int8")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cpu"):
            make("lsh64", mobilenet, device="cuda")


def test_only_supervised_encoders_predict(fitted: NetworkEncoder) -> None:
    with pytest.raises(EncoderError, match="not trained on labels"):
        fitted.predict(np.zeros((1, 64), np.float32))


def test_streams_of_several_callers_leave_the_threads_as_they_were(
    fitted: NetworkEncoder, batch: NDArray[np.uint8]
) -> None:
    """A query may be encoded while an index run is under way."""
    before = torch.get_num_threads()
    features, outputs = fitted.encode(batch)
    stream = fitted.encode_stream(iter([batch[:5], batch[5:], batch[:0]]), lambda *_: None)
    first, packed = next(stream)
    assert np.array_equal(fitted.encode(batch[:3])[0], features[:3])
    rest = list(stream)
    assert torch.get_num_threads() == before
    assert np.array_equal(np.concatenate([first, *(part for part, _ in rest)]), features)
    codes = np.concatenate([packed, *(part for _, part in rest)])
    assert np.array_equal(codes, np.packbits(outputs > 0, axis=1))
    abandoned = fitted.encode_stream(iter([batch, batch]), lambda *_: None)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == before
