"""Tables of participants: one person's nights are never of two people, however they are written."""

import contextlib
import csv
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import participants, splits


def people_of(folder, table, names, name="participants.csv", encoding="utf-8"):
    """What a table says of recordings."""
    path = folder / name
    path.write_bytes(table if isinstance(table, bytes) else table.encode(encoding))
    return participants.match([participants.read_table(path)], names)


def counts(people):
    return {finding.what: finding.count for finding in people.findings}


# Ways in which people and spreadsheets write the name of a recording.
DISGUISES = {
    "as it is": str,
    "suffix": lambda name: f"{name}.edf",
    "capital suffix": lambda name: f"{name}.EDF",
    "folder": lambda name: f"data/{name}",
    "windows": lambda name: "C:\\study\\" + name.replace("/", "\\") + ".edf",
    "here": lambda name: f"./{name}.bdf",
    "capitals": str.upper,
    "blanks": lambda name: f"  {name} ",
    "quotes": lambda name: f'"{name}"',
    "formula": lambda name: f'="{name}"',
    "curly": lambda name: f"“{name}”",
    "no zeros": lambda name: name.lstrip("0") if name.isdigit() else name,
    "float": lambda name: f"{name}.0" if name.isdigit() else name,
    "ending": lambda name: f"{name.removesuffix('-PSG')}-PSG",
    "decomposed": lambda name: name.replace("ä", "a\u0308"),
    "nbsp": lambda name: f"\xa0{name}\xa0",
}
HEADERS = [
    *("recording,subject", "Recording,Subject", "FILENAME,SUBJECT_ID", "File,Patient", "EDF,PID"),
    *("edf file,Participant ID", "Datei,Proband", "fichier,sujet", "archivo,paciente", "path,id"),
    *('"recording","subject"', "#recording,subject", "file_name, subj"),
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]
NAMES = ["0001", "0002", "a1", "a2", "lab/n1", "other/n1", "Nächte 1", "x.1", "SC4001E0-PSG", "10"]


@given(
    disguises=st.lists(st.sampled_from(sorted(DISGUISES)), min_size=10, max_size=10),
    header=st.sampled_from(HEADERS),
    encoding=st.sampled_from(ENCODINGS),
    delimiter=st.sampled_from(",;\t|"),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    tail=st.sampled_from(["", "{0}", ",{0}{0}", "{0},{0}"]),
    order=st.permutations(range(10)),
)
def test_nights_of_one_person_are_one_persons_in_any_disguise(
    tmp_path_factory, disguises, header, encoding, delimiter, ending, tail, order
):
    people = [f"p{n // 2}" for n in range(10)]
    rows = [header.replace("#", "")] if encoding == "utf-16-le" else [header]
    for n in order:
        text = DISGUISES[disguises[n]](NAMES[n]).replace('"', '""')
        rows.append(f'"{text}",{people[n]}')
    # A comma stands in none of these names.
    text = ending.join(rows).replace(",", delimiter)
    text += tail.format(ending).replace(",", delimiter)
    if encoding == "cp1252":
        text = text.replace("a\u0308", "ä")
    if encoding == "utf-16-le" and not text.isascii():
        text = text.replace("“", "'").replace("”", "'")
    found = people_of(tmp_path_factory.mktemp("people"), text, NAMES, encoding=encoding)
    assert found.subjects == dict(zip(NAMES, people))
    assert not found.findings
    assert found.told == ["participants.csv: 10 of 10 rows match 10 of 10 recordings"]


NEVER_SPLIT = [
    # recordings of one person, rows: each is made one person's, refused, or told.
    (["n1", "n2"], ["n1,p", "n2,P"]),
    (["n1", "n2"], ["n1,p", "n2, p "]),
    (["n1", "n2"], ["n1,012", "n2,12"]),
    (["n1", "n2"], ["n1,12", "n2,12.0"]),
    (["n1", "n2"], ["n1,sub-01", "n2,01"]),
    (["n1", "n2"], ["n1,P-1", "n2,P1"]),
    (["n1", "n2"], ["n1,P_01", "n2,p 1"]),
    (["n1", "n2"], ["n1,#7", "n2,7"]),
    (["n1", "n2"], ["n1,P\uff11", "n2,P1"]),
    (["n1", "n2"], ['n1,"Doe, J"', "n2,Doe J"]),
    (["n1", "n2"], ["n1,P\u20111", "n2,P-1"]),
    (["n1", "n2"], ["n1,1E5", "n2,1.00E+05"]),
    (["n1", "n2"], ["n1,1E5", "n2,100000"]),
    (["n1", "n2"], ['n1,"1,001"', "n2,1001"]),
    (["n1", "n2"], ["n1,3-1", "n2,03-Jan"]),
    (["3-1", "3-2"], ["03-Jan,p", "03-Feb,p"]),
    (["1E5", "1E6"], ["1.00E+05,p", "1.00E+06,p"]),
    (["n1", "n2"], ["n1,p"]),
    (["n1", "n2"], ["n1,p", "nn2,p"]),
    (["n1", "n2"], ["n1,p", "old/n2x,p"]),
    (["a/n1", "b/n1"], ["n1,p"]),
    (["1", "01"], ["001,p"]),
    (["n1", "n2"], ["m1,p", "m2,p"]),
    (["n1", "n2"], []),
]


@pytest.mark.parametrize(("names", "rows"), NEVER_SPLIT)
def test_what_does_not_fit_is_refused_or_told(tmp_path, names, rows):
    table = "\n".join(["recording,subject", *rows])
    try:
        people = people_of(tmp_path, table, names)
    except participants.SubjectMapError as error:
        assert "row 2" in str(error)
        return
    assert len({people.subjects.get(name, name) for name in names}) == 1 or counts(people)


@given(
    st.lists(st.sampled_from(["n1", "n01", "N1", "a/n1", "n1.edf", "x", "1", "01", "n1-PSG"])),
    st.lists(st.sampled_from("pPq"), min_size=9, max_size=9),
    st.lists(st.sampled_from(["n1", "n01", "N1", "a/n1", "b/n1", "n2", "1", "001"]), unique=True),
)
def test_a_partner_is_never_taken_or_left_in_silence(tmp_path_factory, keys, people, names):
    rows = [f"{key},{person}" for key, person in zip(keys, people)]
    table = "\n".join(["recording,subject", *rows])
    folder = tmp_path_factory.mktemp("people")
    with contextlib.suppress(participants.SubjectMapError):
        found = people_of(folder, table, names)
        left = counts(found).get("recordings without a row", 0)
        assert len(names) == len(found.facts) + left
        exact = dict(zip(keys, people))
        for name in names:  # what is written exactly so has the word
            if name in exact:
                assert found.subjects[name].lower() == exact[name].lower()


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["a/n1", "b/n1"], ["n1,p"]),
        (["0001", "001"], ["1,p"]),
        (["N1", "n1"], ["n01,p"]),
        (["a1"], ["a1,p", "a1,q"]),
        (["a1"], ["a1,p", "a1.edf,q"]),
        (["A1"], ["a1,p", "a1.edf,q"]),
        (["sub-1_eeg"], ["sub-1,p", "SUB-1_EEG,q", "sub-1_eeg.edf,r", "sub-1_eeg,s"]),
    ],
)
def test_what_may_mean_two_is_refused_by_row(tmp_path, names, rows):
    with pytest.raises(participants.SubjectMapError, match=r"rows? \d") as error:
        people_of(tmp_path, "\n".join(["recording,subject", *rows]), names)
    assert not any(f"{row.split(',')[0]!r}" in str(error.value) for row in rows)


@pytest.mark.parametrize(
    "changed",
    [
        *("03-Jan", "3. Mrz", "Mai 03", "01/03/2024", "1.3.24", "2024-03-01", "1-déc.", "ene-03"),
        *("1.00E+05", "1,23457E+15", "1E+05"),
    ],
)
def test_what_a_spreadsheet_made_of_a_name_is_told(tmp_path, changed):
    row = f'"{changed}"'
    people = people_of(tmp_path, f"recording,subject\nn1,{row}\nn2,{row}\n", ["n1", "n2"])
    assert counts(people) == {"names that a spreadsheet may have changed": 2}
    people = people_of(tmp_path, f"recording,subject\n{row},p\n", ["n1"])
    assert counts(people)["names that a spreadsheet may have changed"] == 1


@pytest.mark.parametrize("plain", ["1E5", "jan", "march3", "12-34", "dec", "1-1", "S1-mar", "3.1"])
def test_names_that_no_spreadsheet_made_are_not_told(tmp_path, plain):
    people = people_of(tmp_path, f"recording,subject\nn1,{plain}\n", ["n1"])
    assert people.subjects == {"n1": plain}
    assert not people.findings


@pytest.mark.parametrize(("first", "second"), [("1-1", "11"), ("P1-2", "P12"), ("a-b", "ab")])
def test_people_whose_names_only_resemble_each_other_stay_two(tmp_path, first, second):
    rows = f"recording,subject\nn1,{first}\nn2,{second}\n"
    assert people_of(tmp_path, rows, ["n1", "n2"]).subjects == {"n1": first, "n2": second}


@pytest.mark.parametrize(
    "table",
    [
        "recording,age,subject\nn1,30,5,p\nn2,31,p\n",
        "subject,recording,age\np,n1,30\np,,n2,30\n",
        "recording,subject,weight,age\nn1,p,70,5,30\nn2,p,70,30\n",
        "recording,subject\n1,n1,p\n2,n2,p\n",
        "recording,subject,subject\nn1,p,x\nn2,p,y\n",
        "recording,Recording,subject\nn1,x,p\nn2,y,p\n",
        'recording,subject\n"n1\nn2",p\n',
    ],
)
def test_a_table_whose_fields_have_moved_is_refused(tmp_path, table):
    with pytest.raises(participants.SubjectMapError, match="more fields|one name|several lines"):
        people_of(tmp_path, table, ["n1", "n2"])


def test_remarks_with_commas_after_the_columns_that_are_read(tmp_path):
    table = "recording,subject,remarks\nn1,p,old, tired\nn2,p,\n"
    people = people_of(tmp_path, table, ["n1", "n2"])
    assert people.subjects == {"n1": "p", "n2": "p"} and not people.findings


def test_two_tables_that_count_people_differently(tmp_path):
    tables = []
    for name, people in (("a.csv", "pp"), ("b.csv", "qr")):
        (tmp_path / name).write_text("recording,subject\nn1,{}\nn2,{}\n".format(*people))
        tables.append(participants.read_table(tmp_path / name))
    people = participants.match(tables, ["n1", "n2"])
    assert people.subjects == {"n1": "p", "n2": "p"}
    assert counts(people) == {"people whom two tables count in two ways": 1}


def test_an_exact_row_wins_over_one_that_comes_near(tmp_path):
    people = people_of(tmp_path, "recording,subject\n1,p\n01,q\n", ["01"])
    assert people.subjects == {"01": "q"}
    assert counts(people) == {"rows without a recording": 1}
    people = people_of(tmp_path, "recording,subject\nn1,p\nlab/n1,q\n", ["n1", "lab/n1"])
    assert people.subjects == {"n1": "p", "lab/n1": "q"}


def test_a_map_overrides_what_names_tell(tmp_path):
    table = "recording,site,subject\nnight 1,a,anna\nnight 2,b,anna\nSC4001E0-PSG,c,x\n"
    names = ["night 1", "folder/night 2", "SC4001E0-PSG", "SC4002E0-PSG", "SC4011E0-PSG"]
    people = people_of(tmp_path, table, names)
    assert people.subjects == dict(zip(names, ["anna", "anna", "x", "x"]))
    assert counts(people) == {"recordings without a row": 2}


BIDS = [f"sub-{n:02}/eeg/sub-{n:02}_task-sleep_eeg" for n in (1, 2, 10)]


@pytest.mark.parametrize("header", ["participant_id", "Participant ID", "PARTICIPANT_ID"])
@pytest.mark.parametrize("ids", [("sub-01", "sub-02", "sub-10"), ("01", "02", "10"), "1 2 10"])
def test_people_of_bids_with_or_without_sub(tmp_path, header, ids):
    ids = ids.split() if isinstance(ids, str) else ids
    table = f"{header}\tage\n" + "".join(f"{x}\t3{n}\n" for n, x in enumerate(ids))
    people = people_of(tmp_path, table, BIDS, name="participants.tsv")
    assert [people.facts[name]["age"] for name in BIDS] == [30, 31, 32]
    assert len(set(people.subjects.values())) == 3
    assert not people.findings


def test_boas_recordings_of_one_person_stay_together(test_data):
    path = test_data / "boas" / "participants.tsv"
    with open(path) as file:
        rows = csv.DictReader(file, delimiter="\t")
        expected = {row["participant_id"]: row["pid"] for row in rows}
    kinds = ("task-Sleep_acq-psg_eeg", "task-Sleep_acq-headband_eeg")
    names = {f"{key}_{kind}": pid for key, pid in expected.items() for kind in kinds}
    people = participants.match([participants.read_table(path)], names)
    assert people.subjects == names
    assert len(set(expected.values())) < len(expected)
    assert not people.findings


def test_sessions_of_bids_are_one_persons(tmp_path):
    names = [f"sub-01/ses-{n}/eeg/sub-01_ses-{n}_task-sleep_eeg" for n in (1, 2)]
    table = "participant_id\tage\nsub-01_ses-1\t30\nsub-01_ses-2\t31\n"
    people = people_of(tmp_path, table, names)
    assert people.subjects == dict.fromkeys(names, "sub-01")
    people = people_of(tmp_path, table, ["sub-01_ses-1", "sub-01_ses-2"])
    assert set(people.subjects.values()) == {"sub-01"}
    assert not people.findings
    # By a table of recordings they may be two; names and table then differ, and it is told.
    table = table.replace("participant_id\tage", "recording\tsubject")
    people = people_of(tmp_path, table, ["sub-01_ses-1", "sub-01_ses-2"])
    assert counts(people) == {"people whom a table parts": 1}


@pytest.mark.parametrize("word", ["unknown", "-", "NA", "?", "none"])
def test_people_whose_name_means_unknown_are_told(tmp_path, word):
    people = people_of(tmp_path, f"recording,subject\nn1,{word}\nn2,{word}\n", ["n1", "n2"])
    assert counts(people) == {"people whose name means unknown": 2}


def test_rows_of_one_person_that_differ_are_counted_once(tmp_path):
    names = [f"sub-01/ses-{n}/eeg/sub-01_ses-{n}_eeg" for n in (1, 2)]
    table = "participant_id\tage\nsub-01\t30\nsub-01\t31\n"
    people = people_of(tmp_path, table, names)
    assert counts(people) == {"facts that differ": 2} and people.facts == {n: {} for n in names}


def test_a_person_has_the_recordings_in_the_folder_of_the_name_and_that_begin_with_it(tmp_path):
    table = "participant_id,age\np1,30\np2,40\np10,50\n"
    names = ["p1/n1", "p1/n2", "p2_night1", "p2_night2", "p10-1", "q"]
    people = people_of(tmp_path, table, names)
    assert people.subjects == dict(zip(names, ["p1", "p1", "p2", "p2", "p10"]))
    assert counts(people)["recordings without a row"] == 1
    assert counts(people)["rows taken for a folder or the beginning of a name"] == 3
    # Visits are no people, though their folders have the numbers of some.
    people = people_of(tmp_path, "participant_id,age\n1,30\n2,40\n", ["x/1/n", "y/1/n"])
    assert not people.subjects
    assert counts(people) == {"recordings without a row": 2, "rows without a recording": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recording,subject"),
        ("name,subject\na,b\n", "recording,subject"),
        ("recording,age\na,30\n", "recording,subject"),
        ("night1,DOE JOHN\n", "recording,subject"),
        ("recording,subject\na\n", "row 2 lacks"),
        ("recording,subject\n\n\na,\n", "row 4 lacks"),
        ("recording,subject\na,n/a\n", "row 2 lacks"),
        ("recording,subject\na,b\na,c\n", "rows 2 and 3"),
        ('recording,subject\na,"b\nc,d\n', "row 2 holds several lines"),
        ("file,patient,proband\na,x,1\nb,x,2\n", "columns 2 and 3"),
        (b"PK\x03\x04\x14\0\x06\0", "recording,subject"),
    ],
)
def test_a_table_of_nobody_is_refused(tmp_path, text, message):
    with pytest.raises(participants.SubjectMapError, match=message) as error:
        people_of(tmp_path, text, ["a"])
    assert "DOE" not in str(error.value)
    with pytest.raises(participants.SubjectMapError, match="cannot be read"):
        participants.read_table(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_table_raise_only_the_typed_error(tmp_path_factory, data):
    with contextlib.suppress(participants.SubjectMapError):
        people_of(tmp_path_factory.mktemp("map"), data, ["a", "b"])


def test_files_called_participants_are_tables_or_refused(tmp_path):
    (tmp_path / "participants.json").write_text("{}")
    assert participants.find_tables(tmp_path) == []
    (tmp_path / "Participants.XLSX").write_bytes(b"PK")
    with pytest.raises(participants.SubjectMapError, match="save"):
        participants.find_tables(tmp_path)
    for name in ("participants.tsv", "PARTICIPANTS.CSV"):
        (tmp_path / name).symlink_to("nowhere")
    found = participants.find_tables(tmp_path)
    assert [path.name for path in found] == ["PARTICIPANTS.CSV", "participants.tsv"]
    with pytest.raises(participants.SubjectMapError, match="datalad get"):
        participants.read_table(found[0])


def two_tables(folder, first, second):
    (folder / "participants.csv").write_text(first)
    (folder / "participants.tsv").write_text(second)
    return [participants.read_table(path) for path in participants.find_tables(folder)]


def test_two_tables_are_read_both_unless_they_part_what_the_other_joins(tmp_path):
    first, names = "recording,subject\nsub-1_eeg,p\nsub-2_eeg,p\n", ["sub-1_eeg", "sub-2_eeg"]
    plain = "participant_id\tage\nsub-1\t30\nsub-2\t31\n"
    people = participants.match(two_tables(tmp_path, first, plain), names)
    assert set(people.subjects.values()) == {"p"}
    assert [people.facts[name]["age"] for name in names] == [30, 31]
    joins = "participant_id\tpid\nsub-1\t1\nsub-2\t1\n"
    tables = two_tables(tmp_path, first.replace("2_eeg,p", "2_eeg,q"), joins)
    with pytest.raises(participants.SubjectMapError, match="keep one"):
        participants.match(tables, names)


SEXES = [
    # header, entries -> what is known
    ("sex", "M F m female Male", "MFMFM"),
    ("Sex", "M F n/a", "MF."),
    ("Geschlecht", "m w W männlich weiblich", "MFFMF"),
    ("gender", "Mann Frau divers", "MF."),
    ("sexe", "H F homme féminin", "MFMF"),
    ("sexo", "H M hombre mujer", "MFMF"),
    ("sexo", "M M", ".."),
    ("sexo", "M F", "MF"),
    ("sexo", "V M", ".."),
    ("sesso", "M F donna", "MFF"),
    ("geslacht", "M V vrouw", "MFF"),
    ("sex", "M V", ".."),
    ("sex", "1 2 0", "..."),
]


@pytest.mark.parametrize(("header", "entries", "expected"), SEXES)
def test_sex_is_a_word_and_never_guessed_from_a_number(tmp_path, header, entries, expected):
    entries = entries.split()
    rows = "".join(f"r{n},p{n},{entry}\n" for n, entry in enumerate(entries))
    names = [f"r{n}" for n in range(len(entries))]
    people = people_of(tmp_path, f"recording,subject,{header}\n{rows}", names)
    assert "".join(people.facts[name].get("sex", ".") for name in names) == expected
    told = counts(people).get("sex not understood", 0)
    assert told == expected.count(".") - entries.count("n/a")


@pytest.mark.parametrize(
    ("text", "age"),
    [("34", 34), ("34,5", 34.5), ("34.0", 34), ("34 y", 34), ("34 Jahre", 34), ("0", 0)],
)
def test_age_with_a_comma_or_a_unit(tmp_path, text, age):
    people = people_of(tmp_path, f"recording;subject;Age (years)\na;p;{text}\n", ["a"])
    assert people.facts["a"] == {"age": age}


@pytest.mark.parametrize("text", ["90+", "old", "999", "-9", "34 months", "1e9", "inf"])
def test_what_is_no_age_is_counted(tmp_path, text):
    people = people_of(tmp_path, f"recording;subject;age\na;p;{text}\n", ["a"])
    assert people.facts["a"] == {}
    assert counts(people) == {"age not understood": 1}
    assert text not in people.findings[0].note or text == "old"


def test_rows_of_one_recording_that_differ_give_no_fact(tmp_path):
    table = "recording,subject,age,sex\na,p,30,F\na.edf,p,31,F\n"
    people = people_of(tmp_path, table, ["a"])
    assert people.facts["a"] == {"sex": "F"}
    assert counts(people) == {"facts that differ": 2}


@given(st.data())
def test_people_of_a_table_stay_in_one_split_as_rows_are_added(tmp_path_factory, data):
    names = [f"{person}{night}" for person, night in itertools.product("abc", "123")]
    rows = [f"{name}.edf,{name[0]}" for name in names]
    kept = data.draw(st.lists(st.sampled_from(rows), unique=True))
    folder = tmp_path_factory.mktemp("people")
    people = people_of(folder, "\n".join(["file,Patient", *kept]), names)
    for row in kept:
        name, person = row.split(".edf,")
        assert splits.split_of(people.subjects[name]) == splits.split_of(person)
    assert counts(people).get("recordings without a row", 0) == len(names) - len(kept)
