-- name: horizon
-- What the codes that are read after this statement will know of the changes of images.
SELECT image_horizon()

-- name: changes
-- Ids of the images that changed since, by statements; NULL where they are not listed.
SELECT image_ids FROM image_changes_since(%(encoder_id)s, %(horizon)s)

-- name: changed
SELECT EXISTS (SELECT FROM image_changes_since(%(encoder_id)s, %(horizon)s)),
       EXISTS (SELECT FROM encoders WHERE id = %(encoder_id)s)

-- name: labels
-- The different labels, one by one through images_encoder_id_label_idx.
WITH RECURSIVE found (label) AS (
    (SELECT label FROM images WHERE encoder_id = %(encoder_id)s AND label IS NOT NULL
     ORDER BY label LIMIT 1)
    UNION ALL
    SELECT (SELECT label FROM images WHERE encoder_id = %(encoder_id)s AND label > found.label
            ORDER BY label LIMIT 1)
    FROM found WHERE found.label IS NOT NULL
)
SELECT label FROM found WHERE label IS NOT NULL

-- name: labels_of
SELECT DISTINCT label FROM images
WHERE encoder_id = %(encoder_id)s AND id = ANY (%(ids)s) AND label IS NOT NULL

-- name: page
-- Columns of rows as arrays in PostgreSQL's binary form: NumPy reads them as they are, while single
-- rows would cost more in the client than in the server. A label is its number among `labels`.
SELECT array_send(array_agg(id)), array_send(array_agg(label)), {sent}
FROM (
    SELECT image.id, coalesce(known.number, 0)::integer AS label, {words}
    FROM (
        SELECT id, label, code_1, code_2, code_3, code_4 FROM images
        WHERE encoder_id = %(encoder_id)s AND {which}
    ) AS image
    LEFT JOIN unnest(%(labels)s::text[]) WITH ORDINALITY AS known (label, number) USING (label)
) AS page

-- name: passing
-- Ids of the images that pass a filter on their metadata.
SELECT EXISTS (SELECT FROM image_changes_since(%(encoder_id)s, %(horizon)s)), true,
       array_send(array_agg(id))
FROM images WHERE encoder_id = %(encoder_id)s AND metadata @> %(metadata)s

-- name: hits
-- What is shown of the images found, and, in the same snapshot, whether the search still holds.
SELECT EXISTS (SELECT FROM image_changes_since(%(encoder_id)s, %(horizon)s)),
       EXISTS (SELECT FROM encoders WHERE id = %(encoder_id)s),
       hit.rank, image.id, image.path, image.label, hit.distance
FROM (VALUES (1)) AS always
LEFT JOIN unnest(%(ids)s::bigint[], %(distances)s::integer[]) WITH ORDINALITY
          AS hit (id, distance, rank) ON true
LEFT JOIN images AS image ON image.id = hit.id
ORDER BY hit.rank

-- name: fine
-- As hits, but ranked by the distance of the features.
SELECT EXISTS (SELECT FROM image_changes_since(%(encoder_id)s, %(horizon)s)),
       EXISTS (SELECT FROM encoders WHERE id = %(encoder_id)s),
       row_number() OVER (ORDER BY ranked.away, ranked.distance, ranked.id),
       image.id, image.path, image.label, ranked.distance,
       nullif(ranked.away, 'NaN')
FROM (VALUES (1)) AS always
LEFT JOIN (
    SELECT hit.id, hit.distance,
           CASE %(metric)s WHEN 'l2' THEN stored.feature <-> %(feature)s::halfvec
                           ELSE stored.feature <=> %(feature)s::halfvec END AS away
    FROM unnest(%(ids)s::bigint[], %(distances)s::integer[]) AS hit (id, distance)
    LEFT JOIN image_features AS stored ON stored.image_id = hit.id
    ORDER BY away, hit.distance, hit.id
    LIMIT %(k)s
) AS ranked ON true
LEFT JOIN images AS image ON image.id = ranked.id
ORDER BY 3
