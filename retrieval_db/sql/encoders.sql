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
-- Codes that were loaded without the encoder's weights get them later.
UPDATE encoders SET artifact = %(artifact)s, config = %(config)s, feature_dim = %(feature_dim)s
WHERE name = %(name)s AND fingerprint = %(fingerprint)s AND artifact IS NULL AND config = '{}'

-- name: artifact
SELECT artifact FROM encoders WHERE id = %s

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
