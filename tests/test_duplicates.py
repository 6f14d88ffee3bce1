"""Near-duplicates: every pair within the radius, each once, and the groups they form."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import codes
from retrieval_db.console.duplicates import since as parsed_since
from retrieval_db.database import Connection
from retrieval_db.duplicates import Group
from retrieval_db.errors import TooManyPairs, UnknownEncoder, UsageError
from retrieval_db.interchange import CodeSet
from tests import example

KINDS = ["uniform", "clustered", "equal"]


Paths = list[tuple[str, str, int]]


def brute_force(items: CodeSet, radius: int) -> Paths:
    """Paths and distances of all pairs; the first of a pair was loaded first."""
    distances = codes.hamming_distances(items.codes, items.codes)
    near = np.argwhere(np.triu(distances <= radius, k=1))
    return sorted((items.paths[a], items.paths[b], int(distances[a, b])) for a, b in near)


def found(connection: Connection, radius: int, encoder: str = "example", **more: Any) -> Paths:
    """What near_duplicates gives."""
    arguments = "".join(f", {name} => %({name})s" for name in more)
    rows = connection.execute(
        f"SELECT path_1, path_2, distance FROM near_duplicates(%(encoder)s, %(radius)s{arguments})",
        {"encoder": encoder, "radius": radius, **more},
    )
    return sorted((str(row[0]), str(row[1]), int(row[2])) for row in rows)


def components(pairs: Paths) -> list[set[str]]:
    """Connected components, largest first."""
    group_of: dict[str, set[str]] = {}
    for first, second, _ in pairs:
        joined = group_of.get(first, {first}) | group_of.get(second, {second})
        group_of.update(dict.fromkeys(joined, joined))
    return sorted({id(group): group for group in group_of.values()}.values(), key=len)[::-1]


def paths(groups: list[Group]) -> list[set[str]]:
    return [{image.path for image in group.images} for group in groups]


def planted(rows: int, bits: int, radius: int, seed: int = 0) -> CodeSet:
    """Uniform codes; every tenth is another one with up to radius + 2 bits flipped."""
    random = np.random.default_rng(seed)
    drawn = random.integers(0, 2, (rows, bits), dtype=np.uint8)
    for row in range(10, rows, 10):
        drawn[row] = drawn[random.integers(0, row)]
        drawn[row, random.choice(bits, random.integers(0, radius + 3), replace=False)] ^= 1
    return example.code_set(np.packbits(drawn, axis=1), bits)


class TestPairs:
    @pytest.mark.parametrize("bits", [4, 16, 64, 100, 128, 252, 256])
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_equal_brute_force(self, database_url: str, kind: str, bits: int) -> None:
        with example.connect(database_url) as connection:
            items = example.filled(connection, kind, 300, bits)
            for radius in [*range(9), 13, bits // 6]:
                assert found(connection, radius) == brute_force(items, radius), radius

    @pytest.mark.parametrize("bits", [64, 128, 256])
    @pytest.mark.parametrize("radius", [0, 1, 3, 7, 16])
    def test_many_codes_are_joined(self, database_url: str, bits: int, radius: int) -> None:
        with retrieval_db.connect(database_url) as db:
            items = planted(4000, bits, radius)
            db.load(items)
            assert found(db.connection, radius) == brute_force(items, radius)

    @pytest.mark.parametrize("bits", [16, 48, 128, 256])
    def test_every_way_to_cut_the_code_meets_each_pair_once(
        self, database_url: str, bits: int
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            items = planted(150, bits, 8)
            db.load(items)
            for radius in (1, 3, 5):
                wanted = brute_force(items, radius)
                for agree in (1, 2, 3):
                    for parts in range(1, radius + 2):
                        met = self.joined(db.connection, bits, radius, parts, agree)
                        assert met == wanted, (radius, parts, agree)

    def joined(
        self, connection: Connection, bits: int, radius: int, parts: int, agree: int
    ) -> Paths:
        rows: Paths = []
        for key, first in connection.execute(
            "SELECT key, first FROM near_duplicate_joins(%s, %s, %s, %s)",
            [bits, radius, parts, agree],
        ).fetchall():
            distance = "hamming_distance({})".format(
                ", ".join(f"{side}.code_{word}" for side in "ab" for word in range(1, 5))
            )
            sides = (key.replace("code_", "a.code_"), key.replace("code_", "b.code_"))
            statement = (
                f"SELECT a.path, b.path, {distance} FROM images a JOIN images b "
                f"ON {sides[0]} = {sides[1]} "
                f"WHERE a.id < b.id AND {distance} <= {radius} AND {first}"
            )
            rows += connection.execute(statement.encode()).fetchall()
        return sorted(rows)

    def test_the_way_is_chosen_by_cost(self, database_url: str) -> None:
        def chosen(bits: int, radius: int, new: float, all_: float) -> tuple[Any, ...]:
            row = connection.execute(
                "SELECT parts, agree, merge FROM near_duplicate_plan(%s, %s, %s, %s, 16, 0)",
                [bits, radius, new, all_],
            ).fetchone()
            assert row is not None
            return row

        with example.connect(database_url) as connection:
            assert chosen(128, 7, 100, 100) == (0, 0, False)
            assert chosen(128, 7, 1e6, 1e6)[1:] == (2, False)
            # Few new codes: chunks as narrow as the pigeonhole allows.
            assert chosen(128, 7, 1e3, 1e6)[1] == 1
            # Most of all pairs are near: nothing beats comparing them.
            assert chosen(16, 12, 5e4, 5e4)[1] == 0

    def test_codes_as_near_as_can_be_or_not_at_all(self, database_url: str) -> None:
        with example.connect(database_url) as connection:
            items = example.filled(connection, "uniform", 60, 16)
            assert found(connection, 16) == found(connection, 999) == brute_force(items, 16)
            assert len(found(connection, 16)) == 60 * 59 // 2
            example.filled(connection, "uniform", 1, 64, "single")
            assert found(connection, 64, "single") == []

    def test_every_version_of_postgresql(self, any_database_url: str) -> None:
        with example.connect(any_database_url) as connection:
            equal = example.filled(connection, "equal", 2500, 128)
            assert found(connection, 5) == brute_force(equal, 5)
            spread = example.filled(connection, "clustered", 2500, 64, "other")
            assert found(connection, 4, "other") == brute_force(spread, 4)
            last = found(connection, 4, "other", since_id=4990)
            recent = {f"other/{row}.jpg" for row in range(2490, 2500)}
            assert last == [p for p in brute_force(spread, 4) if recent & set(p[:2])]

    def test_encoders_are_kept_apart(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            loaded = [
                (name, example.filled(db.connection, "clustered", 200, bits, name))
                for name, bits in (("one", 64), ("two", 64), ("three", 128))
            ]
            for name, items in loaded:
                assert found(db.connection, 9, name) == brute_force(items, 9)
            with pytest.raises(UnknownEncoder, match="one, three, two"):
                db.near_duplicates(radius=3)

    def test_an_empty_encoder(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 5, 64)
            db.connection.execute("DELETE FROM images")
            assert db.near_duplicates(radius=7) == []
            assert db.duplicate_groups(radius=7) == []

    def test_python_gives_the_nearest_first(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, "clustered", 300, 64)
            pairs = db.near_duplicates(radius=8)
            assert [(pair.distance, pair.image_id_1, pair.image_id_2) for pair in pairs] == sorted(
                (pair.distance, pair.image_id_1, pair.image_id_2) for pair in pairs
            )
            assert all(pair.image_id_1 < pair.image_id_2 for pair in pairs)
            assert sorted(
                (pair.path_1, pair.path_2, pair.distance) for pair in pairs
            ) == brute_force(items, 8)


class TestSince:
    @pytest.mark.parametrize("kind", KINDS)
    def test_only_pairs_with_a_new_image(self, database_url: str, kind: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.code_set(example.random_codes(kind, 900, 64), 64)
            db.load(items.take(slice(0, 700)))
            row = db.connection.execute("SELECT max(id), clock_timestamp() FROM images").fetchone()
            assert row is not None
            last, time = row
            db.load(items.take(slice(700, 900)))
            new = set(items.paths[700:])
            wanted = [pair for pair in brute_force(items, 6) if new & set(pair[:2])]
            assert found(db.connection, 6, since_id=last) == wanted
            assert found(db.connection, 6, since=time) == wanted
            assert len(db.near_duplicates(radius=6, since=last)) == len(wanted)
            groups = db.duplicate_groups(radius=6, since=time)
            assert sorted(map(sorted, paths(groups))) == sorted(map(sorted, components(wanted)))
            future = time + timedelta(days=1)
            assert db.near_duplicates(radius=6, since=future) == []
            assert db.duplicate_groups(radius=6, since=future) == []

    def test_times_have_a_zone(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 5, 64)
            with pytest.raises(UsageError, match="zone"):
                db.near_duplicates(radius=1, since=datetime(2025, 1, 1))

    def test_what_a_user_writes(self) -> None:
        assert parsed_since(None) is None
        assert parsed_since("17") == 17
        time = parsed_since("2025-01-31T12:00+02:00")
        assert isinstance(time, datetime)
        assert time.utcoffset() == timedelta(hours=2)
        local = parsed_since("2025-01-31")
        assert isinstance(local, datetime)
        assert local.tzinfo is not None
        with pytest.raises(UsageError, match="yesterday"):
            parsed_since("yesterday")


class TestLimits:
    def test_too_long_a_list_is_refused_with_its_cure(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, "equal", 500, 64)
            count = len(brute_force(items, 0))
            assert len(db.near_duplicates(radius=0, max_pairs=count)) == count
            with pytest.raises(TooManyPairs, match=r"--group.*smaller radius"):
                db.near_duplicates(radius=0, max_pairs=count - 1)
            with pytest.raises(psycopg.Error) as caught:
                db.connection.execute("SELECT near_duplicates('example', 0, max_pairs => 10)")
            assert caught.value.sqlstate == "RD005"
            # Equal codes are no pairs of codes.
            assert len(db.duplicate_groups(radius=0, max_pairs=0)) == 10

    def test_too_many_pairs_of_codes(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, "uniform", 100, 128)
            pairs = len(brute_force(items, 60))
            assert db.duplicate_groups(radius=60, max_pairs=pairs)
            with pytest.raises(TooManyPairs, match="smaller radius"):
                db.duplicate_groups(radius=60, max_pairs=pairs - 1)

    def test_what_cannot_be_answered(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 5, 64)
            with pytest.raises(UsageError, match="at least 0"):
                db.near_duplicates(radius=-1)
            with pytest.raises(UsageError, match="at least 0"):
                db.duplicate_groups(radius=-1)
            with pytest.raises(UnknownEncoder, match="nobody"):
                db.near_duplicates(encoder="nobody", radius=1)
            for call in ("near_duplicates('nobody', 1)", "equal_codes('nobody')"):
                with pytest.raises(psycopg.Error) as caught:
                    db.connection.execute(f"SELECT {call}".encode())
                assert caught.value.sqlstate == "RD001"

    def test_the_largest_numbers(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, "uniform", 30, 16)
            pairs = brute_force(items, 16)
            for call in (
                "near_duplicates('example', 2147483647)",
                "near_duplicates('example', 16, max_pairs => 9223372036854775807)",
                "near_duplicates('example', 16, max_pairs => NULL)",
                "near_duplicate_codes('example', 16, max_pairs => 9223372036854775807)",
            ):
                rows = db.connection.execute(f"SELECT * FROM {call}".encode()).fetchall()
                assert len(rows) == len(pairs)
            assert len(db.near_duplicates(radius=10**12, max_pairs=2**63)) == len(pairs)
            radius: Any = np.int64(16)
            assert db.duplicate_groups(radius=radius, max_pairs=2**70)

    def test_since_is_an_id_or_a_time(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 30, 16)
            later: Any = np.int64(10**9)
            assert db.near_duplicates(radius=16, since=later) == []
            for wrong in ("2030-01-01", 1.5, True):
                since: Any = wrong
                with pytest.raises(UsageError, match="since, an id or a time, is a whole number"):
                    db.near_duplicates(radius=16, since=since)


class TestGroups:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("radius", [0, 3, 8])
    def test_they_are_the_connected_components(
        self, database_url: str, kind: str, radius: int
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, kind, 400, 64)
            pairs = brute_force(items, radius)
            groups = db.duplicate_groups(radius=radius)
            assert sorted(map(sorted, paths(groups))) == sorted(map(sorted, components(pairs)))
            order = [(-len(group.images), group.images[0].image_id) for group in groups]
            assert order == sorted(order)
            farthest: dict[str, int] = defaultdict(int)
            group_of = {image.path: n for n, g in enumerate(groups) for image in g.images}
            for first, _, distance in pairs:
                name = f"{group_of[first]}"
                farthest[name] = max(farthest[name], distance)
            rows = {path: row for row, path in enumerate(items.paths)}
            for number, group in enumerate(groups):
                assert group.distance == farthest[str(number)]
                own = items.codes[[rows[image.path] for image in group.images]]
                assert group.codes == len(np.unique(own, axis=0))
                assert [image.image_id for image in group.images] == sorted(
                    image.image_id for image in group.images
                )
                assert group.images[0].label == f"label {rows[group.images[0].path] % 7}"

    def test_within_a_transaction_of_the_caller(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db, db.connection.transaction():
            db.connection.execute("SELECT 1")
            example.filled(db.connection, "equal", 20, 64)
            assert len(db.duplicate_groups(radius=0)) == 4

    def test_learned_codes(self, database_url: str, data_dir: Path) -> None:
        words = np.load(data_dir / "codes" / "sun397_dplm128.npy")
        packed = codes.from_words(words.astype(np.int64), 128)
        with retrieval_db.connect(database_url) as db:
            db.load(example.code_set(packed, 128))
            groups = db.duplicate_groups(radius=7)
            with pytest.raises(TooManyPairs):
                db.near_duplicates(radius=0)
        shown = sum(len(group.images) for group in groups)
        alone = len(packed) - shown
        distinct = np.unique(packed, axis=0)
        assert sum(group.codes for group in groups) + alone == len(distinct)
        near = codes.hamming_distances(distinct[:200], distinct)
        assert max(group.distance for group in groups) == 7
        assert alone <= int((np.sort(near, axis=1)[:, 1] > 7).sum()) / 200 * len(distinct) * 2


class TestRights:
    def test_a_reader_needs_select_only(self, database_url: str) -> None:
        with example.connect(database_url) as connection:
            items = example.filled(connection, "equal", 300, 64)
            row = connection.execute("SELECT current_database()").fetchone()
            assert row is not None
            role = f"reader_of_{row[0]}"
            connection.execute(f"CREATE ROLE {role} LOGIN".encode())
            connection.execute(f"GRANT SELECT ON images, encoders TO {role}".encode())
            connection.execute("GRANT SELECT ON retrieval_db_version TO PUBLIC")
            # Without this right a temporary table is refused.
            connection.execute(f"REVOKE TEMPORARY ON DATABASE {row[0]} FROM PUBLIC".encode())
        try:
            url = database_url.replace("postgres@", f"{role}@", 1)
            with example.connect(url) as connection:
                connection.execute("SET default_transaction_read_only = on")
                encoder = retrieval_db.encoders.find(connection, "example")
                assert found(connection, 5) == brute_force(items, 5)
                assert retrieval_db.duplicates.groups(connection, encoder, 5)
        finally:
            with example.connect(database_url) as connection:
                connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())

    def test_nothing_in_the_session_changes(self, database_url: str) -> None:
        names = ("enable_hashjoin", "enable_mergejoin", "enable_nestloop", "work_mem", "jit")

        def settings() -> list[Any]:
            return [connection.execute(f"SHOW {name}".encode()).fetchone() for name in names]

        with example.connect(database_url) as connection:
            example.filled(connection, "uniform", 3000, 128)
            before = settings()
            with connection.transaction():
                found(connection, 3)
                assert settings() == before
            assert settings() == before

    def test_another_schema_in_front_is_not_looked_at(self, database_url: str) -> None:
        with example.connect(database_url) as connection:
            items = example.filled(connection, "clustered", 50, 64)
            connection.execute("CREATE SCHEMA other; CREATE TABLE other.images (id integer)")
            connection.execute("SET search_path = other, public")
            assert found(connection, 9) == brute_force(items, 9)


class TestDefaultRadius:
    @pytest.mark.parametrize(
        ("name", "bits", "radius"), [("phash64", 64, 6), ("phash256", 256, 24), ("PDQ", 256, 31)]
    )
    def test_perceptual_hashes_have_one(
        self, database_url: str, name: str, bits: int, radius: int
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            items = planted(200, bits, radius)
            db.load(items, encoder=name)
            assert len(db.near_duplicates()) == len(brute_force(items, radius))

    def test_learned_codes_have_none(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 5, 128)
            with pytest.raises(UsageError, match="--radius"):
                db.near_duplicates()
            with pytest.raises(UsageError, match="--radius"):
                db.duplicate_groups()
