"""Sets of pictures that a user brings, each kept once for all data sets that are about it.

What lies in a set's folder may as well stay in the archive that it came in; the archive is then read as it is.
"""

from tinygptv_core.recipe import Download, PictureSet

COCO_TRAIN2014 = PictureSet(
    name="coco_train2014",
    folder="coco/train2014",
    archive=Download(
        path="coco/train2014.zip",
        url="http://images.cocodataset.org/zips/train2014.zip",
        direct=True,
        megabytes=13_511,
    ),
    inside="train2014",
    pictures=82_783,
)
COCO_VAL2014 = PictureSet(
    name="coco_val2014",
    folder="coco/val2014",
    archive=Download(
        path="coco/val2014.zip",
        url="http://images.cocodataset.org/zips/val2014.zip",
        direct=True,
        megabytes=6_645,
    ),
    inside="val2014",
    pictures=40_504,
)
VISUAL_GENOME = (
    PictureSet(
        name="visual_genome_1",
        folder="visual_genome/VG_100K",
        archive=Download(
            path="visual_genome/images.zip",
            url="https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip",
            direct=True,
            megabytes=9_200,
        ),
        inside="VG_100K",
        pictures=64_346,
    ),
    PictureSet(
        name="visual_genome_2",
        folder="visual_genome/VG_100K_2",
        archive=Download(
            path="visual_genome/images2.zip",
            url="https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip",
            direct=True,
            megabytes=5_470,
        ),
        inside="VG_100K_2",
        pictures=43_903,
    ),
)
GQA = PictureSet(
    name="gqa_images",
    folder="gqa/images",
    archive=Download(
        path="gqa/images.zip",
        url="https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
        direct=True,
        megabytes=20_300,
    ),
    inside="images",
    pictures=148_854,
)
FLICKR30K = PictureSet(
    name="flickr30k_images",
    folder="flickr30k/images",
    archive=Download(
        path="flickr30k/flickr30k-images.tar.gz",
        url="https://shannon.cs.illinois.edu/DenotationGraph/",
        direct=False,
        note="fill in the form there; the pictures may be used for research and teaching that earns nothing",
        megabytes=4_400,
    ),
    inside="flickr30k-images",
    pictures=31_783,
)
TEXTCAPS = PictureSet(
    name="textcaps_images",
    folder="textcaps/train_images",
    archive=Download(
        path="textcaps/train_val_images.zip",
        url="https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        direct=True,
        megabytes=7_072,
    ),
    inside="train_images",
    pictures=25_119,
)
OCR_VQA = PictureSet(
    name="ocr_vqa_images",
    folder="ocr_vqa/images",
    archive=None,
    pictures=207_572,
)
CC_SBU_ALIGN = PictureSet(
    name="cc_sbu_align_images",
    folder="cc_sbu_align/image",
    archive=Download(
        path="cc_sbu_align/cc_sbu_align.zip",
        url="https://drive.google.com/file/d/1nJXhoEcy3KTExr17I7BXqY5Y9Lx_-n-9/view",
        direct=False,
        note="Google Drive asks before it lets a file of this size go, so a browser is needed",
        megabytes=None,
    ),
    inside="cc_sbu_align/image",
    pictures=3_439,
)
VSR = PictureSet(
    name="vsr_images",
    folder="vsr/images",
    archive=Download(
        path="vsr/images.zip",
        url="https://github.com/cambridgeltl/visual-spatial-reasoning",
        direct=False,
        note="its section on data has the archive of pictures, all from COCO's 2017 release",
        megabytes=None,
    ),
    inside="images",
)
ICON_QA = PictureSet(
    name="iconqa_val",
    folder="iconqa/iconqa_data/iconqa/val/choose_txt",
    archive=Download(
        path="iconqa/iconqa_data.zip",
        url="https://iconqa.github.io/",
        direct=False,
        note="take the archive of all data there",
        megabytes=None,
    ),
    inside="iconqa_data/iconqa/val/choose_txt",
)
VIZWIZ = PictureSet(
    name="vizwiz_val",
    folder="vizwiz/val",
    archive=Download(
        path="vizwiz/val.zip",
        url="https://vizwiz.cs.colorado.edu/VizWiz_final/images/val.zip",
        direct=True,
        megabytes=None,
    ),
    inside="val",
    pictures=4_319,
)
HATEFUL_MEMES = PictureSet(
    name="hateful_memes_img",
    folder="hateful_memes/img",
    archive=Download(
        path="hateful_memes/hateful_memes.zip",
        url="https://hatefulmemeschallenge.com/",
        direct=False,
        note="agree to Meta's licence there; the address of the archive comes by mail",
        megabytes=None,
    ),
    inside="img",
    pictures=10_000,
)
