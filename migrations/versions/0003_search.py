"""Exact search with a certificate: `search_codes` and `explain_search`."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Rows of a rare label are read through it (count_labelled, scan_keys); others cost nothing.
LABEL_INDEX = """
CREATE INDEX images_encoder_id_label_idx ON images (encoder_id, label) WHERE label IS NOT NULL
"""

# How many rows of an encoder bear one of the labels, counted up to `at_most`.
COUNT_LABELLED = r"""
CREATE FUNCTION count_labelled(encoder integer, wanted text[], at_most bigint)
RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
AS $$
BEGIN
    RETURN (
        SELECT count(*)
        FROM (SELECT FROM images AS image
              WHERE image.encoder_id = encoder AND image.label = ANY (wanted)
              LIMIT at_most) AS labelled
    );
END
$$
"""

# The best keys by reading every row that passes the filters. The statement is dynamic, so that the
# planner chooses how (heap, a bucket index, the label index) and may use parallel workers.
# `worst`: no larger key is wanted. `shared`: name the width, too, so that its index may serve.
SCAN_KEYS = r"""
CREATE FUNCTION scan_keys(
    encoder integer, code_bits integer, shared boolean,
    q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    keep integer, worst bigint, labels text[], metadata jsonb
) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET jit = off
AS $$
DECLARE
    counted record := distance_expressions(code_bits);
    packed text[] := packed_expressions(code_bits, 'q');
    distance text := counted.whole;
    near text := counted.second_half;
    keys bigint[];
BEGIN
    -- Parameters in the place of names: p1 .. p4 are the packed query.
    FOR part IN 1 .. cardinality(packed) LOOP
        packed[part] := regexp_replace(packed[part], 'q(\d)', '$\1', 'g');
        distance := replace(distance, 'p' || part, '(' || packed[part] || ')');
        near := replace(near, 'p' || part, '(' || packed[part] || ')');
    END LOOP;
    EXECUTE 'SELECT array_agg(best.key ORDER BY best.key) FROM ('
        || 'SELECT key FROM (SELECT (' || distance || ') << 54 | id AS key FROM images'
        || format(' WHERE encoder_id = %s', encoder)
        || CASE WHEN shared THEN format(' AND bits = %s', code_bits) ELSE '' END
        || CASE WHEN worst IS NULL THEN '' ELSE ' AND ' || near || ' <= $6 >> 54' END
        || CASE WHEN labels IS NULL THEN '' ELSE ' AND label = ANY ($7)' END
        || CASE WHEN metadata IS NULL THEN '' ELSE ' AND metadata @> $8' END
        || ') AS scanned'
        || CASE WHEN worst IS NULL THEN '' ELSE ' WHERE key <= $6' END
        || ' ORDER BY key LIMIT $5) AS best'
    INTO keys
    USING q1, q2, q3, q4, keep, worst, labels, metadata;
    RETURN coalesce(keys, '{}');
END
$$
"""

# The one engine under search_codes, explain_search, search_images and the Python library. It
# returns keys (distance << 54 | id, sorted), the certificate, and what the search took. The plan:
#     buckets   shells of probes, until the answer is certain
#     filter    the label is so rare that its rows are read first
#     scan      every row of the encoder: few rows, no bucket indexes, or shells that cost more
# `ties`: rows beyond k that equal the k-th distance are kept, up to this total (for a pool).
RUN_SEARCH = r"""
CREATE FUNCTION run_search(
    encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer, radius integer, labels text[], metadata jsonb,
    max_candidates bigint, max_ms double precision, ties integer,
    OUT keys bigint[], OUT exact boolean, OUT guaranteed_radius integer,
    OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint
)
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_variable
DECLARE
    subject record;
    found record;
    all_rows float8;
    scan_price float8;
    price float8;                      -- what the buckets may cost
    otherwise text := 'scan';          -- the plan where they cost more
    labelled bigint;
    worst bigint;
    keep integer := k + greatest(ties - k, 0);
    deadline timestamptz := clock_timestamp() + max_ms * interval '1 ms';
BEGIN
    SELECT named.id, named.bits, layout.id AS layout_id, layout.encoder_id IS NULL AS shared,
           -- A layout counts once all its indexes are valid: tune builds them one by one.
           cardinality(chunks.indexes) > 0 AND NOT EXISTS (
               SELECT FROM unnest(chunks.indexes) AS chunk (oid)
               LEFT JOIN pg_index ON indexrelid = chunk.oid
               WHERE indisvalid IS NOT TRUE
           ) AS ready,
           -- A bucket index takes 67 to 85 bytes a row.
           pg_relation_size(chunks.indexes[1]) / 75.0 AS indexed_rows
    INTO subject
    FROM encoders AS named
    LEFT JOIN LATERAL (
        SELECT * FROM layouts
        WHERE active AND layouts.bits = named.bits
          AND (encoder_id = named.id OR encoder_id IS NULL)
        ORDER BY encoder_id LIMIT 1
    ) AS layout ON true
    CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT to_regclass(format('images_bucket_%s_%s', layout.id, j))
                     FROM generate_series(1, cardinality(layout.widths)) AS j) AS indexes
    ) AS chunks
    WHERE named.name = encoder;
    IF subject.id IS NULL THEN
        RAISE EXCEPTION 'There is no encoder %.', quote_literal(encoder) USING
            ERRCODE = 'RD001', HINT = 'SELECT name FROM encoders shows those there are.';
    END IF;
    IF k IS NULL AND radius IS NULL THEN
        RAISE EXCEPTION 'Give k, a radius or both.' USING ERRCODE = 'RD003';
    END IF;
    IF k < 1 OR radius < 0 THEN
        RAISE EXCEPTION 'k must be at least 1 and the radius at least 0.' USING ERRCODE = 'RD003';
    END IF;
    IF subject.bits < 256 AND (q1 | q2 | q3 | q4) >> (subject.bits / 4) <> 0 THEN
        RAISE EXCEPTION 'The query has more than the % bits of encoder %.',
            subject.bits, quote_literal(encoder) USING ERRCODE = 'RD002';
    END IF;

    keys := '{}';
    guaranteed_radius := -1;
    shells := 0;
    probes := 0;
    candidates := 0;
    worst := CASE WHEN radius < subject.bits THEN ((radius + 1)::bigint << 54) - 1 END;

    -- Estimates set prices, never answers. The unit is a row of a scan on one core (0.17 us).
    all_rows := coalesce(nullif(subject.indexed_rows, 0), pg_relation_size('images') / 110.0);
    IF subject.shared OR subject.layout_id IS NULL THEN
        -- The share of this encoder, as ANALYZE saw it.
        all_rows := all_rows * coalesce((
            SELECT coalesce(max(common.share) FILTER (WHERE common.id = subject.id),
                            greatest(1 - sum(common.share), 0))
            FROM pg_stats,
                 unnest(most_common_vals::text::integer[], most_common_freqs) AS common (id, share)
            WHERE schemaname = current_schema() AND tablename = 'images'
              AND attname = 'encoder_id'
        ), 1);
    END IF;
    scan_price := 500 + all_rows / CASE
        WHEN all_rows > 500000
        THEN 1 + current_setting('max_parallel_workers_per_gather')::integer
        ELSE 1 END;
    price := scan_price;
    IF labels IS NOT NULL AND scan_price > 4000 THEN
        -- 2,000 rows of a label are counted in 0.2 ms. A larger count is made only where the
        -- buckets seem to cost more than reading one row in 256 (5 a row).
        IF count_labelled(subject.id, labels, 2000) < 2000 THEN
            otherwise := 'filter';
            price := 0;
        ELSE
            price := least(scan_price, 5 * all_rows / 256);
        END IF;
    END IF;

    plan := otherwise;
    IF price >= 4000 AND subject.ready THEN
        FOR attempt IN 1 .. 2 LOOP
            EXECUTE format('SELECT * FROM search_layout_%s'
                           '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)',
                           subject.layout_id)
            INTO found
            USING subject.id, q1, q2, q3, q4, k, ties, radius, labels, metadata, max_candidates,
                  deadline, all_rows, price;
            EXIT WHEN found.stop <> 'scan' OR price = scan_price;
            labelled := count_labelled(subject.id, labels, (all_rows / 16)::bigint);
            price := scan_price;
            IF labelled < all_rows / 16 THEN
                otherwise := 'filter';
                price := least(scan_price, 5 * labelled);
            END IF;
        END LOOP;
        plan := CASE WHEN found.stop = 'scan' THEN otherwise ELSE 'buckets' END;
        keys := found.keys;
        guaranteed_radius := found.guaranteed;
        shells := found.shells;
        probes := found.probes;
        candidates := found.candidates;
        -- What the shells found bounds what the scan has to look for.
        IF cardinality(keys) >= k THEN
            worst := least(worst, (((keys[k] >> 54) + 1) << 54) - 1);
        END IF;
    END IF;

    IF plan = 'scan' AND (all_rows > max_candidates - candidates
                          OR clock_timestamp() + all_rows * interval '0.2 us' > deadline) THEN
        plan := 'buckets';    -- The budget does not reach a scan: the best so far.
    ELSIF plan <> 'buckets' THEN
        keys := scan_keys(subject.id, subject.bits, subject.shared, q1, q2, q3, q4,
                          keep, worst, labels, metadata);
        guaranteed_radius := subject.bits;
        IF plan = 'scan' THEN
            candidates := candidates + all_rows::bigint;
        END IF;
    END IF;
    IF cardinality(keys) > k THEN
        keys := keys[1 : (SELECT count(*) FROM unnest(keys) AS kept (key)
                          WHERE kept.key >> 54 <= keys[k] >> 54)];
    END IF;
    exact := guaranteed_radius >= least(radius, subject.bits)
             OR (cardinality(keys) >= k AND keys[k] >> 54 <= guaranteed_radius) IS TRUE;
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
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    run record;
BEGIN
    SELECT * INTO run
    FROM run_search(encoder, q1, q2, q3, q4, k, search_codes.radius, labels, metadata,
                    max_candidates, max_ms, 0);
    RETURN QUERY
    SELECT hit.rank, image.id, image.path, image.label, (hit.key >> 54)::integer,
           run.exact, run.guaranteed_radius
    FROM unnest(run.keys) WITH ORDINALITY AS hit (key, rank)
    JOIN images AS image ON image.id = (hit.key & ((1::bigint << 54) - 1))
    ORDER BY hit.rank;
END
$$
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
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    SELECT run.plan, run.shells, run.probes, run.candidates,
           cardinality(run.keys), run.exact, run.guaranteed_radius
    INTO plan, shells, probes, candidates, hits, exact, guaranteed_radius
    FROM run_search(encoder, q1, q2, q3, q4, k, radius, labels, metadata,
                    max_candidates, max_ms, 0) AS run;
    milliseconds := extract(epoch FROM clock_timestamp() - started) * 1000;
END
$$
"""


def upgrade() -> None:
    for statement in (
        LABEL_INDEX,
        COUNT_LABELLED,
        SCAN_KEYS,
        RUN_SEARCH,
        SEARCH_CODES,
        EXPLAIN_SEARCH,
    ):
        op.execute(statement)


def downgrade() -> None:
    for name in ("explain_search", "search_codes", "run_search", "scan_keys", "count_labelled"):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP INDEX images_encoder_id_label_idx")
