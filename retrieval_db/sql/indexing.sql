-- name: known
-- What is stored of some images, to tell new and changed files apart; served by the unique key
-- (encoder_id, path).
SELECT path, content_sha256, label FROM images WHERE encoder_id = %s AND path = ANY (%s)

-- name: known_with_features
-- The same, where an image without a feature is one to be encoded anew.
SELECT path, CASE WHEN EXISTS (SELECT FROM image_features WHERE image_id = images.id)
                  THEN content_sha256 END, label
FROM images WHERE encoder_id = %s AND path = ANY (%s)

-- name: paths
-- The next paths in the order of the unique key, to find those whose files are gone.
SELECT path FROM images WHERE encoder_id = %s AND path > %s ORDER BY path LIMIT 10000

-- name: prune
DELETE FROM images WHERE encoder_id = %s AND path = ANY (%s)

-- name: relabel
-- A label or metadata that are not given stay; served by the unique key (encoder_id, path).
UPDATE images SET label = coalesce(given.label, images.label),
                  metadata = coalesce(given.metadata::jsonb, images.metadata)
FROM unnest(%s::text[], %s::text[], %s::text[]) AS given(path, label, metadata)
WHERE images.encoder_id = %s AND images.path = given.path
  AND (images.label IS DISTINCT FROM coalesce(given.label, images.label)
       OR images.metadata IS DISTINCT FROM coalesce(given.metadata::jsonb, images.metadata))

-- name: files
SELECT path, label, metadata::text FROM images WHERE encoder_id = %s ORDER BY id
