"""When a row of the comparison is good enough, and the table that says so.

A bar is the least ratio of stagefs to ext4. Where the transport itself allows less, a ratio to `null` (the same front
end over memory) of NEAR_THE_BOUND is enough: nothing that the volume and the engine do could gain much.
"""
import statistics

import record

NEAR_THE_BOUND = 0.85


def median(values):
    """Of the rounds that succeeded; None without any."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratio(value, base):
    return value / base if value is not None and base else None


def shown(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def is_met(bar, to_ext4, to_null):
    """None if there is no bar, or nothing to compare with."""
    if bar is None or to_ext4 is None and to_null is None:
        return None
    return (to_ext4 is not None and to_ext4 >= bar) or (to_null is not None and to_null >= NEAR_THE_BOUND)


def judge(row, rates):
    """What a result file keeps of a row. `rates`: {peer: [rate or None of each round]}."""
    medians = {name: median(values) for name, values in rates.items()}
    ratios = {name: ratio(value, medians.get("ext4")) for name, value in medians.items()}
    to_null = ratio(medians.get("stagefs"), medians.get("null"))
    failed = "stagefs" in medians and medians["stagefs"] is None
    verdict = False if failed else is_met(row.bar, ratios.get("stagefs"), to_null)
    return {"name": row.name, "unit": row.unit, "what": row.what, "bar": row.bar, "median": medians,
            "ratio_to_ext4": ratios, "stagefs_to_null": to_null,
            "met": verdict, "rounds": rates}


def missed(rows):
    """A line for each row that stays below its bar or that stagefs could not do."""
    lines = []
    for row in rows:
        if row["met"] is not False:
            continue
        if row["median"]["stagefs"] is None:
            lines.append(f"{row['name']}: stagefs failed")
        else:
            lines.append(f"{row['name']}: {shown(row['ratio_to_ext4'].get('stagefs'))} times ext4, the bar is "
                         f"{row['bar']}; {shown(row['stagefs_to_null'])} times null")
    return lines


def rounds_text(result):
    return f"medians of {result['rounds']} rounds" if result["rounds"] > 1 else "one round"


def table(result, described=False):
    """Markdown. `described`: with what each row does, for the docs."""
    names = result["peers"]
    others = [name for name in names if name not in ("ext4", "stagefs", "null")]
    heads = ["work", *(["what"] if described else []), "unit", *names]
    left = len(heads) - len(names)
    heads += ["stagefs/ext4", "bar", *(["stagefs/null"] if "null" in names else []), "met"]
    heads += [f"{name}/ext4" for name in others]
    lines = [heads]
    for row in result["rows"]:
        cells = [row["name"], *([row["what"]] if described else []), row["unit"]]
        cells += [shown(row["median"][name], 0) for name in names]
        cells += [shown(row["ratio_to_ext4"].get("stagefs")), str(row["bar"] or "")]
        cells += [shown(row["stagefs_to_null"])] if "null" in names else []
        cells += [{True: "yes", False: "no", None: ""}[row["met"]]]
        cells += [shown(row["ratio_to_ext4"][name]) for name in others]
        lines.append(cells)
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(heads))]
    is_text = [column < left or heads[column] == "met" for column in range(len(heads))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) if text else cell.rjust(width)
                                 for cell, width, text in zip(cells, widths, is_text)) + " |"
    rule = "|" + "|".join("-" * (width + 2) if text else "-" * (width + 1) + ":"
                          for width, text in zip(widths, is_text)) + "|"
    about = (f"{record.machine_line(result)}; {rounds_text(result)}, `{result['command']}`. Met: the bar, or "
             f"{NEAR_THE_BOUND} of null.")
    return "\n".join([about, "", line(lines[0]), rule] + [line(cells) for cells in lines[1:]])
