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

-- name: lock
SELECT pg_try_advisory_lock(%s)

-- name: unlock
SELECT pg_advisory_unlock(%s)
