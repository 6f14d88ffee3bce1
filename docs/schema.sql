-- All migrations together, as pg_dump of PostgreSQL 18 shows them. Written by
-- `python -m tests.schema_snapshot`; a test holds it against the migrations.

CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;

CREATE FUNCTION public.chunk_expression(bits integer, start integer, width integer, word_name text) RETURNS text
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
$$;

CREATE FUNCTION public.chunk_widths(bits integer, row_count bigint) RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC
 SELECT array_agg((((chunk_widths.bits / chosen.m) + ((j.j <= (chunk_widths.bits % chosen.m)))::integer))::smallint ORDER BY j.j) AS array_agg
    FROM ( SELECT (GREATEST((1)::numeric, ceil(((chunk_widths.bits)::numeric / 31.0)), LEAST(round(((chunk_widths.bits)::numeric / GREATEST((log(2.0, (GREATEST(chunk_widths.row_count, (2)::bigint))::numeric) - (2)::numeric), (8)::numeric))), (
                 CASE
                     WHEN (chunk_widths.bits <= 128) THEN 6
                     ELSE NULL::integer
                 END)::numeric)))::integer AS m) chosen,
     LATERAL generate_series(1, chosen.m) j(j);
END;

CREATE FUNCTION public.code_blocks(bits integer, blocks integer, value_bits integer, OUT block integer, OUT value text, OUT equal text) RETURNS SETOF record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
DECLARE
    word integer := bits / 4;
    low integer;
    high integer;
    taken integer;
BEGIN
    FOR block IN 1 .. blocks LOOP
        code_blocks.block := block;
        value := NULL;
        equal := NULL;
        taken := 0;
        FOR number IN 1 .. 4 LOOP
            -- The block's bits within this word, counted from the most significant one.
            low := greatest((block - 1) * bits / blocks - (number - 1) * word, 0);
            high := least(block * bits / blocks - (number - 1) * word, word);
            CONTINUE WHEN low >= high;
            equal := concat_ws(' AND ', equal, format(
                '((a.code_%1$s # b.code_%1$s) & %2$L::bigint) = 0', number,
                (CASE high - low WHEN 64 THEN -1 ELSE ~(-1::bigint << (high - low)) END)
                    << (word - high)));
            -- Of a very wide block the first bits are value enough.
            high := least(high, low + value_bits - taken);
            CONTINUE WHEN low >= high;
            value := format('%s((code_%s >> %s) & %s)', value || format(' << %s | ', high - low),
                            number, word - high, (1::bigint << (high - low)) - 1);
            value := '(' || value || ')';
            taken := taken + high - low;
        END LOOP;
        value := coalesce(value, '0::bigint');
        equal := format('(%s)', coalesce(equal, 'true'));
        RETURN NEXT;
    END LOOP;
END
$_$;

CREATE FUNCTION public.compact_chunk_widths(bits integer, row_count bigint) RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC
 SELECT array_agg((LEAST((chunk.width)::numeric, GREATEST((round(log(2.0, (GREATEST(compact_chunk_widths.row_count, (2)::bigint))::numeric)) - (1)::numeric), (8)::numeric)))::smallint ORDER BY chunk.j) AS array_agg
    FROM unnest(public.chunk_widths(compact_chunk_widths.bits, compact_chunk_widths.row_count)) WITH ORDINALITY chunk(width, j);
END;

CREATE FUNCTION public.count_labelled(encoder integer, wanted text[], at_most bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
    AS $$
BEGIN
    RETURN (
        SELECT count(*)
        FROM (SELECT FROM images AS image
              WHERE image.encoder_id = encoder AND image.label = ANY (wanted)
              LIMIT at_most) AS labelled
    );
END
$$;

CREATE FUNCTION public.distance_expressions(bits integer, OUT first_half text, OUT second_half text, OUT whole text) RETURNS record
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
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
$$;

CREATE FUNCTION public.equal_codes(encoder text) RETURNS TABLE(image_id bigint, first_image_id bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET work_mem TO '128MB'
    SET jit TO 'off'
    SET enable_hashagg TO 'off'
    AS $_$
DECLARE
    found encoders%ROWTYPE := near_duplicate_encoder(encoder, 0);
    hash text := 'hashint8extended(code_1, hashint8extended(code_2,'
                 ' hashint8extended(code_3, code_4)))';
    repeated bigint[];
BEGIN
    EXECUTE format('
        SELECT array_agg(hash) FROM (
            SELECT %s AS hash FROM images WHERE encoder_id = $1 GROUP BY 1 HAVING count(*) > 1
        ) AS code', hash) INTO repeated USING found.id;
    RETURN QUERY EXECUTE format('
        SELECT id, first FROM (
            SELECT id, min(id) OVER (PARTITION BY code_1, code_2, code_3, code_4) AS first
            FROM images WHERE encoder_id = $1 AND %s = ANY ($2)
        ) AS image WHERE id <> first', hash) USING found.id, repeated;
END
$_$;

COMMENT ON FUNCTION public.equal_codes(encoder text) IS 'images whose code an image of lower id has, with the lowest such id';

CREATE FUNCTION public.estimated_labelled(encoder integer, wanted text[], all_rows double precision, table_rows double precision) RETURNS double precision
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    known integer;
    share float8;
    bound bigint := greatest(all_rows / 16, 2000);
    counted bigint;
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
    counted := count_labelled(encoder, wanted, bound);
    RETURN CASE WHEN counted < bound THEN counted ELSE all_rows END;
END
$$;

CREATE FUNCTION public.estimated_rows(counted real, pages integer, bytes bigint, bytes_a_row integer) RETURNS double precision
    LANGUAGE sql STABLE
    RETURN CASE WHEN ((counted > (0)::double precision) AND (pages > 0)) THEN (((counted)::double precision * ((bytes / (current_setting('block_size'::text))::integer))::double precision) / (pages)::double precision) ELSE ((bytes)::double precision / (bytes_a_row)::double precision) END;

CREATE FUNCTION public.explain_search(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer DEFAULT 10, radius integer DEFAULT NULL::integer, labels text[] DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, max_candidates bigint DEFAULT NULL::bigint, max_ms double precision DEFAULT NULL::double precision, OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint, OUT hits integer, OUT exact boolean, OUT guaranteed_radius integer, OUT milliseconds double precision) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
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
$$;

CREATE FUNCTION public.hamming_distance(a1 bigint, a2 bigint, a3 bigint, a4 bigint, b1 bigint, b2 bigint, b3 bigint, b4 bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((((bit_count(((a1 # b1))::bit(64)) + bit_count(((a2 # b2))::bit(64))) + bit_count(((a3 # b3))::bit(64))) + bit_count(((a4 # b4))::bit(64))))::integer;

COMMENT ON FUNCTION public.hamming_distance(a1 bigint, a2 bigint, a3 bigint, a4 bigint, b1 bigint, b2 bigint, b3 bigint, b4 bigint) IS 'Hamming distance of two codes of four words';

CREATE FUNCTION public.hammingdistance(q1 bigint, q2 bigint, q3 bigint, q4 bigint, code_1 bigint, code_2 bigint, code_3 bigint, code_4 bigint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((((bit_count(((q1 # code_1))::bit(64)) + bit_count(((q2 # code_2))::bit(64))) + bit_count(((q3 # code_3))::bit(64))) + bit_count(((q4 # code_4))::bit(64))))::integer;

COMMENT ON FUNCTION public.hammingdistance(q1 bigint, q2 bigint, q3 bigint, q4 bigint, code_1 bigint, code_2 bigint, code_3 bigint, code_4 bigint) IS 'hamming_distance under its MySQL-era name';

CREATE FUNCTION public.image_changes_noted() RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
BEGIN
    RETURN (SELECT count(*) FROM pg_trigger
            WHERE tgrelid = 'images'::regclass AND tgenabled = 'A'
              AND tgfoid = 'note_image_changes()'::regprocedure) = 5;
END
$$;

CREATE FUNCTION public.image_changes_since(encoder integer, horizon jsonb) RETURNS TABLE(image_ids bigint[])
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    IF NOT image_changes_noted()
       OR encoder IS NULL
       OR (jsonb_typeof(horizon -> 'settled') = 'number'
           AND jsonb_typeof(horizon -> 'own') = 'array'
           AND jsonb_typeof(horizon -> 'seen') = 'array') IS NOT TRUE
       OR horizon -> 'tables' IS DISTINCT FROM jsonb_build_array('images'::regclass::oid,
                                                   'image_changes'::regclass::oid)
       OR (SELECT count(*) FROM image_changes AS change
           WHERE change.transaction_id = (horizon ->> 'transaction')::bigint
             AND change.id IN (SELECT jsonb_array_elements_text(horizon -> 'own')::uuid))
          < jsonb_array_length(horizon -> 'own') THEN
        RETURN QUERY SELECT NULL::bigint[];
        RETURN;
    END IF;
    RETURN QUERY
    SELECT change.image_ids FROM image_changes AS change
    WHERE change.transaction_id >= (horizon ->> 'settled')::bigint
      AND (change.encoder_id = encoder OR change.encoder_id IS NULL)
      AND change.id NOT IN (SELECT jsonb_array_elements_text(horizon -> 'seen')::uuid);
END
$$;

COMMENT ON FUNCTION public.image_changes_since(encoder integer, horizon jsonb) IS 'ids of images that a copy with this horizon does not have as they are, a row for each change; null: it may be any. No row: the copy is up to date';

CREATE FUNCTION public.image_horizon() RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    settled bigint := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    own bigint := pg_current_xact_id_if_assigned()::text::bigint;
BEGIN
    IF NOT image_changes_noted() THEN
        RAISE EXCEPTION 'Changes of images are not noted: triggers on it are switched off.' USING
            ERRCODE = 'RD006', HINT = 'Switch them on (ALTER TABLE images ENABLE ALWAYS TRIGGER '
            'images_insert_noted, and so on), or search the database instead.';
    END IF;
    IF EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'images'::regclass) THEN
        RAISE EXCEPTION 'The table images is replicated logically, which calls no triggers, so '
            'that its changes are not noted.' USING
            ERRCODE = 'RD006', HINT = 'Search the database instead.';
    END IF;
    RETURN (
        SELECT jsonb_build_object(
            'settled', settled,
            'seen', coalesce(jsonb_agg(id), '[]'),
            'transaction', own,
            'own', coalesce(jsonb_agg(id) FILTER (WHERE transaction_id = own), '[]'),
            'tables', jsonb_build_array('images'::regclass::oid, 'image_changes'::regclass::oid))
        FROM image_changes WHERE transaction_id >= settled
    );
END
$$;

COMMENT ON FUNCTION public.image_horizon() IS 'what a copy of codes that is read after this call needs to ask image_changes_since';

CREATE FUNCTION public.labelled_keys(encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint, keep integer, worst bigint, labels text[], metadata jsonb) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET jit TO 'off'
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
$$;

CREATE FUNCTION public.layout_dispatch_statement() RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
DECLARE
    branches text;
BEGIN
    SELECT string_agg(format($branch$IF layout_id = %s THEN
        found := %I.search_layout_%s(
            encoder, q1, q2, q3, q4, k, ties, radius, labels, metadata,
            max_candidates, deadline, all_rows, scan_price
        );
    $branch$, id, current_schema(), id), 'ELS' ORDER BY id)
    INTO branches
    FROM layouts WHERE active;
    RETURN replace(replace($template$
CREATE OR REPLACE FUNCTION @schema@.search_layout(
    layout_id integer, encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer, ties integer, radius integer, labels text[], metadata jsonb,
    max_candidates bigint, deadline timestamptz, all_rows float8, scan_price float8,
    OUT keys bigint[], OUT guaranteed integer, OUT stop text,
    OUT shells integer, OUT probes bigint, OUT candidates bigint
)
    LANGUAGE plpgsql STABLE
AS $function$
#variable_conflict use_variable
DECLARE
    found record;
BEGIN
    @branches@ELSE
        EXECUTE 'SELECT * FROM search_layout_' || layout_id
            || '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)'
        INTO found
        USING encoder, q1, q2, q3, q4, k, ties, radius, labels, metadata, max_candidates,
              deadline, all_rows, scan_price;
    END IF;
    keys := found.keys;
    guaranteed := found.guaranteed;
    stop := found.stop;
    shells := found.shells;
    probes := found.probes;
    candidates := found.candidates;
END
$function$
$template$,
        '@branches@', coalesce(branches, 'IF false THEN NULL; ')),
        '@schema@', quote_ident(current_schema()));
END
$_$;

CREATE FUNCTION public.layout_drop_statements(layout_id integer, online boolean) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
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
    WHERE pronamespace = quote_ident(current_schema())::regnamespace
      AND proname = 'search_layout_' || layout_id
$$;

CREATE FUNCTION public.layout_index_statements(layout_id integer, online boolean) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
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
$$;

CREATE FUNCTION public.layout_leftovers() RETURNS SETOF integer
    LANGUAGE sql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
        WHERE pronamespace = quote_ident(current_schema())::regnamespace AND proname ~ '^search_layout_\d+$'
    ) AS named
    WHERE named.id NOT IN (SELECT layouts.id FROM layouts)
$_$;

CREATE FUNCTION public.layout_search_statement(layout_id integer) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $_$
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
        WHEN %1$s THEN
            IF cut THEN
                SELECT count(*), array_agg((%2$s) << 54 | id)
                       FILTER (WHERE %3$s <= most AND ((%2$s) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE %4$s AND %5$s = ANY (ARRAY(
                        SELECT %6$s # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < %7$s
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((%2$s) << 54 | id)
                       FILTER (WHERE %3$s <= most AND ((%2$s) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE %4$s AND %5$s = ANY (ARRAY(
                    SELECT %6$s # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < %7$s
                ));
            END IF;$branch$,
            j, distance.whole, near,
            CASE WHEN layout.encoder_id IS NULL
                 THEN format('i.bits = %s AND i.encoder_id = encoder', layout.bits)
                 ELSE format('i.encoder_id = %s', layout.encoder_id) END,
            chunk_expression(layout.bits, layout.starts[j], layout.widths[j], 'i.code_'),
            chunk_expression(layout.bits, layout.starts[j], layout.widths[j], 'q'),
            1::bigint << layout.widths[j]);
    END LOOP;

    RETURN replace(replace(replace(replace(replace(replace(replace(replace(replace(replace($template$
CREATE OR REPLACE FUNCTION @schema@.search_layout_@id@(
    encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    k integer, ties integer, radius integer, labels text[], metadata jsonb,
    max_candidates bigint, deadline timestamptz, all_rows float8, scan_price float8,
    OUT keys bigint[], OUT guaranteed integer, OUT stop text,
    OUT shells integer, OUT probes bigint, OUT candidates bigint
)
    LANGUAGE plpgsql STABLE
    SET search_path = @schema@, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashagg = off
    SET jit = off
AS $function$
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
    free float8 := CASE WHEN filtered THEN 0.02 WHEN all_rows < 30000 THEN 0.05 ELSE 0.1 END
                   * scan_price;
    keep integer := k + greatest(ties - k, 0);   -- null: all
    reach integer := least(radius, @bits@);      -- the radius that makes the answer certain
    worst bigint := (least(radius, @bits@) + 1)::bigint << 54;   -- only smaller keys are wanted
    most bigint := worst >> 54;                  -- of a distance that is wanted
    found bigint[];
    rows_met bigint;
    -- What a shell can meet, unless the table has grown.
    fullest bigint[] := CASE WHEN all_rows < 1.1 * @row_count@ THEN '@shell_rows@' END;
    cut boolean;
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

    IF k IS NULL AND all_rows < 100000 AND shells_price(
        reach + 1, widths, flips, next_probes, next_met, floor_rows, row_price
    ) > scan_price THEN
        stop := 'scan';
        RETURN;
    END IF;

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
        cut := max_candidates IS NOT NULL
               OR coalesce(fullest[flip + 1] >= allowed, true);
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
        -- The same row may be met in two chunks; it has the same key.
        IF found IS NOT NULL AND (cardinality(found) > 100 OR NOT found <@ keys) THEN
            IF cardinality(found) < 1000 THEN
                keys := ARRAY(
                    SELECT DISTINCT every.key FROM unnest(keys || found) AS every (key)
                    ORDER BY every.key LIMIT keep
                );
            ELSE
                keys := ARRAY(
                    SELECT DISTINCT every.key
                    FROM (SELECT unnest(keys) AS key
                          UNION ALL
                          (SELECT unnest(found) AS key ORDER BY key LIMIT keep)) AS every
                    ORDER BY every.key LIMIT keep
                );
            END IF;
            IF cardinality(keys) >= k THEN
                reach := least(reach, (keys[k] >> 54)::integer);
                worst := CASE WHEN cardinality(keys) = keep THEN keys[keep] ELSE worst END;
                worst := least(worst, ((keys[k] >> 54) + 1) << 54);
                most := worst >> 54;
                row_price := met_price;
            END IF;
        END IF;

        IF cut AND rows_met >= allowed THEN    -- the shell was cut short: it guarantees nothing
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
        '@row_count@', coalesce(layout.row_count, 0)::text),
        '@shell_rows@', coalesce(layout.shell_rows, '{}')::text),
        '@met_price@', CASE WHEN layout.covering THEN '1.5' ELSE '4' END);
END
$_$;

CREATE FUNCTION public.layout_shell_rows(encoder integer, bits integer, starts smallint[], widths smallint[], row_count bigint) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET jit TO 'off'
    AS $_$
DECLARE
    percent float8 := least(100, 3000000 / greatest(row_count, 1)::float8);
    chunks text;
    found bigint[];
BEGIN
    SELECT string_agg(
        format('(%s, %s, %s)', j, width, chunk_expression(bits, starts[j], width, 'i.code_')), ', '
    ) INTO chunks
    FROM unnest(widths) WITH ORDINALITY AS chunk (width, j);
    EXECUTE format($query$
        WITH buckets AS (
            SELECT chunk.j, chunk.width, count(*) AS held
            FROM images AS i TABLESAMPLE SYSTEM ($1) REPEATABLE (0),
                 LATERAL (VALUES %s) AS chunk (j, width, value)
            WHERE i.encoder_id = $2
            GROUP BY chunk.j, chunk.width, chunk.value
        ), ranked AS (
            SELECT *, row_number() OVER (PARTITION BY j ORDER BY held DESC) AS place FROM buckets
        ), met AS (
            SELECT shell.flips, sum(ranked.held) AS held
            FROM ranked, LATERAL (VALUES
                (0, 1),
                (1, width),
                (2, width * (width - 1) / 2),
                (3, width * (width - 1) * (width - 2) / 6),
                (4, width * (width - 1) * (width - 2) * (width - 3) / 24)
            ) AS shell (flips, probes)
            WHERE ranked.place <= shell.probes
            GROUP BY ranked.j, shell.flips
        )
        SELECT array_agg(most.held ORDER BY most.flips)
        FROM (SELECT flips, ceil(max(held) * 100 / $1)::bigint AS held FROM met GROUP BY flips)
             AS most
        $query$, chunks)
    INTO found USING percent, encoder;
    RETURN found;
END
$_$;

CREATE FUNCTION public.near_duplicate_codes(encoder text, radius integer, since timestamp with time zone DEFAULT NULL::timestamp with time zone, since_id bigint DEFAULT NULL::bigint, max_pairs bigint DEFAULT 10000000) RETURNS TABLE(image_id_1 bigint, image_id_2 bigint, distance integer)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    copies bigint[];
    firsts bigint[];
BEGIN
    SELECT array_agg(image_id), array_agg(first_image_id) INTO copies, firsts
    FROM equal_codes(encoder);
    RETURN QUERY SELECT * FROM near_duplicate_search(
        encoder, radius, since, since_id, max_pairs, copies, firsts);
END
$$;

COMMENT ON FUNCTION public.near_duplicate_codes(encoder text, radius integer, since timestamp with time zone, since_id bigint, max_pairs bigint) IS 'near_duplicates among distinct codes, each named by the lowest id of its images';

CREATE TABLE public.encoders (
    id integer NOT NULL,
    name text NOT NULL,
    bits smallint NOT NULL,
    feature_dim integer,
    config jsonb DEFAULT '{}'::jsonb NOT NULL,
    fingerprint text NOT NULL,
    artifact bytea,
    root text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT encoders_bits_check CHECK ((((bits >= 4) AND (bits <= 256)) AND (((bits)::integer % 4) = 0))),
    CONSTRAINT encoders_name_check CHECK ((name <> ''::text))
);

COMMENT ON TABLE public.encoders IS 'What makes hash codes: one row for each encoder';

COMMENT ON COLUMN public.encoders.bits IS 'code length L';

COMMENT ON COLUMN public.encoders.config IS 'everything but the weights that codes depend on';

COMMENT ON COLUMN public.encoders.fingerprint IS 'SHA-256 over config and weights';

COMMENT ON COLUMN public.encoders.artifact IS 'safetensors: every weight that is not a published backbone';

COMMENT ON COLUMN public.encoders.root IS 'the folder that relative paths of its images start from';

CREATE FUNCTION public.near_duplicate_encoder(encoder text, radius integer) RETURNS public.encoders
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    found encoders%ROWTYPE;
BEGIN
    SELECT * INTO found FROM encoders WHERE name = encoder;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'There is no encoder %.', coalesce(quote_literal(encoder), 'NULL') USING
            ERRCODE = 'RD001', HINT = 'SELECT name FROM encoders shows those there are.';
    END IF;
    IF radius IS NULL OR radius < 0 THEN
        RAISE EXCEPTION 'The radius must be given, and be at least 0.' USING ERRCODE = 'RD003';
    END IF;
    RETURN found;
END
$$;

CREATE FUNCTION public.near_duplicate_joins(bits integer, radius integer, parts integer, agree integer, OUT key text, OUT first text, OUT middle integer) RETURNS SETOF record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    blocks integer := radius + 1 + parts * (agree - 1);
    -- A key is one bigint that is not negative.
    value_bits integer := 62 / greatest(agree, 1);
    shift integer := least(value_bits, (bits + blocks - 1) / blocks);
    values text[];
    equal text[];
    earlier text := '';
    own text;
    start integer := 1;
    stop integer;
    combination integer[];
BEGIN
    IF agree = 0 THEN
        key := 'true';
        first := 'true';
        middle := 0;
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT array_agg(cut.value ORDER BY cut.block), array_agg(cut.equal ORDER BY cut.block)
    INTO values, equal FROM code_blocks(bits, blocks, value_bits) AS cut;
    FOR part IN 1 .. parts LOOP
        stop := start + agree - 2 + (radius + 1) / parts
              + CASE WHEN part <= (radius + 1) % parts THEN 1 ELSE 0 END;
        FOR combination IN
            WITH RECURSIVE chosen AS (
                SELECT ARRAY[block] AS numbers FROM generate_series(start, stop) AS block
                UNION ALL
                SELECT numbers || block
                FROM chosen, generate_series(numbers[cardinality(numbers)] + 1, stop) AS block
                WHERE cardinality(numbers) < agree
            )
            SELECT numbers FROM chosen WHERE cardinality(numbers) = agree ORDER BY numbers
        LOOP
            SELECT string_agg(values[block], format(' << %s | ', shift) ORDER BY block)
            INTO key FROM unnest(combination) AS block;
            SELECT string_agg(CASE WHEN block = ANY (combination) THEN '' ELSE 'NOT ' END
                              || equal[block], ' AND ' ORDER BY block)
            INTO own FROM generate_series(start, combination[agree]) AS block;
            first := earlier || own;
            middle := (combination[1] + combination[agree] - 1) * bits / (2 * blocks);
            RETURN NEXT;
        END LOOP;
        SELECT earlier || format('%s < %s AND ',
                                 string_agg(equal[block] || '::integer', ' + '), agree)
        INTO earlier FROM generate_series(start, stop) AS block;
        start := stop + 1;
    END LOOP;
END
$$;

CREATE FUNCTION public.near_duplicate_lower_bound(bits integer, middle integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    BEGIN ATOMIC
 SELECT format('bit_count((%s)::bit(64))'::text,
         CASE
             WHEN (near_duplicate_lower_bound.bits > 128) THEN format('a.code_%1$s # b.code_%1$s'::text, word.other)
             WHEN (near_duplicate_lower_bound.bits > 64) THEN format('(a.code_%1$s # b.code_%1$s) << %3$s | (a.code_%2$s # b.code_%2$s)'::text, (((word.other / 3) * 2) + 1), (((word.other / 3) * 2) + 2), (near_duplicate_lower_bound.bits / 4))
             ELSE format('(a.code_1 # b.code_1) << %1$s | (a.code_2 # b.code_2) << %1$s | (a.code_3 # b.code_3) << %1$s | (a.code_4 # b.code_4)'::text, (near_duplicate_lower_bound.bits / 4))
         END) AS format
    FROM ( SELECT (((((near_duplicate_lower_bound.middle * 4) / near_duplicate_lower_bound.bits) + 2) % 4) + 1) AS other) word;
END;

CREATE FUNCTION public.near_duplicate_members(alias text, kept bigint[], copies bigint[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (kept IS NOT NULL) THEN (alias || '.id = ANY ($3)'::text)
             WHEN (copies IS NOT NULL) THEN (('('::text || alias) || '.id = ANY ($4)) IS NOT TRUE'::text)
             ELSE 'true'::text
         END AS "case";
END;

CREATE FUNCTION public.near_duplicate_plan(bits integer, radius integer, outer_codes double precision, inner_codes double precision, bits_of_16 double precision, equal_words double precision, OUT parts integer, OUT agree integer, OUT merge boolean, OUT cost double precision) RETURNS record
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'public', 'pg_temp'
    BEGIN ATOMIC
 WITH cut AS (
          SELECT p.p AS parts,
             agree.agree,
             ((e.blocks + agree.agree) - 1) AS blocks,
             ((near_duplicate_plan.radius + 1) % p.p) AS larger,
             ((near_duplicate_plan.outer_codes * near_duplicate_plan.inner_codes) * GREATEST(near_duplicate_plan.equal_words, power((2)::double precision, (((- near_duplicate_plan.bits_of_16) / (16)::double precision) * LEAST((62)::double precision, ((agree.agree)::double precision * floor(((near_duplicate_plan.bits / ((near_duplicate_plan.radius + 1) + (p.p * (agree.agree - 1)))))::double precision))))))) AS met
            FROM generate_series(1, LEAST((near_duplicate_plan.radius + 1), near_duplicate_plan.bits)) p(p),
             generate_series(1, 3) agree(agree),
             LATERAL ( SELECT ((near_duplicate_plan.radius + 1) / p.p) AS blocks) e
           WHERE ((agree.agree > 1) OR (p.p = (near_duplicate_plan.radius + 1)))
         ), counted AS (
          SELECT cut.parts,
             cut.agree,
             cut.met,
             (((cut.larger)::numeric *
                 CASE cut.agree
                     WHEN 1 THEN ((cut.blocks)::numeric + 1.0)
                     WHEN 2 THEN ((((cut.blocks)::numeric + 1.0) * (cut.blocks)::numeric) / (2)::numeric)
                     ELSE (((((cut.blocks)::numeric + 1.0) * (cut.blocks)::numeric) * ((cut.blocks - 1))::numeric) / (6)::numeric)
                 END) + (((cut.parts - cut.larger))::numeric *
                 CASE cut.agree
                     WHEN 1 THEN ((cut.blocks)::numeric + 0.0)
                     WHEN 2 THEN (((cut.blocks)::numeric * ((cut.blocks)::numeric - 1.0)) / (2)::numeric)
                     ELSE ((((cut.blocks)::numeric * ((cut.blocks)::numeric - 1.0)) * ((cut.blocks - 2))::numeric) / (6)::numeric)
                 END)) AS joins
            FROM cut
         ), related AS (
          SELECT ((((0.5)::double precision * near_duplicate_plan.outer_codes) * near_duplicate_plan.inner_codes) * near_duplicate_plan.equal_words) AS kin
         )
  SELECT choice.parts,
     choice.agree,
     choice.merge,
     choice.cost
    FROM ( SELECT counted.parts,
             counted.agree,
             false AS merge,
             ((counted.joins)::double precision * (((((1000)::double precision + ((0.4)::double precision * near_duplicate_plan.inner_codes)) + ((0.6)::double precision * near_duplicate_plan.outer_codes)) + ((0.3)::double precision * counted.met)) + related.kin)) AS cost
            FROM counted,
             related
           WHERE (counted.joins <= (1000)::numeric)
         UNION ALL
          SELECT counted.parts,
             counted.agree,
             true,
             ((counted.joins)::double precision * (((((1000)::double precision + ((0.7)::double precision * near_duplicate_plan.inner_codes)) + ((0.7)::double precision * near_duplicate_plan.outer_codes)) + ((0.1)::double precision * counted.met)) + related.kin))
            FROM counted,
             related
           WHERE (counted.joins <= (1000)::numeric)
         UNION ALL
          SELECT 0,
             0,
             false,
             ((1000)::double precision + (((0.08)::double precision * near_duplicate_plan.outer_codes) * near_duplicate_plan.inner_codes))) choice
   ORDER BY choice.cost, choice.agree, choice.parts
  LIMIT 1;
END;

CREATE FUNCTION public.near_duplicate_search(encoder text, radius integer, since timestamp with time zone, since_id bigint, max_pairs bigint, copies bigint[], firsts bigint[]) RETURNS TABLE(image_id_1 bigint, image_id_2 bigint, distance integer)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET work_mem TO '128MB'
    SET jit TO 'off'
    SET enable_hashjoin TO 'on'
    SET enable_mergejoin TO 'on'
    SET enable_nestloop TO 'on'
    AS $_$
#variable_conflict use_variable
DECLARE
    found encoders%ROWTYPE := near_duplicate_encoder(encoder, radius);
    word integer := found.bits / 4;
    everything boolean := since IS NULL AND since_id IS NULL;
    images bigint;
    codes bigint;
    -- Ids to join: those in `kept`, or all but those in `copies`; the outer side those in `new`.
    kept bigint[];
    new bigint[];
    bits_of_16 double precision;
    equal_words double precision;
    plan record;
    pair_join record;
    members text;
    pairs bigint := 0;
    added bigint;
BEGIN
    radius := least(radius, found.bits);
    max_pairs := least(max_pairs, 9223372036854775806);
    EXECUTE 'SELECT count(*) FROM images WHERE encoder_id = $1' INTO images USING found.id;
    codes := images - coalesce(cardinality(copies), 0);
    IF codes < images / 2 THEN
        EXECUTE 'SELECT array_agg(id) FROM images
                 WHERE encoder_id = $1 AND (id = ANY ($2)) IS NOT TRUE'
        INTO kept USING found.id, copies;
    END IF;
    IF NOT everything THEN
        EXECUTE 'SELECT coalesce(array_agg(DISTINCT coalesce(first, id)), ''{}'')
                 FROM images LEFT JOIN unnest($4, $5) AS copy(image_id, first) ON image_id = id
                 WHERE encoder_id = $1
                   AND ($2 IS NULL OR created_at >= $2) AND ($3 IS NULL OR id > $3)'
        INTO new USING found.id, since, since_id, copies, firsts;
    END IF;
    -- How often two codes share the first 16 bits of a word, and the whole word, in a sample.
    EXECUTE format('
        SELECT greatest(1, least(16, -log(2, nullif(
                   sum(met) FILTER (WHERE NOT whole) / (4.0 * max(number) * (max(number) - 1)), 0
               )))),
               sum(met) FILTER (WHERE whole) / (4.0 * max(number) * (max(number) - 1))
        FROM (
            SELECT whole, word, sum(size * (size - 1)) AS met, sum(size) AS number FROM (
                SELECT whole, chunk.word, count(*) AS size
                FROM images, LATERAL (VALUES (false, 1, code_1 >> $5), (false, 2, code_2 >> $5),
                    (false, 3, code_3 >> $5), (false, 4, code_4 >> $5), (true, 1, code_1),
                    (true, 2, code_2), (true, 3, code_3), (true, 4, code_4)
                ) AS chunk(whole, word, bits)
                WHERE encoder_id = $1 AND (%s) AND mod(hashint8(id), $2) = 0
                GROUP BY whole, chunk.word, chunk.bits
            ) AS bucket GROUP BY whole, word
        ) AS chunk HAVING max(number) > 1',
        near_duplicate_members('images', kept, copies))
    INTO bits_of_16, equal_words
    USING found.id, greatest(1, codes / 20000)::integer, kept, copies, greatest(word - 16, 0);
    bits_of_16 := least(16, coalesce(bits_of_16, 16) * 16 / least(16, word));
    SELECT * INTO plan FROM near_duplicate_plan(
        found.bits, radius, coalesce(cardinality(new), codes), codes,
        bits_of_16, coalesce(equal_words, 0));
    PERFORM set_config('enable_mergejoin', CASE WHEN plan.merge THEN 'on' ELSE 'off' END, true),
            set_config('enable_hashjoin', CASE WHEN plan.merge THEN 'off' ELSE 'on' END, true),
            set_config('enable_nestloop', CASE plan.agree WHEN 0 THEN 'on' ELSE 'off' END, true);
    members := format(
        'a.encoder_id = $1 AND b.encoder_id = $1 AND (%s) AND (%s) AND %s',
        near_duplicate_members('a', kept, copies), near_duplicate_members('b', kept, copies),
        CASE WHEN everything THEN 'a.id < b.id'
        ELSE 'a.id = ANY ($6) AND a.id <> b.id AND (a.id < b.id OR (b.id = ANY ($6)) IS NOT TRUE)'
        END);
    FOR pair_join IN
        SELECT * FROM near_duplicate_joins(found.bits, radius, plan.parts, plan.agree)
    LOOP
        RETURN QUERY EXECUTE format('
            SELECT least(a.id, b.id), greatest(a.id, b.id), hamming_distance(
                a.code_1, a.code_2, a.code_3, a.code_4, b.code_1, b.code_2, b.code_3, b.code_4)
            FROM images AS a JOIN images AS b ON %s = %s
            WHERE %s AND %s <= $2 AND CASE WHEN %s THEN hamming_distance(
                a.code_1, a.code_2, a.code_3, a.code_4, b.code_1, b.code_2, b.code_3, b.code_4
            ) <= $2 ELSE false END
            LIMIT $5',
            replace(pair_join.key, 'code_', 'a.code_'), replace(pair_join.key, 'code_', 'b.code_'),
            members, near_duplicate_lower_bound(found.bits, pair_join.middle), pair_join.first)
        USING found.id, radius, kept, copies, max_pairs - pairs + 1, new;
        GET DIAGNOSTICS added = ROW_COUNT;
        pairs := pairs + added;
        IF pairs > max_pairs THEN
            RAISE EXCEPTION 'There are more than % pairs of distinct codes within % bits.',
                max_pairs, radius USING ERRCODE = 'RD005',
                HINT = 'Take a smaller radius, or raise max_pairs.';
        END IF;
    END LOOP;
END
$_$;

CREATE FUNCTION public.near_duplicates(encoder text, radius integer, since timestamp with time zone DEFAULT NULL::timestamp with time zone, since_id bigint DEFAULT NULL::bigint, max_pairs bigint DEFAULT 1000000) RETURNS TABLE(image_id_1 bigint, image_id_2 bigint, path_1 text, path_2 text, distance integer)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET work_mem TO '128MB'
    SET jit TO 'off'
    AS $_$
DECLARE
    copies bigint[];
    firsts bigint[];
    pairs bigint := 0;
BEGIN
    SELECT array_agg(copy.image_id), array_agg(copy.first_image_id) INTO copies, firsts
    FROM equal_codes(encoder) AS copy;
    IF since IS NULL AND since_id IS NULL THEN
        -- What equal codes alone make too long is refused before anything is joined.
        SELECT sum((number + 1) * number / 2) INTO pairs
        FROM (SELECT count(*) AS number FROM unnest(firsts) AS first GROUP BY first) AS code;
    END IF;
    IF pairs > max_pairs IS NOT TRUE THEN
        RETURN QUERY EXECUTE $query$
            WITH copy AS MATERIALIZED (
                SELECT first, image_id FROM unnest($6, $7) AS copy(image_id, first)
            ), pair AS MATERIALIZED (
                SELECT * FROM near_duplicate_search($1, $2, $3, $4, $5, $6, $7)
            ), repeated AS MATERIALIZED (
                SELECT first, image_id FROM copy UNION ALL SELECT DISTINCT first, first FROM copy
            ), member AS (
                SELECT first, image_id FROM copy
                UNION SELECT image_id_1, image_id_1 FROM pair
                UNION SELECT image_id_2, image_id_2 FROM pair
            ), image_pair AS (
                SELECT a.image_id AS a, b.image_id AS b, pair.distance
                FROM pair JOIN member AS a ON a.first = pair.image_id_1
                          JOIN member AS b ON b.first = pair.image_id_2
                UNION ALL
                SELECT a.image_id, b.image_id, 0
                FROM repeated AS a JOIN repeated AS b USING (first) WHERE a.image_id < b.image_id
            )
            SELECT least(x.id, y.id), greatest(x.id, y.id),
                   CASE WHEN x.id < y.id THEN x.path ELSE y.path END,
                   CASE WHEN x.id < y.id THEN y.path ELSE x.path END, image_pair.distance
            FROM image_pair JOIN images AS x ON x.id = a JOIN images AS y ON y.id = b
            WHERE ($3 IS NULL OR x.created_at >= $3) AND ($4 IS NULL OR x.id > $4)
               OR ($3 IS NULL OR y.created_at >= $3) AND ($4 IS NULL OR y.id > $4)
            LIMIT least($5, 9223372036854775806) + 1
        $query$ USING encoder, radius, since, since_id, max_pairs, copies, firsts;
        GET DIAGNOSTICS pairs = ROW_COUNT;
    END IF;
    IF pairs > max_pairs THEN
        RAISE EXCEPTION 'There are more than % pairs within % bits.', max_pairs, radius USING
            ERRCODE = 'RD005', HINT = 'Group them (near_duplicate_codes with equal_codes; '
            '`retrieval-db duplicates --group`), take a smaller radius, or raise max_pairs.';
    END IF;
END
$_$;

COMMENT ON FUNCTION public.near_duplicates(encoder text, radius integer, since timestamp with time zone, since_id bigint, max_pairs bigint) IS 'pairs of images within a radius, each once; since: with a row added at or after that time, since_id: after that row';

CREATE FUNCTION public.note_image_changes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    AS $$
DECLARE
    own bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF TG_ARGV[0] = 'anything' THEN
        INSERT INTO image_changes (transaction_id) VALUES (own);
    ELSIF (SELECT count(*) FROM (SELECT FROM changed LIMIT 257) AS few) <= 256 THEN
        INSERT INTO image_changes (transaction_id, encoder_id, image_ids)
        SELECT own, encoder_id, array_agg(id) FROM changed GROUP BY encoder_id;
    ELSE
        INSERT INTO image_changes (transaction_id, encoder_id)
        SELECT DISTINCT own, encoder_id FROM changed;
    END IF;
    IF own % 1000 = 0 AND current_setting('transaction_isolation') = 'read committed'
       AND pg_try_advisory_xact_lock(7216305923) THEN
        WITH old AS (
            DELETE FROM image_changes
            WHERE transaction_id <= (SELECT transaction_id FROM image_changes
                                     WHERE transaction_id <= own
                                     ORDER BY transaction_id DESC OFFSET 10000 LIMIT 1)
            RETURNING transaction_id
        )
        INSERT INTO image_changes (transaction_id)
        SELECT max(transaction_id) FROM old HAVING count(*) > 0;
        DELETE FROM image_changes
        WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
          AND transaction_id <> own;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION public.packed_expressions(bits integer, word_name text) RETURNS text[]
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
$$;

CREATE FUNCTION public.run_search(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer, radius integer, labels text[], metadata jsonb, max_candidates bigint, max_ms double precision, ties integer, OUT keys bigint[], OUT exact boolean, OUT guaranteed_radius integer, OUT plan text, OUT shells integer, OUT probes bigint, OUT candidates bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
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
    indexes oid[];                     -- of the layout
    ready boolean := false;            -- whether all of them are there
    keep integer := k + greatest(ties - k, 0);
    deadline timestamptz := clock_timestamp()
        + CASE WHEN max_ms < 1e12 THEN greatest(max_ms, 0) END * interval '1 ms';
BEGIN
    SELECT named.id, named.bits, layout.id AS layout_id, layout.encoder_id IS NULL AS shared,
           cardinality(layout.widths) AS chunks, layout.covering,
           EXISTS (SELECT FROM encoders AS other WHERE other.id <> named.id) AS among_others
    INTO subject
    FROM encoders AS named
    LEFT JOIN LATERAL (
        SELECT * FROM layouts
        WHERE active AND layouts.bits = named.bits
          AND (encoder_id = named.id OR encoder_id IS NULL)
        ORDER BY encoder_id LIMIT 1
    ) AS layout ON true
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
    IF max_ms = 'NaN' THEN
        RAISE EXCEPTION 'max_ms is not a number.' USING ERRCODE = 'RD003';
    END IF;
    IF q1 IS NULL OR q2 IS NULL OR q3 IS NULL OR q4 IS NULL THEN
        RAISE EXCEPTION 'A word of the query is NULL.' USING ERRCODE = 'RD003',
            HINT = 'A subquery gives NULL where it finds no row.';
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
    FOR j IN 1 .. coalesce(subject.chunks, 0) LOOP
        indexes[j] := to_regclass('images_bucket_' || subject.layout_id || '_' || j);
    END LOOP;
    SELECT estimated_rows(whole.reltuples, whole.relpages, pg_relation_size(whole.oid), 110),
           coalesce(estimated_rows(bucket.reltuples, bucket.relpages, pg_relation_size(bucket.oid),
                                   CASE WHEN subject.covering THEN 75 ELSE 12 END), 0)
    INTO table_rows, all_rows
    FROM pg_class AS whole LEFT JOIN pg_class AS bucket ON bucket.oid = indexes[1]
    WHERE whole.oid = 'images'::regclass;
    IF subject.shared OR subject.layout_id IS NULL OR all_rows = 0 THEN
        all_rows := table_rows;
        IF subject.among_others THEN
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
    IF price >= 4000 AND subject.chunks > 0 AND (k IS NULL OR k < all_rows / 20)
       AND (all_rows >= 30000 OR metadata IS NULL AND labels IS NULL)
    THEN
        -- A layout counts once all its indexes are valid: tune builds them one by one.
        SELECT count(*) = subject.chunks INTO ready
        FROM pg_index WHERE indexrelid = ANY (indexes) AND indisvalid;
    END IF;
    IF ready THEN
        found := search_layout(subject.layout_id, subject.id, q1, q2, q3, q4, k, ties, radius,
                               labels, metadata, max_candidates, deadline, all_rows, price);
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
            keys := CASE WHEN all_rows < 30000
                THEN small_scan_keys(subject.id, subject.bits, table_rows < 1.5 * all_rows,
                                     q1, q2, q3, q4, keep, worst, labels, metadata)
                ELSE scan_keys(subject.id, subject.bits, subject.shared, q1, q2, q3, q4,
                              keep, worst, labels, metadata) END;
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
$$;

CREATE FUNCTION public.scan_keys(encoder integer, code_bits integer, shared boolean, q1 bigint, q2 bigint, q3 bigint, q4 bigint, keep integer, worst bigint, labels text[], metadata jsonb) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET jit TO 'off'
    AS $_$
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
$_$;

CREATE FUNCTION public.search_codes(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer DEFAULT 10, radius integer DEFAULT NULL::integer, labels text[] DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, max_candidates bigint DEFAULT NULL::bigint, max_ms double precision DEFAULT NULL::double precision) RETURNS TABLE(rank bigint, image_id bigint, path text, label text, distance integer, exact boolean, guaranteed_radius integer)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
#variable_conflict use_column
DECLARE
    run record;
    keys bigint[];
    certain boolean;
    complete integer;
BEGIN
    run := run_search(encoder, q1, q2, q3, q4, k, search_codes.radius, labels, metadata,
                      max_candidates, max_ms, 0);
    keys := run.keys;
    certain := run.exact;
    complete := run.guaranteed_radius;
    -- A row takes some 110 bytes.
    IF cardinality(keys) < 1000 OR cardinality(keys) * 880::bigint < pg_relation_size('images') THEN
        RETURN QUERY
        SELECT hit.rank, image.id, image.path, image.label, (hit.key >> 54)::integer,
               certain, complete
        FROM unnest(keys) WITH ORDINALITY AS hit (key, rank)
        JOIN images AS image ON image.id = (hit.key & ((1::bigint << 54) - 1))
        ORDER BY hit.rank;
    ELSE
        RETURN QUERY
        SELECT hit.rank, image.id, image.path, image.label, (hit.key >> 54)::integer,
               certain, complete
        FROM unnest(keys) WITH ORDINALITY AS hit (key, rank)
        JOIN images AS image ON image.id + 0 = (hit.key & ((1::bigint << 54) - 1))
        ORDER BY hit.rank;
    END IF;
END
$$;

CREATE FUNCTION public.search_images(encoder text, q1 bigint, q2 bigint, q3 bigint, q4 bigint, feature public.halfvec, k integer DEFAULT 10, radius integer DEFAULT NULL::integer, labels text[] DEFAULT NULL::text[], metadata jsonb DEFAULT NULL::jsonb, pool integer DEFAULT 200, pool_max integer DEFAULT NULL::integer, metric text DEFAULT 'cosine'::text, max_candidates bigint DEFAULT NULL::bigint, max_ms double precision DEFAULT NULL::double precision) RETURNS TABLE(rank bigint, image_id bigint, path text, label text, distance integer, feature_distance double precision, pool_exact boolean, guaranteed_radius integer, pool_size integer, tie_whole boolean)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path TO 'public', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    coarse record;
    -- One below the largest integer: the search is asked for one row beyond the pool.
    wanted integer := least(greatest(search_images.pool, search_images.k), search_images.pool_max,
                            2147483646);
    most integer := least(coalesce(search_images.pool_max, 10::bigint * wanted), 2147483646);
    wide integer := (SELECT feature_dim FROM encoders WHERE name = encoder);
    size integer;
    whole boolean := true;
BEGIN
    IF metric NOT IN ('cosine', 'l2') THEN
        RAISE EXCEPTION 'metric is ''cosine'' or ''l2'', not %.', quote_literal(metric)
            USING ERRCODE = 'RD003';
    END IF;
    IF k < 1 THEN
        RAISE EXCEPTION 'k must be at least 1, not %.', k USING ERRCODE = 'RD003';
    END IF;
    IF feature IS NULL THEN
        RAISE EXCEPTION 'The feature of the query is NULL.' USING ERRCODE = 'RD003',
            HINT = 'A subquery gives NULL where it finds no row; '
            'search_codes needs no feature.';
    END IF;
    IF vector_dims(feature) <> wide THEN
        RAISE EXCEPTION 'The feature of the query has % dimensions, those of encoder % '
            'have %.', vector_dims(feature), quote_literal(encoder), wide
            USING ERRCODE = 'RD002';
    END IF;
    IF pool < 1 THEN
        RAISE EXCEPTION 'pool must be at least 1, not %.', pool USING ERRCODE = 'RD003';
    END IF;
    IF pool_max < pool THEN
        RAISE EXCEPTION 'pool_max (%) is smaller than pool (%).', pool_max, pool
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
$$;

CREATE FUNCTION public.search_layout(layout_id integer, encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer, ties integer, radius integer, labels text[], metadata jsonb, max_candidates bigint, deadline timestamp with time zone, all_rows double precision, scan_price double precision, OUT keys bigint[], OUT guaranteed integer, OUT stop text, OUT shells integer, OUT probes bigint, OUT candidates bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    AS $_$
#variable_conflict use_variable
DECLARE
    found record;
BEGIN
    IF layout_id = 1 THEN
        found := public.search_layout_1(
            encoder, q1, q2, q3, q4, k, ties, radius, labels, metadata,
            max_candidates, deadline, all_rows, scan_price
        );
    ELSIF layout_id = 2 THEN
        found := public.search_layout_2(
            encoder, q1, q2, q3, q4, k, ties, radius, labels, metadata,
            max_candidates, deadline, all_rows, scan_price
        );
    ELSE
        EXECUTE 'SELECT * FROM search_layout_' || layout_id
            || '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)'
        INTO found
        USING encoder, q1, q2, q3, q4, k, ties, radius, labels, metadata, max_candidates,
              deadline, all_rows, scan_price;
    END IF;
    keys := found.keys;
    guaranteed := found.guaranteed;
    stop := found.stop;
    shells := found.shells;
    probes := found.probes;
    candidates := found.candidates;
END
$_$;

CREATE FUNCTION public.search_layout_1(encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer, ties integer, radius integer, labels text[], metadata jsonb, max_candidates bigint, deadline timestamp with time zone, all_rows double precision, scan_price double precision, OUT keys bigint[], OUT guaranteed integer, OUT stop text, OUT shells integer, OUT probes bigint, OUT candidates bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashagg TO 'off'
    SET jit TO 'off'
    AS $$
#variable_conflict use_variable
DECLARE
    p1 bigint := ((((((q1 << 16) | q2) << 16) | q3) << 16) | q4);
    widths smallint[] := '{16,16,16,16}';
    floor_rows float8[] := '{}';     -- rows of a bucket if codes were uniform
    flips integer[] := '{}';         -- of each chunk's next shell
    next_probes float8[] := '{}';    -- its probes
    next_met float8[] := '{}';       -- the rows that it will meet, an estimate
    price float8;
    next_price float8;
    spent float8 := 0;
    filtered boolean := labels IS NOT NULL OR metadata IS NOT NULL;
    met_price float8 := 1.5;   -- of a row that a probe meets
    row_price float8 := met_price + CASE WHEN filtered THEN 12 ELSE 0 END;
    free float8 := CASE WHEN filtered THEN 0.02 WHEN all_rows < 30000 THEN 0.05 ELSE 0.1 END
                   * scan_price;
    keep integer := k + greatest(ties - k, 0);   -- null: all
    reach integer := least(radius, 64);      -- the radius that makes the answer certain
    worst bigint := (least(radius, 64) + 1)::bigint << 54;   -- only smaller keys are wanted
    most bigint := worst >> 54;                  -- of a distance that is wanted
    found bigint[];
    rows_met bigint;
    -- What a shell can meet, unless the table has grown.
    fullest bigint[] := CASE WHEN all_rows < 1.1 * 0 THEN '{}' END;
    cut boolean;
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
    FOR c IN 1 .. 4 LOOP
        floor_rows[c] := all_rows / (1::bigint << widths[c]);
        flips[c] := 0;
        next_probes[c] := 1;
        next_met[c] := floor_rows[c];
    END LOOP;

    IF k IS NULL AND all_rows < 100000 AND shells_price(
        reach + 1, widths, flips, next_probes, next_met, floor_rows, row_price
    ) > scan_price THEN
        stop := 'scan';
        RETURN;
    END IF;

    WHILE guaranteed < reach LOOP
        next_price := 'infinity';
        FOR c IN 1 .. 4 LOOP
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
        cut := max_candidates IS NOT NULL
               OR coalesce(fullest[flip + 1] >= allowed, true);
        CASE j
        WHEN 1 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_1)::int4 = ANY (ARRAY(
                        SELECT (q1)::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_1)::int4 = ANY (ARRAY(
                    SELECT (q1)::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
        WHEN 2 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_2)::int4 = ANY (ARRAY(
                        SELECT (q2)::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_2)::int4 = ANY (ARRAY(
                    SELECT (q2)::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
        WHEN 3 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_3)::int4 = ANY (ARRAY(
                        SELECT (q3)::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_3)::int4 = ANY (ARRAY(
                    SELECT (q3)::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
        WHEN 4 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_4)::int4 = ANY (ARRAY(
                        SELECT (q4)::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64)) <= most AND ((bit_count((((((((code_1 << 16) | code_2) << 16) | code_3) << 16) | code_4) # p1)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 64 AND i.encoder_id = encoder AND (i.code_4)::int4 = ANY (ARRAY(
                    SELECT (q4)::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
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
        -- The same row may be met in two chunks; it has the same key.
        IF found IS NOT NULL AND (cardinality(found) > 100 OR NOT found <@ keys) THEN
            IF cardinality(found) < 1000 THEN
                keys := ARRAY(
                    SELECT DISTINCT every.key FROM unnest(keys || found) AS every (key)
                    ORDER BY every.key LIMIT keep
                );
            ELSE
                keys := ARRAY(
                    SELECT DISTINCT every.key
                    FROM (SELECT unnest(keys) AS key
                          UNION ALL
                          (SELECT unnest(found) AS key ORDER BY key LIMIT keep)) AS every
                    ORDER BY every.key LIMIT keep
                );
            END IF;
            IF cardinality(keys) >= k THEN
                reach := least(reach, (keys[k] >> 54)::integer);
                worst := CASE WHEN cardinality(keys) = keep THEN keys[keep] ELSE worst END;
                worst := least(worst, ((keys[k] >> 54) + 1) << 54);
                most := worst >> 54;
                row_price := met_price;
            END IF;
        END IF;

        IF cut AND rows_met >= allowed THEN    -- the shell was cut short: it guarantees nothing
            stop := CASE WHEN candidates >= max_candidates THEN 'budget' ELSE 'scan' END;
            EXIT;
        END IF;
        guaranteed := CASE WHEN flip = widths[j] THEN 64 ELSE guaranteed + 1 END;
        flips[j] := flip + 1;
        next_met[j] := rows_met * 0.6 * (widths[j] - flip) / (flip + 1);
        next_probes[j] := CASE WHEN flip >= 4 THEN 'infinity'
                               ELSE next_probes[j] * (widths[j] - flip) / (flip + 1) END;
        next_met[j] := greatest(next_met[j], floor_rows[j] * next_probes[j]);
    END LOOP;
END
$$;

CREATE FUNCTION public.search_layout_2(encoder integer, q1 bigint, q2 bigint, q3 bigint, q4 bigint, k integer, ties integer, radius integer, labels text[], metadata jsonb, max_candidates bigint, deadline timestamp with time zone, all_rows double precision, scan_price double precision, OUT keys bigint[], OUT guaranteed integer, OUT stop text, OUT shells integer, OUT probes bigint, OUT candidates bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_hashagg TO 'off'
    SET jit TO 'off'
    AS $$
#variable_conflict use_variable
DECLARE
    p1 bigint := ((q1 << 32) | q2);
    p2 bigint := ((q3 << 32) | q4);
    widths smallint[] := '{16,16,16,16}';
    floor_rows float8[] := '{}';     -- rows of a bucket if codes were uniform
    flips integer[] := '{}';         -- of each chunk's next shell
    next_probes float8[] := '{}';    -- its probes
    next_met float8[] := '{}';       -- the rows that it will meet, an estimate
    price float8;
    next_price float8;
    spent float8 := 0;
    filtered boolean := labels IS NOT NULL OR metadata IS NOT NULL;
    met_price float8 := 1.5;   -- of a row that a probe meets
    row_price float8 := met_price + CASE WHEN filtered THEN 12 ELSE 0 END;
    free float8 := CASE WHEN filtered THEN 0.02 WHEN all_rows < 30000 THEN 0.05 ELSE 0.1 END
                   * scan_price;
    keep integer := k + greatest(ties - k, 0);   -- null: all
    reach integer := least(radius, 128);      -- the radius that makes the answer certain
    worst bigint := (least(radius, 128) + 1)::bigint << 54;   -- only smaller keys are wanted
    most bigint := worst >> 54;                  -- of a distance that is wanted
    found bigint[];
    rows_met bigint;
    -- What a shell can meet, unless the table has grown.
    fullest bigint[] := CASE WHEN all_rows < 1.1 * 0 THEN '{}' END;
    cut boolean;
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
    FOR c IN 1 .. 4 LOOP
        floor_rows[c] := all_rows / (1::bigint << widths[c]);
        flips[c] := 0;
        next_probes[c] := 1;
        next_met[c] := floor_rows[c];
    END LOOP;

    IF k IS NULL AND all_rows < 100000 AND shells_price(
        reach + 1, widths, flips, next_probes, next_met, floor_rows, row_price
    ) > scan_price THEN
        stop := 'scan';
        RETURN;
    END IF;

    WHILE guaranteed < reach LOOP
        next_price := 'infinity';
        FOR c IN 1 .. 4 LOOP
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
        cut := max_candidates IS NOT NULL
               OR coalesce(fullest[flip + 1] >= allowed, true);
        CASE j
        WHEN 1 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_3 << 32) | code_4) # p2)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_1 >> 16))::int4 = ANY (ARRAY(
                        SELECT ((q1 >> 16))::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_3 << 32) | code_4) # p2)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_1 >> 16))::int4 = ANY (ARRAY(
                    SELECT ((q1 >> 16))::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
        WHEN 2 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_3 << 32) | code_4) # p2)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_2 >> 16))::int4 = ANY (ARRAY(
                        SELECT ((q2 >> 16))::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_3 << 32) | code_4) # p2)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_2 >> 16))::int4 = ANY (ARRAY(
                    SELECT ((q2 >> 16))::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
        WHEN 3 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_3 >> 16))::int4 = ANY (ARRAY(
                        SELECT ((q3 >> 16))::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_3 >> 16))::int4 = ANY (ARRAY(
                    SELECT ((q3 >> 16))::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
        WHEN 4 THEN
            IF cut THEN
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM (
                    SELECT i.id, i.code_1, i.code_2, i.code_3, i.code_4
                    FROM images AS i
                    WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_4 >> 16))::int4 = ANY (ARRAY(
                        SELECT ((q4 >> 16))::int4 # f.mask FROM chunk_flips AS f
                        WHERE f.flips = flip AND f.mask < 65536
                    ))
                    LIMIT allowed
                ) AS bucket;
            ELSE
                SELECT count(*), array_agg((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id)
                       FILTER (WHERE bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) <= most AND ((bit_count((((code_1 << 32) | code_2) # p1)::bit(64)) + bit_count((((code_3 << 32) | code_4) # p2)::bit(64))) << 54 | id) < worst)
                INTO rows_met, found
                FROM images AS i
                WHERE i.bits = 128 AND i.encoder_id = encoder AND ((i.code_4 >> 16))::int4 = ANY (ARRAY(
                    SELECT ((q4 >> 16))::int4 # f.mask FROM chunk_flips AS f
                    WHERE f.flips = flip AND f.mask < 65536
                ));
            END IF;
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
        -- The same row may be met in two chunks; it has the same key.
        IF found IS NOT NULL AND (cardinality(found) > 100 OR NOT found <@ keys) THEN
            IF cardinality(found) < 1000 THEN
                keys := ARRAY(
                    SELECT DISTINCT every.key FROM unnest(keys || found) AS every (key)
                    ORDER BY every.key LIMIT keep
                );
            ELSE
                keys := ARRAY(
                    SELECT DISTINCT every.key
                    FROM (SELECT unnest(keys) AS key
                          UNION ALL
                          (SELECT unnest(found) AS key ORDER BY key LIMIT keep)) AS every
                    ORDER BY every.key LIMIT keep
                );
            END IF;
            IF cardinality(keys) >= k THEN
                reach := least(reach, (keys[k] >> 54)::integer);
                worst := CASE WHEN cardinality(keys) = keep THEN keys[keep] ELSE worst END;
                worst := least(worst, ((keys[k] >> 54) + 1) << 54);
                most := worst >> 54;
                row_price := met_price;
            END IF;
        END IF;

        IF cut AND rows_met >= allowed THEN    -- the shell was cut short: it guarantees nothing
            stop := CASE WHEN candidates >= max_candidates THEN 'budget' ELSE 'scan' END;
            EXIT;
        END IF;
        guaranteed := CASE WHEN flip = widths[j] THEN 128 ELSE guaranteed + 1 END;
        flips[j] := flip + 1;
        next_met[j] := rows_met * 0.6 * (widths[j] - flip) / (flip + 1);
        next_probes[j] := CASE WHEN flip >= 4 THEN 'infinity'
                               ELSE next_probes[j] * (widths[j] - flip) / (flip + 1) END;
        next_met[j] := greatest(next_met[j], floor_rows[j] * next_probes[j]);
    END LOOP;
END
$$;

CREATE FUNCTION public.shell_price(probes double precision, met double precision, row_price double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (((400)::double precision + ((4)::double precision * probes)) + (row_price * met));

CREATE FUNCTION public.shells_price(shells integer, widths smallint[], flips integer[], probes double precision[], met double precision[], floor_rows double precision[], row_price double precision) RETURNS double precision
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'public', 'pg_temp'
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
$$;

CREATE FUNCTION public.small_scan_keys(encoder integer, code_bits integer, alone boolean, q1 bigint, q2 bigint, q3 bigint, q4 bigint, keep integer, worst bigint, labels text[], metadata jsonb) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'public', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_indexscan TO 'off'
    SET jit TO 'off'
    AS $$
#variable_conflict use_variable
DECLARE
    filtered boolean := labels IS NOT NULL OR metadata IS NOT NULL;
    word integer := code_bits / 4;
    packed_1 bigint := CASE WHEN code_bits <= 64 THEN ((q1 << word | q2) << word | q3) << word | q4
                            ELSE q1 << word | q2 END;
    packed_2 bigint := q3 << word | q4;
BEGIN
    IF code_bits <= 64 THEN
        IF alone AND NOT filtered THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF NOT filtered THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF labels IS NULL AND worst IS NULL AND alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder
                        AND image.metadata @> metadata) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF labels IS NULL AND worst IS NULL THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder
                        AND image.metadata @> metadata) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF worst IS NOT NULL AND alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );
        ELSIF worst IS NOT NULL THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE image.encoder_id = encoder) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );
        ELSIF alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder
                        AND ((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))
                        AND (metadata IS NULL OR image.metadata @> metadata)) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSE
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word | image.code_4) # packed_1)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder
                        AND ((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))
                        AND (metadata IS NULL OR image.metadata @> metadata)) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        END IF;
    ELSIF code_bits <= 128 THEN
        IF alone AND NOT filtered THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF NOT filtered THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF labels IS NULL AND worst IS NULL AND alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder
                        AND image.metadata @> metadata) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF labels IS NULL AND worst IS NULL THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder
                        AND image.metadata @> metadata) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF worst IS NOT NULL AND alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );
        ELSIF worst IS NOT NULL THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE image.encoder_id = encoder) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );
        ELSIF alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder
                        AND ((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))
                        AND (metadata IS NULL OR image.metadata @> metadata)) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSE
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64)) + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder
                        AND ((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))
                        AND (metadata IS NULL OR image.metadata @> metadata)) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        END IF;
    ELSE
        IF alone AND NOT filtered THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF NOT filtered THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF labels IS NULL AND worst IS NULL AND alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder
                        AND image.metadata @> metadata) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF labels IS NULL AND worst IS NULL THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder
                        AND image.metadata @> metadata) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSIF worst IS NOT NULL AND alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );
        ELSIF worst IS NOT NULL THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE image.encoder_id = encoder) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );
        ELSIF alone THEN
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id + 0 = encoder
                        AND ((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))
                        AND (metadata IS NULL OR image.metadata @> metadata)) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        ELSE
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT (bit_count((image.code_1 # q1)::bit(64)) + bit_count((image.code_2 # q2)::bit(64)) + bit_count((image.code_3 # q3)::bit(64)) + bit_count((image.code_4 # q4)::bit(64))) << 54 | image.id AS key
                      FROM images AS image
                      WHERE image.encoder_id = encoder
                        AND ((SELECT labels IS NULL) OR image.label = ANY ((SELECT labels)::text[]))
                        AND (metadata IS NULL OR image.metadata @> metadata)) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );
        END IF;
    END IF;
END
$$;

CREATE FUNCTION public.tune_statements(encoder text, widths integer[] DEFAULT NULL::integer[], online boolean DEFAULT true, covering boolean DEFAULT NULL::boolean) RETURNS SETOF text
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $_$
#variable_conflict use_variable
DECLARE
    found encoders;
    row_count bigint;
    chosen smallint[];
    starts smallint[];
    layout_id integer;
    old integer;
BEGIN
    SELECT * INTO found FROM encoders WHERE name = encoder;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'There is no encoder %.', quote_literal(encoder) USING
            ERRCODE = 'RD001', HINT = 'SELECT name FROM encoders shows those there are.';
    END IF;
    IF (SELECT sum(width) FROM unnest(widths) AS width) > found.bits
       OR 1 > ANY (widths) OR 31 < ANY (widths)
       OR cardinality(widths) = 0 OR array_position(widths, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'Chunks have 1 to 31 bits, and together no more than the % of the code.',
            found.bits USING ERRCODE = 'RD003';
    END IF;
    chosen := widths;
    FOR old IN SELECT * FROM layout_leftovers() LOOP
        RETURN QUERY SELECT * FROM layout_drop_statements(old, online);
    END LOOP;
    covering := coalesce(
        covering,
        (SELECT own.covering FROM layouts AS own WHERE own.encoder_id = found.id AND own.active),
        true
    );
    SELECT count(*) INTO row_count FROM images WHERE encoder_id = found.id;
    IF chosen IS NULL THEN
        chosen := CASE WHEN covering THEN chunk_widths(found.bits, row_count)
                       ELSE compact_chunk_widths(found.bits, row_count) END;
    END IF;
    SELECT array_agg(before ORDER BY j) INTO starts
    FROM (SELECT j, (sum(width) OVER (ORDER BY j) - width)::smallint AS before
          FROM unnest(chosen) WITH ORDINALITY AS chunk (width, j)) AS placed;
    INSERT INTO layouts (encoder_id, bits, starts, widths, covering, row_count, shell_rows)
    VALUES (found.id, found.bits, starts, chosen, covering, row_count,
            layout_shell_rows(found.id, found.bits, starts, chosen, row_count))
    RETURNING id INTO layout_id;

    RETURN QUERY SELECT * FROM layout_index_statements(layout_id, online);
    RETURN NEXT layout_search_statement(layout_id);
    RETURN NEXT format(
        'DO $do$ BEGIN'
        -- One after the other: each writes the same function.
        ' LOCK TABLE %1$I.layouts IN SHARE ROW EXCLUSIVE MODE;'
        ' UPDATE %1$I.layouts SET active = false WHERE encoder_id = %2$s AND active;'
        ' UPDATE %1$I.layouts SET active = true WHERE id = %3$s;'
        ' EXECUTE %1$I.layout_dispatch_statement(); '
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
$_$;

CREATE TABLE public.chunk_flips (
    flips smallint NOT NULL,
    mask integer NOT NULL
);

COMMENT ON TABLE public.chunk_flips IS 'Masks of 0 to 4 bits: what the probes of a shell flip';

ALTER TABLE public.encoders ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.encoders_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.image_changes (
    transaction_id bigint NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    encoder_id integer,
    image_ids bigint[]
);

COMMENT ON TABLE public.image_changes IS 'The newest changes of images: one row for each statement and encoder';

COMMENT ON COLUMN public.image_changes.transaction_id IS 'of the changing transaction';

COMMENT ON COLUMN public.image_changes.encoder_id IS 'null: images of any encoder';

COMMENT ON COLUMN public.image_changes.image_ids IS 'null: too many to list, or any';

CREATE TABLE public.image_features (
    image_id bigint NOT NULL,
    feature public.halfvec NOT NULL
);
ALTER TABLE ONLY public.image_features ALTER COLUMN feature SET STORAGE MAIN;

COMMENT ON TABLE public.image_features IS 'The fine stage: a float vector for each image';

CREATE TABLE public.images (
    id bigint NOT NULL,
    encoder_id integer NOT NULL,
    bits smallint NOT NULL,
    code_1 bigint NOT NULL,
    code_2 bigint NOT NULL,
    code_3 bigint NOT NULL,
    code_4 bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    path text NOT NULL,
    label text,
    content_sha256 bytea,
    metadata jsonb,
    CONSTRAINT images_code_check CHECK (((bits = 256) OR (((((code_1 | code_2) | code_3) | code_4) >> (bits / 4)) = 0))),
    CONSTRAINT images_content_sha256_check CHECK ((octet_length(content_sha256) = 32)),
    CONSTRAINT images_id_check CHECK (((id >= 0) AND (id < '18014398509481984'::bigint)))
);

COMMENT ON TABLE public.images IS 'retrieval-db: one row for each image and encoder';

COMMENT ON COLUMN public.images.code_1 IS 'bits 0 to L/4-1, most significant first';

ALTER TABLE public.images ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.images_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.layouts (
    id integer NOT NULL,
    encoder_id integer,
    bits smallint NOT NULL,
    starts smallint[] NOT NULL,
    widths smallint[] NOT NULL,
    active boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    covering boolean DEFAULT true NOT NULL,
    row_count bigint,
    shell_rows bigint[],
    CONSTRAINT layouts_chunks_check CHECK (((cardinality(starts) = cardinality(widths)) AND (1 <= ALL (widths)) AND (31 >= ALL (widths))))
);

COMMENT ON TABLE public.layouts IS 'How codes are cut into the chunks that bucket indexes are on';

COMMENT ON COLUMN public.layouts.covering IS 'whether its indexes hold the whole code, or only where the rows are';

COMMENT ON COLUMN public.layouts.row_count IS 'the rows of its encoder when it was chosen';

COMMENT ON COLUMN public.layouts.shell_rows IS 'the most rows that a shell of 0, 1 .. 4 flips met then, as a sample says';

ALTER TABLE public.layouts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.layouts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.retrieval_db_features_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.retrieval_db_version (
    version_num character varying(32) NOT NULL
);

ALTER TABLE ONLY public.chunk_flips
    ADD CONSTRAINT chunk_flips_pkey PRIMARY KEY (flips, mask);

ALTER TABLE ONLY public.encoders
    ADD CONSTRAINT encoders_id_bits_key UNIQUE (id, bits);

ALTER TABLE ONLY public.encoders
    ADD CONSTRAINT encoders_name_key UNIQUE (name);

ALTER TABLE ONLY public.encoders
    ADD CONSTRAINT encoders_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.image_changes
    ADD CONSTRAINT image_changes_pkey PRIMARY KEY (transaction_id, id);

ALTER TABLE ONLY public.image_features
    ADD CONSTRAINT image_features_pkey PRIMARY KEY (image_id);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_encoder_id_path_key UNIQUE (encoder_id, path);

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.layouts
    ADD CONSTRAINT layouts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.retrieval_db_features_version
    ADD CONSTRAINT retrieval_db_features_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.retrieval_db_version
    ADD CONSTRAINT retrieval_db_version_pkc PRIMARY KEY (version_num);

CREATE INDEX images_bucket_1_1 ON public.images USING btree (encoder_id, ((code_1)::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 64);

CREATE INDEX images_bucket_1_2 ON public.images USING btree (encoder_id, ((code_2)::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 64);

CREATE INDEX images_bucket_1_3 ON public.images USING btree (encoder_id, ((code_3)::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 64);

CREATE INDEX images_bucket_1_4 ON public.images USING btree (encoder_id, ((code_4)::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 64);

CREATE INDEX images_bucket_2_1 ON public.images USING btree (encoder_id, (((code_1 >> 16))::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 128);

CREATE INDEX images_bucket_2_2 ON public.images USING btree (encoder_id, (((code_2 >> 16))::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 128);

CREATE INDEX images_bucket_2_3 ON public.images USING btree (encoder_id, (((code_3 >> 16))::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 128);

CREATE INDEX images_bucket_2_4 ON public.images USING btree (encoder_id, (((code_4 >> 16))::integer)) INCLUDE (id, code_1, code_2, code_3, code_4) WHERE (bits = 128);

CREATE INDEX images_encoder_id_label_idx ON public.images USING btree (encoder_id, label) WHERE (label IS NOT NULL);

CREATE UNIQUE INDEX layouts_bits_key ON public.layouts USING btree (bits) WHERE (active AND (encoder_id IS NULL));

CREATE UNIQUE INDEX layouts_encoder_id_key ON public.layouts USING btree (encoder_id) WHERE active;

CREATE TRIGGER images_delete_noted AFTER DELETE ON public.images REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_image_changes();

ALTER TABLE public.images ENABLE ALWAYS TRIGGER images_delete_noted;

CREATE TRIGGER images_insert_noted AFTER INSERT ON public.images REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_image_changes();

ALTER TABLE public.images ENABLE ALWAYS TRIGGER images_insert_noted;

CREATE TRIGGER images_rekey_noted AFTER UPDATE OF id, encoder_id ON public.images FOR EACH STATEMENT EXECUTE FUNCTION public.note_image_changes('anything');

ALTER TABLE public.images ENABLE ALWAYS TRIGGER images_rekey_noted;

CREATE TRIGGER images_truncate_noted AFTER TRUNCATE ON public.images FOR EACH STATEMENT EXECUTE FUNCTION public.note_image_changes('anything');

ALTER TABLE public.images ENABLE ALWAYS TRIGGER images_truncate_noted;

CREATE TRIGGER images_update_noted AFTER UPDATE ON public.images REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_image_changes();

ALTER TABLE public.images ENABLE ALWAYS TRIGGER images_update_noted;

ALTER TABLE ONLY public.image_features
    ADD CONSTRAINT image_features_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_encoder_id_bits_fkey FOREIGN KEY (encoder_id, bits) REFERENCES public.encoders(id, bits);

ALTER TABLE ONLY public.layouts
    ADD CONSTRAINT layouts_encoder_id_bits_fkey FOREIGN KEY (encoder_id, bits) REFERENCES public.encoders(id, bits) ON DELETE CASCADE;
