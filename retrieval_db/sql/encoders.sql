-- name: find
SELECT id, name, bits, feature_dim, config, fingerprint, root, artifact IS NOT NULL, created_at
FROM encoders
WHERE name = %s

-- name: all
SELECT id, name, bits, feature_dim, config, fingerprint, root, artifact IS NOT NULL, created_at
FROM encoders
ORDER BY name

-- name: register
-- Two clients may register the same encoder at once: the second finds the first's row.
INSERT INTO encoders (name, bits, feature_dim, config, fingerprint, artifact, root)
VALUES (%(name)s, %(bits)s, %(feature_dim)s, %(config)s, %(fingerprint)s, %(artifact)s, %(root)s)
ON CONFLICT (name) DO NOTHING

-- name: complete
-- Codes that were loaded without the encoder's weights, or even its fingerprint, get them later.
UPDATE encoders SET
    fingerprint = %(fingerprint)s,
    artifact = coalesce(artifact, %(artifact)s),
    config = CASE WHEN config = '{}' THEN %(config)s ELSE config END,
    feature_dim = coalesce(feature_dim, %(feature_dim)s)
WHERE name = %(name)s AND bits = %(bits)s AND fingerprint IN ('', %(fingerprint)s)
  AND (fingerprint <> %(fingerprint)s
       OR artifact IS NULL AND %(artifact)s::bytea IS NOT NULL
       OR config = '{}' AND %(config)s::jsonb <> '{}'
       OR feature_dim IS NULL AND %(feature_dim)s::integer IS NOT NULL)

-- name: set_feature_dim
-- The first features of an encoder whose codes came without.
UPDATE encoders SET feature_dim = %s WHERE id = %s AND feature_dim IS NULL

-- name: artifact
SELECT artifact FROM encoders WHERE id = %s

-- name: any_image
SELECT EXISTS (SELECT FROM images WHERE encoder_id = %s)

-- name: set_root
UPDATE encoders SET root = %s WHERE id = %s

-- name: remove_images
DELETE FROM images WHERE encoder_id = %s

-- name: remove
DELETE FROM encoders WHERE id = %s

-- name: counts
SELECT encoder.name, count(image.id)
FROM encoders AS encoder LEFT JOIN images AS image ON image.encoder_id = encoder.id
GROUP BY encoder.name

-- name: has_features_table
SELECT to_regclass('image_features') IS NOT NULL
