"""What --recorded runs: each program at hundreds of cuts."""
from harness import time_limit
from recorded_order import order
from recorded_programs import git, leveldb, sqlite
from recorded_servers import mariadb, postgres

CUTS = 250
POSTGRES_CUTS = 200  # of several seconds each
HOUR = 3600


@time_limit(HOUR)
def test_recorded_order_long(place):
    order(place, rounds=400, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_sqlite_delete_long(place):
    sqlite(place, "delete", transactions=300, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_sqlite_truncate_long(place):
    sqlite(place, "truncate", transactions=300, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_sqlite_persist_long(place):
    sqlite(place, "persist", transactions=300, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_sqlite_wal_long(place):
    sqlite(place, "wal", transactions=600, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_sqlite_memory_long(place):
    sqlite(place, "memory", transactions=300, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_sqlite_off_long(place):
    sqlite(place, "off", transactions=300, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_leveldb_long(place):
    leveldb(place, batches=2000, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_git_all_long(place):
    git(place, "all", commits=80, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_git_default_long(place):
    git(place, "", commits=80, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_git_none_long(place):
    git(place, "none", commits=80, cuts=CUTS)


@time_limit(HOUR)
def test_recorded_mariadb_long(place):
    mariadb(place, "mariadb", cuts=CUTS, transactions=2000)


@time_limit(HOUR)
def test_recorded_mariadb_bare_long(place):
    mariadb(place, "mariadb without its doublewrite buffer", cuts=CUTS, transactions=2000,
            settings=["--skip-innodb-doublewrite"])


@time_limit(HOUR)
def test_recorded_postgres_long(place):
    postgres(place, "postgresql", cuts=POSTGRES_CUTS, seconds=20)


@time_limit(HOUR)
def test_recorded_postgres_bare_long(place):
    postgres(place, "postgresql without full_page_writes", cuts=POSTGRES_CUTS, seconds=20,
             settings=["full_page_writes=off"])
