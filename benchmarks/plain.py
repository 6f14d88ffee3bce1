"""What many scripts do: a DataLoader, a loop over batches, an INSERT for each row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from retrieval_db import codes, photos
from retrieval_db.client import Database
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.pipeline.encoding import ENCODE_BATCH
from retrieval_db.search import vector_text

TABLES = """
CREATE TEMPORARY TABLE plain_images (LIKE images INCLUDING INDEXES INCLUDING DEFAULTS);
CREATE TEMPORARY TABLE plain_features (LIKE image_features INCLUDING INDEXES INCLUDING STORAGE)
"""
INSERT = """
INSERT INTO plain_images (id, encoder_id, bits, path, code_1, code_2, code_3, code_4)
VALUES (%s, 1, %s, %s, %s, %s, %s, %s)
"""
INSERT_FEATURE = "INSERT INTO plain_features VALUES (%s, %s::halfvec)"


class Photos(Dataset[tuple[str, NDArray[np.uint8]]]):
    """The photos of a folder, prepared one by one."""

    def __init__(self, folder: Path, prepare: Callable[[Any], NDArray[np.uint8]]) -> None:
        self.files = list(photos.find(folder))
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[str, NDArray[np.uint8]]:
        file = self.files[number]
        return str(file), self.prepare(photos.decode(file.read_bytes(), file))


def seconds(db: Database | None, encoder: NetworkEncoder, folder: Path, workers: int) -> float:
    """The script on all photos of a folder; without a database it throws the codes away.

    The tables are copies of ours with the same indexes, in a temporary schema, which spares the
    script the log and the flush to disk. It runs the network on whole batches, with torch's own
    threads.
    """
    runner = encoder.runner
    loader = DataLoader(Photos(folder, encoder.preparer), ENCODE_BATCH, num_workers=workers)
    if db is not None:
        for statement in TABLES.split(";"):
            db.connection.execute(statement.encode())
    started = time.perf_counter()
    number = 0
    for paths, images in loader:
        with torch.inference_mode():
            features = runner.forward(images.to(runner.device)).cpu().numpy()
        packed = codes.binarize(encoder.outputs(features))
        if db is None:
            continue
        with db.connection.transaction():
            for path, code, feature in zip(paths, packed, features, strict=True):
                number += 1
                words = codes.words_of(code, encoder.bits)
                db.connection.execute(INSERT, [number, encoder.bits, path, *words])
                text = vector_text(feature)
                db.connection.execute(INSERT_FEATURE, [number, text])
    took = time.perf_counter() - started
    if db is not None:
        db.connection.execute("DROP TABLE plain_images, plain_features")
    return took


def in_threads(work: Callable[[Any], Any], items: Sequence[Any], threads: int) -> float:
    """Seconds of a function on all items, in so many threads."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
    return time.perf_counter() - started
