-- name: tune_statements
-- Registers the new layout and returns the statements that build it, switch to it and drop the old.
SELECT * FROM tune_statements(%s, %s, %s, %s)

-- name: leftovers
SELECT dropped.statement
FROM layout_leftovers() AS old (id), LATERAL layout_drop_statements(old.id, true) AS dropped (statement)

-- name: of_encoder
-- The layout that serves an encoder: its own, or its width's.
SELECT layout.id, layout.encoder_id IS NULL, layout.widths
FROM layouts AS layout JOIN encoders AS encoder ON encoder.bits = layout.bits
WHERE encoder.id = %s AND layout.active
  AND (layout.encoder_id = encoder.id OR layout.encoder_id IS NULL)
ORDER BY layout.encoder_id
LIMIT 1

-- name: wanted_chunks
-- How many chunks fit so many rows.
SELECT cardinality(chunk_widths(%s, %s))

-- name: rows_of_encoder
SELECT count(*) FROM images WHERE encoder_id = %s

-- name: other_rows_of_width
-- Whether rows of other encoders lean on the layout of this width.
SELECT EXISTS (
    SELECT FROM encoders AS other
    WHERE other.bits = %(bits)s AND other.id <> %(id)s
      AND NOT EXISTS (SELECT FROM layouts WHERE active AND encoder_id = other.id)
      AND EXISTS (SELECT FROM images WHERE encoder_id = other.id)
)

-- name: drop_statements
SELECT * FROM layout_drop_statements(%s, false)

-- name: off
SELECT set_config(%s, 'off', true)

-- name: read_indexes
-- Statements that each read one index of an encoder's own layout from end to end and return nothing:
-- where the table is vacuumed, so that no row has to be looked at, and three quarters of the
-- server's cache hold all of them.
SELECT format('SELECT FROM images WHERE encoder_id = %%s ORDER BY %%s OFFSET %%s',
              layout.encoder_id,
              chunk_expression(layout.bits, layout.starts[j], layout.widths[j], 'code_'),
              1::bigint << 62)
FROM layouts AS layout, generate_subscripts(layout.starts, 1) AS j
WHERE layout.encoder_id = %s AND layout.active AND layout.covering
  AND (SELECT relallvisible >= 0.9 * relpages FROM pg_class WHERE oid = 'images'::regclass)
  AND (SELECT 4 * sum(pg_relation_size(indexrelid))
              <= 3 * pg_size_bytes(current_setting('shared_buffers'))
       FROM generate_subscripts(layout.starts, 1) AS number, pg_index
       WHERE indexrelid = to_regclass(format('images_bucket_%%s_%%s', layout.id, number)))
ORDER BY j

-- name: lock
SELECT pg_try_advisory_lock(%s)

-- name: unlock
SELECT pg_advisory_unlock(%s)
