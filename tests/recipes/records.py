"""Records in the true form of each data set, odd ones among them, and what must become of each; worked by hand."""

from dataclasses import dataclass, field
from typing import Any

SENTENCES = [{"sent_id": 0, "raw": "The LEFT man.", "sent": "the left man"}, {"sent_id": 1, "raw": "guy (in red)"}]
BOX = {"id": 7, "bbox": [20.5, 10.0, 50.0, 30.9], "image_id": 9, "category_id": 1}
IMAGE = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 200, "height": 100}
REF = {"ref_id": 1, "ann_id": 7, "image_id": 9, "category_id": 1, "split": "train", "sentences": SENTENCES}
INSTANCES = {"images": [IMAGE], "annotations": [BOX, {**BOX, "id": 8, "bbox": [500, 500, 5, 5]}]}
"""20.5 .. 70.5 of 200 and 10 .. 40.9 of 100 pixels: {<10><10><35><40>}."""

CONVERSATION = [
    {"from": "human", "value": "<image>\nWhat Is it?"},
    {"from": "gpt", "value": "A bus."},
    {"from": "human", "value": "What colour? "},
    {"from": "gpt", "value": "Red!"},
]
REGION = {"region_id": 1, "image_id": 5, "phrase": "Red: door", "x": 20, "y": 50, "width": 128, "height": 60}


@dataclass(frozen=True)
class Case:
    """The files of one data set, and its rows.

    Attributes:
        files: path below the folder of `--data` -> what is in it: JSON, or text as it stands.
        kept: of each row that stays its picture and its turns.
        dropped: reason -> how many.
        marks: of each row that stays its split and its group; None where it has neither.
        prompts: what each of the user's words begins with, and in how many ways.
        version: of the recipe.
    """

    files: dict[str, Any]
    kept: list[tuple[str | None, list[list[str]]]]
    dropped: dict[str, int] = field(default_factory=dict)
    marks: list[tuple[str | None, str | None]] | None = None
    prompts: tuple[str, int] = ("{}", 1)
    version: int = 1


def vqa(column: str = "answer") -> list[Any]:
    return [
        {"image": "train2014/COCO_train2014_000000000009.jpg", "question": "Who?", column: ["He", "she", "he."]},
        {"image": "train2014/a.jpg", "question": "Where?", column: []},
        {"image": "train2014/a.jpg", "question": "Where?", column: ["!", "."]},
        {"image": "train2014/a.jpg", "question": "Where?", column: "here"},
        {"image": "train2014/a.jpg", "question": "Where?", column: ["here", 4]},
        {"image": "train2014/a.jpg", "question": "...", column: ["x"]},
        {"question": "Where?", column: ["x"]},
        "Where?",
    ]


VQA_KEPT = [("COCO_train2014_000000000009.jpg", [["user", "who?"], ["assistant", "he", "she", "he"]])]

LLAVA = [
    {"id": "000000000009", "image": "000000000009.jpg", "conversations": CONVERSATION},
    {"id": "9", "conversations": CONVERSATION[:1]},
    {"id": "9", "conversations": []},
    {"id": "9", "conversations": [CONVERSATION[1], CONVERSATION[0]]},
    {"id": "9", "conversations": [{"from": "human", "value": "<image>\n"}, CONVERSATION[1]]},
    {"id": None, "conversations": CONVERSATION},
    {"id": "9"},
]
LLAVA_ALL = [["user", "What Is it?"], ["assistant", "A bus."], ["user", "What colour? "], ["assistant", "Red!"]]
LLAVA_FIRST = [["user", "what is it?"], ["assistant", "A bus."]]


def refs(folder: str, name: str, split: str, other: str) -> dict[str, Any]:
    """References as the pickle holds them; the test makes it one."""
    mine = {**REF, "split": split}
    return {
        f"{folder}/{name}": [
            mine,
            {**REF, "split": other},
            {**mine, "ann_id": 404},
            {**mine, "ann_id": 8},
            {**mine, "sentences": []},
            {**mine, "sentences": [{"sent": "no raw"}]},
            {**mine, "image_id": [9]},
        ],
        f"{folder}/instances.json": INSTANCES,
    }


PICTURE = "COCO_train2014_000000000009.jpg"
REFERRED = [(PICTURE, [["user", "the left man", "guy in red"], ["assistant", "{<10><10><35><40>}"]])]
IDENTIFIED = [(PICTURE, [["user", "{<10><10><35><40>}"], ["assistant", "the left man", "guy in red"]])]
REFS_DROPPED = {"other_split": 1, "no_partner": 1, "box_outside": 1, "broken_record": 3}
EXPRESSED = [
    (PICTURE, [["user", words], ["assistant", "{<10><10><35><40>}"]]) for words in ("the left man", "guy in red")
]
EXPRESSED_DROPPED = {"other_split": 1, "no_partner": 1, "box_outside": 2, "no_samples": 1, "broken_record": 2}
LISTED = [
    {"url": "https://a.example/1.jpg", "caption": "A Man. Riding (a) horse!"},
    {"url": "https://a.example/\u00e9.gif", "caption": "caf\u00e9 \u2615"},
    {"url": " ", "caption": "x"},
    {"url": "https://a.example/2.jpg", "caption": None},
    {"caption": "x"},
    ["https://a.example/3.jpg", "x"],
]
LISTED_KEPT = [
    ("https://a.example/1.jpg", [["assistant", "a man riding a horse"]]),
    ("https://a.example/\u00e9.gif", [["assistant", "caf\u00e9 \u2615"]]),
]

CASES: dict[str, Case] = {
    "laion": Case(
        files={"blip/laion_synthetic_filtered_large.json": LISTED}, kept=LISTED_KEPT, dropped={"broken_record": 4}
    ),
    "cc_sbu": Case(
        files={"blip/ccs_synthetic_filtered_large.json": LISTED}, kept=LISTED_KEPT, dropped={"broken_record": 4}
    ),
    "cc_sbu_align": Case(
        files={
            "cc_sbu_align/filter_cap.json": {
                "annotations": [
                    {"image_id": "2", "caption": 'A Dog. It runs!  "Fast" #1'},
                    {"image_id": 7, "caption": "Two\nCats."},
                    {"image_id": "8", "caption": "  "},
                    {"image_id": 1.5, "caption": "x"},
                    {"caption": "x"},
                ]
            }
        },
        kept=[("2.jpg", [["assistant", 'A Dog. It runs!  "Fast" #1']]), ("7.jpg", [["assistant", "Two\nCats."]])],
        dropped={"broken_record": 3},
        prompts=("", 4),
    ),
    "llava_conversation": Case(
        files={"llava/conversation_58k.json": LLAVA},
        kept=[("COCO_train2014_000000000009.jpg", LLAVA_ALL)],
        dropped={"broken_record": 6},
    ),
    "llava_detail": Case(
        files={"llava/detail_23k.json": LLAVA},
        kept=[("COCO_train2014_000000000009.jpg", LLAVA_FIRST)],
        dropped={"broken_record": 6},
    ),
    "llava_reason": Case(
        files={"llava/complex_reasoning_77k.json": LLAVA},
        kept=[("COCO_train2014_000000000009.jpg", LLAVA_FIRST)],
        dropped={"broken_record": 6},
    ),
    "multitask_conversation": Case(
        files={"multitask_conversation/multitask_conversation.json": LLAVA},
        kept=[("COCO_train2014_000000000009.jpg", LLAVA_ALL)],
        dropped={"broken_record": 6},
    ),
    "unnatural_instruction": Case(
        files={
            "unnatural_instruction/filtered_unnatural_instruction.json": [
                {
                    "instances": [
                        {"instruction_with_input": "Write: a Poem!", "constraints": None, "output": "Roses. Red"}
                    ]
                },
                {"instances": [{"instruction_with_input": "Add", "constraints": "As number.", "output": "3"}]},
                {"instances": [{"instruction_with_input": "Add", "output": "3"}]},
                {"instances": [{"instruction_with_input": "Add", "constraints": None, "output": "!"}]},
                {"instances": []},
                {"instances": {"output": "3"}},
                {},
            ]
        },
        kept=[
            (None, [["user", "write a poem"], ["assistant", "roses red"]]),
            (None, [["user", "add as number"], ["assistant", "3"]]),
        ],
        dropped={"broken_record": 5},
    ),
    "refvg": Case(
        version=2,
        files={
            "visual_genome/region_descriptions.json": [
                {
                    "id": 5,
                    "regions": [
                        REGION,
                        {**REGION, "height": 128},  # 128 x 128 = 16,384
                        {**REGION, "x": -10, "y": 60, "width": 60, "height": 80},  # over two edges of 200 x 100
                        {**REGION, "x": 200},
                        {**REGION, "width": 0},
                        {**REGION, "phrase": "!#"},
                        {**REGION, "x": "20"},
                        {**REGION, "x": 10**400},
                        {**REGION, "height": -(10**400)},
                        "a region",
                    ],
                },
                {"id": 6, "regions": []},
                {"id": 7, "regions": [REGION]},
                {"id": 404, "regions": [REGION]},
                {"regions": [REGION]},
            ],
            "visual_genome/image_data.json": [
                {"image_id": 5, "url": "https://x/VG_100K_2/5.jpg", "width": 200, "height": 100},
                {"image_id": 6, "url": "https://x/VG_100K/6.jpg", "width": 200, "height": 100},
                {"image_id": 7, "url": "https://x/VG_100K/7.jpg", "width": 10**400, "height": 100},
            ],
        },
        kept=[
            ("5.jpg", [["user", "red door"], ["assistant", "{<10><50><74><100>}"]]),
            ("5.jpg", [["user", "red door"], ["assistant", "{<0><60><25><100>}"]]),
        ],
        dropped={"large_region": 1, "box_outside": 2, "broken_record": 7, "no_samples": 1, "no_partner": 1},
        prompts=("[refer] ", 7),
    ),
    "flickr_grounded_caption": Case(
        files={
            "flickr30k/groundedcaption.json": [
                {"image_id": "10", "grounded_caption": "<p>A Man</p> {<1><2><30><40>} runs."},
                {"image_id": 11, "grounded_caption": ""},
                {"image_id": "12"},
            ]
        },
        kept=[("10.jpg", [["assistant", "<p>A Man</p> {<1><2><30><40>} runs."]])],
        dropped={"broken_record": 2},
        prompts=("[grounding] ", 4),
    ),
    "flickr_CaptionToPhrase": Case(
        files={
            "flickr30k/captiontobbox.json": [
                {
                    "image_id": "10",
                    "caption": "A man Runs.",
                    "output": "<p>A man</p> {<1><2><3><4>}<delim>{<5><6><7><8>}",
                },
                {"image_id": "10", "caption": "A man Runs.", "output": None},
                {"image_id": "10", "caption": 5, "output": "x"},
            ]
        },
        kept=[("10.jpg", [["user", "A man Runs."], ["assistant", "<p>A man</p> {<1><2><3><4>}<delim>{<5><6><7><8>}"]])],
        dropped={"broken_record": 2},
        prompts=("[detection] ", 1),
    ),
    "flickr_ObjectToPhrase": Case(
        files={
            "flickr30k/phrasetobbox.json": [
                {"image_id": "10", "phrase": "A man", "bbox": "{<1><2><30><40>}"},
                {"image_id": "10", "phrase": "A man", "bbox": [1, 2, 30, 40]},
                {"image_id": "10", "phrase": "", "bbox": "{<1><2><30><40>}"},
            ]
        },
        kept=[("10.jpg", [["user", "A man"], ["assistant", "<p>A man</p> {<1><2><30><40>}"]])],
        dropped={"broken_record": 2},
        prompts=("[detection] ", 1),
    ),
    "textcaps_caption": Case(
        files={
            "textcaps/TextCaps_0.1_train.json": {
                "data": [
                    {"image_id": "abc", "caption_str": 'A sign that says "STOP"; red.'},
                    {"image_id": "abc", "caption_str": "..."},
                    {"image_id": "abc", "reference_strs": ["x"]},
                ]
            }
        },
        kept=[("abc.jpg", [["assistant", "a sign that says stop red"]])],
        dropped={"broken_record": 2},
        prompts=("[caption] ", 17),
    ),
    **{
        f"{before}{name}": Case(
            version=2, files=refs(folder, file, "train", "val"), kept=kept, dropped=REFS_DROPPED, prompts=(asked, 7)
        )
        for before, kept, asked in (("", REFERRED, "[refer] "), ("inv", IDENTIFIED, "[identify] "))
        for name, folder, file in (
            ("refcoco", "refcoco", "refs(unc).p"),
            ("refcocop", "refcoco+", "refs(unc).p"),
            ("refcocog", "refcocog", "refs(umd).p"),
        )
    },
    **{
        f"{name}_test": Case(
            version=2,
            files=refs(folder, file, split, "train"),
            kept=EXPRESSED,
            dropped=EXPRESSED_DROPPED,
            marks=[(split, "1"), (split, "1")],
        )
        for name, folder, file, split in (
            ("refcoco", "refcoco", "refs(unc).p", "testA"),
            ("refcocop", "refcoco+", "refs(unc).p", "testB"),
            ("refcocog", "refcocog", "refs(umd).p", "val"),
        )
    },
    "coco_vqa": Case(
        files={"coco_vqa/vqa_train.json": vqa()}, kept=VQA_KEPT, dropped={"broken_record": 7}, prompts=("[vqa] ", 2)
    ),
    "ok_vqa": Case(
        files={"ok_vqa/okvqa_train.json": vqa()}, kept=VQA_KEPT, dropped={"broken_record": 7}, prompts=("[vqa] ", 2)
    ),
    "aok_vqa": Case(
        files={
            "aok_vqa/aokvqa_v1p0_train.json": [
                *vqa("direct_answers"),
                {"image": "val2014/COCO_val2014_000000000042.jpg", "question": "Why?", "direct_answers": ["Fun"]},
            ]
        },
        kept=[*VQA_KEPT, ("COCO_val2014_000000000042.jpg", [["user", "why?"], ["assistant", "fun"]])],
        dropped={"broken_record": 7},
        prompts=("[vqa] ", 2),
    ),
    "gqa": Case(
        files={
            "gqa/train_balanced_questions.json": [
                {"image": "2354786.jpg", "question": "Is it Red?", "answer": "Yes"},
                {"image": "2354786.jpg", "question": "Is it Red?", "answer": True},
                {"image": "", "question": "Is it Red?", "answer": "yes"},
            ]
        },
        kept=[("2354786.jpg", [["user", "is it red?"], ["assistant", "yes"]])],
        dropped={"broken_record": 2},
        prompts=("[vqa] ", 2),
    ),
    "coco_caption": Case(
        files={
            "coco_caption/coco_karpathy_train.json": [
                {"image": "train2014/COCO_train2014_000000000139.jpg", "caption": "A Man, riding (a) horse."},
                {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "A dog."},
                {"image": "../../etc/passwd", "caption": "a file"},
                {"image": 139, "caption": "a man"},
            ]
        },
        kept=[
            ("COCO_train2014_000000000139.jpg", [["assistant", "a man, riding a horse"]]),
            ("COCO_val2014_000000000042.jpg", [["assistant", "a dog"]]),
            ("passwd", [["assistant", "a file"]]),
        ],
        dropped={"broken_record": 1},
        prompts=("[caption] ", 17),
    ),
    "ocrvqa": Case(
        files={
            "ocr_vqa/dataset.json": {
                "111": {
                    "imageURL": "http://x/y.gif",
                    "questions": ["Who wrote this Book?", "Genre?"],
                    "answers": ["J. R. Smith", "Sci-Fi & Fantasy"],
                    "split": 1,
                },
                "222": {"imageURL": "http://x/z.jpg", "questions": ["no", "no"], "answers": ["no", "no"], "split": 3},
                "333": {"imageURL": "http://x/z.jpg", "questions": ["no"], "answers": [], "split": 1},
                "444": {"imageURL": "http://x/z.jpg", "questions": [], "answers": [], "split": 1},
                "555": "a book",
            }
        },
        kept=[
            ("111.gif", [["user", "who wrote this book?"], ["assistant", "j r smith"]]),
            ("111.gif", [["user", "genre?"], ["assistant", "sci-fi & fantasy"]]),
        ],
        dropped={"other_split": 2, "broken_record": 2, "no_samples": 1},
        prompts=("[vqa] ", 2),
    ),
    "gqa_test": Case(
        files={
            "gqa/testdev_balanced_questions.json": [
                {"image": "n161313.jpg", "question": "Is it Red?", "answer": "No", "question_id": "1"},
                {"image": "n161313.jpg", "question": "Is it Red?"},
            ]
        },
        kept=[("n161313.jpg", [["user", "Is it Red?"], ["assistant", "No"]])],
        dropped={"broken_record": 1},
    ),
    "vsr_test": Case(
        files={
            "vsr/test.jsonl": '{"image": "000000000009.jpg", "caption": "It is on it.", "label": 1, "relation": "on"}\n'
            '{"image": "000000000009.jpg", "caption": "The cat is under it.", "label": 0, "relation": "under"}\n'
            '{"image": "000000000009.jpg", "caption": "The cat is.", "label": 2, "relation": "on"}\n'
            '{"image": "000000000009.jpg", "caption": "The cat is.", "label": true, "relation": "on"}\n'
            "{not json}\n"
        },
        kept=[
            ("000000000009.jpg", [["user", "It is on it."], ["assistant", "true"]]),
            ("000000000009.jpg", [["user", "The cat is under it."], ["assistant", "false"]]),
        ],
        dropped={"broken_record": 3},
        marks=[(None, "on"), (None, "under")],
    ),
    "iconqa_test": Case(
        files={
            "iconqa/iconqa_data/problems.json": {
                "12": {
                    "question": "How likely?",
                    "choices": ["certain", "unlikely"],
                    "answer": 1,
                    "ques_type": "choose_txt",
                },
                "13": {"question": "How many?", "choices": ["1", "2"], "answer": 2},
                "14": {"question": "How many?", "choices": ["choice_0.png"], "answer": 0, "ques_type": "choose_img"},
                "15": {"question": "How many?", "choices": ["1", ""], "answer": 0},
            },
            "iconqa/iconqa_data/pid_splits.json": {"choose_txt_val": ["12", "13", "15"], "choose_img_val": ["14"]},
        },
        kept=[
            (
                "12/image.png",
                [["user", "How likely?"], ["choice", "certain"], ["choice", "unlikely"], ["assistant", "unlikely"]],
            )
        ],
        dropped={"other_split": 1, "broken_record": 2},
    ),
    "vizwiz_test": Case(
        files={
            "vizwiz/val.json": [
                {
                    "image": "VizWiz_val_00000000.jpg",
                    "question": "What is it?",
                    "answers": [{"answer": "a Can", "answer_confidence": "yes"}, {"answer": "unanswerable"}],
                    "answer_type": "other",
                },
                {"image": "a.jpg", "question": "What?", "answers": [], "answer_type": "other"},
                {"image": "a.jpg", "question": "What?", "answers": ["a can"], "answer_type": "other"},
                {"image": "a.jpg", "question": "What?", "answers": [{"answer": "a can"}]},
            ]
        },
        kept=[("VizWiz_val_00000000.jpg", [["user", "What is it?"], ["assistant", "a Can", "unanswerable"]])],
        dropped={"broken_record": 3},
        marks=[(None, "other")],
    ),
    "hateful_memes_test": Case(
        files={
            "hateful_memes/dev.jsonl": '{"id": 1, "img": "img/00001.png", "label": 1, "text": "some words"}\n'
            '{"id": 2, "img": "img/00002.png", "label": 0, "text": "other words"}\n'
            '{"id": 3, "img": "img/00003.png", "text": "the test split has no label"}\n'
        },
        kept=[
            ("00001.png", [["user", "some words"], ["assistant", "yes"]]),
            ("00002.png", [["user", "other words"], ["assistant", "no"]]),
        ],
        dropped={"broken_record": 1},
    ),
    "ok_vqa_test": Case(
        files={
            "ok_vqa/OpenEnded_mscoco_val2014_questions.json": {
                "questions": [
                    {"image_id": 9, "question": "What sport?", "question_id": 95},
                    {"image_id": 9, "question": "What sport?", "question_id": 96},
                    {"image_id": 9, "question": "", "question_id": 95},
                ]
            },
            "ok_vqa/mscoco_val2014_annotations.json": {
                "annotations": [
                    {
                        "question_id": 95,
                        "image_id": 9,
                        "answers": [{"answer_id": 1, "answer": "race"}, {"answer": "race"}],
                    }
                ]
            },
        },
        kept=[("COCO_val2014_000000000009.jpg", [["user", "What sport?"], ["assistant", "race", "race"]])],
        dropped={"no_partner": 1, "broken_record": 1},
    ),
    "instruct": Case(
        files={
            "instruct.json": [
                {"id": "a", "image": "./mine/1.png", "conversations": CONVERSATION},
                {"id": "b", "conversations": CONVERSATION},
                {"id": "c", "image": 5, "conversations": CONVERSATION},
                {"id": "d", "image": "x.jpg", "conversations": "hello"},
            ]
        },
        kept=[("mine/1.png", LLAVA_ALL)],
        dropped={"no_picture": 1, "broken_record": 2},
        version=2,
    ),
}
