"""Layouts: how codes are cut into chunks, the indexes on them, and the generated searches."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Every mask of 0 to 4 set bits among 31 (36,457 rows, 2 MB): probing a chunk at so many flips is
# looking up chunk # mask for each mask below 2^width. Five flips of a 16-bit chunk would be 4,368
# probes for one step of the radius; there the scan is cheaper. Read by the functions
# search_layout_*.
CHUNK_FLIPS = """
CREATE TABLE chunk_flips (
    flips smallint NOT NULL,
    mask integer NOT NULL,
    CONSTRAINT chunk_flips_pkey PRIMARY KEY (flips, mask)
)
"""

FILL_CHUNK_FLIPS = """
INSERT INTO chunk_flips (flips, mask)
WITH RECURSIVE masks (flips, mask, lowest) AS (
    SELECT 0, 0, 31
    UNION ALL
    SELECT flips + 1, mask | (1 << position), position
    FROM masks, LATERAL generate_series(0, lowest - 1) AS position
    WHERE flips < 4
)
SELECT flips, mask FROM masks ORDER BY flips, mask
"""

# A layout belongs to one encoder, or (encoder_id null) to every encoder of its width that has no
# layout of its own. Chunk j is bits [starts[j], starts[j] + widths[j]) of the code; chunks are
# disjoint, at most 31 bits wide, and need not cover the code. Layouts decide how fast an answer
# is found, never which.
LAYOUTS = """
CREATE TABLE layouts (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    encoder_id integer,
    bits smallint NOT NULL,
    starts smallint[] NOT NULL,
    widths smallint[] NOT NULL,
    active boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT layouts_encoder_id_bits_fkey FOREIGN KEY (encoder_id, bits)
        REFERENCES encoders (id, bits) ON DELETE CASCADE,
    CONSTRAINT layouts_chunks_check CHECK (
        cardinality(starts) = cardinality(widths) AND 1 <= ALL (widths) AND 31 >= ALL (widths)
    )
)
"""

ONE_LAYOUT_AN_ENCODER = """
CREATE UNIQUE INDEX layouts_encoder_id_key ON layouts (encoder_id) WHERE active
"""

ONE_LAYOUT_A_WIDTH = """
CREATE UNIQUE INDEX layouts_bits_key ON layouts (bits) WHERE active AND encoder_id IS NULL
"""

# SQL text of bits [start, start + width) of a code as an integer: built-in operators on the bare
# words, so that an index on it serves index-only scans once it INCLUDEs the four words.
CHUNK_EXPRESSION = r"""
CREATE FUNCTION chunk_expression(bits integer, start integer, width integer, word_name text)
RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    word integer := bits / 4;
    stop integer := start + width;
    low integer;
    high integer;
    term text;
    terms text[] := '{}';
BEGIN
    FOR n IN 0 .. 3 LOOP
        low := greatest(start, n * word);
        high := least(stop, (n + 1) * word);
        CONTINUE WHEN low >= high;
        term := word_name || n + 1;
        IF (n + 1) * word > high THEN
            term := format('(%s >> %s)', term, (n + 1) * word - high);
        END IF;
        -- A word of 64 bits may be negative, and >> keeps its sign.
        IF low > n * word OR word = 64 THEN
            term := format('(%s & %s)', term, (1::bigint << (high - low)) - 1);
        END IF;
        IF stop > high THEN
            term := format('(%s << %s)', term, stop - high);
        END IF;
        terms := terms || term;
    END LOOP;
    RETURN format('(%s)::int4', array_to_string(terms, ' | '));
END
$$
"""

# SQL texts of a code packed into as few bigints as hold it: 1 up to 64 bits, 2 up to 128, else 4.
# A bit_count costs four times what the packing does.
PACKED_EXPRESSIONS = r"""
CREATE FUNCTION packed_expressions(bits integer, word_name text)
RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    word integer := bits / 4;
    together integer := CASE WHEN word <= 16 THEN 4 WHEN word <= 32 THEN 2 ELSE 1 END;
    packed text;
    result text[] := '{}';
BEGIN
    FOR n IN 1 .. 4 LOOP
        IF together = 1 OR n % together = 1 THEN
            packed := word_name || n;
        ELSE
            packed := format('((%s << %s) | %s)', packed, word, word_name || n);
        END IF;
        IF n % together = 0 THEN
            result := result || packed;
        END IF;
    END LOOP;
    RETURN result;
END
$$
"""

# SQL texts of the distance between a row's code and the packed query p1 .. p4: over the first half
# of the bits, the second half, and the whole. Up to 64 bits the halves are the whole.
DISTANCE_EXPRESSIONS = r"""
CREATE FUNCTION distance_expressions(
    bits integer, OUT first_half text, OUT second_half text, OUT whole text
)
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path FROM CURRENT
AS $$
DECLARE
    counts text[];
    n integer;
BEGIN
    SELECT array_agg(format('bit_count((%s # p%s)::bit(64))', code, part) ORDER BY part)
    INTO counts
    FROM unnest(packed_expressions(bits, 'code_')) WITH ORDINALITY AS packed (code, part);
    n := cardinality(counts);
    whole := array_to_string(counts, ' + ');
    first_half := array_to_string(counts[1 : greatest(n / 2, 1)], ' + ');
    second_half := array_to_string(counts[n / 2 + 1 : n], ' + ');
END
$$
"""

# Price of the cheapest shells that raise the guaranteed radius by `shells`; infinity if four flips
# of every chunk do not. The unit is one row of a scan on one core; the rest are rounded
# multiples of it, from trials of PostgreSQL 18 on a busy machine:
#     starting one probing statement             60
#     one probe, a descent of a B-tree            5
#     one candidate of an index-only scan         0.6
#     a row fetched by id to test a filter        5
# A further flip meets 0.6 times as many rows a probe as the last one did (codes are clustered: near
# values are fuller), but no fewer than uniform codes would give.
SHELLS_PRICE = r"""
CREATE FUNCTION shells_price(
    shells integer, widths smallint[], flips integer[], probes float8[], met float8[],
    floor_rows float8[], row_price float8
) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
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
            price := 60 + 5 * probes[j] + row_price * met[j];
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

# Chunks of about log2(rows) - 2 bits that cover the code: a bucket then holds some four rows, more
# where codes are clustered. No more than six up to 128 bits, for their size, 67 bytes a row and
# chunk: six were the fastest at 10^7 rows; at 10^6 rows seven were faster, and took a sixth more.
CHUNK_WIDTHS = r"""
CREATE FUNCTION chunk_widths(bits integer, row_count bigint)
RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg((bits / m + (j <= bits % m)::integer)::smallint ORDER BY j)
    FROM (SELECT greatest(1, ceil(bits / 31.0), least(
              round(bits / greatest(log(2.0, greatest(row_count, 2)) - 2, 8)),
              CASE WHEN bits <= 128 THEN 6 END
          ))::integer AS m) AS chosen,
         generate_series(1, m) AS j;
END
"""

# What a layout's indexes, and the function that searches with them, are called.
LAYOUT_INDEX_STATEMENTS = r"""
CREATE FUNCTION layout_index_statements(layout_id integer, online boolean)
RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT format(
        'CREATE INDEX %s IF NOT EXISTS images_bucket_%s_%s ON %I.images (%s%s) '
        'INCLUDE (id, code_1, code_2, code_3, code_4) WHERE %s',
        CASE WHEN online THEN 'CONCURRENTLY' ELSE '' END, id, j, current_schema(),
        CASE WHEN encoder_id IS NULL THEN 'encoder_id, ' ELSE '' END,
        '(' || chunk_expression(bits, starts[j], widths[j], 'code_') || ')',
        CASE WHEN encoder_id IS NULL THEN 'bits = ' || bits ELSE 'encoder_id = ' || encoder_id END
    )
    FROM layouts, generate_subscripts(starts, 1) AS j
    WHERE id = layout_id
    ORDER BY j
$$
"""

# The search of one layout as static SQL, so that its plans are made once in a session. A key is
# distance << 54 | id: one bigint that sorts as (distance, id), for ids below 2^54.
LAYOUT_SEARCH_STATEMENT = r"""
CREATE FUNCTION layout_search_statement(layout_id integer)
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

    RETURN replace(replace(replace(replace(replace(replace(replace($template$
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
    row_price float8 := CASE WHEN filtered THEN 5.6 ELSE 0.6 END;
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
            price := 60 + 5 * next_probes[c] + row_price * next_met[c];
            IF price < next_price THEN
                j := c;
                next_price := price;
            END IF;
        END LOOP;

        -- A tenth of the scan's price may be spent without a plan; more only if, by the estimate,
        -- the shells up to the present k-th distance cost less than the scan.
        allowed := greatest((0.1 * scan_price - spent) / row_price, 0)::bigint;
        IF spent + next_price > 0.1 * scan_price THEN
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
        spent := spent + 60 + 5 * next_probes[j] + row_price * rows_met;

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
                row_price := 0.6;
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
        '@widths@', layout.widths::text), '@packed@', packed), '@branches@', branches);
END
$generator$
"""

LAYOUT_DROP_STATEMENTS = r"""
CREATE FUNCTION layout_drop_statements(layout_id integer, online boolean)
RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT format('DELETE FROM %I.layouts WHERE id = %s', current_schema(), layout_id)
    UNION ALL
    SELECT format('DROP INDEX %s IF EXISTS %s',
                  CASE WHEN online THEN 'CONCURRENTLY' ELSE '' END, indexrelid::regclass)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = 'images'::regclass
      AND relname LIKE format('images\_bucket\_%s\_%%', layout_id)
    UNION ALL
    SELECT format('DROP FUNCTION IF EXISTS %s', oid::regprocedure)
    FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace
      AND proname = 'search_layout_' || layout_id
$$
"""

# What no layout owns any more: an interrupted tune left it, or its encoder was removed.
LAYOUT_LEFTOVERS = r"""
CREATE FUNCTION layout_leftovers()
RETURNS SETOF integer
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT id FROM layouts WHERE NOT active
    UNION
    SELECT named.id
    FROM (
        SELECT split_part(relname, '_', 3)::integer AS id
        FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid
        WHERE indrelid = 'images'::regclass AND relname ~ '^images_bucket_\d+_\d+$'
        UNION
        SELECT split_part(proname, '_', 3)::integer
        FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname ~ '^search_layout_\d+$'
    ) AS named
    WHERE named.id NOT IN (SELECT layouts.id FROM layouts)
$$
"""

# The statements that give an encoder a layout that fits its rows: run them one by one, outside a
# transaction (psql: SELECT * FROM tune_statements('NAME') \gexec). Answers stay exact throughout.
TUNE_STATEMENTS = r"""
CREATE FUNCTION tune_statements(
    encoder text, widths integer[] DEFAULT NULL, online boolean DEFAULT true
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
    INSERT INTO layouts (encoder_id, bits, starts, widths)
    VALUES (found.id, found.bits, starts, chosen) RETURNING id INTO layout_id;

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

# The layouts of the most usual widths: a prefix of 16 bits from each of the four columns.
DEFAULT_LAYOUTS = """
INSERT INTO layouts (bits, starts, widths, active)
VALUES (64, '{0,16,32,48}', '{16,16,16,16}', true), (128, '{0,32,64,96}', '{16,16,16,16}', true)
"""

BUILD_DEFAULT_LAYOUTS = """
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT made.statement
        FROM layouts,
             LATERAL (SELECT * FROM layout_index_statements(id, false)
                      UNION ALL SELECT layout_search_statement(id)) AS made (statement)
        ORDER BY id
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$
"""

DROP_LAYOUTS = """
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT dropped.statement
        FROM (SELECT id FROM layouts UNION SELECT * FROM layout_leftovers()) AS known (id),
             LATERAL layout_drop_statements(id, false) AS dropped (statement)
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$
"""

FUNCTIONS = (
    CHUNK_EXPRESSION,
    PACKED_EXPRESSIONS,
    DISTANCE_EXPRESSIONS,
    SHELLS_PRICE,
    CHUNK_WIDTHS,
    LAYOUT_INDEX_STATEMENTS,
    LAYOUT_SEARCH_STATEMENT,
    LAYOUT_DROP_STATEMENTS,
    LAYOUT_LEFTOVERS,
    TUNE_STATEMENTS,
)


def upgrade() -> None:
    for statement in (
        CHUNK_FLIPS,
        FILL_CHUNK_FLIPS,
        LAYOUTS,
        ONE_LAYOUT_AN_ENCODER,
        ONE_LAYOUT_A_WIDTH,
        *FUNCTIONS,
        DEFAULT_LAYOUTS,
        BUILD_DEFAULT_LAYOUTS,
        "COMMENT ON TABLE layouts IS "
        "'How codes are cut into the chunks that bucket indexes are on'",
        "COMMENT ON TABLE chunk_flips IS 'Masks of 0 to 4 bits: what the probes of a shell flip'",
    ):
        op.execute(statement)


def downgrade() -> None:
    op.execute(DROP_LAYOUTS)
    for name in (
        "tune_statements",
        "layout_leftovers",
        "layout_drop_statements",
        "layout_search_statement",
        "layout_index_statements",
        "chunk_widths",
        "shells_price",
        "distance_expressions",
        "packed_expressions",
        "chunk_expression",
    ):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP TABLE layouts")
    op.execute("DROP TABLE chunk_flips")
