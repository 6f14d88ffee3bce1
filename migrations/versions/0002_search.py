"""Exact search with a certificate: `search_codes` and `explain_search`."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The one engine under search_codes, explain_search, search_images and the Python library.
RUN_SEARCH = """
CREATE FUNCTION run_search(
    encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer, radius integer, labels text[], metadata jsonb,
    max_candidates bigint, max_ms double precision, ties integer,
    OUT ids bigint[], OUT distances integer[],
    OUT exact boolean, OUT guaranteed_radius integer,
    OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint
)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path FROM CURRENT
AS $$
DECLARE
    found encoders%ROWTYPE;
BEGIN
    SELECT * INTO found FROM encoders WHERE name = encoder;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'There is no encoder %.', quote_literal(encoder) USING
            ERRCODE = 'RD001', HINT = 'SELECT name FROM encoders shows those there are.';
    END IF;
    IF k IS NULL AND radius IS NULL THEN
        RAISE EXCEPTION 'Give k, a radius or both.' USING ERRCODE = 'RD003';
    END IF;
    IF k < 1 OR radius < 0 THEN
        RAISE EXCEPTION 'k must be at least 1 and the radius at least 0.' USING ERRCODE = 'RD003';
    END IF;
    IF found.bits < 256 AND (q1 | q2 | q3 | q4) >> (found.bits / 4) <> 0 THEN
        RAISE EXCEPTION 'The query has more than the % bits of encoder %.',
            found.bits, quote_literal(encoder) USING ERRCODE = 'RD002';
    END IF;
    EXECUTE $scan$
        SELECT array_agg(hit.id ORDER BY hit.distance, hit.id),
               array_agg(hit.distance ORDER BY hit.distance, hit.id)
        FROM (
            SELECT id, hamming_distance(code_1, code_2, code_3, code_4, $2, $3, $4, $5) AS distance
            FROM images
            WHERE encoder_id = $1
              AND ($7 IS NULL
                   OR hamming_distance(code_1, code_2, code_3, code_4, $2, $3, $4, $5) <= $7)
              AND ($8 IS NULL OR label = ANY ($8))
              AND ($9 IS NULL OR metadata @> $9)
            ORDER BY distance, id
            LIMIT $6
        ) AS hit
    $scan$
    INTO ids, distances
    USING found.id, q1, q2, q3, q4, k + greatest(ties - k, 0), radius, labels, metadata;
    ids := coalesce(ids, '{}');
    distances := coalesce(distances, '{}');
    IF cardinality(ids) > k THEN
        ids := ids[1 : (SELECT count(*) FROM unnest(distances) AS d WHERE d <= distances[k])];
        distances := distances[1 : cardinality(ids)];
    END IF;
    exact := true;
    guaranteed_radius := found.bits;
    plan := 'scan';
    shells := 0;
    probes := 0;
END
$$
"""

SEARCH_CODES = """
CREATE FUNCTION search_codes(
    encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer DEFAULT 10, radius integer DEFAULT NULL,
    labels text[] DEFAULT NULL, metadata jsonb DEFAULT NULL,
    max_candidates bigint DEFAULT NULL, max_ms double precision DEFAULT NULL
) RETURNS TABLE (
    rank bigint, image_id bigint, path text, label text, distance integer,
    exact boolean, guaranteed_radius integer
)
    LANGUAGE sql STABLE PARALLEL RESTRICTED
    SET search_path FROM CURRENT
BEGIN ATOMIC
    SELECT hit.rank, image.id, image.path, image.label, hit.distance,
           run.exact, run.guaranteed_radius
    FROM run_search(encoder, q1, q2, q3, q4, k, radius, labels, metadata,
                    max_candidates, max_ms, 0) AS run,
         unnest(run.ids, run.distances) WITH ORDINALITY AS hit(id, distance, rank)
         JOIN images AS image ON image.id = hit.id
    ORDER BY hit.rank;
END
"""

EXPLAIN_SEARCH = """
CREATE FUNCTION explain_search(
    encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer DEFAULT 10, radius integer DEFAULT NULL,
    labels text[] DEFAULT NULL, metadata jsonb DEFAULT NULL,
    max_candidates bigint DEFAULT NULL, max_ms double precision DEFAULT NULL,
    OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint,
    OUT hits integer, OUT exact boolean, OUT guaranteed_radius integer,
    OUT milliseconds double precision
)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path FROM CURRENT
AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    SELECT run.plan, run.shells, run.probes, run.candidates,
           cardinality(run.ids), run.exact, run.guaranteed_radius
    INTO plan, shells, probes, candidates, hits, exact, guaranteed_radius
    FROM run_search(encoder, q1, q2, q3, q4, k, radius, labels, metadata,
                    max_candidates, max_ms, 0) AS run;
    milliseconds := extract(epoch FROM clock_timestamp() - started) * 1000;
END
$$
"""


def upgrade() -> None:
    for statement in (RUN_SEARCH, SEARCH_CODES, EXPLAIN_SEARCH):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION explain_search")
    op.execute("DROP FUNCTION search_codes")
    op.execute("DROP FUNCTION run_search")
