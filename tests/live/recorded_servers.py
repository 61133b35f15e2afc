"""PostgreSQL and MariaDB on recorded mounts, with their own crash recovery and their own checkers.

The servers are started here, as nobody, with sockets of their own and no network; nothing that is installed is started
or changed. Both have their protection against torn pages switched off in one variant: a write of whole pages is one
change on stagefs, so they do not need it.
"""
import os
import random
import shutil
import signal
import subprocess
import threading

from harness import Failure, check, run, wait_for
from recorded import NOBODY, Marks, Recording, replay_tool, sweep

POSTGRES = "/usr/lib/postgresql/15/bin"


def _as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class Server:
    """A server process on a directory of the mount."""

    def __init__(self, place, directory, command):
        self.sockets = f"{place.directory}/sockets"
        os.makedirs(self.sockets, exist_ok=True)
        os.chown(self.sockets, NOBODY, NOBODY)
        self._log_path = f"{place.directory}/server.log"
        self._log = open(self._log_path, "ab")
        self._process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                                         preexec_fn=_as_nobody)
        try:
            wait_for(self._answers, "the server does not answer")
        except Failure as failure:
            self.end(signal.SIGKILL)
            with open(self._log_path, errors="replace") as log:
                raise Failure(f"{failure}\n{log.read()[-3000:]}") from None

    def _answers(self):
        check(self._process.poll() is None, f"the server ended with {self._process.returncode}")
        return self.is_up()

    def end(self, how=signal.SIGTERM):
        self._process.send_signal(how)
        self._process.wait(120)
        self._log.close()


class Postgres(Server):
    def __init__(self, place, directory, *settings):
        self._directory = directory
        options = ["listen_addresses=", f"unix_socket_directories={place.directory}/sockets", "fsync=on",
                   "shared_buffers=4MB", "max_wal_size=8MB", "min_wal_size=2MB", "checkpoint_timeout=30s",
                   "wal_recycle=on", "autovacuum_naptime=1s", "max_connections=20", "max_worker_processes=2",
                   "dynamic_shared_memory_type=mmap",  # in its own directory: nothing stays behind if it is killed
                   *settings]
        super().__init__(place, directory, [f"{POSTGRES}/postgres", "-D", directory] +
                         [part for option in options for part in ("-c", option)])

    def is_up(self):
        command = [f"{POSTGRES}/pg_isready", "-q", "-h", self.sockets]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0

    def sql(self, text):
        return run(f"{POSTGRES}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.sockets,
                   "-U", "nobody", "-d", "postgres", "-c", text).split("\n")[:-1]


# The money of pgbench's own TPC-B, and beside it a number for each transaction, which is marked when it is committed.
PGBENCH_SCRIPT = """\\set aid random(1, 100000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO numbered SELECT nextval('numbers'), :delta, repeat(md5((:delta)::text), 10) RETURNING id \\gset
COMMIT;
\\shell {replay} mark {socket} :id
"""


def _create_postgres(place, directory):
    data = f"{directory}/data"
    os.mkdir(data, 0o700)
    os.chown(data, NOBODY, NOBODY)
    subprocess.run([f"{POSTGRES}/initdb", "-D", data, "-U", "nobody", "-A", "trust", "-N", "--wal-segsize=1",
                    "--locale=C.UTF-8", "-k"], cwd="/", check=True, stdout=subprocess.DEVNULL, preexec_fn=_as_nobody)
    server = Postgres(place, data)
    run(f"{POSTGRES}/pgbench", "-i", "-q", "-h", server.sockets, "-U", "nobody", "postgres")
    server.sql("CREATE EXTENSION amcheck; CREATE SEQUENCE numbers CACHE 1;"
               "CREATE TABLE numbered(id bigint PRIMARY KEY, delta int, filler text);"
               "CREATE INDEX ON numbered(delta)")
    server.end(signal.SIGINT)


def _record_postgres(place, settings, seconds, clients):
    recording = Recording(place, "768M", prepare=lambda directory: _create_postgres(place, directory))
    replay = f"{place.directory}/replay"
    shutil.copy(replay_tool(place), replay)  # where nobody can reach it
    script = f"{place.directory}/script"
    with open(script, "w") as file:
        file.write(PGBENCH_SCRIPT.format(replay=replay, socket=recording.socket))
    server = Postgres(place, f"{recording.directory}/data", *settings)
    run(f"{POSTGRES}/pgbench", "-n", "-f", script, "-c", clients, "-j", clients, "-T", seconds, "-h", server.sockets,
        "-U", "nobody", "postgres")
    server.end(signal.SIGQUIT)
    recording.end()
    return recording


def _look_at_postgres(recording, settings):
    def look(directory, position):
        server = Postgres(recording.place, f"{directory}/data", *settings)
        try:
            sums = server.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM"
                              " pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT"
                              " coalesce(sum(delta), 0) FROM pgbench_history), (SELECT coalesce(sum(delta), 0) FROM"
                              " numbered WHERE filler = repeat(md5(delta::text), 10))")[0].split("|")
            check(len(set(sums)) == 1, f"the sums of the tables differ: {sums}")
            there = set(map(int, server.sql("SELECT id FROM numbered")))
            run(f"{POSTGRES}/pg_amcheck", "--heapallindexed", "-h", server.sockets, "-U", "nobody",
                "-d", "postgres")
        finally:
            server.end(signal.SIGQUIT)
        acked = {int(text) for at, text in recording.all_marks if at <= position and text.isdigit()}
        check(acked <= there, f"acknowledged and lost: {sorted(acked - there)[:20]} ({len(acked)} acknowledged)")

    return look


def postgres(place, name, cuts, seconds, settings=()):
    check(os.path.exists(f"{POSTGRES}/postgres"), "PostgreSQL 15 is missing: tools/install-dependencies --long")
    recording = _record_postgres(place, settings, seconds, clients=4)
    count = sum(text.isdigit() for _, text in recording.all_marks)
    result = sweep(recording, cuts, _look_at_postgres(recording, settings))
    print(f"{name}: {count} transactions, {recording.saw}; {result}")


class MariaDb(Server):
    def __init__(self, place, directory, *settings):
        self._socket = f"{place.directory}/sockets/mariadb"
        super().__init__(place, directory, [
            "/usr/sbin/mariadbd", "--no-defaults", f"--datadir={directory}", f"--socket={self._socket}",
            f"--pid-file={self._socket}.pid", "--skip-networking", "--skip-grant-tables", "--innodb-log-file-size=4M",
            "--innodb-buffer-pool-size=8M", "--innodb-flush-log-at-trx-commit=1", "--innodb-flush-method=O_DIRECT",
            "--innodb-buffer-pool-load-at-startup=0", "--innodb-buffer-pool-dump-at-shutdown=0", *settings])

    def is_up(self):
        return subprocess.run(self.client("-e", "select 1"), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0

    def client(self, *arguments):
        return ["mariadb", "--no-defaults", f"--socket={self._socket}", "--batch", "--skip-column-names", *arguments]

    def sql(self, text):
        return run(*self.client("-e", text)).split("\n")[:-1]


class MariaDbClient(threading.Thread):
    """Makes transactions one after the other through a client program, and marks each when it is committed."""

    def __init__(self, server, marks, number, count):
        super().__init__(daemon=True)
        self._server, self._marks, self._number, self._count = server, marks, number, count
        self.error = None

    def run(self):
        try:
            self._work()
        except Exception as error:  # told to whoever joins
            self.error = error

    def _work(self):
        chance = random.Random(self._number)
        with subprocess.Popen(self._server.client("--unbuffered", "work"), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as client:
            for n in range(self._count):
                identity = self._number * 1_000_000 + n
                delta, repeats = chance.randint(-5000, 5000), chance.randint(1, 200)
                client.stdin.write(
                    f"begin; update accounts set balance = balance + {delta} where id = {chance.randint(1, 2000)};"
                    f"update total set balance = balance + {delta};"
                    f"insert into numbered values ({identity}, {delta}, repeat(md5({delta}), {repeats}));"
                    f"update numbered set delta = delta + 1, filler = repeat(md5(delta), 3) where id = {identity - 50};"
                    "commit; select 'done';\n")
                client.stdin.flush()
                check(client.stdout.readline() == "done\n", f"transaction {identity} failed")
                self._marks.put(str(identity))
            client.stdin.close()


def _create_mariadb(place, directory, settings):
    data = f"{directory}/data"
    os.mkdir(data, 0o700)
    os.chown(data, NOBODY, NOBODY)
    subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
                    "--auth-root-authentication-method=normal", "--innodb-log-file-size=4M"], cwd="/", check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_as_nobody)
    server = MariaDb(place, data, *settings)
    server.sql("create database work; use work; create table total(balance bigint) engine=innodb;"
               "insert into total values (0); create table accounts(id int primary key, balance bigint,"
               " filler char(200) default 'filler') engine=innodb;"
               "insert into accounts(id, balance) select seq, 0 from seq_1_to_2000;"
               "create table numbered(id bigint primary key, delta int, filler text, key(delta)) engine=innodb")
    server.end()


def _record_mariadb(place, settings, transactions, clients):
    recording = Recording(place, "768M", prepare=lambda directory: _create_mariadb(place, directory, settings))
    server = MariaDb(place, f"{recording.directory}/data", *settings)
    workers = [MariaDbClient(server, Marks(recording.socket), 1 + i, transactions // clients) for i in range(clients)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.error:
            raise worker.error
    server.end(signal.SIGKILL)
    recording.end()
    return recording


def _is_garbage(line):
    """InnoDB may leave index records behind that are marked as deleted and that no row version needs any more. Of them
    EXTENDED warns, and goes on to say OK: a server that is killed on tmpfs shows the same."""
    return "\tWarning\tInnoDB: Clustered index record not found" in line and "(info_bits=32," in line


def _look_at_mariadb(recording, settings):
    def look(directory, position):
        server = MariaDb(recording.place, f"{directory}/data", *settings)
        try:
            for line in server.sql("check table work.accounts, work.total, work.numbered extended"):
                check(line.endswith("\tstatus\tOK") or _is_garbage(line), f"CHECK TABLE: {line}")
            sums = server.sql("select sum(balance) from work.accounts; select balance from work.total")
            check(len(set(sums)) == 1, f"the sums of the tables differ: {sums}")
            wrong = server.sql("select count(*) from work.numbered where"
                               " binary filler <> binary repeat(md5(delta), length(filler) div 32)")
            check(wrong == ["0"], f"{wrong} rows are not as they were written")
            there = set(map(int, server.sql("select id from work.numbered")))
        finally:
            server.end(signal.SIGKILL)
        acked = {int(text) for at, text in recording.all_marks if at <= position and text.isdigit()}
        check(acked <= there, f"acknowledged and lost: {sorted(acked - there)[:20]} ({len(acked)} acknowledged)")

    return look


def mariadb(place, name, cuts, transactions, settings=()):
    check(os.path.exists("/usr/sbin/mariadbd"), "MariaDB is missing: tools/install-dependencies --long")
    recording = _record_mariadb(place, settings, transactions, clients=4)
    count = sum(text.isdigit() for _, text in recording.all_marks)
    result = sweep(recording, cuts, _look_at_mariadb(recording, settings))
    print(f"{name}: {count} transactions, {recording.saw}; {result}")
