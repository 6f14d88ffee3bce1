-- name: existing_paths
-- Served by the unique key (encoder_id, path).
SELECT path FROM images WHERE encoder_id = %s AND path = ANY (%s)

-- name: new_ids
-- In a subquery the sequence is looked up once, not for each id.
SELECT ARRAY(
    SELECT nextval((SELECT pg_get_serial_sequence('images', 'id')::regclass))
    FROM generate_series(1, %s)
)

-- name: copy_images
COPY images (encoder_id, bits, code_1, code_2, code_3, code_4, path, label,
      content_sha256, metadata)
FROM STDIN (FORMAT binary)

-- name: copy_images_with_ids
COPY images (id, encoder_id, bits, code_1, code_2, code_3, code_4, path, label,
      content_sha256, metadata)
FROM STDIN (FORMAT binary)

-- name: copy_features
COPY image_features (image_id, feature) FROM STDIN (FORMAT binary)

-- name: create_incoming
CREATE TEMPORARY TABLE incoming (
    encoder_id integer, bits smallint,
    code_1 bigint, code_2 bigint, code_3 bigint, code_4 bigint,
    path text, label text, content_sha256 bytea, metadata jsonb
) ON COMMIT DROP

-- name: copy_incoming
COPY incoming (encoder_id, bits, code_1, code_2, code_3, code_4, path, label,
      content_sha256, metadata)
FROM STDIN (FORMAT binary)

-- name: upsert
-- A label, hash or metadata that the new row does not give keeps its old value; not the hash where
-- the code is another, which came from another content.
INSERT INTO images AS image (encoder_id, bits, code_1, code_2, code_3, code_4,
                             path, label, content_sha256, metadata)
SELECT encoder_id, bits, code_1, code_2, code_3, code_4, path, label, content_sha256,
       metadata FROM incoming
ON CONFLICT (encoder_id, path) DO UPDATE SET
    code_1 = excluded.code_1, code_2 = excluded.code_2,
    code_3 = excluded.code_3, code_4 = excluded.code_4,
    label = coalesce(excluded.label, image.label),
    content_sha256 = coalesce(
        excluded.content_sha256,
        CASE WHEN (image.code_1, image.code_2, image.code_3, image.code_4)
                  = (excluded.code_1, excluded.code_2, excluded.code_3, excluded.code_4)
             THEN image.content_sha256 END),
    metadata = coalesce(excluded.metadata, image.metadata)

-- name: delete_stale_features
-- A code that changes without a new feature came from another image content.
DELETE FROM image_features AS feature
USING incoming, images AS image
WHERE image.encoder_id = incoming.encoder_id AND image.path = incoming.path
  AND feature.image_id = image.id
  AND (image.code_1, image.code_2, image.code_3, image.code_4)
      IS DISTINCT FROM (incoming.code_1, incoming.code_2, incoming.code_3, incoming.code_4)

-- name: ids_of_incoming
SELECT path, id FROM images JOIN incoming USING (encoder_id, path)

-- name: delete_features
DELETE FROM image_features WHERE image_id = ANY (%s)

-- name: analyze
-- The choice of a path needs statistics.
ANALYZE images

-- name: lasting
-- VACUUM takes no row for visible to all whose commit is not on disk yet, as it is for a while
-- where the server commits asynchronously: this transaction takes all earlier commits there.
SET LOCAL synchronous_commit = on

-- name: vacuum
-- Index-only scans need the visibility map.
VACUUM images

-- name: may_draw_ids
SELECT has_sequence_privilege(pg_get_serial_sequence('images', 'id'), 'USAGE')

-- name: session
-- What another connection needs to mean the same by the same names.
SELECT current_user, current_setting('search_path')

-- name: like_session
SELECT set_config('role', %s, false), set_config('search_path', %s, false)
