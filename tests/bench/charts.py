"""The charts: each takes the result of one benchmark program and returns a sheet to be saved."""
import bars
import record
import scales
from svg import FAINT, INK, Panel, Sheet

MET = "#0072b2"
MET_BY_TRANSPORT = "#7fb8d8"
MISSED = "#d55e00"
NO_BAR = "#999999"
SHOWN_PERCENTILES = [1, 50, 90, 99, 99.9]
MARKED_PERCENTILES = [50, 90, 99, 99.9]


def _in_order(names):
    """stagefs first, then the others as they come; each once."""
    return sorted(dict.fromkeys(names), key=lambda name: name != "stagefs")


def latency(result):
    """A panel for each number of clients; the curves of all peers on common axes."""
    rows = [row for row in result["rows"] if row["percentiles"]]
    counts = sorted({row["clients"] for row in rows})
    values = [value for row in rows for value in row["percentiles"].values()]
    y_range = scales.log_range(min(values), max(values))
    sheet = Sheet(60 + 460 * len(counts), 470, "Latency of a 4 KiB write and its fsync", record.machine_line(result))
    sheet.legend(100, 54, _in_order(row["peer"] for row in rows))
    for number, count in enumerate(counts):
        left = 100 + 460 * number
        panel = Panel(sheet, (left, 96, left + 370, 400), (1, 99.9), y_range, scales.tail, scales.log)
        panel.title("1 client" if count == 1 else f"{count} clients")
        panel.x_axis(SHOWN_PERCENTILES, "percentile of all writes", lambda percent: f"p{percent:g}")
        panel.y_axis(scales.log_ticks(*y_range), "time, log scale", scales.duration_text)
        for row in rows:
            if row["clients"] == count:
                points = [(float(percent), value) for percent, value in row["percentiles"].items()]
                panel.curve(row["peer"], points, markers=False)
                for percent, value in points:
                    if percent in MARKED_PERCENTILES:
                        sheet.marker(panel.x(percent), panel.y(value), row["peer"])
    return sheet


THREADS_TITLES = {"read": "4 KiB O_DIRECT reads, held by the server", "write": "4 KiB writes",
                  "write_fsync": "4 KiB writes, each with fsync", "create": "create, close and unlink"}


def threads(result):
    """A panel for each kind of work, with axes of its own."""
    works = list(dict.fromkeys(row["work"] for row in result["rows"]))
    lines = -(-len(works) // 2)
    sheet = Sheet(920, 80 + 330 * lines, "Throughput against client processes", record.machine_line(result))
    sheet.legend(90, 54, _in_order(row["peer"] for row in result["rows"]))
    for number, work in enumerate(works):
        rows = [row for row in result["rows"] if row["work"] == work]
        counts = sorted({int(count) for row in rows for count in row["median"]})
        most = max((value for row in rows for value in row["median"].values() if value), default=1)
        ticks = scales.linear_ticks(most)
        left, top = 90 + 450 * (number % 2), 96 + 330 * (number // 2)
        # Half a step of room at both sides.
        panel = Panel(sheet, (left, top, left + 350, top + 240), (counts[0] / 1.4, counts[-1] * 1.4), (0, ticks[-1]),
                      scales.log, scales.linear)
        panel.title(THREADS_TITLES.get(work, work))
        panel.x_axis(counts, "client processes")
        panel.y_axis(ticks, "operations a second")
        for row in sorted(rows, key=lambda row: row["peer"] == "stagefs"):
            panel.curve(row["peer"], [(int(count), value) for count, value in row["median"].items()])
    return sheet


def scale(result):
    """The cost of each operation, and the server's memory, against the number of files."""
    rows = sorted(result["rows"], key=lambda row: row["files"])
    works = list(dict.fromkeys(work for row in rows for work in row["cost"]))
    sheet = Sheet(1000, 480, "Cost of an operation, and memory, against the size of the volume",
                  record.machine_line(result) + "; one client, below backpressure")
    sheet.legend(90, 54, works)
    x_range = (rows[0]["files"] / 1.7, rows[-1]["files"] * 1.7)
    values = [row["cost"][work]["p50"] for row in rows for work in row["cost"]]
    y_range = scales.log_range(min(values), max(values))
    files = [row["files"] for row in rows]
    data = {row["files"]: row["data_gib"] for row in rows}
    panel = Panel(sheet, (90, 96, 540, 390), x_range, y_range, scales.log, scales.log)
    panel.title("time of one operation (p50)")
    panel.x_axis(files, "", scales.count_text)
    panel.y_axis(scales.log_ticks(*y_range), "time, log scale", scales.duration_text)
    for work in works:
        panel.curve(work, [(row["files"], row["cost"].get(work, {}).get("p50")) for row in rows])
    memory = {row["files"]: max(row["resident_bytes"].values()) / (1 << 20) for row in rows}
    ticks = scales.linear_ticks(max(memory.values()))
    right = Panel(sheet, (640, 96, 970, 390), x_range, (0, ticks[-1]), scales.log, scales.linear)
    right.title("resident memory of the server")
    right.x_axis(files, "", scales.count_text)
    right.y_axis(ticks, "MiB")
    right.curve("memory", list(memory.items()))
    for each in (panel, right):
        for count in files:
            sheet.text(each.x(count), each.bottom + 33, scales.size_text(data[count]), anchor="middle", color=FAINT)
        sheet.text((each.left + each.right) / 2, each.bottom + 52, "files, and length of the data file",
                   anchor="middle", color=FAINT)
    return sheet


def _color(row):
    if row["met"] is None:
        return NO_BAR
    if not row["met"]:
        return MISSED
    return MET if row["ratio_to_ext4"]["stagefs"] >= row["bar"] else MET_BY_TRANSPORT


def compare(result):
    """A line for each row: stagefs/ext4 from 1 to the left or right, and where the bar is. What failed has no bar."""
    rows = result["rows"]
    height = 24
    top, bottom = 110, 110 + height * len(rows)
    sheet = Sheet(900, bottom + 80, "stagefs/ext4: ratio of rates (right of 1: stagefs is faster)",
                  f"{record.machine_line(result)}; {bars.rounds_text(result)}")
    _compare_legend(sheet, 16, 54)
    values = [row["ratio_to_ext4"].get("stagefs") for row in rows] + [row["bar"] for row in rows] + [1]
    ratios = [value for value in values if value]
    x_range = scales.log_range(min(ratios) / 1.1, max(ratios) * 1.1)
    panel = Panel(sheet, (190, top, 720, bottom), x_range, (0, len(rows)), scales.log, scales.linear)
    panel.x_axis(scales.log_ticks(*x_range), "stagefs/ext4, log scale", lambda ratio: f"{ratio:g}")
    one = panel.x(1)
    for column, head in ((770, "/ext4"), (820, "bar"), (880, "/null")):
        sheet.text(column, top - 10, head, anchor="end", color=FAINT)
    for number, row in enumerate(rows):
        value, middle = row["ratio_to_ext4"].get("stagefs"), top + height * (number + 0.5)
        if value:
            end = panel.x(value)
            sheet.box(min(one, end), middle - 7, max(abs(end - one), 1), 14, _color(row))
        sheet.text(180, middle + 4, row["name"], anchor="end")
        if row["bar"]:
            sheet.line(panel.x(row["bar"]), middle - 11, panel.x(row["bar"]), middle + 11, INK, 2.5)
        for column, number_shown in ((770, value), (820, row["bar"]), (880, row["stagefs_to_null"])):
            sheet.text(column, middle + 4, bars.shown(number_shown), anchor="end")
    sheet.line(one, top, one, bottom, INK, 1)
    return sheet


def _compare_legend(sheet, x, y):
    for color, text in ((MET, "reaches its bar"), (MET_BY_TRANSPORT, f"reaches {bars.NEAR_THE_BOUND:g} of null"),
                        (MISSED, "below its bar")):
        sheet.box(x, y - 10, 18, 12, color)
        sheet.text(x + 24, y, text)
        x += 200
    sheet.line(x + 8, y - 13, x + 8, y + 4, INK, 2.5)
    sheet.text(x + 18, y, "the bar")


CHARTS = {"latency": latency, "threads": threads, "scale": scale, "compare": compare}
