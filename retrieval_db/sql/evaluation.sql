-- name: counts
-- The rankings of many queries as their ties: how many rows lie at each distance, and how many of
-- these have the query's label. A query's own row, and rows of the same content, are left out.
-- One scan of the encoder's rows for each batch of queries: every row counts, so no index helps.
SELECT query.number,
       hamming_distance(image.code_1, image.code_2, image.code_3, image.code_4,
                        query.q1, query.q2, query.q3, query.q4) AS distance,
       count(*), count(*) FILTER (WHERE image.label = query.label)
FROM images AS image
CROSS JOIN unnest(%(q1)s::bigint[], %(q2)s::bigint[], %(q3)s::bigint[], %(q4)s::bigint[],
                  %(labels)s::text[], %(ids)s::bigint[], %(hashes)s::bytea[])
     WITH ORDINALITY AS query (q1, q2, q3, q4, label, id, content_sha256, number)
WHERE image.encoder_id = %(encoder)s
  AND image.id IS DISTINCT FROM query.id
  AND (query.content_sha256 IS NULL
       OR image.content_sha256 IS DISTINCT FROM query.content_sha256)
GROUP BY query.number, distance

-- name: drawn
-- Labelled rows in an order that the seed decides, and the paths: encoders of the same images are
-- asked with the same ones.
SELECT id, code_1, code_2, code_3, code_4, label, content_sha256
FROM images
WHERE encoder_id = %(encoder)s AND label IS NOT NULL
ORDER BY hashtextextended(path, %(seed)s), id
LIMIT %(count)s

-- name: features_of
SELECT image_id, feature::real[] FROM image_features WHERE image_id = ANY (%s)

-- name: same_content
-- Rows of these contents.
SELECT id, content_sha256 FROM images WHERE encoder_id = %s AND content_sha256 = ANY (%s)

-- name: distinct_codes
-- Every code once, with how many rows have it.
SELECT code_1, code_2, code_3, code_4, count(*)
FROM images WHERE encoder_id = %s
GROUP BY code_1, code_2, code_3, code_4

-- name: nearest_features
-- The exhaustive float search, ties by id; without the query's own row and those of its content.
SELECT image.id, image.label,
       hamming_distance(image.code_1, image.code_2, image.code_3, image.code_4,
                        %(q1)s, %(q2)s, %(q3)s, %(q4)s)
FROM image_features AS stored JOIN images AS image ON image.id = stored.image_id
WHERE image.encoder_id = %(encoder)s
  AND image.id IS DISTINCT FROM %(id)s::bigint
  AND (%(hash)s::bytea IS NULL OR image.content_sha256 IS DISTINCT FROM %(hash)s::bytea)
ORDER BY stored.feature <=> %(feature)s::halfvec, image.id
LIMIT %(k)s
