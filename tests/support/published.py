"""Small data sets in the forms in which others publish theirs, made here, the nasty rows included.

Each function writes one into a folder and gives its path. Columns and layouts are those of the
formats' own files; questions, answers and pictures are ours. What is odd about a row stands beside
it.
"""

# ruff: noqa: E501 - rows of tables

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.tasks.digits.build import build
from tests.support.published_files import embedded, packed, picture, write_parquet, write_tsv

# -- LLaVA's conversations -----------------------------------------------------------------------

_CHOICE = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
_FLOAT = (
    "Hint: Please answer the question requiring a floating-point number with one decimal place and "
    "provide the final value, e.g., 1.2, 1.3, 1.4, at the end."
)


def _turns(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def mathv360k(folder: Path, questions: int = 14, prefix: str = "data_images") -> Path:
    """MathV360K: one JSON list, pictures below data_images/<Source>/images/, some asked of twice.

    Row 11 names a picture that is not there; row 12 has a reply in which no answer is said; row 13
    repeats an id; row 14 has two placeholders for one picture.
    """
    rows: list[dict[str, Any]] = []
    for i in range(questions):
        source = ("TabMWP", "IconQA", "GeoQA+", "CLEVR-Math")[i % 4]
        name = f"{source}/images/{i // 2}.png"
        path = folder / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # two questions of one picture: in two folders of the set, the same bytes
        path.write_bytes(picture(i // 2))
        turns = [
            _turns(f"<image>\n{_CHOICE}\nQuestion: Which bar {i} is taller?\nChoices:\n(A) the left\n"
                   "(B) the right\n(C) none", f"The answer is {'ABC'[i % 3]}"),
            _turns(f"<image>\nHint: Please answer the question requiring an integer answer and provide "
                   f"the final value, e.g., 1, 2, 3, at the end.\nQuestion: How many bars of {i}?",
                   f"The answer is {i}"),
            _turns(f"<image>\n{_FLOAT}\nQuestion: 第{i}个柱子有多高?", f"The answer is {i}.5"),
        ][i % 3]  # fmt: skip
        rows.append({"id": f"q{i}", "image": name, "conversations": turns})
    if questions == 14:
        rows[10] |= {"image": "IconQA/images/gone.png"}
        rows[11]["conversations"][1]["value"] = "It has two sides.\n\nSo we add them."
        rows[12]["id"] = "q0"
        rows[13]["conversations"][0]["value"] = "<image>\n<image>\nHow many bars are there?"
    file = folder / "train_samples_all_tuning.json"
    file.write_text(json.dumps(rows, ensure_ascii=True), encoding="utf-8")
    return file


def llava_cot(folder: Path) -> Path:
    """LLaVA-CoT: JSONL, replies in tags, one conversation of several turns, one without a picture."""
    (folder / "pictures").mkdir()
    rows = []
    for i in range(8):
        (folder / "pictures" / f"{i}.png").write_bytes(picture(i))
        reply = (
            f"<SUMMARY>I count.</SUMMARY>\n<CAPTION>Bars.</CAPTION>\n<REASONING>There are {i}.\n"
            f"</REASONING>\n<CONCLUSION>{i}</CONCLUSION>"
        )
        rows.append({"id": str(i), "image": f"pictures/{i}.png",
                     "conversations": _turns(f"How many bars in {i}? <image>", reply)})  # fmt: skip
    rows[6]["conversations"] += _turns("And now?", "7")  # type: ignore[operator]
    del rows[7]["image"]
    rows[7]["conversations"] = _turns("What is 3 + 4?", "7")
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# -- Hugging Face parquet ------------------------------------------------------------------------


def easyr1(folder: Path) -> Path:
    """Geometry3K in EasyR1's form: files named after splits; row 9 has no picture where two are asked
    of, row 10 a picture that is truncated."""
    for split, start, count in (("train", 0, 10), ("validation", 20, 4), ("test", 30, 4)):
        rows: list[dict[str, Any]] = [
            {
                "images": [embedded(start + i)],
                "problem": f"<image>Find x of triangle {start + i}.",
                "answer": (str(i), f"2 \\sqrt {{ {i + 2} }}", f"{i}.5")[i % 3],
                "id": i,  # the ids of each file begin at 0
                "choices": ["1", "2", "3", "4"],
                "ground_truth": "A",
            }
            for i in range(count)
        ]
        if split == "train":
            rows[7] |= {
                "images": [embedded(7), embedded(107)],
                "problem": "In <image>, is x as in <image>?",
            }
            rows[8] |= {"images": [], "problem": "<image><image>Find y."}
            rows[9] |= {"images": [{"bytes": picture(9)[:200], "path": None}]}
        write_parquet(folder / f"{split}-00000-of-00001.parquet", rows)
    return folder


def virl39k(folder: Path) -> Path:
    """ViRL39K: paths of pictures in a list, boxed answers, rows of text only, of two pictures."""
    (folder / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(10):
        (folder / "images" / f"Processed-{i}.jpg").write_bytes(picture(i, "JPEG"))
        rows.append({
            "question": f"<image>How tall is bar {i}?", "answer": f"\\boxed{{{i}}}",
            "PassRate_32BTrained": -1.0, "PassRate_7BBase": 0.5, "category": "STEM",
            "source": "Processed", "qid": f"P-{i}", "image": [f"images/Processed-{i}.jpg"],
        })  # fmt: skip
    rows[1] |= {"question": "<image><image>Are both equal?", "answer": "\\boxed{No}",
                "image": ["images/Processed-1.jpg", "images/Processed-2.jpg"]}  # fmt: skip
    rows[2] |= {"question": "What is 2 + 3? ", "answer": "\\boxed{5}", "image": []}
    rows[3] |= {
        "question": "<image>Which is it?\nChoices:\nA: red\nB: blue",
        "answer": "\\boxed{B}",
    }
    rows[4] |= {"answer": "\\boxed{\\frac{1}{2}}"}
    rows[5] |= {"image": ["images/Processed-99.jpg"]}  # not there
    return write_parquet(folder / "39Krelease.parquet", rows, {"image": pa.list_(pa.string())})


def mmk12(folder: Path) -> Path:
    """MMK12: free answers to train on, options inside the question to test on."""
    subjects = ("math", "physics", "chemistry", "biology")
    train: list[dict[str, Any]] = [
        {"id": f"tr{i}", "question": f"<image>求第{i}个柱子的高。", "answer": f"{i}cm",
         "subject": "math", "image": embedded(i)}
        for i in range(8)
    ]  # fmt: skip
    train[5]["answer"] = "$\\frac{\\sqrt{3}}{2}$"
    train[6]["answer"] = ""  # no answer
    test = [
        {"id": f"te{i}", "question": f"<image>Which of {i}?\nA. first\nB. second\nC. third\nD. fourth",
         "answer": "ABCD"[i % 4], "subject": subjects[i % 4], "image": embedded(40 + i)}
        for i in range(8)
    ]  # fmt: skip
    write_parquet(folder / "train-00000-of-00001.parquet", train)
    write_parquet(folder / "test-00000-of-00001.parquet", test)
    return folder


def mmmu(folder: Path, rows_: int = 12) -> Path:
    """MMMU: options as a list's text, up to seven pictures. Row 9's options are pictures, row 10 has
    several answers, row 11 a hidden one, row 12 speaks of a picture that it lacks."""
    rows: list[dict[str, Any]] = []
    for i in range(rows_):
        subject = ("Accounting", "Art")[i % 2]
        rows.append({
            "id": f"validation_{subject}_{i}", "question": f"<image 1> Which holds of {i}?",
            "options": "['the left', \"the 'right'\", 'none']", "explanation": "",
            **{f"image_{n}": None for n in range(1, 8)}, "img_type": "['Plots']",
            "answer": "ABC"[i % 3], "topic_difficulty": "Easy", "question_type": "multiple-choice",
            "subfield": "Managerial",
        })  # fmt: skip
        rows[-1]["image_1"] = embedded(i)
    rows[1] |= {"question": "In <image 2>, is it as in <image 1>?", "image_2": embedded(101)}
    rows[2] |= {"options": "[]", "question_type": "open", "answer": "7.5"}
    if rows_ >= 12:
        rows[8] |= {"options": "['<image 2>', '<image 3>']", "image_2": embedded(102),
                    "image_3": embedded(103)}  # fmt: skip
        rows[9] |= {"options": "[]", "question_type": "open", "answer": "['24/7', '3.429']"}
        rows[10] |= {"answer": "?"}
        rows[11] |= {"question": "<image 3> What is it?"}
    return write_parquet(folder / "validation-00000-of-00001.parquet", rows)


def m3cot(folder: Path) -> Path:
    """M3CoT: seven choices, a context, a row without a picture, a letter beyond its choices."""
    domains = (("science", "physics"), ("commonsense", "social"), ("mathematics", "geometry"))
    rows: list[dict[str, Any]] = []
    for i in range(9):
        domain, topic = domains[i % 3]
        rows.append({
            "id": f"{topic}-{i}", "category": "c", "image_id": f"im-{i}",
            "question": f"What is bar {i}?", "choices": ["tall", "short", "wide", "none"],
            "context": "", "answer": "ABCD"[i % 4], "rationale": "Because.", "split": "test",
            "image": embedded(i), "domain": domain, "topic": topic,
        })  # fmt: skip
    rows[1] |= {"choices": list("stuvwxy"), "answer": "G"}
    rows[2] |= {"context": "The bars are of iron."}
    rows[3] |= {"image": None}
    rows[4] |= {"choices": ["B", "A"], "answer": "A"}  # letters as texts
    rows[5] |= {"answer": "F"}  # there is none
    return write_parquet(folder / "test-00000-of-00001.parquet", rows)


def mathvista_rows() -> list[dict[str, Any]]:
    """Rows of MathVista as testmini.json has them but for their keys; `number` is the picture's."""
    kinds: list[dict[str, Any]] = [
        {"question": "What is the wavelength?", "answer": "1.2", "precision": 1,
         "question_type": "free_form", "answer_type": "float", "source": "SciBench"},
        {"question": "How heavy is it?", "answer": "1000", "unit": "g",
         "question_type": "free_form", "answer_type": "integer", "source": "TextVQA"},
        {"question": "如图,∠A是多少?", "answer": "145°", "choices": ["135°", "140°", "145°", "150°"],
         "question_type": "multi_choice", "answer_type": "text", "source": "GeoQA+"},
        {"question": "Are there fewer\r\n bikes?", "answer": "Yes", "choices": ["Yes", "No"],
         "question_type": "multi_choice", "answer_type": "text", "source": "Super-CLEVR"},
        {"question": "Which numbers?", "answer": "[0, 2]", "question_type": "free_form",
         "answer_type": "list", "source": "CLEVR-Math"},
        {"question": "What is the function value?", "answer": "2.00", "precision": 2,
         "question_type": "free_form", "answer_type": "float", "source": "FunctionQA"},
        {"question": "Which label?", "answer": "B", "choices": ["B", "A", "C"],
         "question_type": "multi_choice", "answer_type": "text", "source": "AI2D"},
        {"question": "A hidden one?", "answer": "", "question_type": "free_form",
         "answer_type": "integer", "source": "IQTest"},
        {"question": "How many bars?", "answer": "6", "question_type": "free_form",
         "answer_type": "integer", "source": "IconQA"},
    ]  # fmt: skip
    tasks = ("figure question answering", "geometry problem solving", "math word problem")
    rows = []
    for i, kind in enumerate(kinds):
        source = kind.pop("source")
        metadata = {"category": "math-targeted-vqa", "context": "plot", "grade": "high school",
                    "img_height": 32, "img_width": 48, "language": "english",
                    "skills": ["arithmetic"], "source": source, "split": "testmini",
                    "task": tasks[i % 3]}  # fmt: skip
        blank = {"choices": None, "unit": None, "precision": None}
        rows.append({"pid": str(i + 1), **blank, **kind, "metadata": metadata, "number": i})
    return rows


def mathvista_json(folder: Path) -> Path:
    """testmini.json: an object of rows by pid; pictures beside the folder of the file."""
    (folder / "images").mkdir()
    (folder / "data").mkdir()
    found = {}
    for row in mathvista_rows():
        (folder / "images" / f"{row['pid']}.jpg").write_bytes(picture(row.pop("number"), "JPEG"))
        found[row["pid"]] = row | {"image": f"images/{row['pid']}.jpg"}
    file = folder / "data" / "testmini.json"
    file.write_text(json.dumps(found, indent=4, ensure_ascii=True))
    return file


def mathvista_parquet(folder: Path) -> Path:
    """The same as parquet: decoded images, precision as a float."""
    rows = [
        row | {"image": f"images/{row['pid']}.jpg", "decoded_image": embedded(row["number"], "JPEG"),
               "query": "", "precision": None if row["precision"] is None else float(row["precision"])}
        for row in mathvista_rows()
    ]  # fmt: skip
    for row in rows:
        del row["number"]
    return write_parquet(folder / "testmini-00000-of-00001-725687bf7a18d64b.parquet", rows,
                         {"image": pa.string(), "precision": pa.float64(),
                          "choices": pa.list_(pa.string())})  # fmt: skip


def mathvista_tsv(folder: Path) -> Path:
    """MathVista_MINI.tsv, flat, choices as a list's text."""
    rows = []
    for row in mathvista_rows():
        letter = "ABCD"[row["choices"].index(row["answer"])] if row["choices"] else ""
        rows.append({"index": row["pid"], "image": packed(row["number"]), "question": row["question"],
                     "answer": row["answer"], "answer_option": letter,
                     "choices": str(row["choices"] or []), "question_type": row["question_type"],
                     "answer_type": row["answer_type"], "task": row["metadata"]["task"],
                     "skills": "['arithmetic']"})  # fmt: skip
    return write_tsv(folder / "MathVista_MINI.tsv", rows)


def mathverse(folder: Path) -> Path:
    """MathVerse: the versions of two problems; a question that stands in the picture only."""
    versions = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
    rows: list[dict[str, Any]] = []
    for problem in range(2):
        for version in versions:
            multi = problem == 0
            rows.append({
                "sample_index": str(len(rows) + 1), "problem_index": str(problem + 1),
                "problem_version": version,
                "question": "" if version == "Vision Only" else
                f"As shown ({version}), find x.\nChoices:\nA:60°\nB:45°\nC:30°" if multi
                else f"As shown ({version}), find the volume.",
                "image": embedded(problem), "answer": "B" if multi else "14",
                "question_type": "multi-choice" if multi else "free-form",
                "metadata": {"split": "testmini", "source": "Geo3D", "subject": "Plane Geometry",
                             "subfield": "Length"},
                "query_wo": "Please directly answer the question and provide the correct option letter, "
                            "e.g., A, B, C, D." if multi else "Please directly answer the question and "
                            "provide the final value, e.g., 1, 2.5, 300.",
                "query_cot": "Please first conduct reasoning, and then answer the question.",
            })  # fmt: skip
    return write_parquet(folder / "testmini.parquet", rows)


def ai2d(folder: Path) -> Path:
    """AI2D: answers as indices; row 8's index is beyond its options."""
    rows: list[dict[str, Any]] = [
        {"question": f"What is at {i}?", "options": ["leaf", "root", "stem", "0"],
         "answer": str(i % 4), "image": embedded(i)}
        for i in range(9)
    ]  # fmt: skip
    rows[7]["answer"] = "4"
    rows[8] |= {"options": ["1", "0", "3", "2"], "answer": "0"}  # indices that are texts of others
    return write_parquet(folder / "test-00000-of-00001.parquet", rows)


MMSTAR_CATEGORIES = {
    "coarse perception": "image scene and topic",
    "fine-grained perception": "recognition",
    "instance reasoning": "single-instance reasoning",
    "logical reasoning": "diagram reasoning",
    "science & technology": "natural science",
    "math": "geometry",
}


def mmstar_parquet(folder: Path) -> Path:
    """MMStar: options inside the question, on one line; two rows of each category."""
    rows: list[dict[str, Any]] = []
    for i in range(12):
        category, l2 = list(MMSTAR_CATEGORIES.items())[i // 2]
        rows.append({
            "index": i, "question": f"What is {i}?\nOptions: A: red, B: blue, C: 1, 2 or 3, D: none",
            "image": embedded(i), "answer": "ABCD"[i % 4], "category": category, "l2_category": l2,
            "meta_info": {"source": "MMMU", "split": "val", "image_path": f"images/{i}.jpg"},
        })  # fmt: skip
    rows[3]["question"] = "<image 1> Which one? A. here B. there"  # options that cannot be told
    rows[3]["answer"] = "B"
    return write_parquet(folder / "mmstar.parquet", rows)


# -- VLMEvalKit's tables -------------------------------------------------------------------------


def mmbench(folder: Path) -> Path:
    """MMBench dev v1.1: hints, empty choices, pictures shared by index, rotations of the choices.

    Row 7 (index 60) shows the picture of a row that has none, row 8 (70) broken base64, row 9 (80)
    has a choice C and no B.
    """
    rows: list[dict[str, Any]] = [
        {"index": 10, "question": "Which is taller?", "hint": "Look at the\tbars.\nAll of them.",
         "A": "left", "B": "right", "C": "none", "answer": "A", "category": "physical_relation",
         "l2-category": "relation_reasoning", "image": packed(1)},
        {"index": 20, "question": "What is \"it\"?", "A": "a bar", "B": "a line", "answer": "B",
         "category": "image_topic", "l2-category": "coarse_perception", "image": "10"},
        {"index": 30, "question": "What follows?", "A": "one", "B": "two", "C": "three", "D": "four",
         "answer": "D", "category": "future_prediction", "l2-category": "logic_reasoning",
         "image": "40"},  # a later row's
        {"index": 40, "question": "Who?", "A": "he", "B": "she", "answer": "A",
         "category": "identity_reasoning", "l2-category": "attribute_reasoning", "image": packed(4)},
        {"index": 50, "question": "Where?", "A": "here", "B": "there", "answer": "B",
         "category": "object_localization", "l2-category": "finegrained_perception (instance-level)",
         "image": packed(5)},
        {"index": 60, "question": "Broken reference?", "A": "x", "B": "y", "answer": "B",
         "category": "x", "l2-category": "logic_reasoning", "image": "999"},
        {"index": 70, "question": "Broken picture?", "A": "x", "B": "y", "answer": "B",
         "category": "x", "l2-category": "logic_reasoning", "image": "@@@@" * 20},
        {"index": 80, "question": "A gap?", "A": "x", "C": "y", "answer": "C",
         "category": "x", "l2-category": "logic_reasoning", "image": packed(8)},
    ]  # fmt: skip
    for row in rows[:5]:
        row |= {"source": "ours", "comment": "", "split": "dev"}
        letters = [letter for letter in "ABCD" if letter in row]
        texts = [row[letter] for letter in letters]
        for turn in range(1, len(letters)):
            moved = texts[turn:] + texts[:turn]
            right = letters[moved.index(row[row["answer"]])]
            rows.append(row | dict(zip(letters, moved, strict=True))
                        | {"index": row["index"] + turn * 1_000_000, "answer": right,
                           "image": str(row["index"])})  # fmt: skip
    # the row of index 20 has no picture of its own, so its rotations name that of 10
    for row in rows:
        if row["image"] in ("20", "30"):
            row["image"] = {"20": "10", "30": "40"}[row["image"]]
    return write_tsv(folder / "MMBench_DEV_EN_V11.tsv", rows)


def mmstar_tsv(folder: Path) -> Path:
    """MMStar.tsv."""
    rows = []
    for i in range(12):
        category, l2 = list(MMSTAR_CATEGORIES.items())[i // 2]
        rows.append({"index": i, "question": f"What is {i}?", "A": "red", "B": "blue", "C": "1, 2",
                     "D": "none", "answer": "ABCD"[i % 4], "category": category,
                     "l2_category": l2, "image": packed(i)})  # fmt: skip
    return write_tsv(folder / "MMStar.tsv", rows)


def ai2d_tsv(folder: Path, *, mask: bool = True) -> Path:
    """AI2D_TEST.tsv (letters burnt into the pictures) or AI2D_TEST_NO_MASK.tsv."""
    rows = [
        {"index": i, "question": f"What is at {i}?", "A": "leaf", "B": "root", "C": "stem",
         "D": "seed", "answer": "ABCD"[i % 4], "category": "default", "image": packed(i)}
        for i in range(8)
    ]  # fmt: skip
    return write_tsv(folder / f"AI2D_TEST{'' if mask else '_NO_MASK'}.tsv", rows)


# -- verl ----------------------------------------------------------------------------------------


def verl(folder: Path) -> Path:
    """verl's rows: an instruction in the prompt, the question itself in extra_info; row 8 without an
    answer, row 9 with two turns."""
    rows: list[dict[str, Any]] = []
    for i in range(9):
        asked = f"<image>How many bars has {i}?"
        rows.append({
            "data_source": "ours", "prompt": [
                {"role": "system", "content": "You are helpful."},
                {"role": "user", "content": f"{asked} Put the answer into \\boxed{{}}."},
            ],
            "images": [embedded(i)], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(i)},
            "extra_info": {"split": "train", "index": i, "answer": str(i), "question": asked},
        })  # fmt: skip
    rows[7]["reward_model"] = {"style": "rule", "ground_truth": None}
    rows[8]["prompt"] = [*rows[8]["prompt"], {"role": "assistant", "content": "5"}]
    return write_parquet(folder / "train.parquet", rows)


# -- the task of `digits`, published as MathV360K is -------------------------------------------------


def digits_as_mathv360k(folder: Path, questions: int) -> Path:
    """Questions that the small policy of `digits` knows, in the form of MathV360K."""
    built = build(sizes={"train": questions})
    rows = []
    for query in built.queries:
        (sha,) = query.images
        name = f"Digits/images/{sha[:16]}.png"
        path = folder / "data_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(built.images[sha])
        options = "".join(
            f"\n({letter}) {choice}"
            for letter, choice in zip("ABC", query.choices or (), strict=False)
        )
        hint = _CHOICE if query.choices else "Hint: Please answer the question."
        human = f"<image>\n{hint}\nQuestion: {query.question}"
        human += f"\nChoices:{options}" if options else ""
        turns = _turns(human, f"The answer is {query.answer}")
        rows.append({"id": query.query_id, "image": name, "conversations": turns})
    file = folder / "train_samples_all_tuning.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file
