import unittest

import scales


class Scales(unittest.TestCase):
    def test_both_ends_of_a_range_lie_at_both_ends_of_the_axis(self):
        for form, low, high in ((scales.linear, 0, 7), (scales.log, 10, 5000), (scales.tail, 1, 99.9)):
            scale = scales.Scale(low, high, 300, 20, form)
            self.assertAlmostEqual(scale(low), 300)
            self.assertAlmostEqual(scale(high), 20)

    def test_each_nine_of_a_percentile_takes_the_same_room(self):
        scale = scales.Scale(1, 99.9, 0, 100, scales.tail)
        self.assertAlmostEqual(scale(99) - scale(90), scale(99.9) - scale(99))

    def test_each_decade_takes_the_same_room(self):
        scale = scales.Scale(1, 1000, 0, 30, scales.log)
        self.assertAlmostEqual(scale(10), 10)
        self.assertAlmostEqual(scale(100), 20)

    def test_linear_ticks_begin_at_zero_and_reach_the_greatest_value(self):
        for high in (0.0007, 0.3, 1, 7, 49, 50, 51, 99, 1234567):
            ticks = scales.linear_ticks(high)
            self.assertEqual(ticks[0], 0)
            self.assertGreaterEqual(ticks[-1], high * (1 - 1e-9))
            self.assertLess(ticks[-2], high)
            self.assertLessEqual(len(ticks), 7)
        self.assertEqual(scales.linear_ticks(0), [0, 1])

    def test_a_logarithmic_axis_begins_and_ends_with_a_tick(self):
        for low, high in ((19, 31000), (0.38, 4.07), (100, 100), (3, 4), (1e-3, 1e7)):
            first, last = scales.log_range(low, high)
            self.assertLessEqual(first, low * (1 + 1e-9))
            self.assertGreaterEqual(last, high * (1 - 1e-9))
            self.assertLess(first, last)
        ticks = scales.log_ticks(*scales.log_range(0.38, 4.07))
        self.assertEqual(ticks, [0.2, 0.5, 1, 2, 5])

    def test_a_long_logarithmic_axis_has_only_few_ticks(self):
        ticks = scales.log_ticks(1, 1e8)
        self.assertEqual(ticks, [10.0 ** power for power in range(9)])

    def test_numbers_are_shown_in_units_that_suit_them(self):
        self.assertEqual([scales.count_text(value) for value in (0, 8, 10_000, 10_000_000)], ["0", "8", "10 k", "10 M"])
        self.assertEqual([scales.duration_text(us) for us in (20, 5_000, 2e6)], ["20 µs", "5 ms", "2 s"])
        self.assertEqual([scales.size_text(gib) for gib in (1, 102, 1024)], ["1 GiB", "102 GiB", "1 TiB"])


if __name__ == "__main__":
    unittest.main()
