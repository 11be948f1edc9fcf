import json

import pytest
from synthetic_study import make_study, make_trials

from naslab.errors import InputError
from naslab.runs.report import build_report
from naslab.runs.report.kernels import load_table

PROVENANCE = {"device": "cpu: Some <maker>", "torch": "2.15", "utc": "2026-01-02T03:04:05+00:00"}
ROW = {"kernel": "altup", "shape": "2x8x16", "dtype": "fp32", "eager_ms": 1.5, "compile_ms": None, "ours_ms": 0.5,
       "limit_ms": 0.25, "share": 0.5, "correct": True}  # fmt: skip
WRONG = ROW | {"shape": "2x9x16", "eager_ms": None, "ours_ms": None, "share": None, "correct": False}
TABLE = {
    "schema": "naslab.bench/1",
    "copy_bytes_per_second": 12.3e9,
    "rows": [ROW, WRONG],
    "provenance": PROVENANCE,
}


def test_a_result_file_is_shown_as_measured(tmp_path):
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps({"command": "python benchmarks/kernel_table.py", **TABLE}))
    made = build_report(make_study(), make_trials(), kernel_table=load_table(path))
    section = made.sections[-1]
    assert section.id == "kernels"
    assert not section.empty
    for shown in ("2x8x16", "0.500", "50%", "not measured", "wrong result", "12.3 GB/s", "Some &lt;maker&gt;"):
        assert shown in section.body


@pytest.mark.parametrize(
    ("text", "problem"),
    [(None, "cannot be read"), ("{", "not valid JSON"), ('{"schema": "naslab.rank/1"}', "not a table of kernels")],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, text, problem):
    path = tmp_path / "kernels.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=problem) as error:
        load_table(path)
    assert "\n" not in str(error.value)
