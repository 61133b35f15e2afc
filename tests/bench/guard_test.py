"""What the guard does without mounts: results, failures, and children that do not end."""
import os
import signal
import tempfile
import time
import unittest

import clients
import guard


def fails():
    raise RuntimeError("the disk is full")


class Guard(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, self.directory)

    def test_a_result_comes_back_from_the_child(self):
        self.assertEqual(guard.call(lambda: {"a": [1.5, None]}, self.directory, 60), {"a": [1.5, None]})
        self.assertNotEqual(guard.call(os.getpid, self.directory, 60), os.getpid())

    def test_a_failure_comes_back_as_its_message(self):
        with self.assertRaisesRegex(guard.Failed, "^the disk is full$"):
            guard.call(fails, self.directory, 60)
        with self.assertRaisesRegex(guard.Failed, "ZeroDivisionError"):
            guard.call(lambda: 1 / 0, self.directory, 60)

    def test_a_child_that_dies_has_failed(self):
        with self.assertRaisesRegex(guard.Failed, "has died"):
            guard.call(lambda: os.kill(os.getpid(), signal.SIGKILL), self.directory, 60)

    def test_a_child_that_hangs_is_ended_with_all_it_has_started(self):
        started = os.path.join(self.directory, "started")

        def hang():
            child = os.fork()
            if child == 0:
                signal.pause()
            with open(started, "w") as file:
                file.write(str(child))
            signal.pause()
        with self.assertRaisesRegex(guard.Failed, "^hung: ended by the watchdog after 2 s$"):
            guard.call(hang, self.directory, 2)
        with open(started) as file:
            grandchild = int(file.read())
        os.unlink(started)
        deadline = time.monotonic() + 60
        while self.is_running(grandchild):
            self.assertLess(time.monotonic(), deadline, "the child's child lives on")
            time.sleep(0.01)

    @staticmethod
    def is_running(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False


class Clients(unittest.TestCase):
    def test_each_client_gets_its_number_and_answers_in_order(self):
        self.assertEqual(clients.at_once(4, lambda number: number * 10), [0, 10, 20, 30])

    def test_the_failure_of_one_is_the_failure_of_all(self):
        with self.assertRaisesRegex(RuntimeError, "ZeroDivisionError"):
            clients.at_once(2, lambda number: 1 / number)

    def test_every_step_is_a_sample(self):
        taken = []
        self.assertEqual(len(clients.timed_each(lambda: taken.append(0), 7)), 7)
        self.assertEqual(len(clients.timed(lambda: taken.append(0), 0.01)), len(taken) - 7)


if __name__ == "__main__":
    unittest.main()
