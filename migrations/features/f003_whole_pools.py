"""`search_images` ranks its whole pool, and a pool holds at least k images if it may.

Images without a feature come last, by Hamming distance; before, they were left out.
"""

from alembic import context, op

revision = "f003"
down_revision = "f002"
branch_labels = None
depends_on = None

SEARCH_IMAGES = """
CREATE OR REPLACE FUNCTION search_images(
    encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, feature halfvec,
    k integer DEFAULT 10, radius integer DEFAULT NULL,
    labels text[] DEFAULT NULL, metadata jsonb DEFAULT NULL,
    pool integer DEFAULT 200, pool_max integer DEFAULT NULL, metric text DEFAULT 'cosine',
    max_candidates bigint DEFAULT NULL, max_ms double precision DEFAULT NULL
) RETURNS TABLE (
    rank bigint, image_id bigint, path text, label text, distance integer,
    feature_distance double precision,
    pool_exact boolean, guaranteed_radius integer, pool_size integer, tie_whole boolean
)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    coarse record;
    -- One below the largest integer: the search is asked for one row beyond the pool.
    wanted integer := least(greatest(search_images.pool, search_images.k), search_images.pool_max,
                            2147483646);
    most integer := coalesce(search_images.pool_max, least(10::bigint * wanted, 2147483646));
    size integer;
    whole boolean := true;
BEGIN
    IF metric NOT IN ('cosine', 'l2') THEN
        RAISE EXCEPTION 'metric is ''cosine'' or ''l2'', not %.', quote_literal(metric)
            USING ERRCODE = 'RD003';
    END IF;
    IF pool < 1 THEN
        RAISE EXCEPTION 'pool must be at least 1, not %.', pool USING ERRCODE = 'RD003';
    END IF;
    IF most < pool THEN
        RAISE EXCEPTION 'pool_max (%) is smaller than pool (%).', most, pool
            USING ERRCODE = 'RD003';
    END IF;
    -- That row tells whether the last tie is whole.
    SELECT * INTO coarse FROM run_search(
        encoder, q1, q2, q3, q4, wanted, search_images.radius, search_images.labels,
        search_images.metadata, max_candidates, max_ms, most + 1);
    size := least(cardinality(coarse.keys), most);
    whole := cardinality(coarse.keys) <= most;
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY fine.away, fine.distance, fine.id), fine.id, image.path,
           image.label, fine.distance, fine.away, coarse.exact, coarse.guaranteed_radius,
           size, whole
    FROM (
        SELECT hit.key & ((1::bigint << 54) - 1) AS id, (hit.key >> 54)::integer AS distance,
               CASE metric WHEN 'l2' THEN stored.feature <-> search_images.feature
                           ELSE stored.feature <=> search_images.feature END AS away
        FROM unnest(coarse.keys[1 : size]) AS hit (key)
        LEFT JOIN image_features AS stored
               ON stored.image_id = (hit.key & ((1::bigint << 54) - 1))
        ORDER BY away, hit.key
        LIMIT search_images.k
    ) AS fine
    JOIN images AS image ON image.id = fine.id
    ORDER BY 1;
END
$$
"""


def upgrade() -> None:
    op.execute(SEARCH_IMAGES)


def downgrade() -> None:
    before = context.script.get_revision("f002").module.SEARCH_IMAGES
    op.execute(before.replace("CREATE", "CREATE OR REPLACE", 1))
