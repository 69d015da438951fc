"""Small copies of the paper's benchmarks: a few synthetic rows in each one's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.evaluation import png

LETTERS = ("A", "B", "C", "D")


def rows(name: str) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Split, rows and right answers of a small copy of a benchmark; row i shows an image of shade i."""
    ten = [["cat"] * 10, ["dog"] * 10, ["red"] * 2 + ["pink"] * 8, ["two"] * 10]
    vqa = [{"question_id": str(i), "question": "what?", "answers": ten[i], "image_id": str(i % 3)} for i in range(4)]
    match name:
        case "mmbench_en":  # two questions, each in two rotations
            made = [
                {"index": index, "question": "q", "hint": "nan", "source": "s", "split": "dev", "comment": ""}
                | {"category": "c", "L2-category": "l", "answer": answer}
                | dict(zip(LETTERS, ("cat", "dog", "fox", "yak"), strict=True))
                for index, answer in ((3, "A"), (7, "B"), (1_000_003, "C"), (1_000_007, "D"))
            ]
            return "dev", made, ["A", "B", "C.", "D"]
        case "mme":  # a pair in each of two subtasks of perception, and one of cognition
            categories = ["existence"] * 2 + ["OCR"] * 2 + ["code_reasoning"] * 2
            made = [
                {
                    "question_id": f"{i // 2}.png",
                    "question": f"is it {i}? Please answer yes or no.",
                    "category": category,
                }
                | {"answer": ("Yes", "No")[i % 2]}
                for i, category in enumerate(categories)
            ]
            return "test", made, ["Yes", "No"] * 3
        case "mmmu_val":
            made = [
                {"id": f"validation_{subject}_{i}", "question": "see <image 1>", "options": "['x', 'y', 'z', 'w']"}
                | {"question_type": "multiple-choice", "answer": "ABCD"[i], "image_2": None}
                for i, subject in enumerate(["Art", "Art", "Physics", "Physics"])
            ]
            made[1] |= {"question": "see <image 1> and <image 2>", "image_2": {"bytes": png(9), "path": None}}
            made[3] |= {"question_type": "open", "options": "[]", "answer": "seven"}
            return "validation", made, ["A", "B", "(C)", "seven"]
        case "scienceqa_img":
            made = [{"question": "q", "hint": "", "choices": ["x", "y"], "answer": i % 2} for i in range(4)]
            return "test", made, ["A", "B", "A. x", "B"]
        case "seed_image":
            made = [
                {"question_id": str(i), "question": "q", "answer": LETTERS[i], "data_id": str(i), "data_type": "image"}
                | {f"choice_{letter.lower()}": letter for letter in LETTERS}
                for i in range(4)
            ]
            return "test", [*made, made[0] | {"data_type": "video"}], [*LETTERS, "A"]
        case "ok_vqa":
            return "val2014", vqa, ["cat", "a dog", "red", "2"]
        case "textvqa_val":
            return "validation", vqa, ["cat", "dog", "red", "two"]
        case _:
            return "val", vqa, ["cat", "dog", "red", "two"]


def save(name: str, folder: Path) -> Path:
    """The small copy as a `DatasetDict` on disk."""
    import datasets

    split, made, _ = rows(name)
    shown: list[Any] = [{"bytes": png(i), "path": None} for i in range(len(made))]
    if name == "seed_image":
        shown = [[image] * (1 if row["data_type"] == "image" else 8) for image, row in zip(shown, made, strict=True)]
    column = "image_1" if name == "mmmu_val" else "image"
    table = datasets.Dataset.from_list([row | {column: image} for row, image in zip(made, shown, strict=True)])
    for image_column in {"image", "image_1", "image_2"} & set(table.column_names):
        decoded = datasets.Image() if name != "seed_image" else datasets.List(datasets.Image())
        table = table.cast_column(image_column, decoded)
    datasets.DatasetDict({split: table}).save_to_disk(str(folder))
    return folder


FULL_MARKS = {"mme": 400.0, "ok_vqa": 100 * (3 + 0.6) / 4, "textvqa_val": 90.0, "vizwiz_vqa_val": 90.0}
