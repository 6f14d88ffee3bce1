-- name: relation
-- What stands under the view's name already: its kind, and whether its comment is that of ours.
SELECT relkind::text, coalesce(obj_description(pg_class.oid, 'pg_class'), '')
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = coalesce(%(schema)s, current_schema()) AND relname = %(name)s

-- name: create
-- The columns of the old table. The encoder is found by its name, so that the view outlives it.
CREATE OR REPLACE VIEW {view} AS
SELECT id, path, code_1, code_2, code_3, code_4
FROM images
WHERE encoder_id = (SELECT encoders.id FROM encoders WHERE encoders.name = {encoder})

-- name: comment
COMMENT ON VIEW {view} IS {comment}

-- name: drop
DROP VIEW {view}
