"""identitydp: what it releases, what it counts, what it refuses, and that it fails closed."""

from __future__ import annotations

import io
import json
import math
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moretta.errors import NO_LEDGER, BudgetSpent, LedgerError, ReleaseRefused, UsageError
from moretta.methods import method, settings
from moretta.methods.identitydp import FLOOR, explained
from moretta.photos.manifest import as_line
from moretta.pipeline import budget, persons
from moretta.pipeline.options import options
from moretta.privacy.ledger import Ledger
from moretta.weights.backends import SIDE

pytest.importorskip("torch")
METHOD = method("identitydp")


@pytest.fixture(scope="module")
def edit_with():
    """Build the edit once for each set of settings: (**settings) -> edit."""
    import torch

    torch.set_num_threads(1)
    kept = {}

    def build(**given):
        key = json.dumps(given, sort_keys=True)
        if key not in kept:
            kept[key] = METHOD.build(settings(METHOD, given), "cpu")
        return kept[key]

    return build


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", bytes(32)) as one:
        yield one


@pytest.fixture
def own_ledger(tmp_path, monkeypatch):
    """Point the default ledger into this test's folder."""
    monkeypatch.setenv(budget.VARIABLE, str(tmp_path / "private" / "ledger.sqlite"))
    return tmp_path / "private" / "ledger.sqlite"


def test_the_same_photo_is_released_once_and_costs_once(edit_with, face_crop, ledger):
    edit = edit_with(epsilon=1.0)
    crop = replace(face_crop, guard=budget.guard(ledger, face_crop))
    one, two = edit([crop])[0], edit([crop, crop])[1]
    assert np.abs(one.pixels.astype(int) - two.pixels).max() <= 4  # bfloat16 rounds by batch
    (account,) = ledger.people()
    assert account.releases == 1
    assert account.epsilon == pytest.approx(1, abs=1e-6)
    other = replace(face_crop, pixels=face_crop.pixels ^ 1)
    edit([replace(other, guard=budget.guard(ledger, other))])
    assert len(ledger.people()) == 2  # nobody said that it is the same person


def test_alias_says_whether_photos_of_a_person_cost_once_or_each(edit_with, face_crop, ledger):
    photos = [replace(face_crop, pixels=face_crop.pixels ^ i, identity=7) for i in range(3)]
    photos = [replace(one, guard=budget.guard(ledger, one)) for one in photos]
    edit_with(epsilon=2.0, alias="person")(photos)
    assert ledger.spent(budget.person(7)).epsilon == pytest.approx(2, abs=1e-5)
    edit_with(epsilon=2.0)(photos)
    assert ledger.spent(budget.person(7)).epsilon == pytest.approx(8, abs=1e-5)
    more = [replace(one, pixels=one.pixels ^ 8) for one in photos]
    more = [replace(one, guard=budget.guard(ledger, one)) for one in more]
    with pytest.raises(BudgetSpent, match="budget does not hold it"):
        edit_with(epsilon=2.0)(more)
    assert ledger.spent(budget.person(7)).epsilon <= 10


def test_epsilon_0_reads_nothing_of_the_old_face(edit_with, face_crop):
    """At level 2 no attribute is left either: pixels under the mask cannot matter at all."""
    from moretta.networks.composer import ellipse

    hidden = ellipse(SIDE)[0, 0].numpy() >= 1
    changed = face_crop.pixels.copy()
    changed[hidden] = np.random.default_rng(0).integers(0, 256, (int(hidden.sum()), 3))
    edit = edit_with(level=2)
    was, now = edit([face_crop])[0], edit([replace(face_crop, pixels=changed)])[0]
    assert np.abs(was.pixels.astype(int) - now.pixels).max() <= 4
    assert was.statement.epsilon == 0
    assert was.statement.promise == "proved"
    assert was.figures["expected_cosine"] == pytest.approx(0, abs=1e-12)


def test_the_statement_says_all_that_is_released(edit_with, face_crop, ledger):
    crop = replace(face_crop, guard=budget.guard(ledger, face_crop))
    said = edit_with(epsilon=1.0)([crop])[0].statement
    assert said.promise == "proved"
    assert 0.9999 < said.epsilon <= 1
    assert "releases of one person add up" in said.excludes
    assert "any two unit vectors of this length" in said.neighbours
    toy = edit_with(epsilon=1.0, predictable=True)([crop])[0].statement
    assert (toy.promise, toy.epsilon) == ("none", math.inf)
    assert ledger.spent(f"face {'0' * 64}").epsilon == 0


@pytest.mark.parametrize(("epsilon", "said"), [(0.0, "draws it again"), (1.0, "takes it off")])
def test_predictable_proves_nothing_at_any_epsilon(edit_with, face_crop, epsilon, said):
    (edited,) = edit_with(epsilon=epsilon, predictable=True)([face_crop])
    assert (edited.statement.promise, edited.statement.epsilon) == ("none", math.inf)
    assert edited.statement.covers.startswith("nothing: ")
    assert said in edited.statement.covers
    weak = settings(METHOD, {"epsilon": epsilon, "predictable": True}).weak
    assert "nothing is proved" in weak
    assert not settings(METHOD, {"epsilon": epsilon}).weak


@pytest.mark.parametrize(
    ("given", "epsilon", "said"),
    [
        ({"match": "age,gender"}, 1, "read as the same apparent age and gender"),
        ({"mechanism": "laplace-compat"}, 1.2264, "any two unit vectors of this length"),
        ({"alias": "person"}, 1, "any two unit vectors"),
    ],
)
def test_statements_of_other_settings(given, epsilon, said):
    from moretta.methods.identitydp import stated
    from moretta.networks.pool import random_identities
    from moretta.privacy.mechanisms import mechanism

    chosen = settings(METHOD, {"epsilon": 1.0, **given})
    statement = mechanism(chosen.mechanism, random_identities(500, 1)).statement(1.0, 48)
    full = stated(chosen, statement)
    assert full.epsilon == pytest.approx(epsilon, abs=1e-4)
    assert said in full.neighbours
    assert full.excludes.startswith("apparent age and gender, released in clear") == (
        "match" in given
    )
    assert ("all photos of the person" in full.covers) == ("alias" in given)


def test_a_face_that_nobody_names_is_said_to_be_a_person_of_its_own(edit_with, face_crop, ledger):
    crops_ = [replace(face_crop, identity=identity) for identity in (7, None)]
    guarded = [replace(one, guard=budget.guard(ledger, one)) for one in crops_]
    named, unnamed = edit_with(epsilon=1.0, alias="person")(guarded)
    assert "one release for all photos of the person" in named.statement.covers
    assert "one release" not in unnamed.statement.covers
    assert "releases of one person add up" in unnamed.statement.excludes


def test_what_is_matched_is_said_to_be_read(edit_with, face_crop):
    """Among faces that look alike the mean cosine is another one: it is not told."""
    (edited,) = edit_with(match="gender")([face_crop])
    assert edited.statement.epsilon == 0
    assert edited.statement.numerics == (
        "the vector is read for its apparent gender, and for nothing else"
    )
    assert "expected_cosine" not in edited.figures
    (plain,) = edit_with()([face_crop])
    assert plain.statement.numerics == "the vector is not read"


def test_a_matched_pool_draws_from_those_who_look_alike(edit_with, face_crop):
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks.identity import Identity
    from moretta.networks.traits import TraitsHead
    from moretta.weights import load

    crops_ = [replace(face_crop, seed=i, identity=i) for i in range(8)]
    edited = edit_with(match="gender", predictable=True)(crops_)
    identify = Identity.from_tensors(load.tensors("dlib"), load.tensors("identity"))
    head = TraitsHead.from_tensors(load.tensors("identity"))
    pictures = np.stack([face_crop.pixels, *(one.pixels for one in edited)])
    points = torch.from_numpy(np.stack([points_in(face_crop) * SIDE] * len(pictures))).float()
    vectors = identify.of(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), points).numpy()
    looks = [head.read(one).gender for one in vectors]
    assert looks[1:].count(looks[0]) >= 6


def test_without_a_ledger_nothing_is_released(edit_with, face_crop):
    with pytest.raises(ReleaseRefused, match="there is no ledger"):
        edit_with(epsilon=1.0)([face_crop])


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"epsilon": -1}, "epsilon is -1"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": math.inf}, "epsilon is inf"),
        ({"epsilon": 1e9}, "epsilon is 1000000000"),
        ({"epsilon": 1e-9}, "0.000001 and more"),
        ({"epsilon": 20}, "--accept-weak-epsilon allows it"),
        ({"epsilon": 9, "mechanism": "laplace-compat"}, "--accept-weak-epsilon allows it"),
        ({"epsilon": 20, "accept_weak_epsilon": True}, "does not hold a single release"),
        ({"epsilon": 2, "cap": 1}, "does not hold a single release"),
        ({"cap": -1}, "cap is -1"),
        ({"mechanism": "laplacian"}, "mechanism is 'laplacian'"),
        ({"mechanism": "uniform", "epsilon": 1}, "uniform has epsilon 0"),
        ({"mechanism": "vmf", "match": "age"}, "only the mechanism pool"),
        ({"mechanism": "vmf", "pool": "x"}, "only the mechanism pool draws from one"),
        ({"alias": "everybody"}, "alias is 'everybody'"),
        ({"cap": 5.0}, "cap bounds what is spent, and epsilon is 0"),
        ({"cap": 5.0, "epsilon": 1.0, "predictable": True}, "predictable releases end at once"),
        (
            {"alias": "person", "match": "age"},
            "nothing is remembered of a person, since epsilon is 0",
        ),
        (
            {"alias": "person", "match": "age", "epsilon": 1.0, "predictable": True},
            "nothing is remembered of a person, since predictable",
        ),
        ({"level": 3}, "level is 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, why):
    with pytest.raises(UsageError, match=why.replace("(", r"\(")) as caught:
        settings(METHOD, given)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"settings": {"alias": "person"}}, "nobody says who is who"),
        ({"settings": {"epsilon": 1.0}, "seed": 1}, "--seed makes releases predictable"),
        ({"identity": "per-person"}, "--identity is given"),
        ({"identity": "per-run"}, "--identity is given"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given, why):
    with pytest.raises(UsageError, match=why) as caught:
        options({"method": "identitydp", **given})
    assert caught.value.hint


def test_a_ledger_in_which_nothing_would_be_written_is_refused():
    for given in ({}, {"epsilon": 0}, {"epsilon": 1, "predictable": True}):
        with pytest.raises(UsageError, match="with these settings identitydp spends nothing"):
            options({"method": "identitydp", "settings": given, "ledger": "x"})
    assert options({"method": "identitydp", "settings": {"epsilon": 1}, "ledger": "x"}).ledger


def test_other_methods_have_no_ledger():
    with pytest.raises(UsageError, match="--ledger is given, and newface spends no budget"):
        options({"method": "newface", "ledger": "x"})
    assert options({"method": "identitydp", "seed": 1}).seed == 1  # at epsilon 0 nothing is lost
    assert options({"method": "identitydp", "persons": "folders"}).persons == "folders"


# ---- runs ------------------------------------------------------------------------------------


def photos_of(folder, put, small, *names):
    for i, name in enumerate(names):
        put(folder / name, np.roll(small, i, axis=1))
    return folder


def test_it_works_at_once_and_the_record_is_whole(
    moretta, tmp_path, put, small, own_ledger, lines, unknowing
):
    photos_of(tmp_path / "in", put, small, "a.png", "b.png")
    out = tmp_path / "out"
    arguments = ("anonymize", tmp_path / "in", "--method", "identitydp", "--epsilon", "1")
    code, stdout, _ = moretta(*arguments, "--output", out, "--json")
    assert code == 0
    spent = json.loads(stdout)["spent"]
    assert (spent["releases"], spent["people"]) == (2, 2)
    assert spent["epsilon"] == pytest.approx(2, abs=1e-5)
    for line in lines(out):
        (face,) = line["faces"]
        assert face["statement"]["promise"] == "proved"
        assert face["statement"]["epsilon"] == pytest.approx(1, abs=1e-6)
        assert face["statement"]["mechanism"].startswith("pool (epsilon 1,")
        assert face["seed"] is None
        assert line["seed"] is None
    run = (out / "run.json").read_text()
    assert str(own_ledger) not in run
    assert own_ledger.stat().st_mode & 0o077 == 0
    assert own_ledger.with_name("ledger.sqlite.key").stat().st_mode & 0o077 == 0
    code, stdout, _ = moretta(*arguments, "--output", tmp_path / "again", "--json")
    spent = json.loads(stdout)["spent"]
    assert (spent["releases"], spent["people"]) == (0, 0)  # the same photos: the same releases
    assert spent["most_on_one"] == pytest.approx(1, abs=1e-5)
    code, stdout, _ = moretta(*arguments, "--output", tmp_path / "read")
    assert " ".join(FLOOR.split()) in " ".join(stdout.split())
    code, stdout, _ = moretta("budget", "show", "--json")
    assert len(json.loads(stdout)["people"]) == 2


def test_a_person_is_the_same_in_every_run_and_the_cap_covers(
    moretta, tmp_path, put, small, own_ledger, lines
):
    photos = photos_of(tmp_path / "in", put, small, "anna/1.png", "anna/2.png", "anna/3.png")
    options_ = ("--method", "identitydp", "--epsilon", "2", "--cap", "4", "--persons", "folders")
    code, stdout, stderr = moretta(
        "anonymize", photos, "-o", tmp_path / "out", *options_, "--jobs", "1"
    )
    assert code == 3
    why = "1 face, 1 covered by policy: this person's budget does not hold it"
    assert f"anna/3.png: covered: {why}" in stderr  # the budget, not the judge
    assert lines(tmp_path / "out")[2]["reason"] == why
    assert "most on one" in stdout.replace("\n", " ")
    faces = [line["faces"][0] for line in lines(tmp_path / "out")]
    assert faces[2]["method"] == "solid"
    faults = [face["audit"].get("covered", {}).get("fault", "") for face in faces]
    assert faults[:2] == ["", ""]  # drawn; by chance the judge may know one even so
    fault = faults[2]
    assert "budget does not hold it" in fault
    assert " 4" not in fault  # a published record says nothing of earlier releases
    assert faces[2]["statement"] is None
    put(photos / "anna/4.png", np.roll(small, 9, axis=1))
    code, stdout, _ = moretta("anonymize", photos, "-o", tmp_path / "more", *options_)
    assert "most on one in the ledger: 4" in " ".join(stdout.split())  # by earlier runs alone
    later = {line["name"]: line["faces"][0]["audit"] for line in lines(tmp_path / "more")}
    assert "budget does not hold it" in later["anna/4.png"]["covered"]["fault"]
    assert not later["anna/1.png"].get("covered", {}).get("fault")  # remembered
    code, stdout, _ = moretta("budget", "show", "--person", "anna", "--json")
    (account,) = json.loads(stdout)["people"]
    assert account["epsilon"] == pytest.approx(4, abs=1e-5)
    assert b"anna" not in b"".join(one.read_bytes() for one in own_ledger.parent.iterdir())


def test_a_ledger_that_cannot_be_written_is_refused_before_a_run(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    budget.opened(path).close()
    budget.examined(path)
    for refused in (path, tmp_path):
        monkeypatch.setattr(
            "moretta.pipeline.budget.os.access", lambda where, mode, no=refused: Path(where) != no
        )
        with pytest.raises(LedgerError, match="cannot be opened for writing") as caught:
            budget.examined(path)
        assert str(refused) in str(caught.value)


def test_alias_person_is_one_release_for_a_hundred_photos(ledger):
    """Without drawing them all: what the guard does for 100 photos of one person."""
    from moretta.records import Charge

    charge = Charge(mechanism="pool", epsilon=1.0, delta=0.0, cap=1.0, shared=True)
    rng = np.random.default_rng(0)
    answers = {
        ledger.guard(budget.person(7), rng.bytes(32))(charge, lambda: rng.bytes(192))
        for _ in range(100)
    }
    assert len(answers) == 1
    assert ledger.spent(budget.person(7)).epsilon == 1


def test_averaging_photos_finds_the_vector_again_and_one_release_does_not():
    """cos_k = c / sqrt(c^2 + (1 - c^2) / k) for k releases of mean cosine c: why photos add up."""
    from moretta.networks.pool import random_identities
    from moretta.privacy.entropy import Predictable
    from moretta.privacy.mechanisms import PrivUnit, checked

    x = checked(random_identities(1, 5, 512)[0])
    for k, expected in ((10, 0.25), (100, 0.63), (1000, 0.93)):
        trials = [PrivUnit().sample(x, 5, Predictable(k + i), k).mean(0) for i in range(12)]
        found = np.mean([float(one @ x) / np.linalg.norm(one) for one in trials])
        assert found == pytest.approx(expected, rel=0.08)


def test_a_method_that_fails_leaves_nothing_of_the_face(tmp_path, small, own_ledger, monkeypatch):
    """NaN identity, broken ledger: the face is painted, and the record says why."""
    from moretta.api import Anonymizer
    from moretta.networks.backend import ComposerBackend

    one = Anonymizer("identitydp", settings={"epsilon": 1.0})
    real = ComposerBackend.identity
    monkeypatch.setattr(ComposerBackend, "identity", lambda *a: real(*a) * float("nan"))
    _, record = one.image(small)
    assert record.faces[0].method == "solid"
    assert "NaN" in record.faces[0].audit["covered"]["fault"]
    monkeypatch.undo()
    monkeypatch.setattr(
        Ledger, "release", lambda *_, **__: (_ for _ in ()).throw(LedgerError("/home/me/x is gone"))
    )
    _, record = one.image(small)
    assert record.faces[0].method == "solid"
    assert record.faces[0].audit["covered"]["fault"] == NO_LEDGER
    assert "/home/me" not in str(as_line(record))  # the record is published


def test_a_bad_ledger_is_refused_before_anything_is_made(moretta, tmp_path, put, small):
    photos = photos_of(tmp_path / "in", put, small, "a.png")
    out = tmp_path / "out"

    def tried(ledger):
        arguments = ("--method", "identitydp", "--epsilon", "1", "--ledger", ledger)
        code, _, err = moretta("anonymize", photos, "-o", out, *arguments)
        assert code == 2
        assert not out.exists()
        assert "hint:" in err
        return err

    bad = tmp_path / "bad.sqlite"
    bad.write_bytes(b"no database, though it has a name like one" * 99)
    assert "is no ledger" in tried(bad)
    bad.with_name("bad.sqlite.key").write_bytes(bytes(32))
    assert "damaged" in tried(bad)
    bad.write_bytes(b"")
    assert "is empty" in tried(bad)
    bad.unlink()
    assert "without its file" in tried(bad)
    own = tmp_path / "own.sqlite"
    budget.opened(own).close()
    own.with_name("own.sqlite.key").unlink()
    assert "without its key" in tried(own)
    assert "output folder" in tried(out / "ledger.sqlite")
    assert "cannot be opened" in tried(photos / "a.png" / "ledger.sqlite")


def test_nobody_is_told_to_remove_what_is_no_ledger(moretta, tmp_path, put, small, tree):
    photos = photos_of(tmp_path / "in", put, small, "a.png")
    for name, content in (("text", b"mine"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE t (x)")
    foreign.close()
    (tmp_path / "lost.key").write_bytes(
        bytes(32)
    )  # a key of something else, by its name this one's
    before = tree(tmp_path)
    for path, said in (
        (photos / "a.png", "is no ledger"),
        (tmp_path / "text", "is no ledger"),
        (tmp_path / "empty", "is no ledger"),
        (tmp_path / "foreign", "is no ledger"),
        (tmp_path / "folder", "cannot be opened: Is a directory"),
        (tmp_path / "lost", "without its file"),
    ):
        rest = ("--method", "identitydp", "--epsilon", "1", "--ledger", path)
        for words in (
            ("anonymize", photos, "-o", tmp_path / "out", *rest),
            ("budget", "show", "--ledger", path),
        ):
            code, _, err = moretta(*words)
            assert code == 2
            assert said in err
            assert "choose another" in err
            assert "remove" not in err.partition("hint: ")[2]
    assert tree(tmp_path) == before


def test_a_ledger_that_was_killed_as_it_began_is_known_as_one(tmp_path):
    path, killed = tmp_path / "l", tmp_path / "killed"
    with Ledger(path, bytes(32)):
        killed.write_bytes(path.read_bytes())
        wal = path.with_name("l-wal").read_bytes()
    with pytest.raises(LedgerError, match="is no ledger"):
        budget.opened(killed)
    killed.with_name("killed-wal").write_bytes(wal)
    with pytest.raises(LedgerError, match="without its key"):
        budget.opened(killed)


def test_budget_commands(moretta, tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    code, _, err = moretta("budget", "show", "--ledger", path)
    assert code == 2
    assert "there is no ledger" in err
    with budget.opened(path) as ledger:
        from moretta.records import Charge

        charge = Charge(mechanism="pool", epsilon=1.0, delta=0.0, cap=9.0, shared=False)
        for name in ("anna", "anja"):
            who = budget.person(persons.identity_of(name, ledger.secret))
            ledger.release(who, b"photo", charge, lambda: b"answer")
    code, out, _ = moretta("budget", "show", "--ledger", path)
    assert code == 0
    assert "2 people, 2 answers remembered" in out.replace("\n", " ")
    file = tmp_path / "out.jsonl"
    assert moretta("budget", "export", file, "--ledger", path)[0] == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["epsilon"] for row in rows] == [1, 1]
    assert "anna" not in file.read_text()
    code, _, err = moretta("budget", "export", file, "--ledger", path)
    assert code == 2
    assert "new file" in err
    for names in (("anna", "anya"), ("anya", "anna")):
        code, _, err = moretta("budget", "merge", *names, "--ledger", path)
        assert code == 2
        assert "'anya'" in err
    _, out, _ = moretta("budget", "show", "--ledger", path, "--json")
    assert len(json.loads(out)["people"]) == 2
    assert moretta("budget", "merge", "anna", "anja", "--ledger", path)[0] == 0
    _, out, _ = moretta("budget", "show", "--person", "anja", "--ledger", path, "--json")
    assert json.loads(out)["people"][0]["epsilon"] == 2
    assert moretta("budget", "reset", "--ledger", path)[0] == 2
    assert moretta("budget", "reset", "--memo", "--ledger", path)[0] == 0
    _, out, _ = moretta("budget", "show", "--ledger", path, "--json")
    assert (json.loads(out)["remembered"], len(json.loads(out)["people"])) == (0, 1)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal: nobody is asked
    code, _, err = moretta("budget", "reset", "--all", "--ledger", path)
    assert code == 2
    assert "--yes confirms" in err
    _, out, _ = moretta("budget", "show", "--ledger", path, "--json")
    assert len(json.loads(out)["people"]) == 1
    assert moretta("budget", "reset", "--all", "--yes", "--ledger", path)[0] == 0
    _, out, _ = moretta("budget", "show", "--ledger", path, "--json")
    assert json.loads(out)["people"] == []


def test_the_floor_is_found_where_attributes_carry_the_identity_and_gone_where_they_do_not():
    """A toy generator at epsilon 0: its attribute path copies a part of the identity, or is cut."""
    pytest.importorskip("scipy")
    from moretta.evaluation import gates
    from moretta.evaluation.attackers.naive import OTHER
    from moretta.evaluation.ladder import attack
    from moretta.privacy.entropy import Predictable
    from moretta.privacy.mechanisms import Uniform, checked, normalised

    where = gates.layout()
    clear = gates.drawn(where)
    length = clear.shape[1]
    released = np.concatenate(
        [Uniform().sample(checked(one), 0, Predictable(i), 1) for i, one in enumerate(clear)]
    )
    copied = np.zeros_like(clear)
    copied[:, : length // 4] = clear[:, : length // 4]
    floors = []
    for generated in (normalised(released + 3 * copied), released):
        row = attack(OTHER, gates.case(where, clear, generated), where, "toy")
        floors.append((row.all.top1, row.chance))
    (leaking, chance), (cut, _) = floors
    assert leaking.lo > 5 * chance
    assert cut.v <= 3 * chance


def test_the_floor_that_is_printed_is_the_one_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "identitydp.md").read_text()
    found, people, bound, chance = map(int, re.findall(r"(\d+)(?= %| people)", FLOOR))
    said = f"found {found} % of {people} (upper bound {bound} %), with chance {chance} %"
    assert said in page
    assert FLOOR in explained()


# ---- a pool on disk --------------------------------------------------------------------------


def test_a_pool_on_disk_is_drawn_from_and_named_by_its_hash_and_size(
    edit_with, face_crop, ledger, store
):
    from moretta.networks.pool import random_identities
    from moretta.privacy.mechanisms import FinitePool

    labels = []
    crop = replace(face_crop, guard=budget.guard(ledger, face_crop))
    for size in (40, 48):
        given = {"epsilon": 1.0, "pool": str(store(size))}
        said = edit_with(**given)([crop])[0].statement
        digest = FinitePool(random_identities(size, 1)).digest
        assert f"of {size} public identities, sha256 {digest[:16]}" in said.mechanism
        assert 0.9999 < said.epsilon <= 1
        assert "no delta" in said.numerics
        labels.append(said.mechanism)
        edit_with(**given)([crop])  # remembered
    edit_with(epsilon=1.0)([crop])
    rows = list(ledger.rows())
    assert [row["mechanism"] for row in rows][:2] == labels
    assert len({row["mechanism"] for row in rows}) == 3  # each pool is a release of its own
    assert ledger.people()[0].epsilon == pytest.approx(3, abs=1e-5)
    assert "among those of one apparent gender" in (
        edit_with(pool=str(store(48)), match="gender")([crop])[0].statement.mechanism
    )


def test_what_is_released_is_a_member_of_the_pool_by_the_mechanisms_weights(
    edit_with, face_crop, store
):
    """Through the edit: 300 releases of one face, of which e^2 times as many fall on the k nearest."""
    from moretta.networks.pool import random_identities
    from moretta.privacy.mechanisms import FinitePool

    members = random_identities(40, 1)
    seen = []

    def guard(charge, draw):
        seen.extend(draw() for _ in range(300))
        return seen[-1]

    edit_with(epsilon=2.0, pool=str(store(40)))([replace(face_crop, guard=guard)])
    places = {one.tobytes(): i for i, one in enumerate(members)}
    drawn = np.bincount([places[one] for one in seen], minlength=40)  # KeyError: no member
    high, _, k, total = FinitePool(members).weights(2.0)
    near = np.sort(drawn)[::-1][:k].sum()
    assert near == pytest.approx(300 * high * k / total, abs=5 * np.sqrt(300) / 2)
    assert near > 2 * 300 * k / 40


def test_a_pool_of_the_stores_identities_labels_them_as_the_head_does(store):
    from moretta.weights import backends, pools

    made, head = pools.stand_ins(str(store(40)))
    bands, female = head.probabilities(made.identities)
    np.testing.assert_array_equal(made.bands, bands.argmax(1))
    np.testing.assert_array_equal(made.genders, female >= 0.5)
    assert not made.identities.flags.writeable
    usual = backends.stand_ins()[0]  # the same seed: the first ones are the same
    np.testing.assert_array_equal(made.identities, usual.identities[:40])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("composer", "was drawn with 000000000000 of composer"),
        ("identity", "was drawn with 000000000000 of identity"),
        ("dlib", "was drawn with 000000000000 of dlib"),
        ("length", "has identities of another recogniser: shape \\(40, 12\\), not \\(n, 48\\)"),
        ("cut", "is damaged"),
        ("bit", "is damaged: its identities are not those of its seed"),
        ("nan", "is damaged: its identities are not those of its seed"),
        ("seed", "is damaged: its identities are not those of its seed"),
        ("one", "has 1 of 1 face: no choice"),
        ("unfinished", "is unfinished: 40 of 50 faces"),
        ("missing", "is no pool"),
        ("kind", "has . of 40 faces that look .*, and --match age,gender needs 2"),
    ],
)
def test_a_pool_that_cannot_be_used_is_refused_before_anything_is_made(
    change, why, moretta, store, tmp_path, put, small, own_ledger
):
    import shutil

    folder = tmp_path / "pool"
    if change != "missing":
        shutil.copytree(store(40), folder)
        spoil(folder, change)
    photos = photos_of(tmp_path / "in", put, small, "a.png")
    words = ("anonymize", photos, "-o", tmp_path / "out", "--method", "identitydp")
    more = ("--match", "age,gender") if change == "kind" else ()
    for rest in ((), ("--dry-run",)):
        code, _, err = moretta(*words, "--epsilon", "1", "--pool", folder, *more, *rest)
        assert code == 2
        assert re.search(why, err), err
        assert "hint: " in err
        assert len(err.splitlines()) == 2
        assert not (tmp_path / "out").exists()
        assert not own_ledger.exists()


def spoil(folder, change):
    """Make one thing of a pool wrong."""
    about = json.loads((folder / "manifest.json").read_text())
    identities = np.load(folder / "identities.npy")
    if change in ("composer", "identity", "dlib"):
        about["networks"][change] = "0" * 64
    elif change == "length":
        identities = identities[:, :12]
    elif change == "cut":
        path = folder / "identities.npy"
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "bit":
        identities[3, 5] += 2.0**-20
    elif change == "nan":
        identities[3, 5] = np.nan
    elif change == "seed":
        about["seed"] = 2
    elif change == "one":
        about |= {"count": 1, "done": 1}
    elif change == "unfinished":
        about["count"] = 50
    (folder / "manifest.json").write_text(json.dumps(about))
    if change in ("length", "bit", "nan"):
        np.save(folder / "identities.npy", identities)


def test_a_run_names_the_pool_and_not_the_folder(
    moretta, store, tmp_path, put, small, own_ledger, lines, unknowing
):
    import shutil

    folder = tmp_path / "of-anna"
    shutil.copytree(store(40), folder)
    photos = photos_of(tmp_path / "in", put, small, "a.png")
    words = ("anonymize", photos, "-o", tmp_path / "out", "--method", "identitydp")
    code, _, err = moretta(*words, "--epsilon", "1", "--mechanism", "pool", "--pool", folder)
    assert code == 0, err
    (face,) = lines(tmp_path / "out")[0]["faces"]
    assert "of 40 public identities" in face["statement"]["mechanism"]
    assert face["settings"]["pool"].startswith("sha256 ")
    run = (tmp_path / "out" / "run.json").read_text()
    assert face["settings"]["pool"] in run
    assert "anna" not in run + json.dumps(face)
    assert moretta("budget", "export", tmp_path / "out.jsonl")[0] == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["mechanism"] == face["statement"]["mechanism"]
