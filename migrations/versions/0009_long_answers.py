"""Long answers by one reading of a small table, quicker rows, and less to look up."""

from alembic import context, op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# As in revision 0005, of figures that the caller has at hand: an expression is made part of the
# statement, while a function that reads a table is planned anew in each.
ESTIMATED_ROWS = """
CREATE FUNCTION estimated_rows(counted real, pages integer, bytes bigint, bytes_a_row integer)
RETURNS float8
    LANGUAGE sql STABLE
    RETURN CASE WHEN counted > 0 AND pages > 0
           THEN counted::float8 * (bytes / current_setting('block_size')::integer) / pages
           ELSE bytes / bytes_a_row::float8 END
"""

FORMER_SUBJECT = """\
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
"""
SUBJECT = """\
    SELECT named.id, named.bits, layout.id AS layout_id, layout.encoder_id IS NULL AS shared,
           cardinality(layout.widths) AS chunks,
           coalesce(estimated_rows(bucket.reltuples, bucket.relpages, pg_relation_size(bucket.oid),
                                   CASE WHEN layout.covering THEN 75 ELSE 12 END), 0)
               AS indexed_rows,
           estimated_rows(whole.reltuples, whole.relpages, pg_relation_size(whole.oid), 110)
               AS table_rows
    INTO subject
    FROM encoders AS named
    JOIN pg_class AS whole ON whole.oid = 'images'::regclass
    LEFT JOIN LATERAL (
        SELECT * FROM layouts
        WHERE active AND layouts.bits = named.bits
          AND (encoder_id = named.id OR encoder_id IS NULL)
        ORDER BY encoder_id LIMIT 1
    ) AS layout ON true
    LEFT JOIN pg_class AS bucket
        ON bucket.oid = to_regclass(format('images_bucket_%s_1', layout.id))
"""
# A small table with a filter is read without trying shells, also within a radius: where codes have
# collapsed, the estimate of the shells' price is far too low.
RUN_SEARCH_CHANGES = (
    (FORMER_SUBJECT, SUBJECT),
    ("table_rows := estimated_rows('images', 110);", "table_rows := subject.table_rows;"),
    ("price >= 4000 AND subject.ready AND", "price >= 4000 AND subject.chunks > 0 AND"),
    (
        "metadata IS NULL AND (k IS NULL OR labels IS NULL)) THEN",
        "metadata IS NULL AND labels IS NULL)\n"
        "       -- A layout counts once all its indexes are valid: tune builds them one by one.\n"
        "       AND NOT EXISTS (\n"
        "           SELECT FROM generate_series(1, subject.chunks) AS j\n"
        "           LEFT JOIN pg_index ON indexrelid\n"
        "               = to_regclass(format('images_bucket_%s_%s', subject.layout_id, j))\n"
        "           WHERE indisvalid IS NOT TRUE\n"
        "       ) THEN",
    ),
)

# The bound of the distances that are wanted is at hand, not computed for each row. With a filter
# shells in vain are dearer than without: fewer are tried before their price is held against that
# of reading the labelled rows.
LAYOUT_SEARCH_CHANGES = (
    ("FILTER (WHERE %s <= worst >> 54 AND", "FILTER (WHERE %s <= most AND"),
    (
        "    found bigint[];\n",
        "    most bigint := worst >> 54;                  -- of a distance that is wanted\n"
        "    found bigint[];\n",
    ),
    (
        "                row_price := met_price;\n",
        "                most := worst >> 54;\n                row_price := met_price;\n",
    ),
    (
        "CASE WHEN filtered OR all_rows < 30000 THEN 0.05 ELSE 0.1 END * scan_price;",
        "CASE WHEN filtered THEN 0.02 WHEN all_rows < 30000 THEN 0.05 ELSE 0.1 END\n"
        "                   * scan_price;",
    ),
)

# The planner takes an array for ten elements: it looks up ids one by one, and where a sum hides the
# column from its index it hashes the array and reads the table once. That is quicker for an
# answer of an eighth of the table.
SEARCH_CODES = """
CREATE OR REPLACE FUNCTION search_codes(
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
    keys bigint[];
    certain boolean;
    complete integer;
BEGIN
    SELECT run.keys, run.exact, run.guaranteed_radius INTO keys, certain, complete
    FROM run_search(encoder, q1, q2, q3, q4, k, search_codes.radius, labels, metadata,
                    max_candidates, max_ms, 0) AS run;
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
$$
"""


# A radius is tested before labels and metadata, which take longer: the planner sees no values and
# would put it after them.
RADIUS_FIRST = """
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT ({distance}) << 54 | image.id AS key, image.label, image.metadata
                      FROM images AS image
                      WHERE {rows}) AS best
                WHERE CASE WHEN best.key > worst THEN false
                      ELSE (labels IS NULL OR best.label = ANY (labels))
                           AND (metadata IS NULL OR best.metadata @> metadata) END
                ORDER BY best.key LIMIT keep
            );"""


def small_scan_keys() -> str:
    """The function of revision 0007, with branches for a radius and filters."""
    made = context.script.get_revision("0007").module
    text: str = made.SMALL_SCAN_KEYS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
    for distance in made.DISTANCES.values():
        alone, among = (
            RADIUS_FIRST.format(distance=distance, rows=rows) for rows in (made.ALONE, made.AMONG)
        )
        next_branch = "\n        ELSIF alone THEN" + made.STATEMENT.format(
            distance=distance, rows=made.ALONE + made.FILTERS
        )
        branches = (
            f"\n        ELSIF worst IS NOT NULL AND alone THEN{alone}"
            f"\n        ELSIF worst IS NOT NULL THEN{among}"
        )
        text = patched(text, (next_branch, branches + next_branch))
    return text


def patched(text: str, *changes: tuple[str, str]) -> str:
    """A function's text with parts of it replaced, each of which is there once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def of_0007(name: str) -> str:
    """A function's text as revision 0007 made it."""
    made = context.script.get_revision("0007").module
    for changed, revision, changes in made.CHANGED:
        if changed == name:
            return patched(made.earlier(revision, name), *changes)
    raise KeyError(name)


def upgrade() -> None:
    op.execute(ESTIMATED_ROWS)
    op.execute(patched(of_0007("RUN_SEARCH"), *RUN_SEARCH_CHANGES))
    op.execute("DROP FUNCTION estimated_rows(regclass, integer)")
    op.execute(patched(of_0007("LAYOUT_SEARCH_STATEMENT"), *LAYOUT_SEARCH_CHANGES))
    op.execute(small_scan_keys())
    op.execute(SEARCH_CODES)
    op.execute(context.script.get_revision("0005").module.REBUILD_SEARCHES)


def downgrade() -> None:
    op.execute("DROP FUNCTION small_scan_keys")
    op.execute(context.script.get_revision("0007").module.SMALL_SCAN_KEYS)
    op.execute(context.script.get_revision("0007").module.SEARCH_CODES)
    op.execute(of_0007("LAYOUT_SEARCH_STATEMENT"))
    op.execute(context.script.get_revision("0005").module.ESTIMATED_ROWS)
    op.execute(of_0007("RUN_SEARCH"))
    op.execute(context.script.get_revision("0005").module.REBUILD_SEARCHES)
    op.execute("DROP FUNCTION estimated_rows(real, integer, bigint, integer)")
