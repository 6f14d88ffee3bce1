"""The schema that all migrations make together, as `docs/schema.sql` shows it.

python -m tests.schema_snapshot     writes docs/schema.sql anew
"""

from __future__ import annotations

import re
import subprocess

from tests import postgres
from tests.conftest import ROOT

SNAPSHOT = ROOT / "docs" / "schema.sql"
HEAD = """\
-- All migrations together, as pg_dump of PostgreSQL 18 shows them. Written by
-- `python -m tests.schema_snapshot`; a test holds it against the migrations.

"""


def dump(cluster: postgres.Cluster, url: str) -> str:
    """The schema of a database, without what differs from machine to machine."""
    program = str(cluster.installation.program("pg_dump"))
    command = [program, "--schema-only", "--no-owner", "--no-privileges", "--dbname", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"^(--.*|\\(un)?restrict .*|SET .*|SELECT pg_catalog\.set_config.*)\n", "", text,
                  flags=re.MULTILINE)  # fmt: skip
    text = re.sub(r"^COMMENT ON EXTENSION .*\n", "", text, flags=re.MULTILINE)
    return HEAD + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> None:
    cluster = postgres.Cluster(postgres.DEFAULT_MAJOR)
    try:
        with cluster.database(cluster.template()) as url:
            SNAPSHOT.write_text(dump(cluster, url), encoding="utf-8")
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
