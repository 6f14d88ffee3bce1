"""Arguments that mean nothing are refused; temporary tables come last, and any schema's name does.

A word of a query that is NULL, as a subquery without a row gives it, was "nothing found", and a
horizon that is none was "up to date".
"""

from alembic import context, op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Thirty years are no limit, and an interval of more milliseconds is none.
RUN_SEARCH_CHANGES = (
    (
        "    deadline timestamptz := clock_timestamp() + max_ms * interval '1 ms';\n",
        "    deadline timestamptz := clock_timestamp()\n"
        "        + CASE WHEN max_ms < 1e12 THEN greatest(max_ms, 0) END * interval '1 ms';\n",
    ),
    (
        "    IF subject.bits < 256 AND (q1 | q2 | q3 | q4) >>",
        "    IF max_ms = 'NaN' THEN\n"
        "        RAISE EXCEPTION 'max_ms is not a number.' USING ERRCODE = 'RD003';\n"
        "    END IF;\n"
        "    IF q1 IS NULL OR q2 IS NULL OR q3 IS NULL OR q4 IS NULL THEN\n"
        "        RAISE EXCEPTION 'A word of the query is NULL.' USING ERRCODE = 'RD003',\n"
        "            HINT = 'A subquery gives NULL where it finds no row.';\n"
        "    END IF;\n"
        "    IF subject.bits < 256 AND (q1 | q2 | q3 | q4) >>",
    ),
)

FORMER_CHECK = """\
    IF (SELECT sum(width) FROM unnest(chosen) AS width) > found.bits
       OR 1 > ANY (chosen) OR 31 < ANY (chosen) THEN
        RAISE EXCEPTION 'Chunks have 1 to 31 bits, and together no more than the % of the code.',
            found.bits USING ERRCODE = 'RD003';
    END IF;
"""
CHECK = FORMER_CHECK.replace("chosen", "widths").replace(
    "31 < ANY (widths) THEN",
    "31 < ANY (widths)\n"
    "       OR cardinality(widths) = 0 OR array_position(widths, NULL) IS NOT NULL THEN",
)
LEFTOVERS = "    FOR old IN SELECT * FROM layout_leftovers() LOOP\n"
TUNE_CHANGES = (
    ("    chosen smallint[] := widths;\n", "    chosen smallint[];\n"),
    (FORMER_CHECK, ""),
    (LEFTOVERS, f"{CHECK}    chosen := widths;\n{LEFTOVERS}"),
)

# No two codes are farther apart, and the largest numbers have no successor.
NEAR_DUPLICATE_SEARCH_CHANGES = (
    (
        "BEGIN\n    EXECUTE 'SELECT count(*) FROM images",
        "BEGIN\n"
        "    radius := least(radius, found.bits);\n"
        "    max_pairs := least(max_pairs, 9223372036854775806);\n"
        "    EXECUTE 'SELECT count(*) FROM images",
    ),
)
NEAR_DUPLICATES_CHANGES = (("LIMIT $5 + 1", "LIMIT least($5, 9223372036854775806) + 1"),)

# What is no horizon may lack any change.
CHANGES_SINCE_CHANGES = (
    (
        "       OR horizon -> 'tables' <> jsonb_build_array(",
        "       OR encoder IS NULL\n"
        "       OR (jsonb_typeof(horizon -> 'settled') = 'number'\n"
        "           AND jsonb_typeof(horizon -> 'own') = 'array'\n"
        "           AND jsonb_typeof(horizon -> 'seen') = 'array') IS NOT TRUE\n"
        "       OR horizon -> 'tables' IS DISTINCT FROM jsonb_build_array(",
    ),
    (
        "        RETURN QUERY SELECT NULL::bigint[];\n",
        "        RETURN QUERY SELECT NULL::bigint[];\n        RETURN;\n",
    ),
)

QUOTED_CHANGES = (
    ("current_schema()::regnamespace", "quote_ident(current_schema())::regnamespace"),
)
LAYOUT_SEARCH_CHANGES = (
    ("    SET search_path = @schema@\n", "    SET search_path = @schema@, pg_temp\n"),
)

# Functions found their tables along the path of whoever migrated, and a session's temporary
# tables before them.
SAFE_SEARCH_PATH = """
DO $$
DECLARE
    own record;
BEGIN
    FOR own IN
        SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = quote_ident(current_schema())::regnamespace
          AND (proname ~ '^search_layout_\\d+$' OR proname = ANY (ARRAY[
              'code_blocks', 'count_labelled', 'distance_expressions', 'equal_codes',
              'estimated_labelled', 'explain_search', 'image_changes_noted',
              'image_changes_since', 'image_horizon', 'labelled_keys',
              'layout_dispatch_statement', 'layout_drop_statements',
              'layout_index_statements', 'layout_leftovers', 'layout_search_statement',
              'layout_shell_rows', 'near_duplicate_codes', 'near_duplicate_encoder',
              'near_duplicate_joins', 'near_duplicate_lower_bound',
              'near_duplicate_members', 'near_duplicate_plan', 'near_duplicate_search',
              'near_duplicates', 'run_search', 'scan_keys', 'search_codes',
              'shells_price', 'small_scan_keys', 'tune_statements']))
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp',
                       own.name, current_schema());
    END LOOP;
END
$$
"""


def earlier(revision: str, name: str) -> str:
    """A function's text as an earlier revision made it, to put it in the place of ours."""
    text: str = context.script.get_revision("0008").module.earlier(revision, name)
    return text


def former() -> dict[str, str]:
    """What is changed, as revision 0012 left it."""
    made = context.script.get_revision("0011").module
    subject = context.script.get_revision("0009").module.SUBJECT
    changed = (subject, made.SUBJECT), *made.RUN_SEARCH_CHANGES
    return {
        "run_search": made.patched(made.run_search(), *changed),
        "tune_statements": made.patched(made.tune_statements(), *made.TUNE_CHANGES),
        "layout_search_statement": made.patched(
            made.layout_search_statement(), *made.LAYOUT_SEARCH_CHANGES
        ),
        "layout_drop_statements": earlier("0002", "LAYOUT_DROP_STATEMENTS"),
        "layout_leftovers": earlier("0002", "LAYOUT_LEFTOVERS"),
        "near_duplicate_search": earlier("0004", "NEAR_DUPLICATE_SEARCH"),
        "near_duplicates": earlier("0004", "NEAR_DUPLICATES"),
        "image_changes_since": earlier("0006", "IMAGE_CHANGES_SINCE"),
    }


CHANGES = {
    "run_search": RUN_SEARCH_CHANGES,
    "tune_statements": TUNE_CHANGES,
    "layout_search_statement": LAYOUT_SEARCH_CHANGES,
    "layout_drop_statements": QUOTED_CHANGES,
    "layout_leftovers": QUOTED_CHANGES,
    "near_duplicate_search": NEAR_DUPLICATE_SEARCH_CHANGES,
    "near_duplicates": NEAR_DUPLICATES_CHANGES,
    "image_changes_since": CHANGES_SINCE_CHANGES,
}


def upgrade() -> None:
    patched = context.script.get_revision("0009").module.patched
    for name, text in former().items():
        op.execute(patched(text, *CHANGES[name]))
    op.execute(context.script.get_revision("0005").module.REBUILD_SEARCHES)
    op.execute(SAFE_SEARCH_PATH)


def downgrade() -> None:
    for text in former().values():
        op.execute(text)
    op.execute(context.script.get_revision("0005").module.REBUILD_SEARCHES)
