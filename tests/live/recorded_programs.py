"""SQLite, git and LevelDB on recorded mounts."""
import os
import random
import shutil
import sqlite3
import subprocess

from harness import Failure, check, run
from recorded import PairWriter, Recording, look_at_pair, must_bite, replay_tool, sweep

# With "full" SQLite does not make the removal of a journal, its point of commit in mode delete, durable.
SYNCHRONOUS = {"delete": "extra"}


class SqliteModel:
    """What the table holds after `count` transactions."""

    def __init__(self, count):
        self.rows = {}
        for n in range(1, count + 1):
            for _, _, apply in self.changes(n):
                apply(self.rows)

    @staticmethod
    def changes(n):
        """The statements of transaction n: (SQL, parameters, what it does to the model)."""
        chance = random.Random(n)
        for i in range(3):
            row = (3 * n + i, f"{n}.{i}", chance.randbytes(chance.randint(1, 6000)))
            yield "insert into items values (?, ?, ?)", row, lambda rows, row=row: rows.update({row[0]: row[1:]})
        if n > 5:
            row = (3 * (n - 5), f"changed by {n}", chance.randbytes(500))
            yield ("update items set name = ?, data = ? where id = ?", (row[1], row[2], row[0]),
                   lambda rows, row=row: rows.update({row[0]: row[1:]}))
        if n > 11:
            gone = 3 * (n - 11) + 1
            yield "delete from items where id = ?", (gone,), lambda rows: rows.pop(gone)
        yield "update counter set value = ?", (n,), lambda rows: None


def _create_database(path, mode):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma page_size=1024")  # so that a transaction has many pages
    got = database.execute(f"pragma journal_mode={mode}").fetchone()[0]
    check(got == mode, f"journal mode {mode} was refused: {got}")
    database.execute("create table items(id integer primary key, name text unique, data blob)")
    database.execute("create table counter(value integer)")
    database.execute("insert into counter values (0)")
    database.close()


def _record_sqlite(place, mode, transactions):
    recording = Recording(place, prepare=lambda directory: _create_database(f"{directory}/database", mode))
    beside = PairWriter(recording.directory, pause=0.001)
    beside.start()
    database = sqlite3.connect(f"{recording.directory}/database", isolation_level=None)
    database.execute(f"pragma journal_mode={mode}")
    database.execute(f"pragma synchronous={SYNCHRONOUS.get(mode, 'full')}")
    database.execute("pragma cache_size=20")  # so that pages leave it before a transaction ends
    database.execute("pragma wal_autocheckpoint=100")
    for n in range(1, transactions + 1):
        recording.marks.put(f"begin {n}")
        database.execute("begin")
        for statement, parameters, _ in SqliteModel.changes(n):
            database.execute(statement, parameters)
        database.execute("commit")
        recording.marks.put(f"ack {n}")
    database.close()
    beside.end()
    recording.end()
    return recording


def _look_at_sqlite(recording):
    def look(directory, position):
        look_at_pair(directory)
        try:
            database = sqlite3.connect(f"{directory}/database")
            integrity = database.execute("pragma integrity_check").fetchall()
            check(integrity == [("ok",)], f"integrity_check says {integrity}")
            count = database.execute("select value from counter").fetchone()[0]
            rows = {row[0]: row[1:] for row in database.execute("select * from items")}
            database.close()
        except sqlite3.Error as error:
            raise Failure(f"SQLite says {error!r}") from error
        acked, begun = recording.last("ack", position), recording.last("begin", position)
        check(acked <= count <= begun, f"{acked} transactions were acknowledged, {begun} begun, {count} are there")
        check(rows == SqliteModel(count).rows, f"the table is not what {count} transactions make")

    return look


def sqlite(place, mode, transactions, cuts):
    recording = _record_sqlite(place, mode, transactions)
    look = _look_at_sqlite(recording)
    if mode in ("memory", "off"):
        # SQLite promises nothing about a transaction that is under way; what is between two of them must be whole.
        at_rest = sweep(recording, cuts, look, positions=recording.between("ack", "begin"))
        anywhere = sweep(recording, cuts, lambda directory, _: look_at_pair(directory))
        print(f"sqlite {mode}: {transactions} transactions, {recording.saw}; between two of them {at_rest}; "
              f"anywhere, looking at the volume alone, {anywhere}")
        return
    print(f"sqlite {mode}: {transactions} transactions, {recording.saw}; {sweep(recording, cuts, look)}")


class GitWork:
    """A repository whose commit N changes three files, removes one, and is found by its message."""

    def __init__(self, directory):
        self.directory = directory
        self.environment = dict(os.environ, HOME=directory, GIT_CONFIG_NOSYSTEM="1", GIT_AUTHOR_NAME="a",
                                GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")

    def git(self, *arguments):
        return run("git", "-C", self.directory, *arguments, env=self.environment)

    def create(self, fsync):
        os.mkdir(self.directory)
        self.git("init", "-q", "-b", "main")
        for name, value in (("core.fsync", fsync), ("gc.auto", "0"), ("gc.autoDetach", "false"),
                            ("core.logAllRefUpdates", "true")):
            if value:
                self.git("config", name, value)

    def commit(self, n):
        chance = random.Random(n)
        for i in range(3):
            path = f"{self.directory}/{chance.randint(0, 9)}"
            os.makedirs(path, exist_ok=True)
            with open(f"{path}/{n}.{i}", "wb") as file:
                file.write(chance.randbytes(chance.randint(1, 20000)))
        if n % 4 == 0:
            shutil.rmtree(min(entry.path for entry in os.scandir(self.directory) if entry.name != ".git"))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"commit {n}")
        if n % 10 == 0:
            self.git("pack-refs", "--all")
            self.git("repack", "-q", "-a", "-d")
            self.git("prune", "--expire=now")


def _record_git(place, fsync, commits):
    recording = Recording(place, prepare=lambda directory: GitWork(f"{directory}/work").create(fsync))
    work = GitWork(f"{recording.directory}/work")
    beside = PairWriter(recording.directory, pause=0.01)
    beside.start()
    for n in range(1, commits + 1):
        recording.marks.put(f"begin {n}")
        work.commit(n)
        if fsync == "all":
            # git flushes its files, not the renames that put them in their places.
            heads = os.open(f"{work.directory}/.git/refs/heads", os.O_RDONLY)
            os.fsync(heads)
            os.close(heads)
            recording.marks.put(f"ack {n}")
    beside.end()
    recording.end()
    return recording


def _look_at_git(recording):
    def look(directory, position):
        look_at_pair(directory)
        work = GitWork(f"{directory}/work")
        acked, begun = recording.last("ack", position), recording.last("begin", position)
        output = work.git("fsck", "--strict", "--full", "--no-dangling")
        check("missing" not in output and "error" not in output, f"git fsck: {output}")
        has_commit = subprocess.run(["git", "-C", work.directory, "rev-parse", "-q", "--verify", "HEAD"],
                                    env=work.environment, stdout=subprocess.DEVNULL).returncode == 0
        subjects = work.git("log", "--format=%s", "main").split("\n")[:-1] if has_commit else []
        count = len(subjects)
        check(subjects == [f"commit {n}" for n in range(count, 0, -1)], f"the commits are {subjects}")
        check(acked <= count <= begun, f"{acked} commits were acknowledged, {begun} begun, {count} are there")

    return look


def git(place, fsync, commits, cuts):
    recording = _record_git(place, fsync, commits)
    result = sweep(recording, cuts, _look_at_git(recording))
    print(f"git, core.fsync={fsync or 'default'}: {commits} commits, {recording.saw}; {result}")


def _record_leveldb(place, batches):
    recording = Recording(place, prepare=lambda directory: os.mkdir(f"{directory}/database"))
    beside = PairWriter(recording.directory, pause=0.001)
    beside.start()
    run(replay_tool(place, "leveldb_work"), "write", f"{recording.directory}/database", recording.socket, batches)
    beside.end()
    recording.end()
    return recording


def _look_at_leveldb(recording):
    def look(directory, position):
        look_at_pair(directory)
        count = int(run(replay_tool(recording.place, "leveldb_work"), "check", f"{directory}/database"))
        acked, begun = recording.last("ack", position), recording.last("begin", position)
        check(acked <= count <= begun, f"{acked} batches were acknowledged, {begun} begun, {count} are there")

    return look


def leveldb(place, batches, cuts):
    recording = _record_leveldb(place, batches)
    print(f"leveldb: {batches} batches, {recording.saw}; {sweep(recording, cuts, _look_at_leveldb(recording))}")


def test_recorded_sqlite_wal(place):
    sqlite(place, "wal", transactions=120, cuts=30)


def test_recorded_sqlite_delete(place):
    sqlite(place, "delete", transactions=120, cuts=30)


def test_recorded_git(place):
    git(place, "all", commits=20, cuts=25)


def test_recorded_leveldb(place):
    leveldb(place, batches=400, cuts=30)


def test_recorded_disk_that_forgets_is_found_out(place):
    recording = _record_sqlite(place, "wal", transactions=40)
    must_bite(recording, 20, _look_at_sqlite(recording))
