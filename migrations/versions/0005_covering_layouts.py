"""Layouts without covering columns, prices measured anew, and quicker label filters."""

from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COVERING = "ALTER TABLE layouts ADD COLUMN covering boolean NOT NULL DEFAULT true"

# Rows of a table or index: as many a page as when it was last counted; before that, by their size.
ESTIMATED_ROWS = """
CREATE FUNCTION estimated_rows(relation regclass, bytes_a_row integer)
RETURNS float8
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE WHEN reltuples > 0 AND relpages > 0
           THEN reltuples * (pg_relation_size(oid) / current_setting('block_size')::integer)
                / relpages
           ELSE pg_relation_size(oid) / bytes_a_row::float8 END
    FROM pg_class WHERE oid = relation;
END
"""

# How many rows bear one of the labels, where 2,000 do: from the statistics of the column where
# they are mostly this encoder's, else counted, up to one row in 16.
ESTIMATED_LABELLED = r"""
CREATE FUNCTION estimated_labelled(
    encoder integer, wanted text[], all_rows float8, table_rows float8
) RETURNS float8
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $$
DECLARE
    known integer;
    share float8;
BEGIN
    IF table_rows < 1.5 * all_rows THEN
        SELECT count(*), sum(common.share) INTO known, share
        FROM pg_stats,
             unnest(most_common_vals::text::text[], most_common_freqs) AS common (label, share)
        WHERE schemaname = current_schema() AND tablename = 'images' AND attname = 'label'
          AND common.label = ANY (wanted);
        IF known = (SELECT count(DISTINCT label) FROM unnest(wanted) AS label) THEN
            RETURN greatest(share * table_rows, 2000);
        END IF;
    END IF;
    RETURN count_labelled(encoder, wanted, (all_rows / 16)::bigint);
END
$$
"""

# The best keys among the rows of rare labels, read through their index by a plan made once.
LABELLED_KEYS = r"""
CREATE FUNCTION labelled_keys(
    encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    keep integer, worst bigint, labels text[], metadata jsonb
) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
AS $$
#variable_conflict use_variable
BEGIN
    RETURN ARRAY(
        SELECT best.key
        FROM (SELECT hamming_distance(image.code_1, image.code_2, image.code_3, image.code_4,
                                      q1, q2, q3, q4)::bigint << 54 | image.id AS key
              FROM images AS image
              WHERE image.encoder_id = encoder AND image.label = ANY (labels)
                AND (metadata IS NULL OR image.metadata @> metadata)) AS best
        WHERE worst IS NULL OR best.key <= worst
        ORDER BY best.key LIMIT keep
    );
END
$$
"""

# Price of one shell. The unit is one row of a scan on one core (0.2 to 0.3 us); the rest are
# rounded, from single trials with a million rows on PostgreSQL 18 that left no result file:
#     a probing statement, with what it found put in order     400
#     one probe, a descent of a B-tree                           4
#     one row met: index-only scan                               1.5
#                  index scan, without covering columns          4
#     a row fetched by id to test a filter                      12
SHELL_PRICE = """
CREATE FUNCTION shell_price(probes float8, met float8, row_price float8)
RETURNS float8
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 400 + 4 * probes + row_price * met
"""

# Price of the cheapest shells that raise the guaranteed radius by `shells`; infinity if four flips
# of every chunk do not. A further flip meets 0.6 times as many rows a probe as the last one did
# (codes are clustered: near values are fuller), but no fewer than uniform codes would give.
SHELLS_PRICE = r"""
CREATE OR REPLACE FUNCTION shells_price(
    shells integer, widths smallint[], flips integer[], probes float8[], met float8[],
    floor_rows float8[], row_price float8
) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path FROM CURRENT
AS $$
DECLARE
    total float8 := 0;
    best integer;
    price float8;
    best_price float8;
BEGIN
    FOR shell IN 1 .. shells LOOP
        best_price := 'infinity';
        FOR j IN 1 .. cardinality(widths) LOOP
            price := shell_price(probes[j], met[j], row_price);
            IF price < best_price THEN
                best := j;
                best_price := price;
            END IF;
        END LOOP;
        total := total + best_price;
        EXIT WHEN total = 'infinity';
        flips[best] := flips[best] + 1;
        met[best] := met[best] * 0.6 * (widths[best] - flips[best] + 1) / flips[best];
        probes[best] := CASE WHEN flips[best] > 4 THEN 'infinity'
                             ELSE probes[best] * (widths[best] - flips[best] + 1) / flips[best] END;
        met[best] := greatest(met[best], floor_rows[best] * probes[best]);
    END LOOP;
    RETURN total;
END
$$
"""

# An index that covers the code answers by itself, in 67 bytes a row. One that does not lists the
# rows of equal chunks together (deduplication), in about 13, and each row is fetched.
LAYOUT_INDEX_STATEMENTS = r"""
CREATE OR REPLACE FUNCTION layout_index_statements(layout_id integer, online boolean)
RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT format(
        'CREATE INDEX %s IF NOT EXISTS images_bucket_%s_%s ON %I.images (%s%s) '
        '%sWHERE %s',
        CASE WHEN online THEN 'CONCURRENTLY' ELSE '' END, id, j, current_schema(),
        CASE WHEN encoder_id IS NULL THEN 'encoder_id, ' ELSE '' END,
        '(' || chunk_expression(bits, starts[j], widths[j], 'code_') || ')',
        CASE WHEN covering THEN 'INCLUDE (id, code_1, code_2, code_3, code_4) ' ELSE '' END,
        CASE WHEN encoder_id IS NULL THEN 'bits = ' || bits ELSE 'encoder_id = ' || encoder_id END
    )
    FROM layouts, generate_subscripts(starts, 1) AS j
    WHERE id = layout_id
    ORDER BY j
$$
"""

# As in revision 0002, with the prices of this one.
LAYOUT_SEARCH_STATEMENT = r"""
CREATE OR REPLACE FUNCTION layout_search_statement(layout_id integer)
RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $generator$
DECLARE
    layout layouts;
    distance record;
    near text;
    packed text;
    branches text := '';
BEGIN
    SELECT * INTO STRICT layout FROM layouts WHERE id = layout_id;
    distance := distance_expressions(layout.bits);
    SELECT string_agg(format('    p%s bigint := %s;', part, word), chr(10) ORDER BY part)
    INTO packed
    FROM unnest(packed_expressions(layout.bits, 'q')) WITH ORDINALITY AS query (word, part);
    FOR j IN 1 .. cardinality(layout.starts) LOOP
        -- The half of the code that holds less of the chunk is tested first: most rows end there.
        near := CASE WHEN 2 * layout.starts[j] + layout.widths[j] < layout.bits
                     THEN distance.second_half ELSE distance.first_half END;
        branches := branches || format($branch$
        WHEN %s THEN
            SELECT count(*), array_agg((%s) << 54 | bucket.id)
                   FILTER (WHERE %s <= worst >> 54 AND ((%s) << 54 | bucket.id) < worst)
            INTO rows_met, found
            FROM (
                SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                FROM images AS i
                WHERE %s AND %s = ANY (ARRAY(
                    SELECT %s # f.mask FROM chunk_flips AS f WHERE f.flips = flip AND f.mask < %s
                ))
                LIMIT allowed
            ) AS bucket;$branch$,
            j, distance.whole, near, distance.whole,
            CASE WHEN layout.encoder_id IS NULL
                 THEN format('i.bits = %s AND i.encoder_id = encoder', layout.bits)
                 ELSE format('i.encoder_id = %s', layout.encoder_id) END,
            chunk_expression(layout.bits, layout.starts[j], layout.widths[j], 'i.code_'),
            chunk_expression(layout.bits, layout.starts[j], layout.widths[j], 'q'),
            1::bigint << layout.widths[j]);
    END LOOP;

    RETURN replace(replace(replace(replace(replace(replace(replace(replace($template$
CREATE OR REPLACE FUNCTION @schema@.search_layout_@id@(
    encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer, ties integer, radius integer, labels text[], metadata jsonb,
    max_candidates bigint, deadline timestamptz, all_rows float8, scan_price float8,
    OUT keys bigint[], OUT guaranteed integer, OUT stop text,
    OUT shells integer, OUT probes bigint, OUT candidates bigint
)
    LANGUAGE plpgsql STABLE
    SET search_path = @schema@
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashagg = off
    SET jit = off
AS $function$
-- Made by layout_search_statement(). Takes the cheapest shell next until the answer is certain
-- (stop = 'exact'), the scan is cheaper ('scan'), or the budget is spent ('budget').
#variable_conflict use_variable
DECLARE
@packed@
    widths smallint[] := '@widths@';
    floor_rows float8[] := '{}';     -- rows of a bucket if codes were uniform
    flips integer[] := '{}';         -- of each chunk's next shell
    next_probes float8[] := '{}';    -- its probes
    next_met float8[] := '{}';       -- the rows that it will meet, an estimate
    price float8;
    next_price float8;
    spent float8 := 0;
    filtered boolean := labels IS NOT NULL OR metadata IS NOT NULL;
    met_price float8 := @met_price@;   -- of a row that a probe meets
    row_price float8 := met_price + CASE WHEN filtered THEN 12 ELSE 0 END;
    free float8 := CASE WHEN filtered THEN 0.05 ELSE 0.1 END * scan_price;
    keep integer := k + greatest(ties - k, 0);   -- null: all
    reach integer := least(radius, @bits@);      -- the radius that makes the answer certain
    worst bigint := (least(radius, @bits@) + 1)::bigint << 54;   -- only smaller keys are wanted
    found bigint[];
    rows_met bigint;
    allowed bigint;
    j integer;
    flip integer;
BEGIN
    keys := '{}';
    guaranteed := -1;
    stop := 'exact';
    shells := 0;
    probes := 0;
    candidates := 0;
    FOR c IN 1 .. @chunks@ LOOP
        floor_rows[c] := all_rows / (1::bigint << widths[c]);
        flips[c] := 0;
        next_probes[c] := 1;
        next_met[c] := floor_rows[c];
    END LOOP;

    WHILE guaranteed < reach LOOP
        next_price := 'infinity';
        FOR c IN 1 .. @chunks@ LOOP
            price := shell_price(next_probes[c], next_met[c], row_price);
            IF price < next_price THEN
                j := c;
                next_price := price;
            END IF;
        END LOOP;

        -- A share of the scan's price may be spent without a plan; more only if, by the estimate,
        -- the shells up to the present k-th distance cost less than the scan.
        allowed := greatest((free - spent) / row_price, 0)::bigint;
        IF spent + next_price > free THEN
            IF next_price = 'infinity' OR spent + shells_price(
                reach - guaranteed, widths, flips, next_probes, next_met, floor_rows, row_price
            ) > scan_price THEN
                stop := 'scan';
                EXIT;
            END IF;
            allowed := (scan_price / row_price)::bigint;
        END IF;
        IF max_candidates IS NOT NULL THEN
            allowed := least(allowed, max_candidates - candidates);
            IF allowed <= 0 THEN
                stop := 'budget';
                EXIT;
            END IF;
        END IF;
        IF clock_timestamp() > deadline THEN
            stop := 'budget';
            EXIT;
        END IF;

        flip := flips[j];
        CASE j@branches@
        END CASE;
        shells := shells + 1;
        probes := probes + next_probes[j];
        candidates := candidates + rows_met;
        spent := spent + shell_price(next_probes[j], rows_met, row_price);

        IF found IS NOT NULL AND filtered THEN
            SELECT array_agg(f.key) INTO found
            FROM unnest(found) AS f (key)
            JOIN images AS i ON i.id = (f.key & ((1::bigint << 54) - 1))
            WHERE (labels IS NULL OR i.label = ANY (labels))
              AND (metadata IS NULL OR i.metadata @> metadata);
        END IF;
        IF found IS NOT NULL THEN
            -- The same row may be met in two chunks; it has the same key.
            keys := ARRAY(
                SELECT DISTINCT every.key
                FROM (SELECT unnest(keys) AS key
                      UNION ALL
                      (SELECT unnest(found) AS key ORDER BY key LIMIT keep)) AS every
                ORDER BY every.key LIMIT keep
            );
            IF cardinality(keys) >= k THEN
                reach := least(reach, (keys[k] >> 54)::integer);
                worst := CASE WHEN cardinality(keys) = keep THEN keys[keep] ELSE worst END;
                worst := least(worst, ((keys[k] >> 54) + 1) << 54);
                row_price := met_price;
            END IF;
        END IF;

        IF rows_met >= allowed THEN    -- the shell was cut short: it guarantees nothing
            stop := CASE WHEN candidates >= max_candidates THEN 'budget' ELSE 'scan' END;
            EXIT;
        END IF;
        guaranteed := CASE WHEN flip = widths[j] THEN @bits@ ELSE guaranteed + 1 END;
        flips[j] := flip + 1;
        next_met[j] := rows_met * 0.6 * (widths[j] - flip) / (flip + 1);
        next_probes[j] := CASE WHEN flip >= 4 THEN 'infinity'
                               ELSE next_probes[j] * (widths[j] - flip) / (flip + 1) END;
        next_met[j] := greatest(next_met[j], floor_rows[j] * next_probes[j]);
    END LOOP;
END
$function$
$template$,
        '@schema@', quote_ident(current_schema())), '@id@', layout.id::text),
        '@bits@', layout.bits::text), '@chunks@', cardinality(layout.widths)::text),
        '@widths@', layout.widths::text), '@packed@', packed), '@branches@', branches),
        '@met_price@', CASE WHEN layout.covering THEN '1.5' ELSE '4' END);
END
$generator$
"""

# `covering`: by default as the encoder's layout is now.
TUNE_STATEMENTS = r"""
CREATE FUNCTION tune_statements(
    encoder text, widths integer[] DEFAULT NULL, online boolean DEFAULT true,
    covering boolean DEFAULT NULL
) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
#variable_conflict use_variable
DECLARE
    found encoders;
    row_count bigint;
    chosen smallint[] := widths;
    starts smallint[];
    layout_id integer;
    old integer;
BEGIN
    SELECT * INTO found FROM encoders WHERE name = encoder;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'There is no encoder %.', quote_literal(encoder) USING
            ERRCODE = 'RD001', HINT = 'SELECT name FROM encoders shows those there are.';
    END IF;
    FOR old IN SELECT * FROM layout_leftovers() LOOP
        RETURN QUERY SELECT * FROM layout_drop_statements(old, online);
    END LOOP;
    IF chosen IS NULL THEN
        SELECT count(*) INTO row_count FROM images WHERE encoder_id = found.id;
        chosen := chunk_widths(found.bits, row_count);
    END IF;
    IF (SELECT sum(width) FROM unnest(chosen) AS width) > found.bits
       OR 1 > ANY (chosen) OR 31 < ANY (chosen) THEN
        RAISE EXCEPTION 'Chunks have 1 to 31 bits, and together no more than the % of the code.',
            found.bits USING ERRCODE = 'RD003';
    END IF;
    SELECT array_agg(before ORDER BY j) INTO starts
    FROM (SELECT j, (sum(width) OVER (ORDER BY j) - width)::smallint AS before
          FROM unnest(chosen) WITH ORDINALITY AS chunk (width, j)) AS placed;
    INSERT INTO layouts (encoder_id, bits, starts, widths, covering)
    VALUES (found.id, found.bits, starts, chosen, coalesce(
        covering,
        (SELECT own.covering FROM layouts AS own WHERE own.encoder_id = found.id AND own.active),
        true
    )) RETURNING id INTO layout_id;

    RETURN QUERY SELECT * FROM layout_index_statements(layout_id, online);
    RETURN NEXT layout_search_statement(layout_id);
    RETURN NEXT format(
        'DO $do$ BEGIN'
        ' UPDATE %1$I.layouts SET active = false WHERE encoder_id = %2$s AND active;'
        ' UPDATE %1$I.layouts SET active = true WHERE id = %3$s; '
        'END $do$', current_schema(), found.id, layout_id);
    FOR old IN SELECT id FROM layouts WHERE encoder_id = found.id AND active LOOP
        RETURN QUERY SELECT * FROM layout_drop_statements(old, online);
    END LOOP;
    -- The layout of the width goes with the last encoder that used it.
    FOR old IN
        SELECT id FROM layouts AS shared
        WHERE shared.encoder_id IS NULL AND shared.bits = found.bits AND NOT EXISTS (
            SELECT FROM encoders AS other
            WHERE other.bits = found.bits AND other.id <> found.id
              AND other.id NOT IN (SELECT own.encoder_id FROM layouts AS own
                                   WHERE own.active AND own.encoder_id IS NOT NULL)
        )
    LOOP
        RETURN QUERY SELECT * FROM layout_drop_statements(old, online);
    END LOOP;
END
$$
"""

# As in revision 0003, with estimates from the statistics, and one attempt at the buckets.
RUN_SEARCH = r"""
CREATE OR REPLACE FUNCTION run_search(
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
    all_rows float8;                   -- of this encoder
    table_rows float8;
    scan_price float8;
    price float8;                      -- what the buckets may cost
    otherwise text := 'scan';          -- the plan where they cost more
    labelled float8;                   -- rows that bear one of the labels
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
           estimated_rows(chunks.indexes[1], CASE WHEN layout.covering THEN 75 ELSE 12 END)
               AS indexed_rows
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
    all_rows := subject.indexed_rows;
    table_rows := estimated_rows('images', 110);
    IF subject.shared OR subject.layout_id IS NULL OR all_rows = 0 THEN
        -- The share of this encoder, as ANALYZE saw it.
        all_rows := table_rows * coalesce((
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
        labelled := count_labelled(subject.id, labels, 2000);
        IF labelled = 2000 THEN
            labelled := estimated_labelled(subject.id, labels, all_rows, table_rows);
        END IF;
        IF 5 * labelled < scan_price THEN
            otherwise := 'filter';
            price := CASE WHEN labelled < 2000 THEN 0 ELSE 5 * labelled END;
        END IF;
    END IF;

    plan := otherwise;
    IF price >= 4000 AND subject.ready THEN
        EXECUTE format('SELECT * FROM search_layout_%s'
                       '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)',
                       subject.layout_id)
        INTO found
        USING subject.id, q1, q2, q3, q4, k, ties, radius, labels, metadata, max_candidates,
              deadline, all_rows, price;
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
        IF plan = 'filter' AND labelled < 2000 THEN
            keys := labelled_keys(subject.id, q1, q2, q3, q4, keep, worst, labels, metadata);
        ELSE
            keys := scan_keys(subject.id, subject.bits, subject.shared, q1, q2, q3, q4,
                              keep, worst, labels, metadata);
        END IF;
        guaranteed_radius := subject.bits;
        candidates := candidates + CASE plan WHEN 'scan' THEN all_rows ELSE labelled END::bigint;
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

REBUILD_SEARCHES = """
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN SELECT layout_search_statement(id) FROM layouts WHERE active ORDER BY id LOOP
        EXECUTE statement;
    END LOOP;
END
$$
"""


def upgrade() -> None:
    for statement in (
        COVERING,
        "COMMENT ON COLUMN layouts.covering IS "
        "'whether its indexes hold the whole code, or only where the rows are'",
        ESTIMATED_ROWS,
        ESTIMATED_LABELLED,
        LABELLED_KEYS,
        SHELL_PRICE,
        SHELLS_PRICE,
        LAYOUT_INDEX_STATEMENTS,
        LAYOUT_SEARCH_STATEMENT,
        "DROP FUNCTION tune_statements(text, integer[], boolean)",
        TUNE_STATEMENTS,
        RUN_SEARCH,
        REBUILD_SEARCHES,
    ):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION tune_statements(text, integer[], boolean, boolean)")
    for revision, name in (
        ("0002", "SHELLS_PRICE"),
        ("0002", "LAYOUT_INDEX_STATEMENTS"),
        ("0002", "LAYOUT_SEARCH_STATEMENT"),
        ("0002", "TUNE_STATEMENTS"),
        ("0003", "RUN_SEARCH"),
    ):
        text = getattr(context.script.get_revision(revision).module, name)
        op.execute(text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    op.execute(REBUILD_SEARCHES)
    for function in ("shell_price", "labelled_keys", "estimated_labelled", "estimated_rows"):
        op.execute(f"DROP FUNCTION {function}")
    op.execute("ALTER TABLE layouts DROP COLUMN covering")
