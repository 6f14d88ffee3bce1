"""A change noted by a transaction that clears up is kept; ids are those that answers can hold."""

from alembic import context, op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Before its end a transaction is not below its own snapshot's xmax, and is no other server's. The
# lock was that of `tune`.
KEPT_BUT_OWN = (
    (
        "        WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint;",
        "        WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint\n"
        "          AND transaction_id <> own;",
    ),
    ("pg_try_advisory_xact_lock(7216305922)", "pg_try_advisory_xact_lock(7216305923)"),
    # The same function: `image_changes_noted` knows the triggers by it.
    ("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"),
)

# Searches order by distance and id in one bigint, in which 54 bits are left for the id.
IDS = """
ALTER TABLE images ADD CONSTRAINT images_id_check CHECK (id >= 0 AND id < 18014398509481984)
"""


def upgrade() -> None:
    made = context.script.get_revision("0006").module
    patched = context.script.get_revision("0009").module.patched
    op.execute(patched(made.NOTE_IMAGE_CHANGES, *KEPT_BUT_OWN))
    op.execute(made.SAFE_SEARCH_PATH)
    op.execute(IDS)


def downgrade() -> None:
    made = context.script.get_revision("0006").module
    patched = context.script.get_revision("0009").module.patched
    op.execute("ALTER TABLE images DROP CONSTRAINT images_id_check")
    op.execute(patched(made.NOTE_IMAGE_CHANGES, KEPT_BUT_OWN[-1]))
    op.execute(made.SAFE_SEARCH_PATH)
