"""One encoder alone needs no statistics; labels are handed over once, not for each row."""

from alembic import context, op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SHARE = """\
        -- The share of this encoder, as ANALYZE saw it.
        all_rows := table_rows * coalesce((
            SELECT coalesce(max(common.share) FILTER (WHERE common.id = subject.id),
                            greatest(1 - sum(common.share), 0))
            FROM pg_stats,
                 unnest(most_common_vals::text::integer[], most_common_freqs) AS common (id, share)
            WHERE schemaname = current_schema() AND tablename = 'images'
              AND attname = 'encoder_id'
        ), 1);
"""
SHARE_INDENTED = SHARE.rstrip().replace("\n", "\n    ")
SHARE_AMONG_OTHERS = f"""\
        all_rows := table_rows;
        IF EXISTS (SELECT FROM encoders WHERE id <> subject.id) THEN
    {SHARE_INDENTED}
        END IF;
"""

# PL/pgSQL hands a variable over for each row; a subselect is asked once.
TESTED = "(labels IS NULL OR image.label = ANY (labels))"
ASKED_ONCE = "((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))"


def run_search() -> str:
    """The function as revision 0009 made it."""
    made = context.script.get_revision("0009").module
    text: str = made.patched(made.of_0007("RUN_SEARCH"), *made.RUN_SEARCH_CHANGES)
    return text


def small_scan_keys() -> str:
    """The function as revision 0009 made it."""
    text: str = context.script.get_revision("0009").module.small_scan_keys()
    return text


def upgrade() -> None:
    patched = context.script.get_revision("0009").module.patched
    op.execute(patched(run_search(), (SHARE, SHARE_AMONG_OTHERS)))
    op.execute(small_scan_keys().replace(TESTED, ASKED_ONCE))


def downgrade() -> None:
    op.execute(small_scan_keys())
    op.execute(run_search())
