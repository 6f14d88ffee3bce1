"""The public surface, and what importing it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval_db import encoder
from retrieval_db.encoder.hashing.methods import METHODS, parse_spec
from retrieval_db.errors import UsageError


def run(code: str) -> None:
    root = str(Path(encoder.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


def test_the_public_surface_is_pinned() -> None:
    assert encoder.__all__ == [
        "BACKBONES",
        "DEFAULT_BACKBONE",
        "DEFAULT_METHOD",
        "METHODS",
        "SHIPPED",
        "PerceptualHash",
        "Preprocess",
        "create",
        "from_stored",
        "open_all",
        "open_file",
        "require_network",
        "save",
        "save_all",
        "train_small",
    ]
    assert all(hasattr(encoder, name) for name in encoder.__all__)


def test_perceptual_hashes_load_no_torch() -> None:
    run(
        "import sys\n"
        "from retrieval_db import encoder\n"
        "from PIL import Image\n"
        "hasher = encoder.create('phash64')\n"
        "assert 'scipy' not in sys.modules\n"
        "hasher.encode(hasher.prepare(Image.new('RGB', (20, 20)))[None])\n"
        "encoder.from_stored('x', hasher.config, None)\n"
        "loaded = {'torch', 'torchvision', 'safetensors'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )


@pytest.mark.parametrize("missing", ["torch", "torchvision", "safetensors"])
def test_a_missing_package_gives_the_cure(missing: str) -> None:
    run(
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from retrieval_db import encoder\n"
        "from retrieval_db.errors import MissingExtra\n"
        "encoder.create('phash64')\n"
        "try:\n"
        "    encoder.create('itq128', weights='x.safetensors')\n"
        "except MissingExtra as error:\n"
        f"    assert 'need {missing}' in str(error), error\n"
        "    assert \"pip install 'retrieval-db[encoder]'\" in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )


@pytest.mark.parametrize(
    ("spec", "bits", "expected"),
    [
        ("itq128", None, ("itq", 128)),
        ("itq", None, ("itq", 128)),
        ("itq", 64, ("itq", 64)),
        ("itq64", 64, ("itq", 64)),
        ("LSH256", None, ("lsh", 256)),
        ("pca_rr4", None, ("pca_rr", 4)),
        ("phash", None, ("phash", 64)),
        ("phash", 256, ("phash", 256)),
    ],
)
def test_specs(spec: str, bits: int | None, expected: tuple[str, int]) -> None:
    method, length = parse_spec(spec, bits)
    assert (method.name, length) == expected


@pytest.mark.parametrize(
    ("spec", "bits", "message"),
    [
        ("itq128", 64, "64 were asked for"),
        ("itq130", None, "multiple of 4"),
        ("itq0", None, "4 to 256"),
        ("itq260", None, "4 to 256"),
        ("sift", None, "'sift'. The methods are phash .*itq"),
        ("", None, "Unknown method"),
        ("128", None, "Unknown method"),
        ("photos/", None, "Unknown method"),
    ],
)
def test_impossible_specs(spec: str, bits: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder.create(spec, bits=bits)


def test_trained_methods_are_not_made_from_a_name() -> None:
    with pytest.raises(UsageError, match="learns from labels"):
        encoder.create("latent_ce48")


def test_each_method_has_a_summary_and_fallbacks_exist() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.fallback is None or method.fallback in METHODS
