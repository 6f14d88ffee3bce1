"""Shells without a limit where the fullest buckets are known; less to look up and to merge."""

from alembic import context, op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE layouts ADD COLUMN row_count bigint, ADD COLUMN shell_rows bigint[]
"""
COMMENTS = (
    "COMMENT ON COLUMN layouts.row_count IS 'the rows of its encoder when it was chosen'",
    "COMMENT ON COLUMN layouts.shell_rows IS"
    " 'the most rows that a shell of 0, 1 .. 4 flips met then, as a sample says'",
)

# A shell of f flips reads so many of a chunk's buckets: at most the rows of the fullest ones. From
# as many rows as ANALYZE looks at.
LAYOUT_SHELL_ROWS = r"""
CREATE FUNCTION layout_shell_rows(
    encoder integer, bits integer, starts smallint[], widths smallint[], row_count bigint
) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET jit = off
AS $$
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
$$
"""

TUNE_CHANGES = (
    (
        "    IF chosen IS NULL THEN\n"
        "        SELECT count(*) INTO row_count FROM images WHERE encoder_id = found.id;\n",
        "    SELECT count(*) INTO row_count FROM images WHERE encoder_id = found.id;\n"
        "    IF chosen IS NULL THEN\n",
    ),
    ("starts, widths, covering)", "starts, widths, covering, row_count, shell_rows)"),
    (
        "chosen, covering) RETURNING id INTO layout_id;\n",
        "chosen, covering, row_count,\n"
        "            layout_shell_rows(found.id, found.bits, starts, chosen, row_count))\n"
        "    RETURNING id INTO layout_id;\n",
    ),
    (
        "        ' UPDATE %1$I.layouts SET active = true WHERE id = %3$s; '\n"
        "        'END $do$', current_schema(), found.id, layout_id);\n",
        "        ' UPDATE %1$I.layouts SET active = true WHERE id = %3$s;'\n"
        "        ' EXECUTE %1$I.layout_dispatch_statement(); '\n"
        "        'END $do$', current_schema(), found.id, layout_id);\n",
    ),
    (
        "        'DO $do$ BEGIN'\n",
        "        'DO $do$ BEGIN'\n"
        "        -- One after the other: each writes the same function.\n"
        "        ' LOCK TABLE %1$I.layouts IN SHARE ROW EXCLUSIVE MODE;'\n",
    ),
)

# To end a shell at a number of rows takes a node of the plan and a twelfth of its time. A table
# that has grown since its buckets were counted may have fuller ones.
FORMER_BRANCH = """\
            SELECT count(*), array_agg((%s) << 54 | bucket.id)
                   FILTER (WHERE %s <= most AND ((%s) << 54 | bucket.id) < worst)
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
"""
BRANCH = """\
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
"""
# The nearest rows are met in several chunks: mostly there is nothing new among what was found.
FORMER_MERGE = """\
        IF found IS NOT NULL THEN
            -- The same row may be met in two chunks; it has the same key.
            keys := ARRAY(
                SELECT DISTINCT every.key
                FROM (SELECT unnest(keys) AS key
                      UNION ALL
                      (SELECT unnest(found) AS key ORDER BY key LIMIT keep)) AS every
                ORDER BY every.key LIMIT keep
            );
"""
MERGE = """\
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
"""
LAYOUT_SEARCH_CHANGES = (
    ("        WHEN %s THEN\n", "        WHEN %1$s THEN\n"),
    (FORMER_BRANCH, BRANCH),
    (
        "    rows_met bigint;\n",
        "    rows_met bigint;\n"
        "    -- What a shell can meet, unless the table has grown.\n"
        "    fullest bigint[] := CASE WHEN all_rows < 1.1 * @row_count@ THEN '@shell_rows@' END;\n"
        "    cut boolean;\n",
    ),
    (
        "        flip := flips[j];\n",
        "        flip := flips[j];\n"
        "        cut := max_candidates IS NOT NULL\n"
        "               OR coalesce(fullest[flip + 1] >= allowed, true);\n",
    ),
    ("        IF rows_met >= allowed THEN ", "        IF cut AND rows_met >= allowed THEN "),
    (FORMER_MERGE, MERGE),
    ("replace(replace($template$", "replace(replace(replace(replace($template$"),
    (
        "        '@met_price@',",
        "        '@row_count@', coalesce(layout.row_count, 0)::text),\n"
        "        '@shell_rows@', coalesce(layout.shell_rows, '{}')::text),\n"
        "        '@met_price@',",
    ),
)

# A statement that names its function as text is parsed and planned in every search: a tenth of
# a millisecond, as long as a shell. So the functions are named where a plan is kept; a layout that
# is not among them is called as before.
LAYOUT_DISPATCH_STATEMENT = r"""
CREATE FUNCTION layout_dispatch_statement()
RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $generator$
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
-- Made by layout_dispatch_statement(). Calls the function of a layout.
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
$generator$
"""
MAKE_SEARCH_LAYOUT = "DO $$ BEGIN EXECUTE layout_dispatch_statement(); END $$"

# Short statements for what one statement looked up in four tables.
SUBJECT = """\
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
"""
FORMER_ROWS = """\
    all_rows := subject.indexed_rows;
    table_rows := subject.table_rows;
"""
ROWS = """\
    FOR j IN 1 .. coalesce(subject.chunks, 0) LOOP
        indexes[j] := to_regclass('images_bucket_' || subject.layout_id || '_' || j);
    END LOOP;
    SELECT estimated_rows(whole.reltuples, whole.relpages, pg_relation_size(whole.oid), 110),
           coalesce(estimated_rows(bucket.reltuples, bucket.relpages, pg_relation_size(bucket.oid),
                                   CASE WHEN subject.covering THEN 75 ELSE 12 END), 0)
    INTO table_rows, all_rows
    FROM pg_class AS whole LEFT JOIN pg_class AS bucket ON bucket.oid = indexes[1]
    WHERE whole.oid = 'images'::regclass;
"""
FORMER_CALL = """\
       -- A layout counts once all its indexes are valid: tune builds them one by one.
       AND NOT EXISTS (
           SELECT FROM generate_series(1, subject.chunks) AS j
           LEFT JOIN pg_index ON indexrelid
               = to_regclass(format('images_bucket_%s_%s', subject.layout_id, j))
           WHERE indisvalid IS NOT TRUE
       ) THEN
        EXECUTE format('SELECT * FROM search_layout_%s'
                       '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)',
                       subject.layout_id)
        INTO found
        USING subject.id, q1, q2, q3, q4, k, ties, radius, labels, metadata, max_candidates,
              deadline, all_rows, price;
"""
CALL = """\
    THEN
        -- A layout counts once all its indexes are valid: tune builds them one by one.
        SELECT count(*) = subject.chunks INTO ready
        FROM pg_index WHERE indexrelid = ANY (indexes) AND indisvalid;
    END IF;
    IF ready THEN
        found := search_layout(subject.layout_id, subject.id, q1, q2, q3, q4, k, ties, radius,
                               labels, metadata, max_candidates, deadline, all_rows, price);
"""
RUN_SEARCH_CHANGES = (
    (FORMER_ROWS, ROWS),
    (
        "IF EXISTS (SELECT FROM encoders WHERE id <> subject.id) THEN",
        "IF subject.among_others THEN",
    ),
    (
        "    worst bigint;\n",
        "    worst bigint;\n    indexes oid[];                     -- of the layout\n"
        "    ready boolean := false;            -- whether all of them are there\n",
    ),
    (FORMER_CALL, CALL),
)

# A record that is assigned needs no plan of its own.
FORMER_RUN = """\
    SELECT run.keys, run.exact, run.guaranteed_radius INTO keys, certain, complete
    FROM run_search(encoder, q1, q2, q3, q4, k, search_codes.radius, labels, metadata,
                    max_candidates, max_ms, 0) AS run;
"""
RUN = """\
    run := run_search(encoder, q1, q2, q3, q4, k, search_codes.radius, labels, metadata,
                      max_candidates, max_ms, 0);
    keys := run.keys;
    certain := run.exact;
    complete := run.guaranteed_radius;
"""
SEARCH_CODES_CHANGES = (
    (FORMER_RUN, RUN),
    ("    keys bigint[];\n", "    run record;\n    keys bigint[];\n"),
)


# With metadata alone to look at, labels are not asked about for each row. And rows among others are
# read page by page, not key by key.
METADATA = "\n                        AND image.metadata @> metadata"
BY_KEY = "    SET enable_seqscan = off\n"
BY_PAGE = BY_KEY + "    SET enable_indexscan = off\n"


def small_scans_by_page(text: str) -> str:
    """`small_scan_keys` with bitmaps and with statements for metadata alone."""
    text = patched(text, (BY_KEY, BY_PAGE))
    made = context.script.get_revision("0007").module
    for distance in made.DISTANCES.values():
        alone, among = (
            made.STATEMENT.format(distance=distance, rows=rows + METADATA)
            for rows in (made.ALONE, made.AMONG)
        )
        radius = context.script.get_revision("0009").module.RADIUS_FIRST.format(
            distance=distance, rows=made.ALONE
        )
        next_branch = f"\n        ELSIF worst IS NOT NULL AND alone THEN{radius}"
        branches = (
            f"\n        ELSIF labels IS NULL AND worst IS NULL AND alone THEN{alone}"
            f"\n        ELSIF labels IS NULL AND worst IS NULL THEN{among}"
        )
        text = patched(text, (next_branch, branches + next_branch))
    return text


def small_scan_keys() -> str:
    """The function as revision 0010 made it."""
    made = context.script.get_revision("0010").module
    text: str = made.small_scan_keys().replace(made.TESTED, made.ASKED_ONCE)
    return text


def run_search() -> str:
    """The function as revision 0010 made it."""
    made = context.script.get_revision("0010").module
    text: str = patched(made.run_search(), (made.SHARE, made.SHARE_AMONG_OTHERS))
    return text


def layout_search_statement() -> str:
    """The function as revision 0009 made it."""
    made = context.script.get_revision("0009").module
    return patched(made.of_0007("LAYOUT_SEARCH_STATEMENT"), *made.LAYOUT_SEARCH_CHANGES)


def tune_statements() -> str:
    """The function as revision 0008 made it."""
    made = context.script.get_revision("0008").module
    return patched(
        made.earlier("0005", "TUNE_STATEMENTS"),
        (made.KIND, "covering"),
        (made.CHOSEN, made.CHOSEN_BY_KIND),
        (made.COUNTED, f"    covering := {made.KIND};\n{made.COUNTED}"),
    )


def search_codes() -> str:
    """The function as revision 0009 made it."""
    text: str = context.script.get_revision("0009").module.SEARCH_CODES
    return text


def patched(text: str, *changes: tuple[str, str]) -> str:
    found: str = context.script.get_revision("0009").module.patched(text, *changes)
    return found


def upgrade() -> None:
    former_subject = context.script.get_revision("0009").module.SUBJECT
    for statement in (
        COLUMNS,
        *COMMENTS,
        LAYOUT_SHELL_ROWS,
        LAYOUT_DISPATCH_STATEMENT,
        patched(layout_search_statement(), *LAYOUT_SEARCH_CHANGES),
        patched(tune_statements(), *TUNE_CHANGES),
        context.script.get_revision("0005").module.REBUILD_SEARCHES,
        MAKE_SEARCH_LAYOUT,
        patched(run_search(), (former_subject, SUBJECT), *RUN_SEARCH_CHANGES),
        patched(search_codes(), *SEARCH_CODES_CHANGES),
        small_scans_by_page(small_scan_keys()),
    ):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        small_scan_keys(),
        search_codes(),
        run_search(),
        "DROP FUNCTION search_layout",
        tune_statements(),
        layout_search_statement(),
        context.script.get_revision("0005").module.REBUILD_SEARCHES,
        "DROP FUNCTION layout_dispatch_statement",
        "DROP FUNCTION layout_shell_rows",
        "ALTER TABLE layouts DROP COLUMN row_count, DROP COLUMN shell_rows",
    ):
        op.execute(statement)
