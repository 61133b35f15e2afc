import unittest

from large_volume import GIB, Layout, data_gib_for


class LargeVolume(unittest.TestCase):
    def test_data_grows_with_the_files_from_1_gib_to_1_tib(self):
        self.assertEqual([data_gib_for(files) for files in (100, 10_000, 100_000, 1_000_000, 10_000_000)],
                         [1, 1, 10, 102, 1024])

    def test_written_blocks_are_different_and_lie_in_the_file(self):
        for data_gib in (1, 2, 10):
            layout = Layout(files=10, per_directory=10, data_gib=data_gib)
            offsets = [layout.offset(block) for block in range(layout.blocks)]
            self.assertEqual(offsets, sorted(set(offsets)))
            self.assertLess(offsets[-1], data_gib * GIB)
            self.assertEqual(layout.blocks, 262_144 + (data_gib - 1) * 1024)

    def test_blocks_are_spread_over_the_whole_file(self):
        layout = Layout(files=10, per_directory=10, data_gib=1024)
        self.assertGreater(layout.offset(layout.blocks - 1), 1023 * GIB)

    def test_the_last_directory_may_be_smaller(self):
        self.assertEqual(Layout(files=10_001, per_directory=10_000, data_gib=1).directories, 2)
        self.assertEqual(Layout(files=10_000, per_directory=10_000, data_gib=1).directories, 1)


if __name__ == "__main__":
    unittest.main()
