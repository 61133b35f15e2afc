"""The charts of results with gaps in them: each must be well-formed, and no two texts may overlap."""
import os
import tempfile
import unittest
import xml.etree.ElementTree

import bars
import charts
import rows
import svg

ABOUT = {"date": "2026-01-02 03:04", "command": "", "rounds": 3,
         "machine": {"kernel": "6.1.0-1", "cpus": 2, "model": "A processor at 2.3 GHz", "memory_gib": 4.0}}


def compare():
    made = []
    for number, row in enumerate(rows.ROWS):
        rates = {"ext4": [100.0], "stagefs": [None if number == 3 else 20.0 * (number + 1)],
                 "null": [None if number == 5 else 1000.0 - 50 * number]}
        made.append(bars.judge(row, rates))
    return {**ABOUT, "program": "compare", "peers": ["ext4", "stagefs", "null"], "rows": made}


def latency():
    curve = {"1": 20.0, "50": 100.5, "90": 300.0, "99": 4000.0, "99.9": 90000.0}
    return {**ABOUT, "program": "latency",
            "rows": [{"peer": peer, "clients": count, "percentiles": {} if peer == "xfs" else curve}
                     for peer in ("ext4", "stagefs", "null", "xfs") for count in (1, 8)]}


def threads():
    return {**ABOUT, "program": "threads",
            "rows": [{"work": work, "peer": peer, "median": {"1": 1234.5, "2": None, "4": 123456.0, "8": 99.0}}
                     for work in ("read", "write", "write_fsync", "create") for peer in ("ext4", "stagefs")]}


def scale():
    cost = {"create": {"p50": 55.0}, "lookup": {"p50": 19.0}, "read": {"p50": 110.0}, "write": {"p50": 16.0}}
    return {**ABOUT, "program": "scale",
            "rows": [{"files": files, "data_gib": gib, "cost": cost, "resident_bytes": {"made": files + (80 << 20)}}
                     for files, gib in ((10_000, 1), (100_000, 10), (1_000_000, 102), (10_000_000, 1024))]}


def boxes_of_texts(root):
    """(text, left, top, right, bottom), by a wide estimate of a letter's width."""
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        size = float(text.get("font-size"))
        x, y, width = float(text.get("x")), float(text.get("y")), svg.text_width(text.text, size)
        left = {"start": 0, "middle": -width / 2, "end": -width}[text.get("text-anchor")]
        if text.get("transform"):
            yield text.text, x - size, y - width / 2, x, y + width / 2
        else:
            yield text.text, x + left, y - 0.8 * size, x + left + width, y + 0.2 * size


class Charts(unittest.TestCase):
    def drawn(self, result):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "chart.svg")
            charts.CHARTS[result["program"]](result).save(path)
            return xml.etree.ElementTree.parse(path).getroot()

    def test_all_texts_lie_on_the_paper_and_none_on_another(self):
        for result in (compare(), latency(), threads(), scale()):
            with self.subTest(result["program"]):
                root = self.drawn(result)
                boxes = list(boxes_of_texts(root))
                for i, (text, left, top, right, bottom) in enumerate(boxes):
                    self.assertTrue(0 <= left and right <= float(root.get("width")), text)
                    self.assertTrue(0 <= top and bottom <= float(root.get("height")), text)
                    for other, left2, top2, right2, bottom2 in boxes[:i]:
                        apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
                        self.assertTrue(apart, f"{text!r} lies on {other!r}")

    def test_a_row_that_failed_is_named_without_a_bar(self):
        texts = [box[0] for box in boxes_of_texts(self.drawn(compare()))]
        self.assertIn(rows.ROWS[3].name, texts)

    def test_a_bar_has_the_color_of_its_verdict(self):
        def color(**row):
            return charts._color({"bar": 1.0, "ratio_to_ext4": {"stagefs": 0.5}, **row})
        self.assertEqual(color(met=False), charts.MISSED)
        self.assertEqual(color(met=True), charts.MET_BY_TRANSPORT)
        self.assertEqual(color(met=True, ratio_to_ext4={"stagefs": 1.0}), charts.MET)
        self.assertEqual(color(met=None), charts.NO_BAR)


if __name__ == "__main__":
    unittest.main()
