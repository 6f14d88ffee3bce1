-- name: snapshot
-- All statements of an export see the same rows, and none of them writes.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- name: counts
-- Which columns there is anything to write in.
SELECT count(*), count(label), count(content_sha256), count(metadata)
FROM images
WHERE encoder_id = %(encoder)s
  AND (%(labels)s::text[] IS NULL OR label = ANY (%(labels)s))
  AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
  AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))

-- name: rows
-- Everything of an encoder that passes the filters, in the order of its loading.
SELECT id, path, label, content_sha256, metadata::text, code_1, code_2, code_3, code_4
FROM images
WHERE encoder_id = %(encoder)s
  AND (%(labels)s::text[] IS NULL OR label = ANY (%(labels)s))
  AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
ORDER BY id

-- name: found_rows
-- What searches found, in the order of the answers; served by the primary key.
SELECT id, path, label, content_sha256, metadata::text, code_1, code_2, code_3, code_4
FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS found (id, place) JOIN images USING (id)
ORDER BY place

-- name: features
SELECT image_id, feature FROM image_features WHERE image_id = ANY (%s)
