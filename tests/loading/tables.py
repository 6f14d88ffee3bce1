"""What stands in the tables after a load."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval_db.database import Connection


def rows_of(connection: Connection, columns: str = "path, code_1, code_2, code_3, code_4") -> Any:
    return connection.execute(f"SELECT {columns} FROM images ORDER BY id").fetchall()


def features_of(connection: Connection) -> dict[str, list[float]]:
    found = connection.execute(
        "SELECT path, feature::real[] FROM images JOIN image_features ON image_id = id"
    )
    return {path: np.array(feature, dtype=np.float16).tolist() for path, feature in found}
