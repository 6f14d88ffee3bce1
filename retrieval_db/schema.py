"""The tables as SQLAlchemy models, and the composite `Code` of four words.

>>> from sqlalchemy import select
>>> query = Code.parse("00" * 16, bits=128)
>>> statement = select(Image).order_by(Image.code.hamming(query), Image.id).limit(10)
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import (
    Composite,
    CompositeProperty,
    DeclarativeBase,
    Mapped,
    composite,
    mapped_column,
    relationship,
)
from sqlalchemy.sql.elements import ColumnElement

from . import codes


class CoreBase(DeclarativeBase):
    """The tables that every database has."""


class FeaturesBase(DeclarativeBase):
    """The tables of the fine stage, where pgvector can be had."""


@dataclass(frozen=True)
class Code:
    """A hash code as the four words of its columns."""

    code_1: int
    code_2: int
    code_3: int
    code_4: int

    @classmethod
    def parse(cls, text: str, bits: int) -> Code:
        """From hex digits, a bit string or four decimal words; see `codes.parse`."""
        return cls.from_packed(codes.parse(text, bits), bits)

    @classmethod
    def from_packed(cls, packed: NDArray[np.uint8], bits: int) -> Code:
        """From one packed code, uint8 [ceil(L/8)]."""
        return cls(*codes.words_of(packed, bits))

    def packed(self, bits: int) -> NDArray[np.uint8]:
        """The packed code, uint8 [ceil(L/8)]."""
        words = np.array([self.__composite_values__()], dtype=np.int64)
        row: NDArray[np.uint8] = codes.from_words(words, bits)[0]
        return row

    def hex(self, bits: int) -> str:
        """The code's L/4 hex digits."""
        return codes.to_hex(self.packed(bits), bits)

    def __composite_values__(self) -> codes.Words:
        return self.code_1, self.code_2, self.code_3, self.code_4


class CodeComparator(CompositeProperty.Comparator[Code]):
    """What can be asked of a code in SQL."""

    def hamming(self, other: Code) -> ColumnElement[int]:
        """The Hamming distance to `other`, through the inlined SQL function."""
        columns = self.__clause_element__().clauses
        return func.hamming_distance(*columns, *other.__composite_values__(), type_=BigInteger)


class EncoderRow(CoreBase):
    """An encoder: what makes hash codes."""

    __tablename__ = "encoders"
    __table_args__ = (
        UniqueConstraint("id", "bits"),
        CheckConstraint("bits BETWEEN 4 AND 256 AND bits % 4 = 0", name="encoders_bits_check"),
        CheckConstraint("name <> ''", name="encoders_name_check"),
        {"comment": "What makes hash codes: one row for each encoder"},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    bits: Mapped[int] = mapped_column(SmallInteger, comment="code length L")
    feature_dim: Mapped[int | None]
    config: Mapped[dict[str, Any]] = mapped_column(
        JSONB,
        server_default=text("'{}'"),
        comment="everything but the weights that codes depend on",
    )
    fingerprint: Mapped[str] = mapped_column(Text, comment="SHA-256 over config and weights")
    artifact: Mapped[bytes | None] = mapped_column(
        LargeBinary,
        deferred=True,
        comment="safetensors: every weight that is not a published backbone",
    )
    root: Mapped[str | None] = mapped_column(
        Text, comment="the folder that relative paths of its images start from"
    )
    created_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now()
    )


class LayoutRow(CoreBase):
    """The chunks that bucket indexes are on, of an encoder or of a width."""

    __tablename__ = "layouts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["encoder_id", "bits"], ["encoders.id", "encoders.bits"], ondelete="CASCADE"
        ),
        CheckConstraint(
            "cardinality(starts) = cardinality(widths)"
            " AND 1 <= ALL (widths) AND 31 >= ALL (widths)",
            name="layouts_chunks_check",
        ),
        Index("layouts_encoder_id_key", "encoder_id", unique=True, postgresql_where=text("active")),
        Index(
            "layouts_bits_key",
            "bits",
            unique=True,
            postgresql_where=text("active AND encoder_id IS NULL"),
        ),
        {"comment": "How codes are cut into the chunks that bucket indexes are on"},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    encoder_id: Mapped[int | None]
    bits: Mapped[int] = mapped_column(SmallInteger)
    starts: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    widths: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    active: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now()
    )
    covering: Mapped[bool] = mapped_column(
        server_default=text("true"),
        comment="whether its indexes hold the whole code, or only where the rows are",
    )
    row_count: Mapped[int | None] = mapped_column(
        BigInteger, comment="the rows of its encoder when it was chosen"
    )
    shell_rows: Mapped[list[int] | None] = mapped_column(
        ARRAY(BigInteger),
        comment="the most rows that a shell of 0, 1 .. 4 flips met then, as a sample says",
    )


class ChunkFlip(CoreBase):
    """A mask that a probe flips."""

    __tablename__ = "chunk_flips"
    __table_args__ = ({"comment": "Masks of 0 to 4 bits: what the probes of a shell flip"},)

    flips: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    mask: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Image(CoreBase):
    """An image under one encoder: its path, its code, and what is known of it."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("encoder_id", "path"),
        Index(
            "images_encoder_id_label_idx",
            "encoder_id",
            "label",
            postgresql_where=text("label IS NOT NULL"),
        ),
        ForeignKeyConstraint(["encoder_id", "bits"], ["encoders.id", "encoders.bits"]),
        CheckConstraint(
            "bits = 256 OR (code_1 | code_2 | code_3 | code_4) >> (bits / 4) = 0",
            name="images_code_check",
        ),
        # Answers are sorted by distance and id in one bigint.
        CheckConstraint("id >= 0 AND id < 18014398509481984", name="images_id_check"),
        CheckConstraint("octet_length(content_sha256) = 32", name="images_content_sha256_check"),
        {"comment": "retrieval-db: one row for each image and encoder"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    encoder_id: Mapped[int]
    bits: Mapped[int] = mapped_column(SmallInteger)
    code_1: Mapped[int] = mapped_column(
        BigInteger, comment="bits 0 to L/4-1, most significant first"
    )
    code_2: Mapped[int] = mapped_column(BigInteger)
    code_3: Mapped[int] = mapped_column(BigInteger)
    code_4: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now()
    )
    path: Mapped[str] = mapped_column(Text)
    label: Mapped[str | None] = mapped_column(Text)
    content_sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    # `metadata` is SQLAlchemy's own word on a model.
    properties: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB)

    code: Composite[Code] = composite(
        "code_1", "code_2", "code_3", "code_4", comparator_factory=CodeComparator
    )
    encoder: Mapped[EncoderRow] = relationship()


class ImageChange(CoreBase):
    """A statement that changed images of an encoder."""

    __tablename__ = "image_changes"
    __table_args__ = (
        {"comment": "The newest changes of images: one row for each statement and encoder"},
    )

    transaction_id: Mapped[int] = mapped_column(
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="of the changing transaction",
    )
    id: Mapped[uuid.UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()")
    )
    encoder_id: Mapped[int | None] = mapped_column(comment="null: images of any encoder")
    image_ids: Mapped[list[int] | None] = mapped_column(
        ARRAY(BigInteger), comment="null: too many to list, or any"
    )


class ImageFeature(FeaturesBase):
    """The feature of an image, for the fine stage."""

    __tablename__ = "image_features"
    __table_args__ = ({"comment": "The fine stage: a float vector for each image"},)

    image_id: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey(Image.__table__.c.id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    feature: Mapped[Any] = mapped_column(HALFVEC)
