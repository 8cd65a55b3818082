"""Sections that evaluators write: the newest of each is in the report, and shows as it is."""

import html

import numpy as np

from hypnos_jax.reports import caption_report
from hypnos_jax.reports.main_job import write_report
from hypnos_jax.reports.sections import part, read_sections, write_section

LABEL = "<script>alert('{{ 7 * 7 }}')</script>"


def test_what_an_evaluator_says_is_on_the_page_as_text(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    parts = [part(LABEL, says=[LABEL], rows=[[LABEL, "x"], [LABEL, 0.25], [None, 3]])]
    write_section(model, "captions", step=4, title=LABEL, says=[LABEL], parts=parts)
    later = model / "evaluations/captions/8"
    later.mkdir(parents=True)
    write_section(later, "captions", step=8, title=f"later {LABEL}", says=[], parts=parts)
    write_section(model, "other", step=2, title="other", says=[], parts=[part("p", picture="no")])
    found = read_sections(model)
    assert [own["step"] for own in found] == [8, 2]
    assert found[1]["parts"][0]["picture"] is None
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert LABEL not in page and html.unescape(page).count(LABEL) == 5
    assert "0.250" in page


def test_measures_that_probes_do_not_lose_are_named():
    def row(slot_f1, hallucination_rate, mae):
        events = dict.fromkeys(("f1_iou30", "f1_iou50", "mean_iou", "onset_mae_s", "offset_mae_s"))
        slots = {"eeg_c3.delta": {"mae": mae}, "ecg.rate": {"mae": 1.0}}
        own = {"slot_f1": slot_f1, "hallucination_rate": hallucination_rate, "slots": slots}
        return {**own, "events": events, "trends": {"f1_iou50": np.nan}}

    rows = {"model": row(0.5, 0.2, 3.0), "probed": row(0.4, 0.1, 2.0)}
    assert caption_report.not_beaten(rows) == ["gated numbers said", "eeg_c3.delta"]
