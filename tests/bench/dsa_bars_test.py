import unittest

import dsa_bars
import record


class DsaBarsTest(unittest.TestCase):
    def judge(self, figure, medians):
        [bar] = [bar for bar in dsa_bars.BARS if bar.figure == figure]
        return dsa_bars.judge(bar, medians)

    def test_a_latency_is_met_at_or_below_its_bar(self):
        self.assertTrue(self.judge("shm_write64", {"shm_write64": 6.0})["met"])
        self.assertFalse(self.judge("shm_write64", {"shm_write64": 6.1})["met"])

    def test_a_rate_is_met_at_or_above_its_bar(self):
        self.assertTrue(self.judge("shm_write64_d64", {"shm_write64_d64": 300_000})["met"])
        self.assertFalse(self.judge("shm_write64_d64", {"shm_write64_d64": 299_999})["met"])

    def test_a_bar_with_a_base_is_a_ratio(self):
        verdict = self.judge("shm_read1m", {"shm_read1m": 900, "disk_read1m": 1000})
        self.assertEqual((verdict["value"], verdict["met"]), (0.9, True))
        self.assertFalse(self.judge("shm_read1m", {"shm_read1m": 700, "disk_read1m": 1000})["met"])

    def test_what_is_missing_misses_its_bar(self):
        self.assertFalse(self.judge("shm_write64", {"shm_write64": None})["met"])
        self.assertFalse(self.judge("shm_read1m", {"shm_read1m": 900, "disk_read1m": None})["met"])

    def test_each_bar_is_of_figures_that_are_measured(self):
        names = {figure.name for figure in dsa_bars.FIGURES}
        self.assertEqual(len(names), len(dsa_bars.FIGURES))
        for bar in dsa_bars.BARS:
            self.assertIn(bar.figure, names)
            self.assertTrue(bar.base is None or bar.base in names)

    def test_medians_are_of_the_rounds_that_succeeded(self):
        result = dsa_bars.results({"shm_write64": [9.0, None, 5.0, 4.0]})
        self.assertEqual(result["figures"][0]["median"], 5.0)
        self.assertEqual([(bar["figure"], bar["met"]) for bar in result["bars"]], [("shm_write64", True)])

    def test_the_table_has_bars_and_results(self):
        result = dict(record.header("dsa"), rounds=1, **dsa_bars.results(
            {"shm_write64": [7.25], "shm_read1m": [500.0], "disk_read1m": [1000.0]}))
        text = dsa_bars.table(result)
        self.assertIn("| shm_write64 | <= 6 | 7.25 | no |", text)
        self.assertIn("| shm_read1m / disk_read1m | >= 0.8 | 0.50 | no |", text)
        self.assertIn("| MiB/s | 1000 |", text)


if __name__ == "__main__":
    unittest.main()
