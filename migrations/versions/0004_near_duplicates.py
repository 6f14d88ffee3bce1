"""Near-duplicates: `near_duplicates`, `near_duplicate_codes` and `equal_codes`."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Called by near_duplicate_joins: the code cut into blocks of equal width, and for each the SQL
# of its value (`code_` stands for the columns) and of the test that a pair agrees in it.
CODE_BLOCKS = """
CREATE FUNCTION code_blocks(
    bits integer, blocks integer, value_bits integer,
    OUT block integer, OUT value text, OUT equal text
) RETURNS SETOF record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path FROM CURRENT
AS $$
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
$$
"""

# Called by near_duplicate_search. Exactness is the pigeonhole's: the code is cut into `parts`;
# part j has e_j + agree - 1 blocks, and the e_j together are radius + 1. If e_j or more blocks
# of each part differed, the distance would exceed the radius. So in some part at least `agree`
# blocks are equal, and equi-joins on all combinations of `agree` blocks of one part meet every
# pair. With agree = 1 these are radius + 1 joins on chunks; larger values have more joins on
# wider keys, which meet fewer pairs by chance. `first` is true in the first join that meets a
# pair: it counts once. `middle` is the bit in the middle of the key. With agree = 0 there is one
# join, of all with all.
NEAR_DUPLICATE_JOINS = """
CREATE FUNCTION near_duplicate_joins(
    bits integer, radius integer, parts integer, agree integer,
    OUT key text, OUT first text, OUT middle integer
) RETURNS SETOF record
    LANGUAGE plpgsql IMMUTABLE
    SET search_path FROM CURRENT
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
$$
"""

# Called by near_duplicate_search: the cheapest way to cut the code. The unit of cost is a row
# that is hashed and probed; measured on 10^6 codes, where a hash join's further pairs cost .3
# each (they lie anywhere in memory), a merge join's .1 (they are met in order, but two sorts come
# first), a nested loop's .08, and a statement about 1,000. agree = 0 is the nested loop. Learned
# codes meet more often than by chance: as often as if only `bits_of_16` of 16 bits counted, and
# at least as often as two of them have an equal word, however wide the key is.
NEAR_DUPLICATE_PLAN = """
CREATE FUNCTION near_duplicate_plan(
    bits integer, radius integer, outer_codes double precision, inner_codes double precision,
    bits_of_16 double precision, equal_words double precision,
    OUT parts integer, OUT agree integer, OUT merge boolean, OUT cost double precision
)
    LANGUAGE sql IMMUTABLE
    SET search_path FROM CURRENT
BEGIN ATOMIC
    WITH cut AS (
        SELECT p AS parts, agree, e.blocks + agree - 1 AS blocks, (radius + 1) % p AS larger,
               outer_codes * inner_codes * greatest(equal_words, power(
                   2, -bits_of_16 / 16 * least(62, agree * floor(
                       bits / (radius + 1 + p * (agree - 1)))))) AS met
        FROM generate_series(1, least(radius + 1, bits)) AS p,
             generate_series(1, 3) AS agree,
             LATERAL (SELECT (radius + 1) / p AS blocks) AS e
        WHERE agree > 1 OR p = radius + 1
    ), counted AS (
        -- The number of joins: combinations of `agree` blocks, in the larger parts and the others.
        SELECT parts, agree, met,
               larger * CASE agree WHEN 1 THEN blocks + 1.0 WHEN 2 THEN (blocks + 1.0) * blocks / 2
                        ELSE (blocks + 1.0) * blocks * (blocks - 1) / 6 END
               + (parts - larger) * CASE agree WHEN 1 THEN blocks + 0.0
                                    WHEN 2 THEN blocks * (blocks - 1.0) / 2
                                    ELSE blocks * (blocks - 1.0) * (blocks - 2) / 6 END AS joins
        FROM cut
    ), related AS (
        -- Pairs that are near come to the costly tests in every join: .5 each.
        SELECT .5 * outer_codes * inner_codes * equal_words AS kin
    )
    SELECT parts, agree, merge, cost
    FROM (
        SELECT parts, agree, false AS merge,
               joins * (1000 + .4 * inner_codes + .6 * outer_codes + .3 * met + kin) AS cost
        FROM counted, related WHERE joins <= 1000
        UNION ALL
        SELECT parts, agree, true,
               joins * (1000 + .7 * inner_codes + .7 * outer_codes + .1 * met + kin)
        FROM counted, related WHERE joins <= 1000
        UNION ALL
        SELECT 0, 0, false, 1000 + .08 * outer_codes * inner_codes
    ) AS choice
    ORDER BY cost, agree, parts
    LIMIT 1;
END
"""

# Sorting one number for each row takes less than half the time of grouping by four columns;
# what has the same hash is then looked at more closely.
EQUAL_CODES = """
CREATE FUNCTION equal_codes(encoder text)
    RETURNS TABLE (image_id bigint, first_image_id bigint)
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path FROM CURRENT SET work_mem = '128MB' SET jit = off SET enable_hashagg = off
AS $$
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
$$
"""

# Called by the functions of near-duplicates: the encoder, once its arguments are found sane.
NEAR_DUPLICATE_ENCODER = """
CREATE FUNCTION near_duplicate_encoder(encoder text, radius integer) RETURNS encoders
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
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
$$
"""

# The engine under near_duplicate_codes and near_duplicates, told which images have the code of
# an earlier one, and which. Each distinct code is joined once, for learned codes repeat, and
# equal codes would meet in every join. Parallel workers help the joins (RETURN QUERY EXECUTE),
# hence PARALLEL UNSAFE: a caller that is parallel itself would take the workers away. The SET
# clauses of planner settings only keep what set_config changes inside the function.
NEAR_DUPLICATE_SEARCH = """
CREATE FUNCTION near_duplicate_search(
    encoder text, radius integer, since timestamptz, since_id bigint, max_pairs bigint,
    copies bigint[], firsts bigint[]
) RETURNS TABLE (image_id_1 bigint, image_id_2 bigint, distance integer)
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path FROM CURRENT SET work_mem = '128MB' SET jit = off
    SET enable_hashjoin = on SET enable_mergejoin = on SET enable_nestloop = on
AS $$
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
$$
"""

# Called by near_duplicate_search: which rows stand for their code, given two arrays of ids as
# $3 and $4. IS NOT TRUE is hashed on every version, <> ALL only from PostgreSQL 15 on.
NEAR_DUPLICATE_MEMBERS = """
CREATE FUNCTION near_duplicate_members(alias text, kept bigint[], copies bigint[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path FROM CURRENT
BEGIN ATOMIC
    SELECT CASE WHEN kept IS NOT NULL THEN alias || '.id = ANY ($3)'
                WHEN copies IS NOT NULL THEN '(' || alias || '.id = ANY ($4)) IS NOT TRUE'
                ELSE 'true' END;
END
"""

# Called by near_duplicate_search: the distance in that part of the code which is farthest from
# the join's key. Nearly all pairs that meet by chance are refused by this one bit_count.
NEAR_DUPLICATE_LOWER_BOUND = """
CREATE FUNCTION near_duplicate_lower_bound(bits integer, middle integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path FROM CURRENT
BEGIN ATOMIC
    SELECT format('bit_count((%s)::bit(64))', CASE
        WHEN bits > 128 THEN format('a.code_%1$s # b.code_%1$s', other)
        WHEN bits > 64 THEN format(
            '(a.code_%1$s # b.code_%1$s) << %3$s | (a.code_%2$s # b.code_%2$s)',
            other / 3 * 2 + 1, other / 3 * 2 + 2, bits / 4)
        ELSE format(
            '(a.code_1 # b.code_1) << %1$s | (a.code_2 # b.code_2) << %1$s '
            '| (a.code_3 # b.code_3) << %1$s | (a.code_4 # b.code_4)', bits / 4)
        END)
    FROM (SELECT (middle * 4 / bits + 2) % 4 + 1 AS other) AS word;
END
"""

NEAR_DUPLICATE_CODES = """
CREATE FUNCTION near_duplicate_codes(
    encoder text, radius integer,
    since timestamptz DEFAULT NULL, since_id bigint DEFAULT NULL,
    max_pairs bigint DEFAULT 10000000
) RETURNS TABLE (image_id_1 bigint, image_id_2 bigint, distance integer)
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path FROM CURRENT
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
$$
"""

# Pairs of images from pairs of codes: every image of the one with every image of the other,
# and the images of one code among each other.
NEAR_DUPLICATES = """
CREATE FUNCTION near_duplicates(
    encoder text, radius integer,
    since timestamptz DEFAULT NULL, since_id bigint DEFAULT NULL,
    max_pairs bigint DEFAULT 1000000
) RETURNS TABLE (
    image_id_1 bigint, image_id_2 bigint, path_1 text, path_2 text, distance integer
)
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path FROM CURRENT SET work_mem = '128MB' SET jit = off
AS $$
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
            LIMIT $5 + 1
        $query$ USING encoder, radius, since, since_id, max_pairs, copies, firsts;
        GET DIAGNOSTICS pairs = ROW_COUNT;
    END IF;
    IF pairs > max_pairs THEN
        RAISE EXCEPTION 'There are more than % pairs within % bits.', max_pairs, radius USING
            ERRCODE = 'RD005', HINT = 'Group them (near_duplicate_codes with equal_codes; '
            '`retrieval-db duplicates --group`), take a smaller radius, or raise max_pairs.';
    END IF;
END
$$
"""

COMMENTS = (
    "COMMENT ON FUNCTION near_duplicates IS "
    "'pairs of images within a radius, each once; since: with a row added at or after that time, "
    "since_id: after that row'",
    "COMMENT ON FUNCTION near_duplicate_codes IS "
    "'near_duplicates among distinct codes, each named by the lowest id of its images'",
    "COMMENT ON FUNCTION equal_codes IS "
    "'images whose code an image of lower id has, with the lowest such id'",
)

FUNCTIONS = (
    CODE_BLOCKS,
    NEAR_DUPLICATE_JOINS,
    NEAR_DUPLICATE_PLAN,
    NEAR_DUPLICATE_MEMBERS,
    NEAR_DUPLICATE_LOWER_BOUND,
    NEAR_DUPLICATE_ENCODER,
    EQUAL_CODES,
    NEAR_DUPLICATE_SEARCH,
    NEAR_DUPLICATE_CODES,
    NEAR_DUPLICATES,
)


def upgrade() -> None:
    for statement in (*FUNCTIONS, *COMMENTS):
        op.execute(statement)


def downgrade() -> None:
    for name in (
        "near_duplicates",
        "near_duplicate_codes",
        "near_duplicate_search",
        "equal_codes",
        "near_duplicate_encoder",
        "near_duplicate_lower_bound",
        "near_duplicate_members",
        "near_duplicate_plan",
        "near_duplicate_joins",
        "code_blocks",
    ):
        op.execute(f"DROP FUNCTION {name}")
