"""What was tried and what came of it, as the table in docs/reliability.md."""

BEGIN, END = "<!-- faults: written by `make test-faults` -->", "<!-- faults: end -->"


class Report:
    """Rows of the table, in the order in which faults were tried; in `path`, where one is given, after each."""

    def __init__(self, path=None):
        self.rows, self.path = [], path

    def add(self, engine, what, fault, outcome, times=1):
        """A fault that the product stood; called last in a test, so that nothing is claimed that failed."""
        self.rows.append((engine, what, fault, outcome, times))
        if self.path:
            self.write(self.path)

    def table(self):
        """Markdown: equal outcomes of one engine and fault are one line."""
        lines = ["| engine | where | fault | tried | outcome |", "|---|---|---|---|---|"]
        grouped = {}
        for engine, what, fault, outcome, times in self.rows:
            places, count = grouped.setdefault((engine, fault, outcome), ([], [0]))
            places.append(what)
            count[0] += times
        for (engine, fault, outcome), (places, (count,)) in grouped.items():
            lines.append(f"| {engine} | {', '.join(dict.fromkeys(places))} | {fault} | {count} | {outcome} |")
        return "\n".join(lines)

    def write(self, path):
        """Put the table between its two marks."""
        text = path.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        tail = rest.split(END)[1]
        path.write_text(f"{head}{BEGIN}\n{self.table()}\n{END}{tail}", encoding="utf-8")
