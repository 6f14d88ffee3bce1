"""`search_images` refuses arguments that mean nothing, as `search_codes` does.

A feature that is NULL, as a subquery without a row gives it, ranked by Hamming distance without a
word; numbers that are too large were PostgreSQL's errors.
"""

from alembic import context, op

revision = "f004"
down_revision = "f003"
branch_labels = None
depends_on = None

CHANGES = (
    (
        "    most integer := coalesce(search_images.pool_max, least(10::bigint * wanted, "
        "2147483646));\n",
        "    most integer := least(coalesce(search_images.pool_max, 10::bigint * wanted), "
        "2147483646);\n"
        "    wide integer := (SELECT feature_dim FROM encoders WHERE name = encoder);\n",
    ),
    (
        "    IF pool < 1 THEN\n",
        "    IF k < 1 THEN\n"
        "        RAISE EXCEPTION 'k must be at least 1, not %.', k USING ERRCODE = 'RD003';\n"
        "    END IF;\n"
        "    IF feature IS NULL THEN\n"
        "        RAISE EXCEPTION 'The feature of the query is NULL.' USING ERRCODE = 'RD003',\n"
        "            HINT = 'A subquery gives NULL where it finds no row; '\n"
        "            'search_codes needs no feature.';\n"
        "    END IF;\n"
        "    IF vector_dims(feature) <> wide THEN\n"
        "        RAISE EXCEPTION 'The feature of the query has % dimensions, those of encoder % '\n"
        "            'have %.', vector_dims(feature), quote_literal(encoder), wide\n"
        "            USING ERRCODE = 'RD002';\n"
        "    END IF;\n"
        "    IF pool < 1 THEN\n",
    ),
    ("    IF most < pool THEN\n", "    IF pool_max < pool THEN\n"),
    (
        "(%) is smaller than pool (%).', most, pool\n",
        "(%) is smaller than pool (%).', pool_max, pool\n",
    ),
)


def former() -> str:
    text: str = context.script.get_revision("f003").module.SEARCH_IMAGES
    return text


def upgrade() -> None:
    text = former()
    for old, new in CHANGES:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    op.execute(text)


def downgrade() -> None:
    op.execute(former())
