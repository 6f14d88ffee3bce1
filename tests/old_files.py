"""Files as the MySQL-era system left them: dumps and pickles, written by rules of their own.

The dump follows the MySQL manual ("String Literals", "Hexadecimal Literals", "Comments") and is
written character by character, each in one of the ways that the manual allows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Path, then four words; None is NULL.
OldRow = tuple[str | None, int | None, int | None, int | None, int | None]

CREATE = """CREATE TABLE `img` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `path` varchar(150) DEFAULT NULL COMMENT 'where, (it) is; `KEY`',
  `code_1` bigint(20) DEFAULT NULL,
  `code_2` bigint(20) DEFAULT NULL,
  `code_3` bigint(20) DEFAULT NULL,
  `code_4` bigint(20) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `codes` (`code_1`,`code_2`)
) ENGINE=MyISAM AUTO_INCREMENT=108755 DEFAULT CHARSET=utf8mb4;
"""

# Statements between those of the table, whose texts and comments look like what they are not.
OTHERS = (
    "INSERT INTO `other` VALUES (1,'); INSERT INTO img VALUES (9,\\'x\\',1,1,1,1);','--'),"
    "(2,\"''\",'/*');",
    "INSERT INTO other VALUES ('it''s \\\\'),('#');",
    "-- INSERT INTO img VALUES (1,'comment',1,1,1,1);\n",
    "# it's a comment\n",
    "/* a ; comment ' with ` quotes */",
    "/*!40000 ALTER TABLE `img` DISABLE KEYS */;",
    "/*M!999999\\- enable the sandbox mode */ \n",
    "/*!50003 CREATE*/ /*!50017 DEFINER=`me`@`%`*/ /*!50003 TRIGGER t AFTER INSERT ON img FOR EACH "
    "ROW INSERT INTO log VALUES ('*/ ;') */;",
    "DELIMITER ;;\nCREATE PROCEDURE p() BEGIN\n INSERT INTO img VALUES (7,'p',1,1,1,1);\n END ;;\n"
    "DELIMITER ;\n",
    "LOCK TABLES `img` WRITE;",
    "SET @saved = 'a;b';",
    "CREATE TABLE `img``2` (`path` text);",
    "INSERT INTO `img``2` VALUES ('other');",
    "UPDATE other SET a = 1 - -1;",
    ";",
)

SPECIAL = {"\0": "\\0", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1a": "\\Z"}


@dataclass(frozen=True)
class Style:
    """How a dump is written: plainly, as `mysqldump` does, or in any way that is allowed."""

    random: random.Random | None = None

    def pick(self, *ways: str) -> str:
        """The first way, or any."""
        return ways[0] if self.random is None else self.random.choice(ways)

    def gap(self) -> str:
        """White space and comments, where they may stand."""
        return self.pick("", "", "", " ", "\n", "\t", "/* , ( ' */", " -- ) ;\n", "#'\n")

    def text(self, value: str) -> str:
        """A text literal."""
        if self.random is not None and self.random.random() < 0.1:
            return f"0x{value.encode().hex()}" if value else "x''"
        quote = self.pick("'", "'", '"')
        inner = "".join(self._character(one, quote) for one in value)
        return self.pick("", "", "_utf8mb4", "_utf8mb4 ") + quote + inner + quote

    def _character(self, one: str, quote: str) -> str:
        if one == quote:
            return self.pick("\\" + one, 2 * one)
        if one in "'\"":
            return self.pick("\\" + one, one)
        if one == "\\":
            return "\\\\"
        if one in SPECIAL:
            return self.pick(SPECIAL[one], one) if one != "\0" else SPECIAL[one]
        if one.isalpha() and one not in "0bnrtZ" and one.isascii():
            return self.pick(one, one, one, one, "\\" + one)
        return one

    def integer(self, value: int) -> str:
        """An integer literal."""
        ways = [str(value), str(value), f"'{value}'"]
        return self.pick(*ways, *([f"0x{value:x}"] if value >= 0 else []))

    def row(self, number: int, row: OldRow, columns: Sequence[str]) -> str:
        """A row between its parentheses."""
        literals = {"id": str(number), "path": "NULL" if row[0] is None else self.text(row[0])}
        for name, word in zip(("code_1", "code_2", "code_3", "code_4"), row[1:], strict=True):
            literals[name] = "NULL" if word is None else self.integer(word)
        cells = [f"{self.gap()}{literals.get(name, '1.5e3')}{self.gap()}" for name in columns]
        return "(" + ",".join(cells) + ")"


PLAIN = Style()
COLUMNS = ("id", "path", "code_1", "code_2", "code_3", "code_4")


def dump(
    rows: Sequence[OldRow], style: Style = PLAIN, *, at_once: int = 1000, create: bool = True
) -> bytes:
    """A dump of the table `img` among other things."""
    parts = [
        "-- MySQL dump 10.13  Distrib 5.7.31, for Linux (x86_64)\n--\n-- Host: localhost\n\n"
        "/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;\n"
        "/*!40101 SET NAMES utf8mb4 */;\nDROP TABLE IF EXISTS `img`;\n"
    ]
    parts += [CREATE] if create else []
    for start in range(0, len(rows), at_once):
        parts.append(style.pick("", *OTHERS))
        columns = list(COLUMNS)
        named = style.random is not None and style.random.random() < 0.5
        if style.random is not None and named:
            columns.append("extra")
            style.random.shuffle(columns)
        parts.append(
            style.pick(
                "INSERT INTO", "insert  into", "INSERT IGNORE INTO", "REPLACE INTO", "REPLACE"
            )
            + style.pick(" `img`", " img", "\n`db`.`img` ", ' "img" ')
        )
        if named:
            quoted = [style.pick(f"`{name}`", name, name.upper()) for name in columns]
            parts.append(f" ({style.pick(', ', ',').join(quoted)})")
        parts.append(style.pick(" VALUES ", " values\n", "/**/VALUE"))
        parts.append(
            (style.gap() + ",").join(
                style.gap() + style.row(start + at, row, columns)
                for at, row in enumerate(rows[start : start + at_once], start=1)
            )
        )
        parts.append(style.pick("", " ON DUPLICATE KEY UPDATE path='),(;'") + style.gap() + ";\n")
    parts.append("/*!40000 ALTER TABLE `img` ENABLE KEYS */;\nUNLOCK TABLES;\n-- Dump completed\n")
    return "".join(parts).encode()
