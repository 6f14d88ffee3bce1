"""Narrower chunks for compact layouts, so that more rows share an entry of their indexes."""

from alembic import context, op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A bucket of one row takes 20 bytes, each further row 6: with log2(rows) - 1 bits a uniform
# chunk's buckets hold two on average. The bits that are left out raise the number of rows met.
COMPACT_CHUNK_WIDTHS = """
CREATE FUNCTION compact_chunk_widths(bits integer, row_count bigint)
RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg(
        least(width, greatest(round(log(2.0, greatest(row_count, 2)::numeric)) - 1, 8))::smallint
        ORDER BY j
    )
    FROM unnest(chunk_widths(bits, row_count)) WITH ORDINALITY AS chunk (width, j);
END
"""

CHOSEN = "        chosen := chunk_widths(found.bits, row_count);\n"
CHOSEN_BY_KIND = """\
        chosen := CASE WHEN covering THEN chunk_widths(found.bits, row_count)
                       ELSE compact_chunk_widths(found.bits, row_count) END;
"""
KIND = """\
coalesce(
        covering,
        (SELECT own.covering FROM layouts AS own WHERE own.encoder_id = found.id AND own.active),
        true
    )"""
COUNTED = "    IF chosen IS NULL THEN\n"


def earlier(number: str, name: str) -> str:
    """The text of a function as an earlier revision made it, to put it in the place of ours."""
    text: str = getattr(context.script.get_revision(number).module, name)
    return text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)


def upgrade() -> None:
    op.execute(COMPACT_CHUNK_WIDTHS)
    text = earlier("0005", "TUNE_STATEMENTS")
    for old, new in (
        (KIND, "covering"),
        (CHOSEN, CHOSEN_BY_KIND),
        (COUNTED, f"    covering := {KIND};\n{COUNTED}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    op.execute(text)


def downgrade() -> None:
    op.execute(earlier("0005", "TUNE_STATEMENTS"))
    op.execute("DROP FUNCTION compact_chunk_widths")
