-- name: known
-- What is stored of an encoder's images, to tell new, changed and gone files apart.
SELECT path, content_sha256 FROM images WHERE encoder_id = %s

-- name: prune
DELETE FROM images WHERE encoder_id = %s AND path = ANY (%s)

-- name: relabel
UPDATE images SET label = given.label
FROM unnest(%s::text[], %s::text[]) AS given(path, label)
WHERE images.encoder_id = %s AND images.path = given.path
  AND images.label IS DISTINCT FROM given.label

-- name: files
SELECT path, label FROM images WHERE encoder_id = %s ORDER BY id
