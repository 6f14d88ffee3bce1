-- name: pairs
SELECT image_id_1, image_id_2, path_1, path_2, distance
FROM near_duplicates(%(encoder)s, %(radius)s, %(since)s, %(since_id)s, %(max_pairs)s)
ORDER BY distance, image_id_1, image_id_2

-- name: code_pairs
SELECT image_id_1, image_id_2, distance
FROM near_duplicate_codes(%(encoder)s, %(radius)s, %(since)s, %(since_id)s, %(max_pairs)s)

-- name: copies
-- Images with the code of an earlier one, and whether either of the two was added since.
SELECT copy.image_id, copy.first_image_id,
       (image.created_at >= %(since)s OR %(since)s::timestamptz IS NULL)
           AND (image.id > %(since_id)s OR %(since_id)s::bigint IS NULL)
       OR (first.created_at >= %(since)s OR %(since)s::timestamptz IS NULL)
           AND (first.id > %(since_id)s OR %(since_id)s::bigint IS NULL)
FROM equal_codes(%(encoder)s) AS copy
JOIN images AS image ON image.id = copy.image_id
JOIN images AS first ON first.id = copy.first_image_id

-- name: members
SELECT id, path, label FROM images WHERE id = ANY (%s)
