"""The models: the composite code, and the inlining of the Hamming distance."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

import retrieval_db
from retrieval_db import codes
from retrieval_db.schema import Code, EncoderRow, Image
from tests import example


def test_images_are_ordered_by_the_distance_of_their_code(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 300, 256)
        query = Code.from_packed(items.codes[11], 256)
        with Session(db.engine) as session:
            statement = select(Image).order_by(Image.code.hamming(query), Image.id).limit(10)
            found = session.scalars(statement).all()
            assert [image.path for image in found] == [
                path for path, _ in example.nearest(items, items.codes[11], 10)
            ]
            assert found[0].code == query
            assert found[0].code.hex(256) == codes.to_hex(items.codes[11], 256)
            assert found[0].encoder.name == "example"


def test_a_row_can_be_added_through_the_models(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db, Session(db.engine) as session:
        encoder = EncoderRow(name="mine", bits=64, fingerprint="f", config={})
        image = Image(
            encoder=encoder, bits=64, path="a.jpg", code=Code.parse("0123456789abcdef", 64)
        )
        session.add(image)
        session.commit()
        assert db.search("0123456789abcdef", encoder="mine").hits[0].distance == 0


@pytest.mark.parametrize("name", ["hamming_distance", "hammingdistance"])
def test_the_function_is_inlined_on_every_version(any_database_url: str, name: str) -> None:
    with example.connect(any_database_url) as connection:
        plan = "\n".join(
            str(row[0])
            for row in connection.execute(
                f"EXPLAIN VERBOSE SELECT id FROM images "
                f"ORDER BY {name}(code_1, code_2, code_3, code_4, 1, 2, 3, 4), id LIMIT 3"
            )
        )
    assert "bit_count" in plan
    assert name not in plan


@pytest.mark.parametrize("name", ["hamming_distance", "hammingdistance"])
def test_sql_distance_equals_numpy(database_url: str, name: str) -> None:
    random = np.random.default_rng(1)
    words = random.integers(-(2**63), 2**63, (200, 8), dtype=np.int64)
    with example.connect(database_url) as connection:
        for row in words:
            found = connection.execute(
                f"SELECT {name}(%s, %s, %s, %s, %s, %s, %s, %s)", row.tolist()
            ).fetchone()
            assert found == (int(np.bitwise_count((row[:4] ^ row[4:]).view(np.uint64)).sum()),)


@pytest.mark.parametrize(
    "values",
    ["64, 65536, 0, 0, 0", "64, -1, 0, 0, 0", "128, 0, 0, 0, 4294967296", "4, 2, 0, 0, 0"],
)
def test_words_that_do_not_fit_are_refused(database_url: str, values: str) -> None:
    with retrieval_db.connect(database_url) as db:
        bits = int(values.partition(",")[0])
        example.filled(db.connection, "uniform", 1, bits)
        with Session(db.engine) as session, pytest.raises(Exception, match="images_code_check"):
            session.execute(
                text(
                    "INSERT INTO images (encoder_id, bits, code_1, code_2, code_3, code_4, path) "
                    f"VALUES (1, {values}, 'x')"
                )
            )
