import random
import unittest

import percentiles


class Percentiles(unittest.TestCase):
    def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed(self):
        chance = random.Random(1)
        for count in (1, 2, 3, 10, 999, 1000):
            ordered = sorted(chance.randrange(500) for _ in range(count))
            for percent in (0.1, 1, 50, 90, 99, 99.9, 100):
                found = percentiles.percentile(ordered, percent)
                not_above = sum(sample <= found for sample in ordered)
                below = sum(sample < found for sample in ordered)
                self.assertGreaterEqual(not_above * 100 + 1e-6, percent * count)
                self.assertLess(below * 100, percent * count + 1e-6)

    def test_ranks_are_not_missed_by_rounding(self):
        self.assertEqual(percentiles.percentile(range(1, 1001), 99.9), 999)
        self.assertEqual(percentiles.percentile(range(1, 41_001), 99.9), 40_959)  # 41000 * 99.9 / 100 > 40959
        self.assertEqual(percentiles.percentile(range(1, 1001), 99), 990)
        self.assertEqual(percentiles.percentile(range(1, 101), 50), 50)

    def test_a_tail_of_less_than_ten_samples_is_not_told(self):
        self.assertNotIn(99.9, percentiles.summary(range(9_999)))
        self.assertIn(99.9, percentiles.summary(range(10_000)))
        self.assertIn(50, percentiles.summary([1]))

    def test_the_order_of_samples_does_not_matter(self):
        samples = list(range(1000))
        shuffled = random.Random(2).sample(samples, 1000)
        self.assertEqual(percentiles.summary(samples), percentiles.summary(shuffled))


if __name__ == "__main__":
    unittest.main()
