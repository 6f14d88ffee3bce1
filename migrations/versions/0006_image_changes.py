"""Which images changed, so that copies of the codes outside the table know their age."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# One row for each statement that changed images, and encoder. Of more than 256 rows only the
# encoder is noted; without an encoder anything may have changed. The uuid, not the transaction,
# says whether a copy knows of a change: rows restored from another server bring foreign
# transactions along.
IMAGE_CHANGES = """
CREATE TABLE image_changes (
    transaction_id bigint NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    encoder_id integer,
    image_ids bigint[],
    CONSTRAINT image_changes_pkey PRIMARY KEY (transaction_id, id)
)
"""

# SECURITY DEFINER, so that whoever may write images needs no right on image_changes.
#
# The newest 10,000 changes are kept. About one transaction in a thousand replaces the older ones
# by one row with the last of their transactions, which says that anything may have changed: a
# copy that is too old to know them all meets it. In REPEATABLE READ that could fail where another
# did it, so such a transaction leaves it. Transactions that are yet to come are another server's.
NOTE_IMAGE_CHANGES = r"""
CREATE FUNCTION note_image_changes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    own bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF TG_ARGV[0] = 'anything' THEN
        INSERT INTO image_changes (transaction_id) VALUES (own);
    ELSIF (SELECT count(*) FROM (SELECT FROM changed LIMIT 257) AS few) <= 256 THEN
        INSERT INTO image_changes (transaction_id, encoder_id, image_ids)
        SELECT own, encoder_id, array_agg(id) FROM changed GROUP BY encoder_id;
    ELSE
        INSERT INTO image_changes (transaction_id, encoder_id)
        SELECT DISTINCT own, encoder_id FROM changed;
    END IF;
    IF own % 1000 = 0 AND current_setting('transaction_isolation') = 'read committed'
       AND pg_try_advisory_xact_lock(7216305922) THEN
        WITH old AS (
            DELETE FROM image_changes
            WHERE transaction_id <= (SELECT transaction_id FROM image_changes
                                     WHERE transaction_id <= own
                                     ORDER BY transaction_id DESC OFFSET 10000 LIMIT 1)
            RETURNING transaction_id
        )
        INSERT INTO image_changes (transaction_id)
        SELECT max(transaction_id) FROM old HAVING count(*) > 0;
        DELETE FROM image_changes
        WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    END IF;
    RETURN NULL;
END
$$
"""

# The temporary schema last: nobody's own table is taken for ours.
SAFE_SEARCH_PATH = """
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION note_image_changes() SET search_path = pg_catalog, %I, pg_temp',
                   current_schema());
END
$$
"""

# Name, event, rows, argument. ALWAYS: for a replica's or a restoring session, too.
TRIGGERS = (
    ("images_insert_noted", "INSERT", "NEW", ""),
    ("images_update_noted", "UPDATE", "NEW", ""),
    ("images_delete_noted", "DELETE", "OLD", ""),
    ("images_rekey_noted", "UPDATE OF id, encoder_id", None, "'anything'"),
    ("images_truncate_noted", "TRUNCATE", None, "'anything'"),
)

# What a copy of codes has to remember, taken before the codes are read. All transactions before
# `settled` had ended then, so what they changed is in the copy; `seen` are the visible changes of
# later ones. (pg_visible_in_snapshot would not do: on a standby, a snapshot does not list the
# transactions in progress.) `own` are those of the reader's own transaction, which may yet be
# rolled back: a copy holds as long as they are visible.
IMAGE_HORIZON = """
CREATE FUNCTION image_horizon() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $$
DECLARE
    settled bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    own bigint := pg_current_xact_id_if_assigned()::text::bigint;
BEGIN
    IF NOT image_changes_noted() THEN
        RAISE EXCEPTION 'Changes of images are not noted: triggers on it are switched off.' USING
            ERRCODE = 'RD006', HINT = 'Switch them on (ALTER TABLE images ENABLE ALWAYS TRIGGER '
            'images_insert_noted, and so on), or search the database instead.';
    END IF;
    IF EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'images'::regclass) THEN
        RAISE EXCEPTION 'The table images is replicated logically, which calls no triggers, so '
            'that its changes are not noted.' USING
            ERRCODE = 'RD006', HINT = 'Search the database instead.';
    END IF;
    RETURN (
        SELECT jsonb_build_object(
            'settled', settled,
            'seen', coalesce(jsonb_agg(id), '[]'),
            'transaction', own,
            'own', coalesce(jsonb_agg(id) FILTER (WHERE transaction_id = own), '[]'),
            'tables', jsonb_build_array('images'::regclass::oid, 'image_changes'::regclass::oid))
        FROM image_changes WHERE transaction_id >= settled
    );
END
$$
"""

IMAGE_CHANGES_NOTED = """
CREATE FUNCTION image_changes_noted() RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $$
BEGIN
    RETURN (SELECT count(*) FROM pg_trigger
            WHERE tgrelid = 'images'::regclass AND tgenabled = 'A'
              AND tgfoid = 'note_image_changes()'::regprocedure) = 5;
END
$$
"""

# Served by the primary key of image_changes: only what is later than `settled` is read.
IMAGE_CHANGES_SINCE = """
CREATE FUNCTION image_changes_since(encoder integer, horizon jsonb)
RETURNS TABLE (image_ids bigint[])
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
BEGIN
    IF NOT image_changes_noted()
       OR horizon -> 'tables' <> jsonb_build_array('images'::regclass::oid,
                                                   'image_changes'::regclass::oid)
       OR (SELECT count(*) FROM image_changes AS change
           WHERE change.transaction_id = (horizon ->> 'transaction')::bigint
             AND change.id IN (SELECT jsonb_array_elements_text(horizon -> 'own')::uuid))
          < jsonb_array_length(horizon -> 'own') THEN
        RETURN QUERY SELECT NULL::bigint[];
    END IF;
    RETURN QUERY
    SELECT change.image_ids FROM image_changes AS change
    WHERE change.transaction_id >= (horizon ->> 'settled')::bigint
      AND (change.encoder_id = encoder OR change.encoder_id IS NULL)
      AND change.id NOT IN (SELECT jsonb_array_elements_text(horizon -> 'seen')::uuid);
END
$$
"""

COMMENTS = (
    "COMMENT ON TABLE image_changes IS 'The newest changes of images: one row for each statement "
    "and encoder'",
    "COMMENT ON COLUMN image_changes.transaction_id IS 'of the changing transaction'",
    "COMMENT ON COLUMN image_changes.encoder_id IS 'null: images of any encoder'",
    "COMMENT ON COLUMN image_changes.image_ids IS 'null: too many to list, or any'",
    "COMMENT ON FUNCTION image_horizon() IS "
    "'what a copy of codes that is read after this call needs to ask image_changes_since'",
    "COMMENT ON FUNCTION image_changes_since(integer, jsonb) IS "
    "'ids of images that a copy with this horizon does not have as they are, a row for each "
    "change; null: it may be any. No row: the copy is up to date'",
)


def upgrade() -> None:
    op.execute(IMAGE_CHANGES)
    op.execute(NOTE_IMAGE_CHANGES)
    op.execute(SAFE_SEARCH_PATH)
    op.execute("REVOKE EXECUTE ON FUNCTION note_image_changes() FROM PUBLIC")
    for name, event, rows, argument in TRIGGERS:
        table = f"REFERENCING {rows} TABLE AS changed" if rows else ""
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON images {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION note_image_changes({argument})"
        )
        op.execute(f"ALTER TABLE images ENABLE ALWAYS TRIGGER {name}")
    for statement in (IMAGE_CHANGES_NOTED, IMAGE_HORIZON, IMAGE_CHANGES_SINCE, *COMMENTS):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION image_changes_since")
    op.execute("DROP FUNCTION image_horizon")
    op.execute("DROP FUNCTION image_changes_noted")
    for name, *_ in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON images")
    op.execute("DROP FUNCTION note_image_changes")
    op.execute("DROP TABLE image_changes")
