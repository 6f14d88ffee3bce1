-- name: coarse
-- One row for each hit; without hits one row that carries the certificate.
SELECT run.exact, run.guaranteed_radius, run.plan, run.shells, run.probes, run.candidates,
       hit.rank, image.id, image.path, image.label, (hit.key >> 54)::integer
FROM run_search(%(encoder)s, %(q1)s, %(q2)s, %(q3)s, %(q4)s, %(k)s, %(radius)s,
                %(labels)s, %(metadata)s, %(max_candidates)s, %(max_ms)s, 0) AS run
LEFT JOIN LATERAL unnest(run.keys) WITH ORDINALITY AS hit (key, rank) ON true
LEFT JOIN images AS image ON image.id = (hit.key & ((1::bigint << 54) - 1))
ORDER BY hit.rank

-- name: fine
-- The cosine of a feature of zeros is not defined.
SELECT rank, image_id, path, label, distance, nullif(feature_distance, 'NaN'),
       pool_exact, guaranteed_radius, pool_size, coalesce(tie_whole, true)
FROM search_images(%(encoder)s, %(q1)s, %(q2)s, %(q3)s, %(q4)s, %(feature)s::halfvec,
                   %(k)s, %(radius)s, %(labels)s, %(metadata)s,
                   %(pool)s, %(pool_max)s, %(metric)s, %(max_candidates)s, %(max_ms)s)

-- name: image_by_id
SELECT image.id, encoder.name, image.code_1, image.code_2, image.code_3, image.code_4
FROM images AS image JOIN encoders AS encoder ON encoder.id = image.encoder_id
WHERE image.id = %s

-- name: path_of
SELECT path FROM images WHERE id = %s

-- name: image_by_path
SELECT image.id, encoder.name, image.code_1, image.code_2, image.code_3, image.code_4
FROM images AS image JOIN encoders AS encoder ON encoder.id = image.encoder_id
WHERE image.encoder_id = %s AND image.path = %s

-- name: has_feature
SELECT EXISTS (
    SELECT FROM image_features AS stored JOIN images AS image ON image.id = stored.image_id
    WHERE image.encoder_id = %s
)

-- name: feature_of
SELECT feature::real[] FROM image_features WHERE image_id = %s

-- name: batch
-- Many queries in one statement, so that they share its plan, its snapshot and one answer.
SELECT run.keys, run.exact, run.guaranteed_radius
FROM unnest(%(q1)s::bigint[], %(q2)s::bigint[], %(q3)s::bigint[], %(q4)s::bigint[])
     WITH ORDINALITY AS query (q1, q2, q3, q4, number)
CROSS JOIN LATERAL run_search(
    %(encoder)s, query.q1, query.q2, query.q3, query.q4, %(k)s, %(radius)s,
    %(labels)s, %(metadata)s, %(max_candidates)s, NULL, 0) AS run
ORDER BY query.number

-- name: fine_batch
-- Many queries through both stages in one statement; a query without an answer has the coarse
-- stage's certificate.
SELECT coalesce(fine.ids, '{}'), coalesce(fine.distances, '{}'), coalesce(fine.away, '{}'),
       coalesce(fine.pool_exact, coarse.exact),
       coalesce(fine.guaranteed_radius, coarse.guaranteed_radius),
       coalesce(fine.pool_size, 0), coalesce(fine.tie_whole, true)
FROM unnest(%(q1)s::bigint[], %(q2)s::bigint[], %(q3)s::bigint[], %(q4)s::bigint[],
            %(features)s::text[]) WITH ORDINALITY AS query (q1, q2, q3, q4, feature, number)
CROSS JOIN LATERAL (
    SELECT array_agg(image_id ORDER BY rank) AS ids, array_agg(distance ORDER BY rank) AS distances,
           array_agg(feature_distance ORDER BY rank) AS away, min(pool_size) AS pool_size,
           bool_and(pool_exact) AS pool_exact, min(guaranteed_radius) AS guaranteed_radius,
           bool_and(tie_whole) AS tie_whole
    FROM search_images(%(encoder)s, query.q1, query.q2, query.q3, query.q4,
                       query.feature::halfvec, %(k)s, %(radius)s, %(labels)s,
                       %(metadata)s, %(pool)s, %(pool_max)s, %(metric)s, %(max_candidates)s, NULL)
) AS fine
LEFT JOIN LATERAL (
    SELECT run.exact, run.guaranteed_radius
    FROM run_search(%(encoder)s, query.q1, query.q2, query.q3, query.q4, %(pool)s, %(radius)s,
                    %(labels)s, %(metadata)s, %(max_candidates)s, NULL, 0) AS run
    WHERE fine.ids IS NULL
    OFFSET 0  -- or the planner would search for every query, and only then look at the condition
) AS coarse ON true
ORDER BY query.number
