"""Small tables: plans made once, no shells in vain, and a hash join for long answers."""

from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Words are packed by a shift that is a parameter, so that one plan serves all widths.
DISTANCES = {
    "IF code_bits <= 64 THEN": (
        "bit_count(((((image.code_1 << word | image.code_2) << word | image.code_3) << word"
        " | image.code_4) # packed_1)::bit(64))"
    ),
    "ELSIF code_bits <= 128 THEN": (
        "bit_count(((image.code_1 << word | image.code_2) # packed_1)::bit(64))"
        " + bit_count(((image.code_3 << word | image.code_4) # packed_2)::bit(64))"
    ),
    "ELSE": " + ".join(f"bit_count((image.code_{n} # q{n})::bit(64))" for n in (1, 2, 3, 4)),
}

STATEMENT = """
            RETURN ARRAY(
                SELECT best.key
                FROM (SELECT ({distance}) << 54 | image.id AS key
                      FROM images AS image
                      WHERE {rows}) AS best
                WHERE worst IS NULL OR best.key <= worst
                ORDER BY best.key LIMIT keep
            );"""

FILTERS = """
                        AND (labels IS NULL OR image.label = ANY (labels))
                        AND (metadata IS NULL OR image.metadata @> metadata)"""

# Without a filter, read as the table stands or by the unique key; the same with filters.
ALONE, AMONG = "image.encoder_id + 0 = encoder", "image.encoder_id = encoder"
ROWS = {
    "IF alone AND NOT filtered THEN": ALONE,
    "ELSIF NOT filtered THEN": AMONG,
    "ELSIF alone THEN": ALONE + FILTERS,
    "ELSE": AMONG + FILTERS,
}


def branches() -> str:
    """A statement for each way of counting, and for each way of reading the rows."""
    text = ""
    for width, distance in DISTANCES.items():
        text += f"\n    {width}"
        for case, rows in ROWS.items():
            text += f"\n        {case}{STATEMENT.format(distance=distance, rows=rows)}"
        text += "\n        END IF;"
    return f"{text}\n    END IF;"


# The best keys of an encoder of few rows. `scan_keys` plans each time anew, which takes as long as
# reading a thousand rows, and longer with every bucket index of the table. `alone`: the table
# holds little else and is read as it stands; otherwise the rows are found by the unique key.
SMALL_SCAN_KEYS = f"""
CREATE FUNCTION small_scan_keys(
    encoder integer, code_bits integer, alone boolean,
    q1 bigint, q2 bigint, q3 bigint, q4 bigint,
    keep integer, worst bigint, labels text[], metadata jsonb
) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    filtered boolean := labels IS NOT NULL OR metadata IS NOT NULL;
    word integer := code_bits / 4;
    packed_1 bigint := CASE WHEN code_bits <= 64 THEN ((q1 << word | q2) << word | q3) << word | q4
                            ELSE q1 << word | q2 END;
    packed_2 bigint := q3 << word | q4;
BEGIN{branches()}
END
$$
"""

SCAN = """keys := scan_keys(subject.id, subject.bits, subject.shared, q1, q2, q3, q4,
                              keep, worst, labels, metadata);"""

# Under 30,000 rows no plan is so much better that it makes up for its planning.
SMALL_OR_LARGE_SCAN = f"""keys := CASE WHEN all_rows < 30000
                THEN small_scan_keys(subject.id, subject.bits, table_rows < 1.5 * all_rows,
                                     q1, q2, q3, q4, keep, worst, labels, metadata)
                ELSE {SCAN.removeprefix("keys := ").removesuffix(";")} END;"""

# A small table's scan is so quick that shells in vain are felt: none where a twentieth of the rows
# is wanted, or a filter makes the scan quicker and the shells dearer (a radius tells their price).
BUCKETS = "IF price >= 4000 AND subject.ready THEN"
BUCKETS_FOR_FEW = """\
IF price >= 4000 AND subject.ready AND (k IS NULL OR k < all_rows / 20)
       AND (all_rows >= 30000 OR metadata IS NULL AND (k IS NULL OR labels IS NULL)) THEN"""

# Without k the shells that a radius needs are known before the first.
SHELLS = "    WHILE guaranteed < reach LOOP\n        next_price := 'infinity';"
PRICED_SHELLS = f"""\
    IF k IS NULL AND all_rows < 100000 AND shells_price(
        reach + 1, widths, flips, next_probes, next_met, floor_rows, row_price
    ) > scan_price THEN
        stop := 'scan';
        RETURN;
    END IF;

{SHELLS}"""

# As with a filter, fewer are tried there before their price is held against the scan's.
FREE = "CASE WHEN filtered THEN 0.05"
FREE_OF_SMALL = "CASE WHEN filtered OR all_rows < 30000 THEN 0.05"

# A count that reached its bound is of at least so many rows, perhaps of all.
COUNTED = "RETURN count_labelled(encoder, wanted, (all_rows / 16)::bigint);"
COUNTED_OR_MANY = """\
counted := count_labelled(encoder, wanted, bound);
    RETURN CASE WHEN counted < bound THEN counted ELSE all_rows END;"""
DECLARED = "    share float8;\nBEGIN"
DECLARED_TOO = """\
    share float8;
    bound bigint := greatest(all_rows / 16, 2000);
    counted bigint;
BEGIN"""

# The planner takes an array for ten elements, and looks up ids one by one; a series of unknown
# length it takes for a thousand, for which it hashes a small table.
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
    IF cardinality(keys) < 300 THEN
        RETURN QUERY
        SELECT hit.rank, image.id, image.path, image.label, (hit.key >> 54)::integer,
               certain, complete
        FROM unnest(keys) WITH ORDINALITY AS hit (key, rank)
        JOIN images AS image ON image.id = (hit.key & ((1::bigint << 54) - 1))
        ORDER BY hit.rank;
    ELSE
        RETURN QUERY
        SELECT hit.rank::bigint, image.id, image.path, image.label,
               (keys[hit.rank] >> 54)::integer, certain, complete
        FROM generate_series(1, cardinality(keys)) AS hit (rank)
        JOIN images AS image ON image.id = (keys[hit.rank] & ((1::bigint << 54) - 1))
        ORDER BY hit.rank;
    END IF;
END
$$
"""


def earlier(number: str, name: str) -> str:
    """The text of a function as an earlier revision made it, to put it in the place of ours."""
    text: str = getattr(context.script.get_revision(number).module, name)
    return text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)


# Function, the revision that made it, and what is changed in it.
CHANGED = (
    ("RUN_SEARCH", "0005", ((SCAN, SMALL_OR_LARGE_SCAN), (BUCKETS, BUCKETS_FOR_FEW))),
    ("ESTIMATED_LABELLED", "0005", ((COUNTED, COUNTED_OR_MANY), (DECLARED, DECLARED_TOO))),
    ("LAYOUT_SEARCH_STATEMENT", "0005", ((SHELLS, PRICED_SHELLS), (FREE, FREE_OF_SMALL))),
)


def upgrade() -> None:
    op.execute(SMALL_SCAN_KEYS)
    for name, revision, changes in CHANGED:
        text = earlier(revision, name)
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        op.execute(text)
    op.execute(SEARCH_CODES)
    op.execute(context.script.get_revision("0005").module.REBUILD_SEARCHES)


def downgrade() -> None:
    op.execute(earlier("0003", "SEARCH_CODES"))
    for name, revision, _ in CHANGED:
        op.execute(earlier(revision, name))
    op.execute(context.script.get_revision("0005").module.REBUILD_SEARCHES)
    op.execute("DROP FUNCTION small_scan_keys")
