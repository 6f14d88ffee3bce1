-- name: server
SELECT current_database(), current_setting('server_version'), current_schema(),
       (SELECT extversion FROM pg_extension WHERE extname = 'vector')

-- name: relations
-- Tables and indexes of ours with their sizes; a bucket index serves search_codes.
SELECT relation.relname, relation.relkind = 'i', pg_total_relation_size(relation.oid),
       pg_relation_size(relation.oid), coalesce(index.indisvalid, true)
FROM pg_class AS relation
LEFT JOIN pg_index AS index ON index.indexrelid = relation.oid
WHERE relation.oid IN ('images'::regclass, 'encoders'::regclass, to_regclass('image_features'))
   OR index.indrelid = 'images'::regclass
ORDER BY relation.relkind DESC, relation.relname
