"""Whole evaluations of drawn people: figures that must come out, the ledger, determinism, the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from moretta.errors import UsageError, WeightsRejected
from moretta.evaluation.protocol import Options, evaluate
from moretta.evaluation.report import schema
from moretta.evaluation.report.page import page

from .conftest import blocked, pixelated

for package in ("scipy", "sklearn", "matplotlib", "jinja2"):
    pytest.importorskip(package)

QUICK = {"profile": "quick", "gates": False}


def top1(report, name):
    row = next(r for r in report.attacks if r.id == name)
    return row.end_to_end.top1.v if row.end_to_end else None


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def run(people_on_disk, drawn_networks, kept):
    """Evaluate drawn people: (change, options) -> report; the plainest ones once for all tests."""

    def call(change, options=QUICK, **more):
        key = change.__name__ if options is QUICK and not more else None
        if key not in kept:
            before, after = people_on_disk(change, **more)
            report = evaluate(before, after, Options(**options))
            if key is None:
                return report
            kept[key] = report
        return kept[key]

    return call


def unchanged(picture):
    return picture


def test_nothing_changed_is_recognisable_and_missed(run):
    report = run(unchanged)
    assert report.coverage.missed == 84
    assert report.coverage.processed == 0
    assert top1(report, "clear") >= 0.9
    assert top1(report, "A0-other") == top1(report, "clear")
    assert top1(report, "A0-same") == 1
    assert all(r.conditional is None for r in report.attacks)
    useful = {u.name: u.value for u in report.utility}
    assert useful["SSIM inside the changed area"] == pytest.approx(1)
    assert useful["faces found by yunet"] == 1
    assert useful["five-point error"] == 0


def test_a_black_face_leaves_chance(run):
    report = run(blocked)
    assert report.coverage.processed == 84
    assert report.coverage.attacker_undetected == 84
    for name in ("A0-other", "A1", "A2-cross", "A3-lin", "A4-ridge"):
        row = next(r for r in report.attacks if r.id == name)
        assert row.end_to_end.top1.lo <= row.chance + 0.1, name
    useful = {u.name: u.value for u in report.utility}
    assert useful["faces found by yunet"] == 0
    assert useful["five-point error"] == 1
    assert useful["SSIM outside the changed area"] == pytest.approx(1)
    assert useful["PSNR outside the changed area"] == pytest.approx(100)


def test_seven_people_in_e_are_never_a_verdict(run):
    report = run(pixelated)
    assert report.headline.verdict in ("insufficient", "no verdict")
    assert report.headline.light == "grey"
    assert report.headline.people == 7


def test_two_runs_give_the_same_report(people_on_disk, drawn_networks, tmp_path):
    before, after = people_on_disk(pixelated)
    texts = []
    for cache in (tmp_path / "cache", tmp_path / "cache"):
        report = evaluate(before, after, Options(**QUICK, cache=cache))
        plain = json.loads(schema.written(report))
        plain["run"].pop("utc"), plain["run"].pop("seconds")
        for row in plain["attacks"]:
            row.pop("seconds")
        texts.append(json.dumps(plain))
    assert texts[0] == texts[1]


def test_names_and_order_of_files_do_not_matter(people_on_disk, drawn_networks, tmp_path):
    before, after = people_on_disk(pixelated)
    for folder in (before, after):
        target = tmp_path / "renamed" / folder.name
        for path in folder.rglob("*.png"):
            person = f"z{int(path.parent.name.split()[1]) * 5 % 28}"
            new = target / person / f"{9 - int(path.stem)}.png"
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(path.read_bytes())
    one = evaluate(before, after, Options(**QUICK))
    two = evaluate(
        tmp_path / "renamed" / "before", tmp_path / "renamed" / "after", Options(**QUICK)
    )
    for a, b in zip(one.attacks, two.attacks, strict=True):
        assert a.end_to_end == b.end_to_end, a.id


def test_a_recogniser_of_the_training_is_marked_and_never_decides(run):
    report = run(pixelated, {**QUICK, "recognisers": ("sface", "dlib"), "trained_with": ("dlib",)})
    assert report.headline.recogniser == "sface"
    assert {r.trained_with for r in report.attacks if r.recogniser == "dlib"} == {True}
    assert not any(r.decides for r in report.attacks if r.recogniser == "dlib")


def test_a_missing_recogniser_is_named_not_measured(run, monkeypatch):
    from .conftest import Projection

    def only_sface(name, **_):
        if name != "sface":
            raise WeightsRejected(f"{name}.onnx is missing")
        return Projection()

    monkeypatch.setattr("moretta.evaluation.protocol.embedder", only_sface)
    report = run(pixelated, {"profile": "standard", "gates": False, "trained_with": ("sface",)})
    absent = {n.id: n.reason for n in report.recognisers if not n.measured}
    assert absent == {"facenet": "facenet.onnx is missing", "dlib": "dlib.onnx is missing"}
    assert any("facenet was not measured" in limit for limit in report.limits)
    assert report.headline.verdict == "no verdict"  # the only one left was part of the training
    assert report.headline.H is None


def test_what_cannot_be_attacked_is_counted(run, people_on_disk, drawn_networks):
    before, after = people_on_disk(blocked)
    (after / "person 0" / "0.png").unlink()
    (after / "person 1" / "0.png").write_bytes(b"no photo")
    (before / "person 2" / "0.png").write_bytes(b"no photo")
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(after / "person 3" / "0.png")
    for i in (1, 2):
        (before / "person 4" / f"{i}.png").unlink()
        (after / "person 4" / f"{i}.png").unlink()
    twin = (before / "person 5" / "0.png").read_bytes()
    (before / "person 5" / "1.png").write_bytes(twin)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(after / "stranger.png")
    report = evaluate(before, after, Options(**QUICK))
    assert report.coverage.no_output == 1
    assert report.coverage.strangers == 1
    assert report.coverage.excluded == {
        "near_duplicate": 1,
        "original_unreadable": 1,
        "other_size": 1,
        "person_with_one_photo": 1,
        "released_unreadable": 1,
    }
    assert report.data.photos == 82 - 6


def test_the_headline_is_the_mean_over_releases(people_on_disk, drawn_networks):
    before, first = people_on_disk(pixelated)
    _, second = people_on_disk(blocked, name="second")
    options = {**QUICK, "again": (second,)}
    one, both = (evaluate(before, first, Options(**given)) for given in (QUICK, options))
    assert one.headline.releases == []
    assert both.headline.attack == one.headline.attack
    weak, strong = both.headline.releases
    assert weak == one.headline.top1.v
    assert strong < weak - 0.25  # a black face in the second release: the mean must feel it
    assert both.headline.top1.v == pytest.approx((weak + strong) / 2, abs=1e-6)
    assert "mean of 2 releases" in both.headline.sentence
    assert "mean of 2 releases" in page(both)


def test_a_further_release_holds_every_photo_at_its_size(people_on_disk, drawn_networks):
    before, first = people_on_disk(pixelated)
    _, second = people_on_disk(pixelated, name="second")
    wrong = second / "person 3" / "1.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(wrong)
    with pytest.raises(UsageError, match="does not show"):
        evaluate(before, first, Options(**QUICK, again=(second,)))


def test_missed_faces_stay_in(run, people_on_disk, drawn_networks):
    before, after = people_on_disk(blocked)
    whole = run(blocked)
    for path in sorted(before.rglob("*.png"))[::2]:
        (after / path.relative_to(before)).write_bytes(path.read_bytes())
    half = evaluate(before, after, Options(**QUICK))
    assert half.coverage.missed == 42
    assert half.coverage.share == 0.5
    assert top1(half, "A0-other") > top1(whole, "A0-other") + 0.25
    row = next(r for r in half.attacks if r.id == "A0-other")
    assert row.conditional.top1.v < row.end_to_end.top1.v
    assert row.conditional.probes < row.end_to_end.probes


def test_a_damaged_cache_is_made_anew_and_named(people_on_disk, drawn_networks, tmp_path):
    before, after = people_on_disk(pixelated)
    options = Options(**QUICK, cache=tmp_path / "cache")
    first = evaluate(before, after, options)
    kept = list((tmp_path / "cache").glob("sface*.npz"))
    assert kept
    damaged = bytearray(kept[0].read_bytes())
    damaged[-200] ^= 255
    kept[0].write_bytes(damaged[:-100])
    second = evaluate(before, after, options)
    assert any("was damaged" in limit for limit in second.limits)
    assert [r.end_to_end for r in first.attacks] == [r.end_to_end for r in second.attacks]


def test_too_few_people_are_refused(people_on_disk, drawn_networks):
    before, after = people_on_disk(blocked, people=5)
    with pytest.raises(UsageError, match="5 people with two photos or more"):
        evaluate(before, after, Options(**QUICK))


# ---- the page --------------------------------------------------------------------------------


class Checked(HTMLParser):
    """Collects what a page asks for and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.wanted, self.open, self.text, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.wanted += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in ("meta", "br", "link", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.wanted += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_shows_every_row(run):
    report = run(pixelated)
    html = page(report)
    seen = Checked()
    seen.feed(html)
    text = " ".join(seen.text)
    assert not seen.open
    assert len(seen.ids) == len(set(seen.ids))
    assert all(v.startswith("#") for v in seen.wanted)
    assert not re.search(r"<script|@import|url\((?!#)", html)
    for row in report.attacks:
        assert row.id in text
    for limit in report.limits:
        assert limit in text
    assert report.headline.sentence in text
    assert html.count("<svg") == 3
    assert page(report) == html


def test_names_are_escaped(people_on_disk, drawn_networks):
    before, after = people_on_disk(pixelated, name="<b>after & more")
    html = page(evaluate(before, after, Options(**QUICK)))
    assert "<b>after" not in html
    assert "&lt;b&gt;after &amp; more" in html


def test_the_report_is_read_back_and_other_schemas_are_not(run):
    report = run(pixelated)
    text = schema.written(report)
    assert schema.read(text) == report
    assert "NaN" not in text
    with pytest.raises(ValueError, match="not a report"):
        schema.read(text.replace(schema.SCHEMA, "moretta-eval/0"))


def test_no_word_that_promises_too_much(run):
    html = page(run(blocked)).lower()
    for word in ("anonymous", " safe", "guarantee", "gdpr"):
        assert word not in html


def test_the_command_writes_both_files(
    people_on_disk, drawn_networks, moretta, tmp_path, monkeypatch
):
    monkeypatch.setattr("moretta.evaluation.gates.GATES", ())
    before, after = people_on_disk(pixelated)
    out = tmp_path / "report"
    code, text, err = moretta(
        *("evaluate", "--original", before, "--anonymized", after, "--report", out),
        *("--profile", "quick"),
    )
    assert code == 3, err  # seven people are no verdict
    assert "7 people in part E; 100 are needed" in text
    report = schema.read((out / "report.json").read_text())
    assert page(report) == (out / "report.html").read_text()
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html"}


def test_methods_are_compared(drawn_networks, people_on_disk, moretta, tmp_path, monkeypatch):
    """The methods themselves are replaced: two of them, one better than the other."""
    monkeypatch.setattr("moretta.evaluation.gates.GATES", ())
    before, _ = people_on_disk(unchanged, people=24)

    def protected(data, folder, maker):
        change = blocked if maker.options.method == "solid" else pixelated
        for path in data.rglob("*.png"):
            target = folder / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(change(np.asarray(Image.open(path)))).save(target)

    monkeypatch.setattr("moretta.cli.benchmark._protected", protected)
    out = tmp_path / "bench"
    code, text, err = moretta(
        "benchmark", "--methods", "solid,pixelate:0.5", "--data", before, "--out", out
    )
    assert code == 3, err  # six people are no verdict, as for `evaluate`
    rows = json.loads((out / "benchmark.json").read_text())
    assert [row["method"] for row in rows] == ["solid", "pixelate-0.5"]
    assert rows[1]["top1"] > rows[0]["top1"]
    assert rows[1]["faces_found"] > rows[0]["faces_found"]
    assert "pixelate-0.5" in text
    html = (out / "benchmark.html").read_text()
    assert html.count("<svg") == 1
    seen = Checked()
    seen.feed(html)
    assert not seen.open
    assert (out / "reports" / "solid" / "report.html").exists()


@pytest.mark.parametrize(
    ("methods", "fault"),
    [
        ("blurr", "did you mean blur?"),
        ("blur:much", "has no strength"),
        ("blur:7", "strength is 7"),
        ("solid:0.5", "solid has no scale of strength"),
        ("blur,blur", "names blur twice"),
        (",", "--methods is empty"),
    ],
)
def test_methods_that_cannot_be_compared(moretta, tmp_path, methods, fault):
    code, _, err = moretta(
        "benchmark", "--methods", methods, "--data", tmp_path, "--out", tmp_path / "out"
    )
    assert code == 2
    assert fault in err
