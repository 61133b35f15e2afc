import unittest

import bars
import rows


def judged(stagefs, ext4=(100,), null=(1000,), bar=0.5):
    rates = {"ext4": list(ext4), "stagefs": list(stagefs), "null": list(null)}
    return bars.judge(rows.Row("work", "/s", None, bar, "what it is"), rates)


def result_of(*judged_rows):
    return {"date": "2026-01-02 03:04", "machine": {"kernel": "6.1", "cpus": 2, "model": "M", "memory_gib": 4.0},
            "command": "tests/bench/compare", "rounds": 1, "peers": ["ext4", "stagefs", "null"],
            "rows": list(judged_rows)}


class Bars(unittest.TestCase):
    def test_a_row_is_met_at_its_bar_and_not_below(self):
        self.assertTrue(judged([50])["met"])
        self.assertIs(judged([49])["met"], False)

    def test_a_row_that_reaches_the_bound_of_the_transport_is_met(self):
        self.assertTrue(judged([10], null=[11])["met"])
        self.assertIs(judged([10], null=[13])["met"], False)

    def test_medians_are_of_the_rounds_that_succeeded(self):
        row = judged([None, 10, 90, 80], ext4=[100, 100, 1, 1000])
        self.assertEqual(row["median"]["stagefs"], 80)
        self.assertEqual(row["ratio_to_ext4"]["stagefs"], 0.8)
        self.assertEqual(row["rounds"]["stagefs"], [None, 10, 90, 80])

    def test_a_row_that_stagefs_could_not_do_is_missed(self):
        row = judged([None])
        self.assertIs(row["met"], False)
        self.assertEqual(bars.missed([row]), ["work: stagefs failed"])

    def test_without_a_bar_or_anybody_to_compare_with_nothing_is_judged(self):
        self.assertIsNone(judged([50], bar=None)["met"])
        self.assertIsNone(judged([50], ext4=[None], null=[None])["met"])
        self.assertEqual(bars.missed([judged([50], ext4=[None], null=[None])]), [])

    def test_what_is_missed_is_said_with_numbers(self):
        self.assertEqual(bars.missed([judged([49]), judged([50])]),
                         ["work: 0.49 times ext4, the bar is 0.5; 0.05 times null"])

    def test_every_line_of_the_table_has_the_same_columns(self):
        for described in (False, True):
            lines = bars.table(result_of(judged([49]), judged([None])), described).split("\n")[2:]
            self.assertEqual(len(lines), 4)
            self.assertEqual({line.count("|") for line in lines}, {11 if described else 10})
            self.assertEqual(len({len(line) for line in lines}), 1)


class Rows(unittest.TestCase):
    def test_names_are_unique(self):
        self.assertEqual(len({row.name for row in rows.ROWS}), len(rows.ROWS))

    def test_a_whole_name_chooses_one_row_and_a_part_all_that_have_it(self):
        def chosen(text):
            return [row.name for row in rows.choose(text)]
        self.assertEqual(chosen("fsync_4k"), ["fsync_4k"])
        self.assertEqual(chosen("sqlite,create"), ["create", "sqlite_delete", "sqlite_wal", "sqlite_memory"])
        self.assertEqual(len(chosen("")), len(rows.ROWS))
        self.assertEqual(chosen("nothing"), [])


if __name__ == "__main__":
    unittest.main()
