"""SQLite in each of its journal modes."""
import os
import sqlite3

from harness import check


def _integrity(path):
    connection = sqlite3.connect(path)
    result = connection.execute("pragma integrity_check").fetchall()
    rows = connection.execute("select count(*), sum(length(data)) from items").fetchone()
    connection.close()
    check(result == [("ok",)], f"{path}: integrity_check says {result}")
    return rows


def _sqlite(place, mode):
    volume = place.volume()
    path = volume.path("database")
    connection = sqlite3.connect(path, isolation_level=None)
    got = connection.execute(f"pragma journal_mode={mode}").fetchone()[0]
    check(got == mode, f"journal mode {mode} was refused: {got}")
    connection.execute("pragma synchronous=full")
    connection.execute("create table items(id integer primary key, name text unique, data blob)")
    for i in range(300):
        connection.execute("insert into items(name, data) values (?, ?)", (f"item {i}", bytes([i % 256]) * (i * 20)))
    connection.execute("begin")
    for i in range(3000):
        connection.execute("insert into items(name, data) values (?, ?)", (f"bulk {i}", b"b" * 200))
    connection.execute("commit")
    connection.execute("update items set data = ? where id % 7 = 0", (b"changed" * 40,))
    connection.execute("delete from items where id % 5 = 0")
    if mode != "off":
        connection.execute("begin")
        connection.execute("delete from items")
        connection.execute("rollback")
    connection.execute("vacuum")
    connection.close()
    before = _integrity(path)
    volume.remount()
    check(_integrity(path) == before, "other rows after mounting again")
    volume.checked()


def test_sqlite_delete(place):
    _sqlite(place, "delete")


def test_sqlite_truncate(place):
    _sqlite(place, "truncate")


def test_sqlite_persist(place):
    _sqlite(place, "persist")


def test_sqlite_memory(place):
    _sqlite(place, "memory")


def test_sqlite_wal(place):
    _sqlite(place, "wal")


def test_sqlite_off(place):
    _sqlite(place, "off")


def test_sqlite_survives_kills(place):
    volume = place.volume()
    path = volume.path("database")
    for mode in ("delete", "wal", "truncate"):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"pragma journal_mode={mode}")
        # With "full" SQLite itself does not make the removal of a journal, its point of commit, durable.
        connection.execute("pragma synchronous=extra")
        connection.execute("create table if not exists items(id integer primary key, name text, data blob)")
        before = connection.execute("select count(*) from items").fetchone()[0]
        for i in range(200):
            connection.execute("insert into items(name, data) values (?, ?)", (f"{mode} {i}", os.urandom(300)))
        volume.kill()
        try:
            connection.close()
        except sqlite3.Error:
            pass  # its files are gone with the mount
        volume.mount()
        count = _integrity(path)[0]
        check(count == before + 200, f"{mode}: {before + 200} rows were acknowledged, {count} are there")
    volume.checked()
